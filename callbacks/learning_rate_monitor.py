"""Log the learning rate."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from callbacks.run.logged_steps import first_batch, is_logged_step


class LearningRateMonitor(Callback):
    """Logs the learning rate as `lr`, or as `lr/<name>` for each parameter group if there are several.

    A schedule by steps has a point at each logged optimizer step (`callbacks.run.logged_steps.is_logged_step`); a
    schedule by epochs has one at the start of each epoch.

    Args:
        logging_interval: Whether to log in each `step` or `epoch`; by default the interval of the schedule.
        log_momentum: Whether to log the momentum, or the first of Adam's betas, as `lr-momentum`.
        log_weight_decay: Whether to log the weight decay as `lr-weight_decay`.
    """

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Log the learning rate at the first batch of a step or epoch."""
        if (batch_idx - first_batch(trainer)) % trainer.accumulate_grad_batches:
            return
        schedules = trainer.lr_scheduler_configs
        interval = self.logging_interval or (schedules[0].interval if schedules else "step")
        is_due = batch_idx == 0 if interval == "epoch" else is_logged_step(trainer)
        if not is_due:
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        values = {}
        for number, group in enumerate(groups, 1):
            part = group.get("name", f"pg{number}" if len(groups) > 1 else "")
            name = f"lr/{part}" if part else "lr"
            values[name] = group["lr"]
            if self.log_momentum:
                values[f"{name}-momentum"] = group["betas"][0] if "betas" in group else group.get("momentum", 0)
            if self.log_weight_decay:
                values[f"{name}-weight_decay"] = group["weight_decay"]
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
