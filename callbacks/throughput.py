"""Training speed, as a curve."""

from typing import cast

from lightning.pytorch import LightningModule, Trainer

from callbacks.run.run_record import TrainingClock
from models.classifier import Classifier


class Throughput(TrainingClock):
    """Logs `train/images_per_second` after each epoch: the training images of all processes by the time they took.

    Validation does not count. Of an epoch that is resumed in its middle, the rest counts.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure, perhaps in the middle of an epoch."""
        self.on_train_epoch_start(trainer, pl_module)
        self._before = int(cast(Classifier, pl_module).train_metrics.total)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the epoch."""
        self._before, self.training_seconds = 0, 0.0
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the speed."""
        images = int(cast(Classifier, pl_module).train_metrics.total) - self._before  # waits for the device
        self.measure(is_training=False)
        rate = images * trainer.world_size / max(self.training_seconds, 1e-9)
        for logger in trainer.loggers:  # to curves alone: it says nothing of the weights
            logger.log_metrics({"train/images_per_second": rate}, step=trainer.global_step - 1)
