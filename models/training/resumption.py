"""The progress of an optimization that a resumed training goes on with."""

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
    """What a checkpoint says of the progress: the optimizer's state, steps, epochs, a plateau's best figure.

    Arguments come from the optimizer and the schedule that are configured now.
    """

    def __init__(self, checkpoint: dict[str, Any]) -> None:
        (self._optimizer,) = checkpoint["optimizer_states"]
        self._configured = checkpoint.get("hyper_parameters", {}).get("optimizer")
        self._schedules: list[dict[str, Any]] = checkpoint["lr_schedulers"]  # from which the Trainer restores them
        self._steps: int = checkpoint["global_step"]
        loops = checkpoint["loops"]["fit_loop"]
        epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        self._epoch: int = epochs["processed"]  # to go on with
        is_within_epoch = epochs["processed"] < epochs["ready"]
        self._batches: int = batches["current"]["processed"] if is_within_epoch else 0  # done in this epoch
        # Steps of a schedule that steps after each epoch: as it has counted them itself, if there was one.
        self._epochs_stepped: int = max(0, epochs["ready"] - 1 + batches["is_last_batch"])
        for schedule in self._schedules:
            if "num_bad_epochs" not in schedule and schedule.get("last_epoch", self._steps) != self._steps:
                self._epochs_stepped = schedule["last_epoch"]

    def check_optimizer(self, optimizer: Optimizer, configured: object, make: Callable[..., Optimizer]) -> None:
        """Refuse an optimizer that cannot go on from the state that is restored."""
        before, now = (
            each.get("class_path") if isinstance(each, Mapping) else None for each in (self._configured, configured)
        )
        groups_before, groups = (
            [(group.get("name"), len(group["params"])) for group in each["param_groups"]]
            for each in (self._optimizer, vars(optimizer))
        )
        fault = ""
        if None not in (before, now) and before != now:
            fault = f"was trained by {before}"
        elif groups_before != groups:
            fault = "trained other parameters, or grouped them otherwise"
        elif lacking := self._lacks(optimizer, make):
            fault = f"has kept no {min(lacking)}, which an optimizer with these arguments needs"
        if fault:
            raise ValueError(
                f"the run to go on with {fault}; leave model.optimizer, freeze, unfreeze, finetune, layer_decay and "
                "decay_norms_and_biases as they were, or begin a new run from its backbone with --model.network.weights"
            )

    def _lacks(self, optimizer: Optimizer, make: Callable[..., Optimizer]) -> set[str]:
        # What an optimizer keeps of a parameter that the state has not got: try a step of the smallest parameter.
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = {parameters[index]: state for index, state in self._optimizer["state"].items()}
        if not states:
            return set()
        smallest = min(states, key=Tensor.numel)
        trial = smallest.detach().clone().requires_grad_()
        trial.grad = torch.zeros_like(trial)
        fresh = make([trial])
        with suppress(TypeError):  # from an optimizer whose step takes a closure
            fresh.step()
        return {*fresh.state[trial]} - {*states[smallest]}

    def total_steps(self, trainer: Trainer, epochs: int | None) -> float:
        """Optimizer steps of a run of some epochs: the steps done, and those left as the Trainer counts them now."""
        most = math.inf if trainer.max_steps == -1 else trainer.max_steps
        if epochs is None or epochs == -1:
            return max(self._steps, most)
        batches, each = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        epoch, done, data = self._epoch, self._batches, getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "batches_done"):  # counted in batches of the present size
            epoch, done = data.place[0], data.batches_done(batches)
        left = math.ceil((batches - done) / each) + (epochs - epoch - 1) * math.ceil(batches / each)
        return max(self._steps, min(most, self._steps + left * (epochs > epoch)))

    def head_steps(self, trainer: Trainer, epochs: int) -> int:
        """Optimizer steps of the epochs in which the head is trained alone; once over, they stay what they were."""
        if epochs > self._epoch:
            return int(self.total_steps(trainer, epochs))
        return min(self._steps, int(self._schedules[0].get("head_steps", self._steps)))

    def take_up(self, scheduler: LRScheduler, *, per_step: bool) -> None:
        """Bring a schedule to where training stands, and say so if its length has changed."""
        (before,) = self._schedules
        if not isinstance(scheduler, ReduceLROnPlateau):
            advance(scheduler, self._steps if per_step else self._epochs_stepped)
        elif "num_bad_epochs" in before:
            take_up_plateau(scheduler, before, self._optimizer["param_groups"])
        self._schedules[:] = [scheduler.state_dict()]
        steps, now = before.get("total_steps"), getattr(scheduler, "total_steps", None)
        if None not in (steps, now) and steps != now:
            rank_zero_only(print)(
                f"The schedule was made for {steps:,} steps and now has {now:,}: the rate goes on where the longer or "
                "shorter course stands at this step."
            )


def take_counts(checkpoint: dict[str, Any], prefix: str, *, is_first: bool) -> None:
    """Give the first process the counts of the epoch, which are those of all processes, and others none."""
    weights = checkpoint["state_dict"]
    for name in [name for name in weights if name.startswith(prefix)]:
        if name in checkpoint.get("counts", {}):  # of each process, in earlier checkpoints
            weights[name] = checkpoint["counts"][name].sum(dim=0)
        if not is_first:
            weights[name] = torch.zeros_like(weights[name])


def advance(scheduler: LRScheduler, steps: int) -> None:
    """Bring a new schedule, and the learning rates, to where they stand after this many steps."""
    with warnings.catch_warnings(action="ignore"):  # about steps of a schedule before any of its optimizer
        if steps and isinstance(scheduler, LambdaLR | OneCycleLR):  # functions of the step, which allow one jump
            scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": steps - 1, "_step_count": steps})
            steps = 1
        for _ in range(steps):
            scheduler.step()


def take_up_plateau(scheduler: ReduceLROnPlateau, state: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
    """Repeat another plateau schedule's reductions, and go on with its wait if both watch the same metric."""
    names = ["last_epoch"]
    before = {"metric": state.get("monitor"), "mode": state.get("mode")} | state.get("basis", {})
    if still_holds(before, vars(scheduler)["basis"], "the wait for a plateau"):
        names += ["best", "num_bad_epochs", "cooldown_counter"]
    for index, (group, saved) in enumerate(zip(scheduler.optimizer.param_groups, groups, strict=True)):
        if (rate := saved.get("initial_lr")) is None:
            group["lr"] = saved["lr"]
            continue
        while rate > saved["lr"]:
            lower = max(rate * state["factor"], state["min_lrs"][index])
            if rate - lower <= state["eps"]:
                break
            rate = lower
            lower = max(group["lr"] * scheduler.factor, scheduler.min_lrs[index])
            if group["lr"] - lower > scheduler.eps:
                group["lr"] = lower
    rates = [group["lr"] for group in scheduler.optimizer.param_groups]
    progress = {name: state[name] for name in names if name in state}
    scheduler.load_state_dict(scheduler.state_dict() | progress | {"_last_lr": rates})
