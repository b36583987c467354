"""Layout of TensorBoard's custom scalars."""

from operator import methodcaller
from typing import cast

from lightning.pytorch import LightningModule, Trainer

from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_to_tensorboard
from models.classifier import Classifier


class CustomScalars(OutsideSteps):
    """Lays out TensorBoard's custom scalars: one chart per metric, with its training and its validation curve."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the layout, except in a resumed run."""
        names = cast(Classifier, pl_module).val_metrics.names
        charts = {name.replace("_", " "): ["Multiline", [f"train/{name}", f"val/{name}"]] for name in names}
        layout = {"training and validation": charts}
        write_to_tensorboard(trainer, methodcaller("add_custom_scalars", layout), at_start=True)
