"""A short training that leaves nothing behind."""

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

    Of the run's callbacks it keeps those with a true `sets_weights`. Unless it is `scheduled`, the learning rate is
    constant, frozen parts stay so, and the feature cache is kept, too.
    """

    def __init__(
        self, flags: Sequence[str], callback: Callback, changes: Mapping[str, Any], *, scheduled: bool
    ) -> None:
        self._changes, self._scheduled = changes, scheduled
        super().__init__(["fit", *flags], callbacks=[callback])

    def before_instantiate_classes(self) -> None:
        """Remove what a dry run has no use for."""
        config = self.config
        if config.ckpt_path:
            raise UserError(
                "--ckpt_path goes on with a run; leave it out, or give that run's config.yaml with --config."
            )
        self.runs, config.runs = config.runs, Path(self.at_end.enter_context(TemporaryDirectory()))
        given = [] if self._scheduled else one_or_more(config.trainer.callbacks)
        kept = [each for each in given if getattr(resolve_name(each.class_path), "sets_weights", False)]
        for key in CALLBACKS:
            if self._scheduled or key != "feature_cache":  # it makes training faster, but is no part of a schedule
                config[key] = None
        if not self._scheduled:
            config.model.scheduler = None
            config.model.unfreeze = None  # it counts the epochs of a run
            if config.model.finetune:
                config.model.freeze, config.model.finetune = ["backbone"], None
        changes = {
            **dict.fromkeys(("logger", "fast_dev_run", "enable_progress_bar", "enable_checkpointing"), False),
            **dict.fromkeys(("limit_val_batches", "num_sanity_val_steps"), 0),
            **dict.fromkeys(("min_epochs", "min_steps")),
            "callbacks": kept,
            **self._changes,
        }
        for name, value in changes.items():
            config.trainer[name] = value
        super().before_instantiate_classes()

    def fit(self) -> None:
        """Train, without record, curves and test."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # the Trainer declares none
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, RunRecord)]
        self.trainer.fit(self.model, self.datamodule)
