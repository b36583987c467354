"""Rehearse a learning-rate schedule without training."""

import math
import warnings
from itertools import count

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from core.user_error import UserError


class ScheduleRehearsal(Callback):
    """Steps the schedule as often as the run will, and ends the run before its first batch."""

    def __init__(self) -> None:
        # In each optimizer step: the learning rate of each group of parameters, and the momentum (or Adam's first beta)
        # of the first group, 0 where there is none.
        self.lrs: list[list[float]] = []
        self.momenta: list[float] = []
        self.steps_per_epoch = 0  # optimizer steps; the last epoch may have fewer

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True
        (config,) = trainer.lr_scheduler_configs
        if config.reduce_on_plateau:
            raise UserError(
                f"{type(config.scheduler).__name__} lowers the learning rate when {config.monitor} gets no better, "
                "which nobody knows before the run; see lr in TensorBoard while it trains."
            )
        steps = trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(
                "The run has no end that its schedule could be drawn to; give --trainer.max_epochs or max_steps."
            )
        self.steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        (optimizer,) = trainer.optimizers
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)`")  # nothing is optimized
            for step in count(1):
                self.lrs.append([float(group["lr"]) for group in optimizer.param_groups])
                group = optimizer.param_groups[0]
                self.momenta.append(float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0)))
                if step >= steps:
                    return
                if config.interval == "step" or step % self.steps_per_epoch == 0:
                    config.scheduler.step()  # type: ignore[call-arg]  # a plateau's alone takes a figure
