"""Training from Python, with the flags of `scripts/train.py fit` as keyword arguments."""

import json
import os
import signal
import sys
import warnings
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from callbacks.run.run_folder import release_folders
from core.stopping import Stopped, exit_on_signals, received
from core.user_error import UserError
from datamodules.loading.loader import wake_workers
from models.classifier import Classifier
from models.serialization.class_path import find_class, trust
from scripts.inference.run_checkpoint import checkpoint_of
from scripts.training.train_cli import TrainCLI


class TrainedRun(NamedTuple):
    """A run that has come to its end: its folder, its best checkpoint, if it has any, and its last figures."""

    folder: Path
    best: Path | None
    metrics: dict[str, float]


def fit(**settings: Any) -> TrainedRun:
    """Train as `scripts/train.py fit` does, and leave the process as it was.

    Args:
        settings: The flags, with two underscores for each dot: `trainer__max_epochs=3` is `--trainer.max_epochs 3`.
            Arguments of `Classifier` need no `model__`, as in `optimizer__lr=0.1`, and `callbacks` no `trainer__`. For
            a class give its name, the class itself, or `{"class_path": ..., "init_args": {...}}`.

    Raises:
        UserError: If a setting is wrong; then nothing is left of the run.
        KeyboardInterrupt: If Ctrl-C has stopped the run, which `resume` goes on with.
    """
    flags = sorted((_flag(*each) for each in settings.items()), key=lambda flag: flag.partition("=")[0].count("."))
    cudnn, mode, hook = torch.backends.cudnn, torch.get_deterministic_debug_mode(), sys.breakpointhook
    chosen = cudnn.deterministic, cudnn.benchmark
    gently = patch.object(received, "ends_process", False)
    try:
        with isolate_rng(), warnings.catch_warnings(), patch.dict(os.environ), gently, exit_on_signals():
            run = _RunInPython(["fit", *flags])
        trust(run.config.model.network.class_path)
        return TrainedRun(folder := run.folder.absolute(), checkpoint_of(folder), run.record.results["metrics"])
    except Stopped as stop:
        number = stop.signal
    finally:
        wake_workers()
        release_folders()
        torch.set_deterministic_debug_mode(mode)
        (cudnn.deterministic, cudnn.benchmark), sys.breakpointhook = chosen, hook
    signal.raise_signal(number)  # to the handlers of this process, which are back
    raise KeyboardInterrupt


class _RunInPython(TrainCLI):
    def fit(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError("Python trains in one process; give trainer__devices=1, or use scripts/train.py fit.")
        super().fit()


def _flag(name: str, value: Any) -> str:
    key = name.replace("__", ".")
    is_of_model = key.partition(".")[0] in signature(Classifier).parameters
    outer = "model." if is_of_model else "trainer." if key.startswith("callbacks") else ""
    plain = json.loads(json.dumps(value, default=partial(_text, key)))
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return "--resume" if (key, value) == ("resume", True) else f"--{outer}{key}={text}"


def _text(key: str, value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type) and find_class(path := f"{value.__module__}.{value.__qualname__}") is value:
        return trust(path)
    raise UserError(
        f"{key} has {getattr(value, '__name__', type(value))}, which no checkpoint can rebuild; give plain values, and "
        "classes that their module has by name, alone or as {'class_path': ..., 'init_args': ...}."
    )
