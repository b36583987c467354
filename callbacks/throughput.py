"""Training speed, as a curve."""

from typing import cast

from lightning.pytorch import LightningModule, Trainer

from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.run_record import Stopwatch
from models.classifier import Classifier


class Throughput(OutsideSteps):
    """Logs `train/images_per_second` after each epoch: the training images of all processes by the time they took.

    Validation does not count. Of an epoch that is resumed in its middle, the rest counts.
    """

    def __init__(self) -> None:
        self._clock = Stopwatch()
        self._before = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure, perhaps in the middle of an epoch."""
        self._begin(int(cast(Classifier, pl_module).train_metrics.total))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the epoch."""
        self._begin(0)

    def _begin(self, images: int) -> None:
        self._before, self._clock = images, Stopwatch()
        self._clock.start()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pause."""
        self._clock.stop()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on after a validation of training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._clock.start()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the speed."""
        images = int(cast(Classifier, pl_module).train_metrics.total) - self._before  # waits for the device
        self._clock.stop()
        rate = images * trainer.world_size / max(self._clock.seconds, 1e-9)
        for logger in trainer.loggers:  # to curves alone: it says nothing of the weights
            logger.log_metrics({"train/images_per_second": rate}, step=trainer.global_step - 1)
