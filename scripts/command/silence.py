"""What libraries say in a normal run, unsaid."""

import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

# Where the thread comes from that writes points and pictures.
EVENT_FILE_WRITER = "tensorboard.summary.writer.event_file_writer"


def silence_libraries() -> None:
    """Keep a normal run free of what libraries say besides what is wrong."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # tips and a list of accelerators
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
    if not isinstance(threading.excepthook, _UnlessItIsTold):
        threading.excepthook = _UnlessItIsTold(threading.excepthook)


def _is_asked_for(record: logging.LogRecord) -> bool:
    """True for warnings, and for what profilers and callbacks report: the user has asked for that."""
    return record.levelno > logging.INFO or Path(record.pathname).parent.name in ("profilers", "callbacks")


class _UnlessItIsTold:
    """Shows what has ended a thread, unless it wrote TensorBoard's file, of which the logger says that it is full."""

    def __init__(self, show: Callable[[threading.ExceptHookArgs], Any]) -> None:
        self._show = show

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__module__ != EVENT_FILE_WRITER:
            self._show(args)


@contextmanager
def silent() -> Iterator[None]:
    """Let nothing through of what libraries print, log and warn of within, where what comes out is checked anyway."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
