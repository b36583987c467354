"""The optimizer of a training and its learning-rate schedule, as a Trainer takes them."""

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from models.training.monitor import basis, is_of_validation, refuse_unlogged
from models.training.parameter_groups import scale_rates, scale_schedule
from models.training.schedule import advance, check_total_steps, length_note, refuse_unusable, take_up_plateau

FUSED = ("cpu", "cuda")  # devices on which an optimizer can update all parameters in one pass


@dataclass(frozen=True)
class Optimization:
    """How far the optimization has come that a training goes on with.

    Its progress alone is taken over: what the optimizer has learnt, steps and epochs done, a plateau's best figure. All
    arguments are those that optimizer and schedule are made with now.

    Args:
        configured: The optimizer as it was configured, with its `class_path`, if it was.
        optimizer: Its state.
        schedules: The states of its schedules; what is put here in their place is what the Trainer restores.
        steps: Optimizer steps done.
        epoch: The epoch that training goes on with, and
        batches: batches done in it, where the data does not know its place.
        epochs_stepped: How often a schedule that steps after each epoch has stepped.
    """

    configured: object
    optimizer: Mapping[str, Any]
    schedules: list[dict[str, Any]]
    steps: int
    epoch: int
    batches: int
    epochs_stepped: int

    @classmethod
    def taken_from(cls, checkpoint: dict[str, Any]) -> Self:
        """Read it from a checkpoint."""
        (optimizer,) = checkpoint["optimizer_states"]
        loops, steps = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
        epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        within = epochs["processed"] < epochs["ready"]
        stepped = max(0, epochs["ready"] - 1 + batches["is_last_batch"])
        for schedule in checkpoint["lr_schedulers"]:
            if "num_bad_epochs" not in schedule and schedule.get("last_epoch", steps) != steps:
                stepped = schedule["last_epoch"]
        return cls(
            checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("optimizer"),
            optimizer,
            checkpoint["lr_schedulers"],
            steps,
            epochs["processed"],
            batches["current"]["processed"] if within else 0,
            stepped,
        )

    def refuse_another(self, configured: object, optimizer: Optimizer, make: Callable[..., Optimizer]) -> None:
        """See that an optimizer can go on from the state of this one."""
        before, now = (
            given.get("class_path") if isinstance(given, Mapping) else None for given in (self.configured, configured)
        )
        remedy = "or begin a new run from its backbone with --model.network.weights"
        if None not in (before, now) and before != now:
            raise ValueError(f"the run to go on with was trained by {before}; leave the optimizer as it was, {remedy}")
        groups = [
            [(group.get("name"), len(group["params"])) for group in some]
            for some in (self.optimizer["param_groups"], optimizer.param_groups)
        ]
        if groups[0] != groups[1]:
            raise ValueError(
                "the run to go on with trained other parameters, or grouped them otherwise; leave model.freeze, "
                f"unfreeze, layer_decay and decay_norms_and_biases as they were, {remedy}"
            )
        if (lacking := self._lacks(optimizer, make)) is not None:
            raise ValueError(
                f"with these arguments the optimizer keeps a {lacking}, which the run to go on with lacks; leave "
                f"them as they were, {remedy}"
            )

    def _lacks(self, optimizer: Optimizer, make: Callable[..., Optimizer]) -> str | None:
        """What the state has not got that a step needs, as the smallest of its parameters shows."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        index = min(self.optimizer["state"], key=lambda number: parameters[number].numel(), default=None)
        if index is None:
            return None
        parameter = parameters[index].detach().clone().requires_grad_()
        parameter.grad = torch.zeros_like(parameter)
        trial = make([parameter])
        state = {0: deepcopy(self.optimizer["state"][index])}
        with suppress(TypeError):  # a step that wants more than this
            try:
                trial.load_state_dict({"state": state, "param_groups": trial.state_dict()["param_groups"]})
                trial.step()
            except KeyError as error:
                return str(error.args[0])
        return None

    def total_steps(self, trainer: Trainer) -> float:
        """Optimizer steps of the whole run: those done, and those that are left as the Trainer takes them now."""
        epochs, most = trainer.max_epochs, math.inf if trainer.max_steps == -1 else trainer.max_steps
        if epochs in (None, -1):
            return max(self.steps, most)
        assert epochs is not None
        batches, each = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        epoch, done, data = self.epoch, self.batches, getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "batches_done"):  # of whatever size batches are now
            epoch, done = data.place[0], data.batches_done(batches)
        left = math.ceil((batches - done) / each) + (epochs - epoch - 1) * math.ceil(batches / each)
        return max(self.steps, min(most, self.steps + left * (epochs > epoch)))

    def take_up(self, scheduler: LRScheduler, *, per_step: bool) -> str:
        """Bring a schedule to where training stands."""
        (before,) = self.schedules
        if not isinstance(scheduler, ReduceLROnPlateau):
            advance(scheduler, self.steps if per_step else self.epochs_stepped)
        elif "num_bad_epochs" in before:
            take_up_plateau(scheduler, before, self._groups())
        self.schedules[:] = [scheduler.state_dict()]
        was, is_ = before.get("total_steps"), getattr(scheduler, "total_steps", None)
        if None in (was, is_) or was == is_:
            return ""
        return (
            f"The schedule was made for {was:,} steps and now has {is_:,}: the rate goes on where the longer or "
            "shorter course stands at this step."
        )

    def _groups(self) -> list[dict[str, Any]]:
        """The groups of parameters, with the rate that each began with if it is known."""
        given = self.configured.get("init_args", {}) if isinstance(self.configured, Mapping) else {}
        groups = self.optimizer["param_groups"]
        if "lr" not in given:
            return list(groups)
        return [{"initial_lr": given["lr"] * group.get("lr_scale", 1.0), **group} for group in groups]


def make_schedule(
    make: Callable[..., Any] | None, optimizer: Optimizer, trainer: Trainer, before: Optimization | None
) -> LRSchedulerConfigType:
    """The schedule of an optimizer's learning rate, logged as `lr`; says where it and the run end apart."""
    # A constant rate is a schedule too, so that it is logged under the same name.
    make = make or partial(ConstantLR, factor=1.0, total_iters=0)
    arguments = {**inspect.signature(make).parameters, **getattr(make, "keywords", {})}
    per_step = "total_steps" in arguments
    note = ""
    if per_step:
        if any(isinstance(arguments.get(name), int) for name in ("epochs", "steps_per_epoch")):
            raise ValueError("the schedule is as long as the run; leave out its epochs and steps_per_epoch")
        run_steps = trainer.estimated_stepping_batches
        if before is not None:
            run_steps = before.total_steps(trainer)
        total_steps = arguments["total_steps"]
        if not isinstance(total_steps, int):
            if math.isinf(run_steps):
                raise ValueError("the run has no end for the schedule to come to; give trainer.max_epochs")
            total_steps = int(run_steps)
            make = partial(make, total_steps=total_steps)
        note = check_total_steps(total_steps, run_steps)
    scheduler = make(optimizer)
    scale_schedule(scheduler)
    refuse_unusable(scheduler)
    if not per_step:
        note = length_note(scheduler, trainer.max_epochs)
    if isinstance(scheduler, ReduceLROnPlateau):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # as every other schedule keeps it, to know its reductions by
        vars(scheduler)["basis"] = basis(trainer, scheduler.monitor, scheduler.mode)  # a part of its state
    if before is not None:
        note = before.take_up(scheduler, per_step=per_step) or note
    if note and trainer.is_global_zero:
        print(note)
    config = LRSchedulerConfigType(scheduler=scheduler, interval="step" if per_step else "epoch", name="lr")
    if isinstance(scheduler, ReduceLROnPlateau):
        config |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}  # `step_plateaus` knows when
    return config


def step_plateaus(trainer: Trainer, *, validated: bool) -> None:
    """Let schedules that wait for a plateau look at their metric where it was measured.

    Lightning looks at it after each epoch, at the last value that there is.
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
    """
    scale_rates(optimizer, "lr")
    optimizer.register_load_state_dict_pre_hook(_keep_arguments)
    if not isinstance(optimizer, SGD | Adam):
        return
    for group in optimizer.param_groups:
        plain = all(parameter.is_floating_point() and parameter.device.type in FUSED for parameter in group["params"])
        if plain and group["fused"] is None and group["foreach"] is None and not group["differentiable"]:
            # Not by the constructor, after which Lightning would refuse to clip gradients in mixed precision.
            group["fused"] = True


def _keep_arguments(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Of a state, let an optimizer take what was learnt, and keep the arguments that it was made with."""
    arguments = inspect.signature(type(optimizer)).parameters
    learnt = [name for name in optimizer.defaults if name not in arguments]
    groups = [
        {**group, **{name: saved[name] for name in learnt if name in saved}, "params": saved["params"]}
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}
