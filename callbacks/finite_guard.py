"""No step, checkpoint or best model with numbers that are not finite."""

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from callbacks.run.logged_steps import is_logged_step
from callbacks.run.sharding import has_all_weights
from callbacks.weight_average import WeightAverage
from core.durable_file import replacing
from core.user_error import UserError
from models.classifier import Classifier

# Steps in a row without a finite loss and gradient after which training stops in any case: nothing is learnt.
MOST_IN_A_ROW = 10

# Steps after which a new state is kept to go back to: what PaLM went back by (Chowdhery et al., 2022).
ROLLBACK_STEPS = 100

MOST_SAVED = 3  # steps of a run whose batches are saved


class FiniteGuard(Callback):
    """Keeps NaN and infinity out of the weights, in every optimizer step.

    Where the loss or the norm of the gradient is not finite, in any process, no process takes the step: parameters and
    optimizer stay as they are, batch norm's statistics and the epoch's figures go back to before it, and its batches
    are saved as `nonfinite_step_<step>.pt` in the Trainer's `default_root_dir`, the run's folder unless it is given (of
    several processes, each its own), to be read by `torch.load(path, weights_only=True)`. Weights that are not finite
    themselves, because an update was too large, end training before they are evaluated or written.

    The gradient's norm over all weights, before it is clipped, is logged as `train/gradient_norm` in the steps in which
    the learning rate is; where each process has only a part of the weights, it is not.

    With `skip` or `rollback`, `train/nonfinite_steps` counts. `rollback` is for what `skip` does not help against:
    weights that have run away, as in the training of PaLM. Weights, their average if one is kept, and optimizer go back
    to a state at most 100 steps old, which is part of each checkpoint; data and schedule go on, so that what has led
    there is not met again. Both are functions of the run alone, and hold when it is resumed.

    Nothing waits for a GPU: an optimizer with `fused` leaves out the step by itself, and what happened is read while
    the next batch is computed. One that cannot is waited for in each step, as it is for `rollback`. With `16-mixed`,
    gradients that overflow are the gradient scaler's to leave out, as always, and only the loss is looked at.

    Args:
        on_nan: Whether to `stop`, to `skip` the step, or to go back to an earlier state (`rollback`).

    Raises:
        FloatingPointError: When training stops, with what to look at.
        UserError: If weights are to go back that are spread over processes.
    """

    def __init__(self, on_nan: Literal["stop", "skip", "rollback"] = "stop") -> None:
        self.on_nan = on_nan
        self.nonfinite_steps = 0
        """Steps that were not taken."""
        self._in_a_row = 0
        self._good: dict[str, Any] | None = None
        self._parameters: dict[str, Tensor] = {}
        self._held: _Held | None = None
        self._losses: list[Tensor] = []
        self._batches: list[Any] = []
        self._unread: _Step | None = None
        self._attached: tuple[Trainer, LightningModule]

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the state to go back to."""
        if self._unread is not None:
            self._read(*self._attached)
        return {"nonfinite_steps": self.nonfinite_steps, "in_a_row": self._in_a_row, "good": self._good}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self.nonfinite_steps, self._in_a_row = state_dict["nonfinite_steps"], state_dict["in_a_row"]
        self._good = state_dict["good"] if self.on_nan == "rollback" else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find what is trained."""
        self._logs_norm = bool(trainer.loggers) and trainer.is_global_zero and has_all_weights(trainer)
        if self.on_nan == "rollback" and not has_all_weights(trainer):
            raise UserError(
                "finite_guard.on_nan is rollback, but each process has only a part of the weights; use skip or stop."
            )
        self._attached = trainer, pl_module
        self._parameters = dict(pl_module.named_parameters())
        self._losses, self._batches, self._unread = [], [], None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold what a batch changes, also where an epoch is taken up in its middle."""
        self._hold(pl_module)
        self._world_size = trainer.world_size
        precision = trainer.precision_plugin
        self._has_scaler = isinstance(precision, MixedPrecision) and precision.scaler is not None
        fused = all(group.get("fused") for optimizer in trainer.optimizers for group in optimizer.param_groups)
        self._reads_later = fused and not self._has_scaler and self.on_nan != "rollback"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the batch."""
        if batch_idx == 0:  # the figures are counted anew, in other tensors
            self._hold(pl_module)
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the loss, of accumulated batches each."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Take no step whose loss or gradient is not finite."""
        assert self._held is not None, "training starts before"
        self._read(trainer, pl_module)
        # What follows is done in every step, and is a noticeable part of a small network's.
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else self._losses[0].new_zeros(0)
        if self._logs_norm and is_logged_step(trainer):
            for logger in trainer.loggers:
                logger.log_metrics({"train/gradient_norm": float(norms.norm())}, step=trainer.global_step)
        if self._reads_later:
            self._unread = step = self._step(trainer, optimizer, norms)
            step.bad = self._of_all((step.loss + norms.sum()).isfinite().logical_not().float())
            optimizer.found_inf = step.bad  # type: ignore[attr-defined]  # a fused optimizer looks there
            self._held.restore_where(step.bad)
            step.begin_to_read()
        else:
            total = sum(map(float, self._losses)) + (0.0 if self._has_scaler else sum(norms.tolist()))
            bad = not math.isfinite(total)
            if self._world_size > 1:
                bad = bool(self._of_all(torch.tensor(float(bad), device=norms.device)))
            if bad:
                self._held.restore()
                self._leave_out(self._step(trainer, optimizer, norms), trainer, pl_module)
                # Without gradients no optimizer changes anything, its own state included.
                for parameter in self._parameters.values():
                    parameter.grad = None
            else:
                self._in_a_row = 0
                self._held.update()
        self._losses, self._batches = [], []
        if self.on_nan == "rollback" and not self._in_a_row and self._is_due(trainer.global_step):
            self._keep(pl_module, optimizer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Know of the epoch's last step before anything is made of it."""
        if trainer.is_last_batch:
            self._read(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how many steps were left out so far."""
        if self.on_nan != "stop":
            pl_module.log("train/nonfinite_steps", float(self.nonfinite_steps))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate no weights that are not finite."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._read(trainer, pl_module)
            self._refuse(trainer, pl_module, (pl_module.state_dict(keep_vars=False),))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write no weights that are not finite, trained or averaged."""
        if trainer.state.fn == "fit":
            self._refuse(trainer, pl_module, (checkpoint["state_dict"], checkpoint.get("raw_state_dict", {})))

    def _hold(self, pl_module: LightningModule) -> None:
        figures = cast(dict[str, Tensor], cast(Classifier, pl_module).train_metrics.metric_state)
        self._held = _Held([*pl_module.buffers(), *figures.values()])

    def _of_all(self, bad: Tensor) -> Tensor:
        """1 in every process if it is in one."""
        if self._world_size > 1:
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        return bad

    def _step(self, trainer: Trainer, optimizer: Optimizer, norms: Tensor) -> "_Step":
        rate = max(float(group["lr"]) for group in optimizer.param_groups)
        names = [name for name, parameter in self._parameters.items() if parameter.grad is not None]
        return _Step(trainer.global_step, rate, names, norms, torch.stack(self._losses).sum(), self._batches)

    def _read(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See what became of the step before, which a fused optimizer has left out by itself if it was to."""
        step, self._unread = self._unread, None
        if step is None:
            return
        if step.read():
            self._leave_out(step, trainer, pl_module)
        else:
            self._in_a_row = 0

    def _leave_out(self, step: "_Step", trainer: Trainer, pl_module: LightningModule) -> None:
        self.nonfinite_steps += 1
        self._in_a_row += 1
        place = ""
        if self.nonfinite_steps <= MOST_SAVED:
            try:
                place = f"; its batch is in {step.save(Path(trainer.default_root_dir), trainer)}"
            except OSError as error:
                place = f"; its batch could not be saved ({error.strerror})"
        what = f"{step.description()}{place}"
        if self.on_nan == "stop" or self._in_a_row == MOST_IN_A_ROW:
            row = f" of {MOST_IN_A_ROW} in a row without a finite loss" if self.on_nan != "stop" else ""
            raise FloatingPointError(
                f"Training stopped in step {step.number}{row}, before it reached the weights: {what}; look at its "
                "images and labels, lower --model.optimizer.lr or set --trainer.gradient_clip_val 1.0"
                f"{', or go on with --finite_guard.on_nan skip or rollback' if not row else ''}."
            )
        back = ""
        if self._good is not None:
            self._go_back(trainer, pl_module, self._good)
            back = f", back to step {self._good['step']}"
        if trainer.is_global_zero:
            print(f"step {step.number} left out{back}: {what}")

    def _is_due(self, step: int) -> bool:
        return self._good is None or step % ROLLBACK_STEPS == 0

    def _keep(self, pl_module: LightningModule, optimizer: Optimizer) -> None:
        network = cast(Classifier, pl_module).network
        self._good = {
            "step": pl_module.trainer.global_step,
            "network": deepcopy(network.state_dict()),
            "optimizer": deepcopy(optimizer.state_dict()["state"]),
            "averages": [average.snapshot() for average in _averages(pl_module.trainer)],
        }

    def _go_back(self, trainer: Trainer, pl_module: LightningModule, good: dict[str, Any]) -> None:
        cast(Classifier, pl_module).network.load_state_dict(good["network"])
        for optimizer in trainer.optimizers:
            groups = optimizer.state_dict()["param_groups"]  # the schedule's
            optimizer.load_state_dict({"state": deepcopy(good["optimizer"]), "param_groups": groups})
        for average, snapshot in zip(_averages(trainer), good["averages"], strict=False):
            average.go_back(snapshot)
        if self._held is not None:
            self._held.update()

    def _refuse(self, trainer: Trainer, pl_module: LightningModule, states: Iterable[dict[str, Tensor]]) -> None:
        names = {*self._parameters, *(name for name, _ in pl_module.named_buffers())}
        found = [(name, value) for state in states for name, value in state.items() if name in names]
        # A finite sum has only finite terms, and needs a tenth of the time that looking at each takes.
        if not found or bool(torch.stack([value.sum().isfinite() for _, value in found]).all()):
            return
        first = next((name for name, value in found if not bool(value.isfinite().all())), None)
        if first is not None:
            raise FloatingPointError(
                f"Training stopped after step {trainer.global_step - 1}, and its weights are not kept: {first} is not "
                "finite, because an update was too large; lower --model.optimizer.lr."
            )


def _averages(trainer: Trainer) -> list[WeightAverage]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none
    return [callback for callback in callbacks if isinstance(callback, WeightAverage)]


@dataclass
class _Step:
    """What is known of a step before it is taken."""

    number: int
    rate: float
    names: Sequence[str]
    norms: Tensor
    loss: Tensor
    batches: list[Any]
    bad: Tensor | None = None
    event: torch.Event | None = None

    def begin_to_read(self) -> None:
        """Have the verdict copied when it is there, without waiting for it."""
        if self.norms.is_cuda and self.bad is not None:
            self.bad = self.bad.to("cpu", non_blocking=True)
            self.event = torch.Event("cuda")
            self.event.record()

    def read(self) -> bool:
        """Whether the step was not to be taken."""
        if self.event is not None:
            self.event.synchronize()
        return bool(self.bad)

    def description(self) -> str:
        """The loss, the largest gradient, if there is one, and the learning rate."""
        if not self.names:
            return f"the loss is {float(self.loss):.4g}, without gradients, at learning rate {self.rate:.4g}"
        largest = int(self.norms.nan_to_num(nan=torch.inf).argmax())
        return (
            f"the loss is {float(self.loss):.4g} and the largest gradient {float(self.norms[largest]):.4g} "
            f"({self.names[largest]}), at learning rate {self.rate:.4g}"
        )

    def save(self, folder: Path, trainer: Trainer) -> Path:
        """Write the batches with what is known of the step."""
        rank = f"_rank_{trainer.global_rank}" if trainer.world_size > 1 else ""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"nonfinite_step_{self.number}{rank}.pt"
        facts = {"step": self.number, "learning_rate": self.rate, "loss": self.loss.cpu(), "batches": self.batches}
        norms = dict(zip(self.names, self.norms.tolist(), strict=True))
        with replacing(path) as part, part.open("wb") as file:
            torch.save(facts | {"gradient_norms": norms}, file)
        return path


class _Held:
    """Copies of tensors, to go back to, flat for each dtype, because many small copies cost more than a large one."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor.detach().view(-1))
        self._groups = [(group, torch.cat(group)) for group in groups.values()]

    def update(self) -> None:
        for tensors, held in self._groups:
            torch.cat(tensors, out=held)

    def restore(self) -> None:
        for tensors, held in self._groups:
            torch._foreach_copy_(tensors, torch.split(held, [len(tensor) for tensor in tensors]))

    def restore_where(self, bad: Tensor) -> None:
        """Restore if `bad` is 1, else update, decided where the tensors are."""
        for tensors, held in self._groups:
            torch.where(bad > 0, held, torch.cat(tensors), out=held)
        self.restore()
