"""Stochastic weight averaging."""

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import lightning.pytorch.callbacks
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim.swa_utils import get_swa_multi_avg_fn

from callbacks.checkpoint import Checkpoint
from callbacks.run.safe_points import validate_after_this_step
from callbacks.weight_average import WeightAverage
from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.training.batch_norm import compute_statistics, trained_batch_norms


class SWA(WeightAverage):
    """Evaluates and stores the equal average of the weights at the ends of the last epochs (Izmailov et al., 2018).

    After each averaged epoch, a forward pass over its training images, with its augmentation, computes batch norm's
    running statistics for the average. Until the first epoch is averaged, the weights themselves are validated, tested
    and stored; from then on the average is (see `callbacks.weight_average.WeightAverage`). The best checkpoint is
    chosen only among averages.

    This callback does not change the learning rate. Averages gain most at a high rate, as in the paper, such as a
    constant one (`--model.scheduler null`): weights at the end of a schedule that falls to zero hardly differ.

    Args:
        start: When averaging starts: a number of epochs, or a fraction of the Trainer's `max_epochs`.

    Raises:
        ValueError: If start is negative, or a fraction of 1 or more.
    """

    def __init__(self, start: int | float = 0.75) -> None:
        super().__init__()
        if start < 0 or (isinstance(start, float) and start >= 1):
            raise ValueError(f"start is {start}; give a number of epochs, or a fraction from 0 to below 1")
        self.start = start
        self._first_epoch = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the first epoch to average."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
        first = self.start * epochs if isinstance(self.start, float) else self.start
        if first >= epochs:
            raise UserError(
                f"weight_average.start is {self.start}, but trainer.max_epochs is {trainer.max_epochs}; give more "
                "epochs, or start as a number below theirs."
            )
        self._first_epoch = int(first)
        early_stopping = lightning.pytorch.callbacks.EarlyStopping
        if any(isinstance(callback, early_stopping) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError(
                f"Early stopping may end training before epoch {self._first_epoch}, where averaging begins; leave it "
                "out with --early_stopping null."
            )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the average if it has all epochs from `start` on; discard it if `start` is later."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if trainer.state.fn != "fit" or self.state_key not in checkpoint["callbacks"]:
            return  # the resumed run has no SWA average
        loops = checkpoint["loops"]["fit_loop"]
        ended = max(0, loops["epoch_progress"]["current"]["ready"] - 1)
        ended += loops["epoch_loop.batch_progress"]["is_last_batch"]
        due = max(0, ended - self._first_epoch)  # number of epochs that the average should have
        if not due:
            self.updates, self._average = 0, None
        elif self.updates != due:
            raise UserError(
                f"weight_average.start is {self.start}, but the run stands after {ended} epochs with an average of "
                f"{self.updates} of them, where {due} would have to be; leave start as it was, or give {ended} or more."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise UserError if `max_steps` ends the run before an epoch is averaged."""
        steps, batches = trainer.estimated_stepping_batches, trainer.num_training_batches
        epochs = steps / math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else math.inf
        if epochs < self._first_epoch + 1:
            raise UserError(
                f"weight_average.start is {self.start}, but training ends after {steps:,} steps, which are "
                f"{epochs:.3g} epochs; give fewer."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average the weights at the end of the epoch, before they are validated."""
        if batch_idx + 1 < trainer.num_training_batches or trainer.current_epoch < self._first_epoch:
            return
        self._update(get_swa_multi_avg_fn())
        validate_after_this_step(trainer)  # otherwise the last average would not be validated
        if layers := trained_batch_norms(pl_module):
            self._swap(put_in=True)
            with isolate_rng(), trainer.precision_plugin.forward_context():
                compute_statistics(pl_module, layers, _training_images(trainer, pl_module))
            for buffer in (buffer for layer in layers for buffer in layer.buffers() if buffer.is_floating_point()):
                buffer.copy_(trainer.strategy.reduce(buffer.clone(), reduce_op="mean"))  # over ranks
            self._swap(put_in=False)
        if self.updates == 1:
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, Checkpoint):
                    callback.forget_best()


def _training_images(trainer: Trainer, pl_module: LightningModule) -> Iterable[Tensor]:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ImageDataModule):
        raise UserError(
            "weight_average computes batch norm's statistics from the training images again, which only the project's "
            "data modules can give; train on one of them."
        )
    batches = data.training_batches(trainer.current_epoch, pl_module.device)
    return (images for images, _ in islice(batches, int(trainer.num_training_batches)))
