"""Resume the optimizer, the learning-rate schedule and the metrics of an interrupted run."""

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from models.training.monitor import still_holds


class Resumption:
    """The progress in a checkpoint: optimizer state, steps, epochs and the state of the schedule.

    Hyperparameters come from the optimizer and the schedule that are configured now.
    """

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        (self._optimizer,) = checkpoint["optimizer_states"]
        self._configured_optimizer = checkpoint.get("hyper_parameters", {}).get("optimizer")
        self._schedules: list[dict[str, Any]] = checkpoint["lr_schedulers"]  # the Trainer restores from this list
        self._steps: int = checkpoint["global_step"]
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        self._epoch: int = epochs["processed"]  # the epoch in which the run continues
        is_within_epoch = epochs["processed"] < epochs["ready"]
        self._batches: int = batches["current"]["processed"] if is_within_epoch else 0  # batches done in this epoch
        # Steps that an epoch-wise schedule has done. If the run had such a schedule, its own count is exact.
        self._epochs_stepped: int = max(0, epochs["ready"] - 1 + batches["is_last_batch"])
        for schedule in self._schedules:
            if "num_bad_epochs" not in schedule and schedule.get("last_epoch", self._steps) != self._steps:
                self._epochs_stepped = schedule["last_epoch"]

    def check_optimizer(self, optimizer: Optimizer, configured: object, make: Callable[..., Optimizer]) -> None:
        """Raise ValueError if the optimizer cannot continue from the optimizer state in the checkpoint."""
        class_before, class_now = _class_path(self._configured_optimizer), _class_path(configured)
        fault = ""
        if class_before and class_now and class_before != class_now:
            fault = f"was trained by {class_before}"
        elif _group_sizes(self._optimizer["param_groups"]) != _group_sizes(optimizer.param_groups):
            fault = "trained other parameters, or grouped them otherwise"
        elif missing := self._missing_state(optimizer, make):
            fault = f"has kept no {min(missing)}, which an optimizer with these arguments needs"
        if fault:
            raise ValueError(
                f"the resumed run {fault}; leave model.optimizer, freeze, unfreeze, finetune, layer_decay and "
                "decay_norms_and_biases as they were, or begin a new run from its backbone with --model.network.weights"
            )

    def _missing_state(self, optimizer: Optimizer, make: Callable[..., Optimizer]) -> set[str]:
        """Return the names of state tensors that a trial step makes and the checkpoint lacks."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = {parameters[index]: state for index, state in self._optimizer["state"].items()}
        if not states:
            return set()
        smallest = min(states, key=Tensor.numel)
        trial = smallest.detach().clone().requires_grad_()
        trial.grad = torch.zeros_like(trial)
        trial_optimizer = make([trial])
        with suppress(TypeError):  # from an optimizer whose step takes a closure
            trial_optimizer.step()
        return set(trial_optimizer.state[trial]) - set(states[smallest])

    def total_steps(self, trainer: Trainer, epochs: int | None) -> float:
        """Return the optimizer steps of a run of so many epochs: the steps done, plus those that are left now."""
        max_steps = math.inf if trainer.max_steps == -1 else trainer.max_steps
        if epochs is None or epochs == -1:
            return max(self._steps, max_steps)
        batches, batches_per_step = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        epoch, batches_done = self._epoch, self._batches
        datamodule = getattr(trainer, "datamodule", None)
        if datamodule is not None and hasattr(datamodule, "batches_done"):  # allows for a changed batch size
            epoch, batches_done = datamodule.place[0], datamodule.batches_done(batches)
        if epoch >= epochs:
            return self._steps
        steps_in_this_epoch = math.ceil((batches - batches_done) / batches_per_step)
        steps_in_later_epochs = (epochs - epoch - 1) * math.ceil(batches / batches_per_step)
        return max(self._steps, min(max_steps, self._steps + steps_in_this_epoch + steps_in_later_epochs))

    def head_steps(self, trainer: Trainer, epochs: int) -> int:
        """Return the optimizer steps of the epochs that train the head alone; fixed once these epochs are over."""
        if epochs > self._epoch:
            return int(self.total_steps(trainer, epochs))
        return min(self._steps, int(self._schedules[0].get("head_steps", self._steps)))

    def take_up(self, scheduler: LRScheduler, *, per_step: bool) -> None:
        """Advance a new schedule to the progress of the run; print a note if its length has changed."""
        (before,) = self._schedules
        if not isinstance(scheduler, ReduceLROnPlateau):
            advance(scheduler, self._steps if per_step else self._epochs_stepped)
        elif "num_bad_epochs" in before:
            take_up_plateau(scheduler, before, self._optimizer["param_groups"])
        self._schedules[:] = [scheduler.state_dict()]
        steps_before, steps_now = before.get("total_steps"), getattr(scheduler, "total_steps", None)
        if None not in (steps_before, steps_now) and steps_before != steps_now:
            rank_zero_only(print)(
                f"The schedule was made for {steps_before:,} steps and now has {steps_now:,}: the rate goes on where "
                "the longer or shorter course stands at this step."
            )


def resume(trainer: Trainer, checkpoint: dict[str, Any]) -> Resumption:
    """Restore the epoch's metrics and any schedule that exists already; return the progress for a new one."""
    resumption = Resumption(checkpoint)
    for config in trainer.lr_scheduler_configs:  # some strategies load a checkpoint after they make the optimizer
        resumption.take_up(config.scheduler, per_step=config.interval == "step")
    take_counts(checkpoint, "train_metrics.", is_first=trainer.is_global_zero)
    return resumption


def take_counts(checkpoint: dict[str, Any], prefix: str, *, is_first: bool) -> None:
    """Give the first rank the epoch's sums over all ranks, and the other ranks zeros."""
    weights = checkpoint["state_dict"]
    for name in [name for name in weights if name.startswith(prefix)]:
        if name in checkpoint.get("counts", {}):  # earlier checkpoints have a value for each rank
            weights[name] = checkpoint["counts"][name].sum(dim=0)
        if not is_first:
            weights[name] = torch.zeros_like(weights[name])


def advance(scheduler: LRScheduler, steps: int) -> None:
    """Advance a new schedule and its optimizer's learning rates by so many steps."""
    with warnings.catch_warnings(action="ignore"):  # torch warns that the optimizer has not stepped
        if steps and isinstance(scheduler, LambdaLR | OneCycleLR):  # functions of the step, so that one jump suffices
            scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": steps - 1, "_step_count": steps})
            steps = 1
        for _ in range(steps):
            scheduler.step()


def take_up_plateau(scheduler: ReduceLROnPlateau, state: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
    """Repeat the reductions of the saved plateau schedule; if the metric is unchanged, also restore its patience."""
    names = ["last_epoch"]
    basis_before = {"metric": state.get("monitor"), "mode": state.get("mode")} | state.get("basis", {})
    if still_holds(basis_before, vars(scheduler)["basis"], "the wait for a plateau"):
        names += ["best", "num_bad_epochs", "cooldown_counter"]
    for index, (group, saved) in enumerate(zip(scheduler.optimizer.param_groups, groups, strict=True)):
        if "initial_lr" not in saved:
            group["lr"] = saved["lr"]
            continue
        replayed_rate = saved["initial_lr"]
        while replayed_rate > saved["lr"]:
            reduced = max(replayed_rate * state["factor"], state["min_lrs"][index])
            if replayed_rate - reduced <= state["eps"]:
                break
            replayed_rate = reduced
            reduced = max(group["lr"] * scheduler.factor, scheduler.min_lrs[index])
            if group["lr"] - reduced > scheduler.eps:
                group["lr"] = reduced
    rates = [group["lr"] for group in scheduler.optimizer.param_groups]
    progress = {name: state[name] for name in names if name in state}
    scheduler.load_state_dict(scheduler.state_dict() | progress | {"_last_lr": rates})


def _class_path(configured: object) -> str | None:
    """Return the class path of a configured optimizer; None for an optimizer that was given in Python."""
    return configured.get("class_path") if isinstance(configured, Mapping) else None


def _group_sizes(groups: list[dict[str, Any]]) -> list[tuple[str | None, int]]:
    """Return the name of each parameter group and its number of parameters."""
    return [(group.get("name"), len(group["params"])) for group in groups]
