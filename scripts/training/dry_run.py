"""Train for a few steps without writing files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch.callbacks import Callback

from callbacks.run.run_record import RunRecord
from core.user_error import UserError
from scripts.training.train_cli import CALLBACKS, TrainCLI
from scripts.training.trainer_arguments import one_or_more


class DryRun(TrainCLI):
    """Trains with the network, data, optimizer and precision of a run, but without validation, test, logs and folder.

    Args:
        flags: Flags of `fit`.
        callback: A callback that watches or steers the training.
        changes: Arguments of the Trainer to replace.
        scheduled: False for a constant learning rate. Then frozen parts stay frozen, and the feature cache and those
            of the run's callbacks that have a true `sets_weights` are used.
    """

    def __init__(
        self, flags: Sequence[str], callback: Callback, changes: Mapping[str, Any], *, scheduled: bool
    ) -> None:
        self._changes, self._scheduled = changes, scheduled
        super().__init__(["fit", *flags], callbacks=[callback])

    def before_instantiate_classes(self) -> None:
        """Remove what a dry run does not use from the configuration."""
        config = self.config
        if config.ckpt_path:
            raise UserError("--ckpt_path is for resuming; leave it out, or give that run's config.yaml with --config.")
        self.runs, config.runs = config.runs, Path(self.at_end.enter_context(TemporaryDirectory()))
        callbacks = [] if self._scheduled else one_or_more(config.trainer.callbacks)
        callbacks = [
            callback for callback in callbacks if getattr(resolve_name(callback.class_path), "sets_weights", False)
        ]
        for key in CALLBACKS:
            if self._scheduled or key != "feature_cache":  # the cache changes the speed, not the schedule
                config[key] = None
        if not self._scheduled:
            config.model.scheduler = None
            config.model.unfreeze = None  # it counts the epochs of a whole run
            if config.model.finetune:
                config.model.freeze, config.model.finetune = ["backbone"], None
        changes = {
            **dict.fromkeys(("logger", "fast_dev_run", "enable_progress_bar", "enable_checkpointing"), False),
            **dict.fromkeys(("limit_val_batches", "num_sanity_val_steps"), 0),
            **dict.fromkeys(("min_epochs", "min_steps")),
            "callbacks": callbacks,
            **self._changes,
        }
        for name, value in changes.items():
            config.trainer[name] = value
        super().before_instantiate_classes()

    def fit(self) -> None:
        """Train, without record and test."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, RunRecord)]
        self.trainer.fit(self.model, self.datamodule)
