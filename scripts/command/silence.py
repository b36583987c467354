"""Silence what libraries print and log in a normal run."""

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

_default_hook = threading.excepthook


def silence_libraries() -> None:
    """Hide tips, notices and warnings of libraries that do not apply here."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # it logs tips and a list of accelerators
    # It logs that it creates an experiment.
    logging.getLogger("lightning.pytorch.loggers.mlflow").setLevel(logging.ERROR)
    os.environ.setdefault("WANDB_SILENT", "true")  # then it asks for no API key either
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    for name in ("profilers", "callbacks", "utilities.rank_zero"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.setLevel(logging.INFO)
        logger.addFilter(_is_wanted)
    for message in (
        "The number of training batches .* is smaller than the logging interval",  # every epoch is logged anyway
        "The '.*_dataloader' does not have many workers",  # packed data need none
        "GPU available but not used",  # the user has chosen the CPU
        "Found \\d+ module\\(s\\) in eval mode at the start of training",  # frozen modules
        "You're resuming from a checkpoint that ended before the epoch ended",  # the data module restores its position
        "Be aware that when using `ckpt_path`, callbacks",  # the user has removed that callback
        "It is recommended to use .*sync_dist=True",  # metrics are summed over ranks before they are logged
        ".* was deprecated in v4.49.0",  # Lightning's calls of jsonargparse
        "By default only one JsonargparseDeprecationWarning",  # the same calls
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning's call of torch
    ):
        warnings.filterwarnings("ignore", f"\\s*{message}")
    threading.excepthook = _print_thread_error


def _is_wanted(record: logging.LogRecord) -> bool:
    """Return True for warnings, and for reports of profilers and callbacks, which the user has configured."""
    return record.levelno > logging.INFO or Path(record.pathname).parent.name in ("profilers", "callbacks")


def _print_thread_error(args: threading.ExceptHookArgs) -> None:
    """Print the error that ends a thread, except TensorBoard's writer: the logger reports a full disk itself."""
    if type(args.thread).__module__ != EVENT_FILE_WRITER:
        _default_hook(args)


@contextmanager
def silent() -> Iterator[None]:
    """Hide all output, warnings and logs inside the block; the caller checks the result."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
