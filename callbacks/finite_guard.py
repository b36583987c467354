"""No step, checkpoint or best model with numbers that are not finite."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from callbacks.checkpoint import Checkpoint
from callbacks.run.logged_steps import is_logged_step
from callbacks.run.sharding import has_all_weights
from core.durable_file import replacing
from core.user_error import UserError
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint

MOST_IN_A_ROW = 10  # steps in a row without a finite loss and gradient, after which training stops in any case
MOST_SAVED = 3  # steps of a run whose batches are saved


class FiniteGuard(Callback):
    """Keeps NaN and infinity out of the weights, in every optimizer step.

    Where the loss or the norm of the gradient is not finite, in any process, no process takes the step, and its batches
    are saved as `nonfinite_step_<step>.pt` in the Trainer's `default_root_dir`, by default the run's folder (each of
    several processes saves its own), for `torch.load(path, weights_only=True)`. Weights that are not finite
    themselves, because an update was too large, end training before they are validated or written.

    The gradient's norm over all weights, before it is clipped, is logged as `train/gradient_norm` in the steps in which
    the learning rate is logged, unless each process has only a part of the weights.

    `skip` and `rollback` put batch norm's statistics and the epoch's figures back to before such a step, and count it
    in `train/nonfinite_steps`. `rollback` also takes the weights, their average and the optimizer back to the last
    checkpoint, if there is one, while data and schedule go on, so that other batches follow (as in the training of
    PaLM, Chowdhery et al., 2022).

    Nothing waits for a GPU: an optimizer with `fused` skips the step by itself, and the outcome is read while the next
    batch is computed. Other optimizers, and `rollback`, wait in each step. With `16-mixed`, the gradient scaler skips
    gradients that overflow, and only the loss is checked here.

    Args:
        on_nan: Whether to `stop`, to `skip` the step, or to go back to the last checkpoint (`rollback`).

    Raises:
        FloatingPointError: When training stops, with what to look at.
        UserError: If `rollback` has no checkpoint to go back to, or the weights are spread over processes.
    """

    def __init__(self, on_nan: Literal["stop", "skip", "rollback"] = "stop") -> None:
        self.on_nan = on_nan
        self.nonfinite_steps = 0  # steps that were not taken
        self._in_a_row = 0
        self._parameters: dict[str, Tensor] = {}
        self._losses: list[Tensor] = []
        self._batches: list[Any] = []
        self._unread: _Step | None = None
        self._before_step: _Copies | None = None  # unless the first such step ends training
        self._trainer: Trainer

    def state_dict(self) -> dict[str, Any]:
        """The counts, with the step that has just ended."""
        self._read()
        return {"nonfinite_steps": self.nonfinite_steps, "in_a_row": self._in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
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
        """Note the batch, and the buffers and figures that it may change."""
        # The figures of another epoch are other tensors.
        if self.on_nan != "stop" and (batch_idx == 0 or self._before_step is None):
            figures = cast(dict[str, Tensor], cast(Classifier, pl_module).train_metrics.metric_state)
            self._before_step = _Copies([*pl_module.buffers(), *figures.values()])
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the loss of each accumulated batch."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take no step whose loss or gradient is not finite."""
        self._read()
        # What follows is done in every step, and is a noticeable part of a small network's.
        gradients = {name: grad for name, each in self._parameters.items() if (grad := each.grad) is not None}
        loss = self._losses[0] if len(self._losses) == 1 else torch.stack(self._losses).sum()
        # No public function gives the norm of each gradient in one launch; `get_total_norm` gives that of all.
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
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # a fused optimizer looks there
        elif self._read():
            # Without gradients no optimizer changes anything, its own state included.
            for parameter in self._parameters.values():
                parameter.grad = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the outcome of the epoch's last step, and log how many steps were skipped so far."""
        self._read()
        if self.on_nan != "stop":
            pl_module.log("train/nonfinite_steps", float(self.nonfinite_steps))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate no weights that are not finite."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._read()
            self._check(pl_module, pl_module.state_dict())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write no weights that are not finite, trained or averaged."""
        if trainer.state.fn == "fit":
            self._check(pl_module, checkpoint["state_dict"])
            self._check(pl_module, checkpoint.get("raw_state_dict", {}))

    def _read(self) -> bool:
        """Read the outcome of the last step; True if it was not taken."""
        step, self._unread = self._unread, None
        if step is None or not step.is_bad():
            self._in_a_row = self._in_a_row if step is None else 0
            return False
        self.nonfinite_steps += 1
        self._in_a_row += 1
        what = step.description()
        if self.nonfinite_steps <= MOST_SAVED:
            rank = f"_rank_{self._trainer.global_rank}" if self._trainer.world_size > 1 else ""
            path = Path(self._trainer.default_root_dir) / f"nonfinite_step_{step.facts['step']}{rank}.pt"
            try:
                step.save(path)
                what += f"; its batch is in {path}"
            except OSError as error:
                what += f"; its batch could not be saved ({error.strerror})"
        if self.on_nan == "stop" or self._in_a_row == MOST_IN_A_ROW:
            raise FloatingPointError(
                f"Training stopped in step {step.facts['step']}, before it reached the weights: {what}; such steps in "
                f"a row: {self._in_a_row}; look at its images and labels, lower --model.optimizer.lr, set "
                "--trainer.gradient_clip_val 1.0 or go on with --finite_guard.on_nan skip or rollback."
            )
        back = self._go_back() if self.on_nan == "rollback" else ""
        if self._trainer.is_global_zero:
            print(f"step {step.facts['step']} left out{back}: {what}")
        return True

    def _go_back(self) -> str:
        """Make weights, average and optimizer those of the last checkpoint; return a phrase that names its step."""
        trainer, classifier = self._trainer, self._trainer.lightning_module
        path = cast(Checkpoint, trainer.checkpoint_callback).last_on_disk(trainer)
        if path is None:
            return ""
        checkpoint = cast(dict[str, Any], read_checkpoint(path))
        weights = checkpoint["state_dict"] | checkpoint.get("raw_state_dict", {})  # with counts, which go on
        own = {name: value for name, value in weights.items() if name.startswith("network.")}
        classifier.load_state_dict(own, strict=False)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer declares none
            if hasattr(callback, "is_evaluated"):  # a weight average
                callback.restore(classifier, checkpoint)
        for optimizer, saved in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
            # The rate stays that of the schedule.
            optimizer.load_state_dict(optimizer.state_dict() | {"state": saved["state"]})
        self._before_step = None  # the next batch notes the buffers of the checkpoint
        return f", back to step {checkpoint['global_step']}"

    def _check(self, pl_module: LightningModule, state: dict[str, Tensor]) -> None:
        names = {*self._parameters, *(name for name, _ in pl_module.named_buffers())} & state.keys()
        for name in sorted(names):
            # A finite sum has only finite terms, and needs a tenth of the time that looking at each takes.
            if not state[name].sum().isfinite() and not state[name].isfinite().all():
                raise FloatingPointError(
                    f"Training stopped after step {self._trainer.global_step - 1}, and its weights are not kept: "
                    f"{name} is not finite, because an update was too large; lower --model.optimizer.lr."
                )


@dataclass
class _Step:
    """An optimizer step before it is taken."""

    facts: dict[str, Any]
    names: list[str]
    norms: Tensor
    bad: Tensor  # 1 if it is not to be taken, else 0

    def __post_init__(self) -> None:
        if self.bad.is_cuda:  # copied as soon as it is there, without waiting for it
            self.bad, self._event = self.bad.to("cpu", non_blocking=True), torch.Event("cuda")
            self._event.record()

    def is_bad(self) -> bool:
        if hasattr(self, "_event"):
            self._event.synchronize()
        return bool(self.bad)

    def description(self) -> str:
        text = f"the loss is {float(self.facts['loss']):.4g} at learning rate {self.facts['learning_rate']:.4g}"
        if not self.names:
            return f"{text}, without gradients"
        largest = int(self.norms.nan_to_num(nan=torch.inf).argmax())
        return f"{text}, the largest gradient {float(self.norms[largest]):.4g} ({self.names[largest]})"

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        norms = dict(zip(self.names, self.norms.tolist(), strict=True))
        with replacing(path) as part, part.open("wb") as file:
            torch.save(self.facts | {"loss": self.facts["loss"].cpu(), "gradient_norms": norms}, file)


class _Copies:
    """Copies of tensors as they were before a step, one flat copy for each dtype: many small ones take longer."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor.detach().view(-1))
        self._groups = [(group, [len(tensor) for tensor in group], torch.cat(group)) for group in groups.values()]

    def restore_if(self, bad: Tensor | bool) -> None:
        """Restore if `bad`, else update; for a tensor that is decided on its device."""
        for tensors, sizes, copy in self._groups:
            if isinstance(bad, Tensor):
                torch.where(bad > 0, copy, torch.cat(tensors), out=copy)
            elif not bad:
                torch.cat(tensors, out=copy)
            if bad is not False:
                torch.split_with_sizes_copy(copy, sizes, out=tensors)
