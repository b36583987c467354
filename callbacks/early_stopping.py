"""Stopping when nothing gets better."""

from typing import Any

import lightning.pytorch.callbacks
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


class EarlyStopping(lightning.pytorch.callbacks.EarlyStopping):
    """Lightning's, which says plainly when the figure to monitor is not there.

    Args:
        monitor: The figure that decides.
        mode: Whether it is to be `max` or `min`.
        patience: Validations without anything better after which training stops.
        min_delta: The least change that counts as better.

    Raises:
        ValueError: If patience or min_delta is negative.
        MisconfigurationException: When the figure is asked for and nothing of that name was logged.
    """

    def __init__(
        self, monitor: str = "val/accuracy", mode: str = "max", patience: int = 10, min_delta: float = 0.0
    ) -> None:
        for name, value in (("patience", patience), ("min_delta", min_delta)):
            if value < 0:
                raise ValueError(f"early_stopping.{name} is {value}; give a number of at least 0")
        super().__init__(monitor=monitor, mode=mode, patience=patience, min_delta=min_delta)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up how long nothing has got better, but not the patience, which a resumed run may be given anew."""
        super().load_state_dict(state_dict | {"patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once when a run is resumed that was at its end."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= max(1, self.patience)

    def _validate_condition_metric(self, logs: dict[str, Tensor]) -> bool:
        if self.monitor.startswith("val/") and not any(name.startswith("val/") for name in logs):
            return False  # training ended before the first validation
        if self.monitor not in logs:
            raise MisconfigurationException(
                f"early_stopping.monitor is {self.monitor}, which is not logged; choose from "
                f"{', '.join(sorted(name for name in logs if '/' in name))}."
            )
        return super()._validate_condition_metric(logs)
