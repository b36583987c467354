"""Stopping when nothing gets better."""

from ast import literal_eval
from typing import Any, Literal

import lightning.pytorch.callbacks
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from models.training.monitor import Basis, basis, check_logged, direction, is_of_validation, still_holds


class EarlyStopping(lightning.pytorch.callbacks.EarlyStopping):
    """Lightning's, which looks at a metric each time that it is measured, and says plainly when it is not there.

    Args:
        monitor: The metric that decides; `val/` ones are looked at after each validation, others after each epoch.
        mode: Whether it is to be `max` or `min`; by default as its name says.
        patience: How often it may be measured without being better before training stops.
        min_delta: The least change that counts as better.

    Raises:
        ValueError: If patience or min_delta is negative.
        UserError: If the metric's name does not say its direction; when the metric is asked for and
            nothing of that name was logged.
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
        )
        self._basis: Basis = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find what the metric is measured on."""
        self._basis = basis(trainer, self.monitor, self.mode)

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and what the metric was measured on."""
        return super().state_dict() | {"basis": self._basis}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say so if the run to go on with watched another metric, whose state Lightning keeps under another key."""
        keys = [key for key in checkpoint["callbacks"] if key.startswith(f"{type(self).__qualname__}{{")]
        if trainer.state.fn == "fit" and keys and self.state_key not in keys:
            before = literal_eval(keys[0].removeprefix(type(self).__qualname__))
            still_holds({"metric": before["monitor"], "mode": before["mode"]}, self._basis, "early stopping")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up how long nothing has got better, but not the patience, which a resumed run may be given anew."""
        if still_holds(state_dict.get("basis", {}), self._basis, "early stopping"):
            super().load_state_dict(state_dict | {"patience": self.patience})

    @property
    def has_stopped(self) -> bool:
        """Whether nothing has got better for so long that training stops."""
        return self.wait_count >= max(1, self.patience)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once when a run is resumed that was at its end."""
        trainer.should_stop = trainer.should_stop or self.has_stopped

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what is measured by the epoch, and see that the metric was logged at all."""
        check_logged(trainer.callback_metrics, self.monitor, "early_stopping")
        super().on_train_epoch_end(trainer, pl_module)

    def _validate_condition_metric(self, logs: dict[str, Tensor]) -> bool:
        return self.monitor in logs
