"""Train from Python, with the flags of `scripts/train.py fit` as keyword arguments."""

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
    """A finished run: its folder, its best checkpoint (None if it has none), and its last metrics."""

    folder: Path
    best: Path | None
    metrics: dict[str, float]


def fit(**settings: Any) -> TrainedRun:
    """Train as `scripts/train.py fit` does, and restore the state of the process afterwards.

    Args:
        settings: The flags, with two underscores for each dot: `trainer__max_epochs=3` is `--trainer.max_epochs 3`.
            Arguments of `Classifier` need no `model__`, as in `optimizer__lr=0.1`, and `callbacks` no `trainer__`. For
            a class give its name, the class itself, or `{"class_path": ..., "init_args": {...}}`.

    Raises:
        UserError: If a setting is wrong; then the run's folder is removed.
        KeyboardInterrupt: If Ctrl-C has stopped the run; continue it with `resume`.
    """
    flags = sorted((_flag(*item) for item in settings.items()), key=lambda flag: flag.partition("=")[0].count("."))
    cudnn, mode, hook = torch.backends.cudnn, torch.get_deterministic_debug_mode(), sys.breakpointhook
    cudnn_flags = cudnn.deterministic, cudnn.benchmark
    keep_process = patch.object(received, "ends_process", False)
    try:
        with isolate_rng(), warnings.catch_warnings(), patch.dict(os.environ), keep_process, exit_on_signals():
            run = _RunInPython(["fit", *flags])
        trust(run.config.model.network.class_path)
        folder = run.folder.absolute()
        return TrainedRun(folder, checkpoint_of(folder), run.record.results["metrics"])
    except Stopped as stop:
        number = stop.signal
    finally:
        wake_workers()
        release_folders()
        torch.set_deterministic_debug_mode(mode)
        (cudnn.deterministic, cudnn.benchmark), sys.breakpointhook = cudnn_flags, hook
    signal.raise_signal(number)  # the process has its own handlers again
    raise KeyboardInterrupt


class _RunInPython(TrainCLI):
    def fit(self) -> None:
        if self.trainer.world_size > 1:
            raise UserError("Python trains in one process; give trainer__devices=1, or use scripts/train.py fit.")
        super().fit()


def _flag(name: str, value: Any) -> str:
    """Return a keyword argument as a flag."""
    key = name.replace("__", ".")
    if (key, value) == ("resume", True):
        return "--resume"
    group = key.partition(".")[0]
    prefix = "model." if group in signature(Classifier).parameters else "trainer." if group == "callbacks" else ""
    plain = json.loads(json.dumps(value, default=partial(_text, key)))
    return f"--{prefix}{key}={plain if isinstance(plain, str) else json.dumps(plain)}"


def _text(key: str, value: Any) -> str:
    """Return a path, or the path of a class, as text; raises UserError for any other object."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type) and find_class(path := f"{value.__module__}.{value.__qualname__}") is value:
        return trust(path)
    raise UserError(
        f"{key} has {getattr(value, '__name__', type(value))}, which no checkpoint can rebuild; give plain values, and "
        "classes that their module has by name, alone or as {'class_path': ..., 'init_args': ...}."
    )
