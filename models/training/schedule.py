"""Learning-rate schedules: whether one suits its run, and where it stands when a run is resumed."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch.cli
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, PolynomialLR, ReduceLROnPlateau

from models.training.monitor import still_holds


def check_schedule(scheduler: LRScheduler, epochs: int | None) -> None:
    """Refuse a schedule by which nothing is learnt, without a figure to watch, or that is over before its run."""
    lowest = min(group.get("max_lr", group["lr"]) for group in scheduler.optimizer.param_groups)
    if lowest < 0:
        raise ValueError(f"the learning rate is {lowest:g}; give a number of at least 0")
    if isinstance(scheduler, ReduceLROnPlateau) and not isinstance(scheduler, lightning.pytorch.cli.ReduceLROnPlateau):
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


def check_total_steps(total_steps: int, run_steps: float) -> None:
    """Refuse a schedule with fewer optimizer steps than its run."""
    if total_steps < run_steps:
        raise ValueError(
            f"the schedule is over after {total_steps:,} optimizer steps, but the run has {run_steps:,}; make the run "
            "as short, or begin one without total_steps, which is then filled in"
        )


def advance(scheduler: LRScheduler, steps: int) -> None:
    """Bring a new schedule, and the learning rates, to where they stand after this many steps."""
    with warnings.catch_warnings(action="ignore"):  # about steps of a schedule before any of its optimizer
        if steps and isinstance(scheduler, LambdaLR | OneCycleLR):  # functions of the step, which allow one jump
            scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": steps - 1, "_step_count": steps})
            steps = 1
        for _ in range(steps):
            scheduler.step()


def take_up_plateau(
    scheduler: ReduceLROnPlateau, state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]
) -> None:
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
