"""Keep NaN and infinity out of optimizer steps, checkpoints and the best model."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from callbacks.checkpoint import Checkpoint
from callbacks.run.logged_steps import has_all_weights, is_logged_step
from core.user_error import UserError
from models.classifier import Classifier

if TYPE_CHECKING:
    from callbacks.run.nonfinite_step import TensorCopies

MOST_IN_A_ROW = 10  # consecutive nonfinite steps after which training always stops
MOST_SAVED = 3  # nonfinite steps of a run whose batches are saved


class FiniteGuard(Callback):
    """Keeps NaN and infinity out of the weights, in every optimizer step.

    If the loss or the gradient norm is not finite on any rank, no rank takes the step. Each rank saves the step's
    batches as `nonfinite_step_<step>.pt` in the Trainer's `default_root_dir`, by default the run's folder; read them
    with `torch.load(path, weights_only=True)`. If the weights themselves are not finite, because an update was too
    large, training ends before they are validated or written.

    The gradient norm over all weights, before clipping, is logged as `train/gradient_norm` in the steps in which the
    learning rate is logged, unless a strategy shards the weights over ranks.

    `skip` and `rollback` restore batch norm's running statistics and the epoch's metrics to their values before the
    step, and count the step in `train/nonfinite_steps`. `rollback` also restores the weights, their average and the
    optimizer from the last checkpoint, if there is one. Data and learning-rate schedule continue, so that other batches
    follow (as in the training of PaLM, Chowdhery et al., 2022).

    Training does not wait for a GPU: an optimizer with `fused` skips the step by itself, and this callback reads the
    outcome while the next batch is computed. With other optimizers, and with `rollback`, training waits in each step.
    With `16-mixed`, the gradient scaler skips gradients that overflow, and this callback checks only the loss.

    Args:
        on_nan: Whether to `stop`, to `skip` the step, or to go back to the last checkpoint (`rollback`).

    Raises:
        FloatingPointError: When training stops; the message says what to look at.
        UserError: If `rollback` has no checkpoint to go back to, or the weights are sharded over ranks.
    """

    def __init__(self, on_nan: Literal["stop", "skip", "rollback"] = "stop") -> None:
        self.on_nan = on_nan
        self.nonfinite_steps = 0  # steps that were not taken
        self._in_a_row = 0
        self._parameters: dict[str, Tensor] = {}
        self._losses: list[Tensor] = []
        self._batches: list[Any] = []
        self._unread: _Step | None = None
        self._before_step: TensorCopies | None = None  # always None with `stop`, which ends training instead
        self._trainer: Trainer

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, with the step that has just ended."""
        self._read()
        return {"nonfinite_steps": self.nonfinite_steps, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self.nonfinite_steps, self._in_a_row = state_dict["nonfinite_steps"], state_dict["in_a_row"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the parameters, and how the optimizer skips a step."""
        whole, precision = has_all_weights(trainer), trainer.precision_plugin
        if self.on_nan == "rollback" and not (whole and isinstance(trainer.checkpoint_callback, Checkpoint)):
            raise UserError(
                "finite_guard.on_nan is rollback, but no checkpoint of whole weights is written to go back to; leave "
                "out --checkpoint null and sharded strategies, or use skip or stop."
            )
        self._trainer = trainer
        self._parameters = dict(pl_module.named_parameters())
        self._losses, self._batches, self._unread, self._before_step = [], [], None, None
        self._logs_norm = bool(trainer.loggers) and trainer.is_global_zero and whole
        self._is_shared = trainer.world_size > 1
        self._has_scaler = isinstance(precision, MixedPrecision) and precision.scaler is not None
        fused = all(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
        self._reads_later = fused and not self._has_scaler and self.on_nan != "rollback"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the batch; with `skip` and `rollback`, copy the buffers and metrics that it may change."""
        # Each epoch has new metric tensors.
        if self.on_nan != "stop" and (batch_idx == 0 or self._before_step is None):
            from callbacks.run.nonfinite_step import TensorCopies

            metrics = cast(dict[str, Tensor], cast(Classifier, pl_module).train_metrics.metric_state)
            self._before_step = TensorCopies([*pl_module.buffers(), *metrics.values()])
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss of each accumulated batch."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Prevent a step whose loss or gradient is not finite."""
        self._read()
        # The code below runs in every step, and takes a noticeable part of a small network's step.
        gradients = {name: grad for name, weight in self._parameters.items() if (grad := weight.grad) is not None}
        loss = self._losses[0] if len(self._losses) == 1 else torch.stack(self._losses).sum()
        # No public function computes the norm of each gradient in one launch; `get_total_norm` returns only the total.
        norms = torch.stack(torch._foreach_norm([*gradients.values()])) if gradients else loss.new_zeros(0)
        if self._logs_norm and is_logged_step(trainer):
            for logger in trainer.loggers:
                logger.log_metrics({"train/gradient_norm": float(norms.norm())}, step=trainer.global_step)
        if self._reads_later:
            bad = (loss + norms.sum()).isfinite().logical_not().float()
        else:
            total = float(loss) + (0.0 if self._has_scaler else sum(norms.tolist()))
            bad = torch.tensor(float(not math.isfinite(total)), device=loss.device if self._is_shared else None)
        if self._is_shared:
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        is_bad = bad if self._reads_later else bool(bad)
        if self._before_step is not None:
            self._before_step.restore_if(is_bad)
        if is_bad is False:
            self._in_a_row = 0
        else:
            rate = max(float(group["lr"]) for group in optimizer.param_groups)
            facts = {"step": trainer.global_step, "learning_rate": rate, "loss": loss, "batches": self._batches}
            self._unread = _Step(facts, [*gradients], norms, bad)
        self._losses, self._batches = [], []
        if self._reads_later:
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # a fused optimizer reads it
        elif self._read():
            # Without gradients an optimizer changes neither weights nor its own state.
            for parameter in self._parameters.values():
                parameter.grad = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the outcome of the epoch's last step, and log the number of skipped steps so far."""
        self._read()
        if self.on_nan != "stop":
            pl_module.log("train/nonfinite_steps", float(self.nonfinite_steps))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise FloatingPointError before weights that are not finite are validated."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._read()
            self._check(pl_module, pl_module.state_dict())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Raise FloatingPointError before weights that are not finite are written, trained or averaged ones."""
        if trainer.state.fn == "fit":
            self._check(pl_module, checkpoint["state_dict"])
            self._check(pl_module, checkpoint.get("raw_state_dict", {}))

    def _read(self) -> bool:
        """Read the outcome of the last step; return True if it was not taken."""
        step, self._unread = self._unread, None
        if step is None:
            return False
        if not step.is_bad():
            self._in_a_row = 0
            return False
        from callbacks.run.nonfinite_step import report, roll_back

        self.nonfinite_steps += 1
        self._in_a_row += 1
        number, gradient_norms = step.facts["step"], dict(zip(step.names, step.norms, strict=True))
        description = report(self._trainer, step.facts, gradient_norms, save=self.nonfinite_steps <= MOST_SAVED)
        if self.on_nan == "stop" or self._in_a_row == MOST_IN_A_ROW:
            raise FloatingPointError(
                f"Training stopped in step {number}, before it reached the weights: {description}; such steps in "
                f"a row: {self._in_a_row}; look at its images and labels, lower --model.optimizer.lr, set "
                "--trainer.gradient_clip_val 1.0 or continue with --finite_guard.on_nan skip or rollback."
            )
        checkpoint_step = ""
        if self.on_nan == "rollback":
            path = cast(Checkpoint, self._trainer.checkpoint_callback).last_on_disk(self._trainer)
            checkpoint_step = roll_back(self._trainer, path)
            if checkpoint_step:
                self._before_step = None  # the next batch copies the restored buffers
        if self._trainer.is_global_zero:
            print(f"step {number} left out{checkpoint_step}: {description}")
        return True

    def _check(self, pl_module: LightningModule, state: dict[str, Tensor]) -> None:
        names = {*self._parameters, *(name for name, _ in pl_module.named_buffers())} & state.keys()
        for name in sorted(names):
            # A finite sum has only finite terms, and takes a tenth of the time of a check of each element.
            if not state[name].sum().isfinite() and not state[name].isfinite().all():
                raise FloatingPointError(
                    f"Training stopped after step {self._trainer.global_step - 1}, and its weights are not kept: "
                    f"{name} is not finite, because an update was too large; lower --model.optimizer.lr."
                )


@dataclass
class _Step:
    """An optimizer step before it is taken."""

    facts: dict[str, Any]
    names: list[str]  # of the parameters with gradients
    norms: Tensor  # of each gradient
    bad: Tensor  # 1 if the step is not finite, else 0

    def __post_init__(self) -> None:
        if self.bad.is_cuda:  # start an asynchronous copy, which `is_bad` waits for
            self.bad, self._event = self.bad.to("cpu", non_blocking=True), torch.Event("cuda")
            self._event.record()

    def is_bad(self) -> bool:
        if hasattr(self, "_event"):
            self._event.synchronize()
        return bool(self.bad)
