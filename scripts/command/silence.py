"""Silence what libraries print in a normal run."""

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

# The module of TensorBoard's writer thread.
EVENT_FILE_WRITER = "tensorboard.summary.writer.event_file_writer"

_show = threading.excepthook


def silence_libraries() -> None:
    """Hide tips, notices and known false warnings of libraries."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # tips and a list of accelerators
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)  # that it makes an experiment
    os.environ.setdefault("WANDB_SILENT", "true")  # it asks for no key either
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("profilers", "callbacks", "utilities.rank_zero"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.setLevel(logging.INFO)
        logger.addFilter(_is_asked_for)
    for message in (
        "The number of training batches .* is smaller than the logging interval",  # each epoch is logged all the same
        "The '.*_dataloader' does not have many workers",  # packed data wants none
        "GPU available but not used",  # the CPU was asked for
        "Found \\d+ module\\(s\\) in eval mode at the start of training",  # those that are frozen
        "You're resuming from a checkpoint that ended before the epoch ended",  # the data module is resumable instead
        "Be aware that when using `ckpt_path`, callbacks",  # one that was left out on purpose has nothing to restore
        "It is recommended to use .*sync_dist=True",  # figures are summed over processes before they are logged
        ".* was deprecated in v4.49.0",  # Lightning's calls of jsonargparse
        "By default only one JsonargparseDeprecationWarning",  # likewise
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning's call of torch
    ):
        warnings.filterwarnings("ignore", f"\\s*{message}")
    threading.excepthook = _show_unless_told


def _is_asked_for(record: logging.LogRecord) -> bool:
    """Keep warnings, and the reports of profilers and callbacks, which the user has asked for."""
    return record.levelno > logging.INFO or Path(record.pathname).parent.name in ("profilers", "callbacks")


def _show_unless_told(args: threading.ExceptHookArgs) -> None:
    """Print the error that ends a thread, but not of TensorBoard's writer: the logger reports a full disk itself."""
    if type(args.thread).__module__ != EVENT_FILE_WRITER:
        _show(args)


@contextmanager
def silent() -> Iterator[None]:
    """Silence libraries inside the block; the caller checks the result."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
