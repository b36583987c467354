"""The optimizer and the learning-rate schedule of a run."""

import inspect
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch.optim.lr_scheduler
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, PolynomialLR

from models.training.fine_tuning import FineTuning
from models.training.monitor import basis, check_logged, is_of_validation

if TYPE_CHECKING:  # imported when a run is resumed
    from models.training.resumption import Resumption

FUSED = ("cpu", "cuda")  # devices that have fused optimizers


def update_in_one_pass(optimizer: Optimizer) -> None:
    """Let the optimizer use torch's fused implementation where possible, unless another is configured.

    For 1.8 million parameters on a CPU, a step of Adam took 6 to 14 ms, and 1.1 ms when fused.
    """
    if not isinstance(optimizer, SGD | Adam):
        return
    for group in optimizer.param_groups:
        fits = all(parameter.is_floating_point() and parameter.device.type in FUSED for parameter in group["params"])
        if fits and group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
            # If the constructor set it, Lightning would refuse to clip gradients in mixed precision.
            group["fused"] = True


def make_schedule(
    make: Callable[..., Any] | None,
    optimizer: Optimizer,
    trainer: Trainer,
    resumption: "Resumption | None",
    finetune: FineTuning | None,
) -> LRSchedulerConfigType:
    """Return the schedule of the learning rate, logged as `lr`; in a resumed run, advanced to its progress."""
    # A constant learning rate is a schedule too, so that it is logged as `lr`.
    make = make or partial(ConstantLR, factor=1.0, total_iters=0)
    arguments = {**inspect.signature(make).parameters, **getattr(make, "keywords", {})}
    per_step = "total_steps" in arguments
    if finetune and (not per_step or isinstance(arguments["total_steps"], int)):
        raise ValueError("model.finetune needs a schedule whose total_steps follow from the run, as WarmupCosine's do")
    if per_step:
        make = _over_the_run(make, arguments, trainer, resumption, finetune)
    if any("lr_scale" in group for group in optimizer.param_groups):
        from models.training.parameter_groups import make_scaled

        make = partial(make_scaled, make)
    scheduler = make(optimizer)
    check_schedule(scheduler, trainer.max_epochs)
    config = LRSchedulerConfigType(scheduler=scheduler, interval="step" if per_step else "epoch", name="lr")
    if isinstance(scheduler, ReduceLROnPlateau):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # as other schedules do; a resumed run counts reductions from it
        # As an attribute of the schedule, the basis becomes part of its saved state.
        vars(scheduler)["basis"] = basis(trainer, scheduler.monitor, scheduler.mode)
        config |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}  # `step_plateaus` steps it instead
    if resumption:
        resumption.take_up(scheduler, per_step=per_step)
    return config


def _over_the_run(
    make: Callable[..., Any],
    arguments: dict[str, Any],
    trainer: Trainer,
    resumption: "Resumption | None",
    finetune: FineTuning | None,
) -> Callable[..., Any]:
    """Return `make` with the run's number of optimizer steps filled in as `total_steps`."""
    if isinstance(arguments.get("epochs"), int):
        raise ValueError("the schedule is as long as the run; leave out its epochs and steps_per_epoch")
    steps = trainer.estimated_stepping_batches  # this property also sets `trainer.num_training_batches`
    if resumption:
        steps = resumption.total_steps(trainer, trainer.max_epochs)
    configured_steps = arguments["total_steps"]
    if isinstance(configured_steps, int):
        if configured_steps < steps:
            raise ValueError(
                f"the schedule is over after {configured_steps:,} optimizer steps, but the run has {steps:,}; make the "
                "run as short, or begin one without total_steps, which is then filled in"
            )
        return make
    if math.isinf(steps):
        raise ValueError("the run has no end for the schedule to come to; give trainer.max_epochs")
    if not finetune:
        return partial(make, total_steps=int(steps))
    head_steps = finetune.head_epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    if resumption:
        head_steps = resumption.head_steps(trainer, finetune.head_epochs)
    return partial(finetune.schedule, make, head_steps=head_steps, total_steps=int(steps))


def check_schedule(scheduler: LRScheduler, epochs: int | None) -> None:
    """Raise ValueError if a schedule has no metric to watch, has length 0, or ends before the run does."""
    is_plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if is_plateau and not isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "torch's ReduceLROnPlateau is not told which metric to watch; name "
            "lightning.pytorch.cli.ReduceLROnPlateau, with a monitor such as val/loss"
        )
    for length in ("step_size", "T_max"):
        if getattr(scheduler, length, 1) < 1:
            raise ValueError(f"{length} is {getattr(scheduler, length)}; give a number of epochs of at least 1")
    if isinstance(scheduler, PolynomialLR) and epochs is not None and scheduler.total_iters < epochs:
        raise ValueError(
            f"PolynomialLR is over after total_iters {scheduler.total_iters}, but is for a run of {epochs} epochs; "
            f"give {epochs}"
        )


def step_plateaus(trainer: Trainer, *, validated: bool) -> None:
    """Step the plateau schedules whose metric was just logged; Lightning would step them after each epoch."""
    metrics = trainer.callback_metrics
    for config in trainer.lr_scheduler_configs:
        if not isinstance(config.scheduler, ReduceLROnPlateau):
            continue
        monitor = config.scheduler.monitor
        if not validated:
            check_logged(metrics, monitor, "model.scheduler")
        if is_of_validation(monitor) == validated and monitor in metrics:
            config.scheduler.step(metrics[monitor])


def keep_arguments(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Restore the optimizer's state, but keep the hyperparameters that are configured now."""
    arguments = inspect.signature(type(optimizer)).parameters
    restored_names = ["params", *(name for name in optimizer.defaults if name not in arguments)]
    groups = [
        group | {name: saved_group[name] for name in restored_names if name in saved_group}
        for group, saved_group in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}
