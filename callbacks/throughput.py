"""Log the training speed."""

from typing import cast

from lightning.pytorch import LightningModule, Trainer

from callbacks.run.run_record import TrainingClock
from models.classifier import Classifier


class Throughput(TrainingClock):
    """Logs `train/images_per_second` after each epoch: the training images of all ranks divided by the training time.

    Validation does not count. In a resumed epoch, only the images after the resume count.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, perhaps within a resumed epoch."""
        self.on_train_epoch_start(trainer, pl_module)
        self._images_before = int(cast(Classifier, pl_module).train_metrics.total)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the clock and the image count."""
        self._images_before, self.training_seconds = 0, 0.0
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the speed."""
        images = int(cast(Classifier, pl_module).train_metrics.total) - self._images_before  # waits for the device
        self.measure(is_training=False)
        rate = images * trainer.world_size / max(self.training_seconds, 1e-9)
        for logger in trainer.loggers:  # `pl_module.log` would also put it into checkpoints and results
            logger.log_metrics({"train/images_per_second": rate}, step=trainer.global_step - 1)
