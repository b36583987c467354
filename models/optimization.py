"""The optimizer of a training and its learning-rate schedule, as a Trainer takes them."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR

from models.monitor import basis, is_of_validation, refuse_unlogged, still_holds
from models.parameter_groups import scale_rates, scale_schedule
from models.schedule import check_total_steps, length_note, refuse_unusable

FUSED = ("cpu", "cuda")
"""Devices on which an optimizer can update all parameters in one pass."""


@dataclass(frozen=True)
class Optimization:
    """How the run was optimized that a training goes on with.

    Args:
        optimizer: The optimizer as it was configured, with its `class_path`, if it was.
        groups: Its parameter groups.
        total_steps: Optimizer steps of its schedule, if that has an end.
        schedules: The states of its schedules in the checkpoint, of which what does not hold any more can be left out.
    """

    optimizer: object
    groups: Sequence[Mapping[str, Any]]
    total_steps: int | None
    schedules: Sequence[dict[str, Any]] = ()

    @classmethod
    def taken_from(cls, checkpoint: dict[str, Any]) -> Self:
        """Read it from a checkpoint, and leave out there what the schedule of a longer or shorter run has anew.

        Args:
            checkpoint: One that training can go on from.
        """
        total_steps = None
        for schedule in checkpoint["lr_schedulers"]:
            total_steps = schedule.pop("total_steps", None)
            schedule.pop("_schedule_phases", None)  # which OneCycleLR makes of them
        (optimizer,) = checkpoint["optimizer_states"]
        configured = checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, {})
        return cls(configured.get("optimizer"), optimizer["param_groups"], total_steps, checkpoint["lr_schedulers"])

    def refuse_another(self, optimizer: object, groups: Sequence[Mapping[str, Any]]) -> None:
        """See that an optimizer can go on from the state of this one.

        Args:
            optimizer: It as it was configured, if it was.
            groups: Its parameter groups.

        Raises:
            ValueError: If it is of another class, or of other groups.
        """
        before, now = (
            given.get("class_path") if isinstance(given, Mapping) else None for given in (self.optimizer, optimizer)
        )
        remedy = "or begin a new run from its backbone with --model.network.weights"
        if None not in (before, now) and before != now:
            raise ValueError(f"the run to go on with was trained by {before}; leave the optimizer as it was, {remedy}")
        if [len(group["params"]) for group in self.groups] != [len(group["params"]) for group in groups]:
            raise ValueError(
                "the run to go on with trained other parameters, or grouped them otherwise; leave model.freeze, "
                f"unfreeze, layer_decay and decay_norms_and_biases as they were, {remedy}"
            )


def make_schedule(
    make: Callable[..., Any] | None, optimizer: Optimizer, trainer: Trainer, before: Optimization | None
) -> LRSchedulerConfigType:
    """The schedule of an optimizer's learning rate, logged as `lr`; says where it and the run end apart.

    Args:
        make: Makes it from the optimizer. One that has an argument `total_steps` is given the Trainer's number of
            optimizer steps and steps after each; any other steps after each epoch. By default the rate is constant.
        optimizer: The optimizer.
        trainer: What it is for.
        before: Of the run that training goes on with.

    Raises:
        ValueError: If it refuses its arguments, has an end and the run has none or a later one, or cannot be used.
    """
    # A constant rate is a schedule too, so that it is logged under the same name.
    make = make or partial(ConstantLR, factor=1.0, total_iters=0)
    arguments = {**inspect.signature(make).parameters, **getattr(make, "keywords", {})}
    per_step = "total_steps" in arguments
    note = ""
    if per_step:
        if any(isinstance(arguments.get(name), int) for name in ("epochs", "steps_per_epoch")):
            raise ValueError("the schedule is as long as the run; leave out its epochs and steps_per_epoch")
        run_steps = trainer.estimated_stepping_batches
        total_steps = arguments["total_steps"]
        if not isinstance(total_steps, int):
            if math.isinf(run_steps):
                raise ValueError("the run has no end for the schedule to come to; give trainer.max_epochs")
            total_steps = int(run_steps)
            make = partial(make, total_steps=total_steps)
        note = check_total_steps(total_steps, run_steps)
        if before is not None and before.total_steps not in (None, total_steps):
            note = (
                f"The schedule was made for {before.total_steps:,} steps and now has {total_steps:,}: the rate goes on "
                "where the longer or shorter course stands at this step."
            )
    scheduler = make(optimizer)
    scale_schedule(scheduler)
    refuse_unusable(scheduler)
    if not per_step:
        note = length_note(scheduler, trainer.max_epochs)
    if note and trainer.is_global_zero:
        print(note)
    config = LRSchedulerConfigType(scheduler=scheduler, interval="step" if per_step else "epoch", name="lr")
    if isinstance(scheduler, ReduceLROnPlateau):
        config |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}  # `step_plateaus` knows when
        vars(scheduler)["basis"] = now = basis(trainer, scheduler.monitor, scheduler.mode)  # a part of its state
        for state in before.schedules if before else ():
            then = {"metric": state.get("monitor"), "mode": state.get("mode")} | state.get("basis", {})
            if "num_bad_epochs" in state and not still_holds(then, now, "the wait for a plateau"):
                for name in ("best", "num_bad_epochs", "cooldown_counter", "monitor", "mode", "mode_worse", "basis"):
                    state.pop(name, None)
    return config


def step_plateaus(trainer: Trainer, *, validated: bool) -> None:
    """Let schedules that wait for a plateau look at their metric where it was measured.

    Lightning looks at it after each epoch, at the last value that there is.

    Args:
        trainer: Whose schedules they are.
        validated: Whether a validation has ended, else an epoch of training.

    Raises:
        MisconfigurationException: If an epoch has ended, and nothing of the metric's name was logged.
    """
    metrics = trainer.callback_metrics
    for config in trainer.lr_scheduler_configs:
        if not isinstance(config.scheduler, ReduceLROnPlateau):
            continue
        monitor = config.scheduler.monitor
        if not validated:
            refuse_unlogged(metrics, monitor, "model.scheduler")
        if is_of_validation(monitor) == validated and monitor in metrics:
            progress = trainer.fit_loop.epoch_loop.scheduler_progress  # which Lightning counts its own steps in
            progress.increment_ready()
            config.scheduler.step(metrics[monitor])
            progress.increment_completed()


def make_ready(optimizer: Optimizer) -> None:
    """Give each parameter group its own learning rate, and update all parameters in one pass where that is possible.

    On a CPU Adam took 6 to 14 ms for 1.8 million parameters, and 1.1 ms in one pass. An optimizer that was told how to
    update is left so.

    Args:
        optimizer: Made from `models.parameter_groups.parameter_groups`.
    """
    scale_rates(optimizer, "lr")
    if not isinstance(optimizer, SGD | Adam):
        return
    for group in optimizer.param_groups:
        plain = all(parameter.is_floating_point() and parameter.device.type in FUSED for parameter in group["params"])
        if plain and group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
            # Not by the constructor, after which Lightning would refuse to clip gradients in mixed precision.
            group["fused"] = True
