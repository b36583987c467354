"""Stopping when nothing gets better."""

import lightning.pytorch.callbacks
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer


class EarlyStopping(lightning.pytorch.callbacks.EarlyStopping):
    """Lightning's, which says plainly when the figure to monitor is not there.

    Args:
        monitor: The figure that decides.
        mode: Whether it is to be `max` or `min`.
        patience: Validations without anything better after which training stops.
        min_delta: The least change that counts as better.
    """

    def __init__(
        self, monitor: str = "val/accuracy", mode: str = "max", patience: int = 10, min_delta: float = 0.0
    ) -> None:
        super().__init__(monitor=monitor, mode=mode, patience=patience, min_delta=min_delta)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare.

        Raises:
            MisconfigurationException: If nothing of that name was logged.
        """
        if not trainer.sanity_checking and self.monitor not in trainer.callback_metrics:
            raise MisconfigurationException(
                f"early_stopping.monitor is {self.monitor}, which is not logged; choose from "
                f"{', '.join(sorted(name for name in trainer.callback_metrics if '/' in name))}."
            )
        super().on_validation_end(trainer, pl_module)
