"""The optimizer of a training and its learning-rate schedule, as a Trainer takes them."""

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

FUSED = ("cpu", "cuda")  # devices on which an optimizer can update all parameters in one pass


def update_in_one_pass(optimizer: Optimizer) -> None:
    """Let an optimizer update all parameters in one pass, if it can and is not configured otherwise.

    For 1.8 million parameters on a CPU, Adam took 6 to 14 ms, and 1.1 ms in one pass.
    """
    if not isinstance(optimizer, SGD | Adam):
        return
    for group in optimizer.param_groups:
        plain = all(parameter.is_floating_point() and parameter.device.type in FUSED for parameter in group["params"])
        if plain and group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
            # Not by the constructor, after which Lightning would refuse to clip gradients in mixed precision.
            group["fused"] = True


def make_schedule(
    make: Callable[..., Any] | None,
    optimizer: Optimizer,
    trainer: Trainer,
    resumed: "Resumption | None",
    finetune: FineTuning | None,
) -> LRSchedulerConfigType:
    """The schedule of an optimizer's learning rate, logged as `lr`; that of a resumed run goes on.

    Raises:
        ValueError: If the schedule does not suit its run.
    """
    # A constant rate is a schedule too, so that it is logged under the same name.
    make = make or partial(ConstantLR, factor=1.0, total_iters=0)
    arguments = {**inspect.signature(make).parameters, **getattr(make, "keywords", {})}
    per_step = "total_steps" in arguments
    if finetune and (not per_step or isinstance(arguments["total_steps"], int)):
        raise ValueError("model.finetune needs a schedule whose total_steps follow from the run, as WarmupCosine's do")
    if per_step:
        make = _over_the_run(make, arguments, trainer, resumed, finetune)
    if any("lr_scale" in group for group in optimizer.param_groups):
        from models.training.parameter_groups import make_scaled

        make = partial(make_scaled, make)
    scheduler = make(optimizer)
    check_schedule(scheduler, trainer.max_epochs)
    config = LRSchedulerConfigType(scheduler=scheduler, interval="step" if per_step else "epoch", name="lr")
    if isinstance(scheduler, ReduceLROnPlateau):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # as in every other schedule; its reductions are counted from there
        vars(scheduler)["basis"] = basis(trainer, scheduler.monitor, scheduler.mode)  # a part of its state
        config |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}  # `step_plateaus` steps it instead
    if resumed:
        resumed.take_up(scheduler, per_step=per_step)
    return config


def _over_the_run(
    make: Callable[..., Any],
    arguments: dict[str, Any],
    trainer: Trainer,
    resumed: "Resumption | None",
    finetune: FineTuning | None,
) -> Callable[..., Any]:
    """Give a schedule the number of optimizer steps of its run."""
    if isinstance(arguments.get("epochs"), int):
        raise ValueError("the schedule is as long as the run; leave out its epochs and steps_per_epoch")
    steps = trainer.estimated_stepping_batches  # also has the Trainer count its batches
    if resumed:
        steps = resumed.total_steps(trainer, trainer.max_epochs)
    if isinstance(given := arguments["total_steps"], int):
        if given < steps:
            raise ValueError(
                f"the schedule is over after {given:,} optimizer steps, but the run has {steps:,}; make the run "
                "as short, or begin one without total_steps, which is then filled in"
            )
        return make
    if math.isinf(steps):
        raise ValueError("the run has no end for the schedule to come to; give trainer.max_epochs")
    if not finetune:
        return partial(make, total_steps=int(steps))
    head_steps = finetune.head_epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    if resumed:
        head_steps = resumed.head_steps(trainer, finetune.head_epochs)
    return partial(finetune.schedule, make, head_steps=head_steps, total_steps=int(steps))


def check_schedule(scheduler: LRScheduler, epochs: int | None) -> None:
    """Refuse a schedule by which nothing is learnt, without a figure to watch, or that is over before its run."""
    is_plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if is_plateau and not isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "torch's ReduceLROnPlateau is not told which figure to watch; name "
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
    """Step plateau schedules whose metric was just measured; Lightning would step them after each epoch."""
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
    """Of a state that is restored, what an optimizer has learnt, with the arguments that it is configured with now."""
    arguments = inspect.signature(type(optimizer)).parameters
    learnt = [name for name in optimizer.defaults if name not in arguments]
    groups = [
        {**group, **{name: saved[name] for name in learnt if name in saved}, "params": saved["params"]}
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}
