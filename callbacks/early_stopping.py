"""Stop training when a metric no longer improves."""

from typing import Any, Literal

import lightning.pytorch.callbacks
from lightning.pytorch import LightningModule, Trainer

from models.training.monitor import Basis, basis, check_logged, direction, is_of_validation, still_holds


class EarlyStopping(lightning.pytorch.callbacks.EarlyStopping):
    """Stops training when a metric has stopped improving, but not before the last layers are unfrozen.

    Args:
        monitor: The metric that decides; `val/` ones are compared after each validation, others after each epoch.
        mode: Whether higher (`max`) or lower (`min`) is better; by default as the metric's name says.
        patience: Number of measurements without improvement after which training stops.
        min_delta: The smallest change that counts as an improvement.

    Raises:
        ValueError: If patience or min_delta is negative.
        UserError: If the metric's name does not say its direction, or an epoch has not logged the metric.
    """

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: Literal["min", "max"] | None = None,
        patience: int = 10,
        min_delta: float = 0.0,
    ) -> None:
        for name, value in (("patience", patience), ("min_delta", min_delta)):
            if value < 0:
                raise ValueError(f"early_stopping.{name} is {value}; give a number of at least 0")
        super().__init__(
            monitor=monitor,
            mode=direction(monitor, mode, "early_stopping"),
            patience=patience,
            min_delta=min_delta,
            check_on_train_epoch_end=not is_of_validation(monitor),
            strict=False,  # there is no metric before the first validation; `check_logged` checks after each epoch
        )
        self._basis: Basis = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determine what the metric is measured on."""
        self._basis = basis(trainer, self.monitor, self.mode)

    def state_dict(self) -> dict[str, Any]:
        """Return Lightning's state, and what the metric was measured on."""
        return super().state_dict() | {"basis": self._basis}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count of measurements without improvement, but keep the patience that is configured now."""
        if still_holds(state_dict.get("basis", {}), self._basis, "early stopping"):
            super().load_state_dict(state_dict | {"patience": self.patience})

    @property
    def has_stopped(self) -> bool:
        """True if the metric has not improved for `patience` measurements."""
        return self.wait_count >= max(1, self.patience)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop a resumed run that early stopping had ended."""
        trainer.should_stop = trainer.should_stop or self.has_stopped

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the metric was logged; compare it if an epoch of training measures it."""
        check_logged(trainer.callback_metrics, self.monitor, "early_stopping")
        super().on_train_epoch_end(trainer, pl_module)

    def _should_skip_check(self, trainer: Trainer) -> bool:
        freezing = getattr(trainer.lightning_module, "freezing", None)
        is_too_early = freezing is not None and trainer.current_epoch < freezing.last_change
        return is_too_early or super()._should_skip_check(trainer)
