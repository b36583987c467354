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

from models.training.fine_tuning import FineTuning
from models.training.monitor import basis, check_logged, is_of_validation
from models.training.parameter_groups import scale_rates, scale_schedule
from models.training.schedule import advance, check_schedule, check_total_steps, take_up_plateau

FUSED = ("cpu", "cuda")  # devices on which an optimizer can update all parameters in one pass

FROM_BACKBONE = "or begin a new run from its backbone with --model.network.weights"


@dataclass(frozen=True)
class Optimization:
    """The progress of an optimization that a resumed training goes on with.

    Only progress is restored: the optimizer's state, steps, epochs, a plateau's best figure. Arguments come from the
    optimizer and the schedule that are configured now.
    """

    configured: object  # the optimizer's configuration with its `class_path`, if it had one
    optimizer: Mapping[str, Any]  # its state
    schedules: list[dict[str, Any]]  # states of its schedules; the Trainer restores what replaces them here
    steps: int  # optimizer steps done
    epoch: int  # the epoch to go on with
    batches: int  # batches done in this epoch, for data that do not know their place themselves
    epochs_stepped: int  # steps of a schedule that steps after each epoch

    @classmethod
    def taken_from(cls, checkpoint: dict[str, Any]) -> Self:
        """Read it from a checkpoint."""
        (optimizer,) = checkpoint["optimizer_states"]
        loops, steps = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
        epochs, batches = loops["epoch_progress"]["current"], loops["epoch_loop.batch_progress"]
        is_within_epoch = epochs["processed"] < epochs["ready"]
        epochs_stepped = max(0, epochs["ready"] - 1 + batches["is_last_batch"])
        for schedule in checkpoint["lr_schedulers"]:
            if "num_bad_epochs" not in schedule and schedule.get("last_epoch", steps) != steps:
                epochs_stepped = schedule["last_epoch"]
        return cls(
            configured=checkpoint.get(LightningModule.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("optimizer"),
            optimizer=optimizer,
            schedules=checkpoint["lr_schedulers"],
            steps=steps,
            epoch=epochs["processed"],
            batches=batches["current"]["processed"] if is_within_epoch else 0,
            epochs_stepped=epochs_stepped,
        )

    def check_optimizer(self, configured: object, optimizer: Optimizer, make: Callable[..., Optimizer]) -> None:
        """Refuse an optimizer that cannot go on from this state."""
        before, now = (
            each.get("class_path") if isinstance(each, Mapping) else None for each in (self.configured, configured)
        )
        if None not in (before, now) and before != now:
            raise ValueError(
                f"the run to go on with was trained by {before}; leave the optimizer as it was, {FROM_BACKBONE}"
            )
        groups_before, groups_now = (
            [(group.get("name"), len(group["params"])) for group in groups]
            for groups in (self.optimizer["param_groups"], optimizer.param_groups)
        )
        if groups_before != groups_now:
            raise ValueError(
                "the run to go on with trained other parameters, or grouped them otherwise; leave model.freeze, "
                f"unfreeze, finetune, layer_decay and decay_norms_and_biases as they were, {FROM_BACKBONE}"
            )
        if (lacking := self._lacks(optimizer, make)) is not None:
            raise ValueError(
                f"with these arguments the optimizer keeps a {lacking}, which the run to go on with lacks; leave "
                f"them as they were, {FROM_BACKBONE}"
            )

    def _lacks(self, optimizer: Optimizer, make: Callable[..., Optimizer]) -> str | None:
        # What a step needs that the state has not got: try a step of the smallest parameter.
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        index = min(self.optimizer["state"], key=lambda number: parameters[number].numel(), default=None)
        if index is None:
            return None
        parameter = parameters[index].detach().clone().requires_grad_()
        parameter.grad = torch.zeros_like(parameter)
        trial = make([parameter])
        state = {0: deepcopy(self.optimizer["state"][index])}
        with suppress(TypeError):  # from an optimizer whose step takes a closure
            try:
                trial.load_state_dict({"state": state, "param_groups": trial.state_dict()["param_groups"]})
                trial.step()
            except KeyError as error:
                return str(error.args[0])
        return None

    def total_steps(self, trainer: Trainer, epochs: int | None) -> float:
        """Optimizer steps of a run of some epochs: the steps done, and those left as the Trainer counts them now."""
        most = math.inf if trainer.max_steps == -1 else trainer.max_steps
        if epochs is None or epochs == -1:
            return max(self.steps, most)
        batches, each = int(trainer.num_training_batches), trainer.accumulate_grad_batches
        epoch, done, data = self.epoch, self.batches, getattr(trainer, "datamodule", None)
        if data is not None and hasattr(data, "batches_done"):  # counted in batches of the present size
            epoch, done = data.place[0], data.batches_done(batches)
        left = math.ceil((batches - done) / each) + (epochs - epoch - 1) * math.ceil(batches / each)
        return max(self.steps, min(most, self.steps + left * (epochs > epoch)))

    def head_steps(self, trainer: Trainer, epochs: int) -> int:
        """Optimizer steps of the epochs in which the head is trained alone; once over, they stay what they were."""
        if epochs > self.epoch:
            return int(self.total_steps(trainer, epochs))
        return min(self.steps, int(self.schedules[0].get("head_steps", self.steps)))

    def take_up(self, scheduler: LRScheduler, *, per_step: bool) -> str:
        """Bring a schedule to where training stands; returns a note if its length has changed."""
        (before,) = self.schedules
        if not isinstance(scheduler, ReduceLROnPlateau):
            advance(scheduler, self.steps if per_step else self.epochs_stepped)
        elif "num_bad_epochs" in before:
            take_up_plateau(scheduler, before, self.optimizer["param_groups"])
        self.schedules[:] = [scheduler.state_dict()]
        steps_before, steps_now = before.get("total_steps"), getattr(scheduler, "total_steps", None)
        if None in (steps_before, steps_now) or steps_before == steps_now:
            return ""
        return (
            f"The schedule was made for {steps_before:,} steps and now has {steps_now:,}: the rate goes on where the "
            "longer or shorter course stands at this step."
        )


def make_schedule(
    make: Callable[..., Any] | None,
    optimizer: Optimizer,
    trainer: Trainer,
    before: Optimization | None,
    finetune: FineTuning | None = None,
) -> LRSchedulerConfigType:
    """The schedule of an optimizer's learning rate, logged as `lr`; it goes on from `before`."""
    # A constant rate is a schedule too, so that it is logged under the same name.
    make = make or partial(ConstantLR, factor=1.0, total_iters=0)
    arguments = {**inspect.signature(make).parameters, **getattr(make, "keywords", {})}
    per_step = "total_steps" in arguments
    if finetune and (not per_step or isinstance(arguments["total_steps"], int)):
        raise ValueError("model.finetune needs a schedule whose total_steps follow from the run, as WarmupCosine's do")
    if per_step:
        if any(isinstance(arguments.get(name), int) for name in ("epochs", "steps_per_epoch")):
            raise ValueError("the schedule is as long as the run; leave out its epochs and steps_per_epoch")
        run_steps = trainer.estimated_stepping_batches  # also has the Trainer count its batches
        if before is not None:
            run_steps = before.total_steps(trainer, trainer.max_epochs)
        if isinstance(arguments["total_steps"], int):
            check_total_steps(arguments["total_steps"], run_steps)
        elif math.isinf(run_steps):
            raise ValueError("the run has no end for the schedule to come to; give trainer.max_epochs")
        elif finetune:
            each = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
            head_steps = before.head_steps(trainer, finetune.head_epochs) if before else finetune.head_epochs * each
            make = partial(finetune.schedule, make, head_steps=head_steps, total_steps=int(run_steps))
        else:
            make = partial(make, total_steps=int(run_steps))
    scheduler = make(optimizer)
    scale_schedule(scheduler)
    check_schedule(scheduler, trainer.max_epochs)
    config = LRSchedulerConfigType(scheduler=scheduler, interval="step" if per_step else "epoch", name="lr")
    if isinstance(scheduler, ReduceLROnPlateau):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]  # as in every other schedule; its reductions are counted from there
        vars(scheduler)["basis"] = basis(trainer, scheduler.monitor, scheduler.mode)  # a part of its state
        config |= {"monitor": scheduler.monitor, "frequency": sys.maxsize}  # `step_plateaus` steps it instead
    if before is not None and (note := before.take_up(scheduler, per_step=per_step)) and trainer.is_global_zero:
        print(note)
    return config


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
            progress = trainer.fit_loop.epoch_loop.scheduler_progress  # where Lightning counts its own steps
            progress.increment_ready()
            config.scheduler.step(metrics[monitor])
            progress.increment_completed()


def make_ready(optimizer: Optimizer) -> None:
    """Set each group's own learning rate, and update all parameters in one pass where the optimizer can.

    For 1.8 million parameters on a CPU, Adam took 6 to 14 ms, and 1.1 ms in one pass. An optimizer that is configured
    with `fused`, `foreach` or `differentiable` is left alone.
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
    # Restore what the optimizer has learnt; keep the arguments that it is configured with now.
    arguments = inspect.signature(type(optimizer)).parameters
    learnt = [name for name in optimizer.defaults if name not in arguments]
    groups = [
        {**group, **{name: saved[name] for name in learnt if name in saved}, "params": saved["params"]}
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    return {**state, "param_groups": groups}
