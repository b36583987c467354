"""Training from Python, with the flags of `scripts/train.py fit` as keyword arguments."""

import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import isclass, signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse._util import get_import_path  # the shortest, as configurations have it; there is no public one
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image

from callbacks.run.run_folder import release_folders
from core.stopping import Stopped, heeding_signals
from core.user_error import UserError
from datamodules.loading.loader import wake_workers
from models.classifier import Classifier
from models.serialization.class_path import find_class, trust
from scripts.inference.image_classifier import ImageClassifier, load_classifier
from scripts.inference.run_checkpoint import checkpoint_of
from scripts.report.run_curves import curves_picture
from scripts.training.train_cli import TrainCLI


@dataclass(frozen=True)
class TrainedRun:
    """A run that has come to its end.

    Args:
        folder: Its folder.
        best: The best checkpoint; None if it has written none.
        metrics: The last figures of training and validation, and those of the test.
    """

    folder: Path
    best: Path | None
    metrics: dict[str, float]

    def classifier(self) -> ImageClassifier:
        """The network of the best checkpoint, to be called with images."""
        return load_classifier(self.best or self.folder)

    def curves(self) -> Image.Image:
        """Loss and accuracy by epoch, as a picture."""
        return curves_picture(self.folder)


def fit(**settings: Any) -> TrainedRun:
    """Train, and test the best checkpoint: the run that `scripts/train.py fit` would make.

    Args:
        settings: The flags, with two underscores for each dot: `trainer__max_epochs=3` is `--trainer.max_epochs 3`.
            Arguments of `Classifier` need no `model__`, as in `network="ResNet"` and `optimizer__lr=0.1`, and
            `callbacks` no `trainer__`. Where a class is expected, give its name, the class itself, or
            `{"class_path": ..., "init_args": {...}}`. `config` is a file of settings or several, and `resume=True` goes
            on with the newest run.

    Raises:
        UserError: If a setting is wrong; nothing is left of the run then.
        KeyboardInterrupt: If Ctrl-C has stopped the run; `resume` goes on with it.
    """
    if "seeds" in settings:
        raise UserError("fit trains one run; call it with each seed_everything, or use scripts/train.py fit --seeds.")
    flags = [flag for name, value in settings.items() for flag in _flags(name, value)]
    stopped_by = 0
    try:
        with _process_as_it_was(), heeding_signals(ends_process=False):
            run = _RunInPython(["fit", *sorted(flags, key=lambda flag: flag.partition("=")[0].count("."))])
            trust(run.config.model.network.class_path)
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    except Stopped as stop:
        stopped_by = stop.signal
    if stopped_by:
        signal.raise_signal(stopped_by)  # to the handlers of this process, which are back
        raise KeyboardInterrupt
    return TrainedRun(run.folder, checkpoint_of(run.folder), run.record.results["metrics"])


class _RunInPython(TrainCLI):
    def fit(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError(
                f"The Trainer is for {self.trainer.world_size} processes, of which Python is one; give "
                "trainer__devices=1, or use scripts/train.py fit, which starts the others."
            )
        super().fit()


@contextmanager
def _process_as_it_was() -> Iterator[None]:
    """Undo what a training sets for its whole process."""
    environment, cudnn, debugger = os.environ.copy(), torch.backends.cudnn, sys.breakpointhook
    flags, deterministic = (cudnn.deterministic, cudnn.benchmark), torch.are_deterministic_algorithms_enabled()
    try:
        with isolate_rng(), warnings.catch_warnings():
            yield
    finally:
        wake_workers()
        release_folders()
        sys.breakpointhook = debugger  # which a broken-off run leaves as its progress bar
        cudnn.deterministic, cudnn.benchmark = flags
        torch.use_deterministic_algorithms(deterministic)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _flags(name: str, value: Any) -> Iterator[str]:
    key = name.replace("__", ".")
    first = key.partition(".")[0]
    outer = "model." if first in signature(Classifier).parameters else "trainer." if first == "callbacks" else ""
    if key == "resume" and value is True:
        yield "--resume"
        return
    for each in value if key == "config" and isinstance(value, list | tuple) else [value]:
        text = _plain(each, key)
        yield f"--{outer}{key}={text if isinstance(text, str) else json.dumps(text)}"


def _plain(value: Any, key: str) -> Any:
    """A value as YAML holds it."""
    if isinstance(value, dict):
        return {name: _plain(each, key) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, key) for each in value]
    if isinstance(value, str):
        return value.removeprefix("kindling.")
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, Path):
        return str(value)
    if isclass(value) and find_class(path := str(get_import_path(value))) is value:
        return trust(path)
    kind = f"the class {value.__qualname__}" if isclass(value) else f"a {type(value).__name__}"
    raise UserError(
        f"{key} has {kind}, which no checkpoint could rebuild; give plain values, and classes that are found by their "
        "name in a file or notebook, alone or as {'class_path': ..., 'init_args': ...}."
    )
