"""Where a learning-rate schedule stands, and whether it suits its run."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch.cli
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    StepLR,
)

from models.training.monitor import still_holds


def advance(scheduler: LRScheduler, steps: int) -> None:
    """Bring a schedule to where it stands after so many steps, with the learning rates that it gives there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)`")  # nothing is optimized here
        if steps and isinstance(scheduler, LambdaLR | OneCycleLR):  # functions of the step: a jump replaces many steps
            scheduler.last_epoch, scheduler._step_count = steps - 1, steps
            steps = 1
        for _ in range(steps):
            scheduler.step()


def take_up_plateau(
    scheduler: ReduceLROnPlateau, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> None:
    """Let a plateau schedule go on from another's reductions, and from its wait if both watch the same."""
    names = ["last_epoch"]
    then = {"metric": state.get("monitor"), "mode": state.get("mode")} | state.get("basis", {})
    if still_holds(then, vars(scheduler)["basis"], "the wait for a plateau"):
        names += ["best", "num_bad_epochs", "cooldown_counter"]
    vars(scheduler).update({name: state[name] for name in names if name in state})
    for index, (group, before) in enumerate(zip(scheduler.optimizer.param_groups, groups, strict=True)):
        if (rate := before.get("initial_lr")) is None:
            group["lr"] = before["lr"]
            continue
        while rate > before["lr"]:
            lower = max(rate * state["factor"], state["min_lrs"][index])
            if rate - lower <= state["eps"]:
                break
            rate = lower
            lower = max(group["lr"] * scheduler.factor, scheduler.min_lrs[index])
            if group["lr"] - lower > scheduler.eps:
                group["lr"] = lower
    scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def refuse_unusable(scheduler: LRScheduler) -> None:
    """Refuse a schedule by which nothing would be learnt, or that would not know when to step."""
    if (lowest := min(group.get("max_lr", group["lr"]) for group in scheduler.optimizer.param_groups)) < 0:
        raise ValueError(f"the learning rate is {lowest:g}; give a number of at least 0")
    with_monitor = lightning.pytorch.cli.ReduceLROnPlateau
    if isinstance(scheduler, ReduceLROnPlateau) and not isinstance(scheduler, with_monitor):
        raise ValueError(
            "torch's ReduceLROnPlateau is not told which figure to watch; name "
            "lightning.pytorch.cli.ReduceLROnPlateau, with a monitor such as val/loss"
        )


def length_note(scheduler: LRScheduler, epochs: int | None) -> str:
    """Say where a schedule that steps after each epoch and the run that it is for end apart.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> length_note(MultiStepLR(optimizer, milestones=[10, 40, 60]), epochs=30)
        'MultiStepLR has milestones from 40 on, which a run of 30 epochs does not reach.'
    """
    name, run = type(scheduler).__name__, f"a run of {epochs} epochs"
    for length in ("step_size", "T_max"):
        if getattr(scheduler, length, 1) < 1:
            raise ValueError(f"{length} is {getattr(scheduler, length)}; give a number of epochs of at least 1")
    if epochs in (None, -1):
        return ""
    assert epochs is not None
    if isinstance(scheduler, MultiStepLR):
        beyond = [milestone for milestone in sorted(scheduler.milestones) if milestone >= epochs]
        if beyond:
            return f"{name} has milestones from {beyond[0]} on, which {run} does not reach."
    elif isinstance(scheduler, StepLR) and scheduler.step_size >= epochs:
        return f"{name} has step_size {scheduler.step_size}, which {run} does not reach: the rate is constant."
    elif isinstance(scheduler, CosineAnnealingLR) and scheduler.T_max != epochs:
        end = "it rises again in the end" if scheduler.T_max < epochs else "it does not come down to the end"
        return f"{name} has T_max {scheduler.T_max}, but is for {run}: {end}."
    elif isinstance(scheduler, PolynomialLR) and scheduler.total_iters != epochs:
        if scheduler.total_iters < epochs:
            raise ValueError(
                f"{name} is over after total_iters {scheduler.total_iters}, but is for {run}; give {epochs}"
            )
        return f"{name} has total_iters {scheduler.total_iters}, but is for {run}: it does not come down to the end."
    return ""


def check_total_steps(total_steps: int, run_steps: float) -> str:
    """Compare a schedule of a given number of optimizer steps with the run that it is for.

    Example:
        >>> check_total_steps(1000, 630)
        'The schedule has 1,000 steps, the run 630: the rate does not come down to the end.'
    """
    if total_steps < run_steps:
        raise ValueError(
            f"the schedule is over after {total_steps:,} optimizer steps, but the run has {run_steps:,}; make the run "
            "as short, or begin one without total_steps, which is then filled in"
        )
    if total_steps == run_steps:
        return ""
    return f"The schedule has {total_steps:,} steps, the run {run_steps:,}: the rate does not come down to the end."
