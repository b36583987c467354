"""What befalls a process, and where in its course."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import callbacks.curves
import callbacks.run.safe_points
import datamodules.packing.pack_writer
import models.serialization.checkpoint
from datamodules.batching.sampler import KeyedBatchSampler
from models.classifier import Classifier

PLACES = (
    "in a training batch",
    "in a validation batch",
    "in a test batch",
    "between batches",
    "in a checkpoint's writing",
    "before a checkpoint's renaming",
    "in a table's writing",
    "in a table's renewal",
    "in TensorBoard's writing",
    "in packing",
)
START = "at the start"
"""The place where a disk may be full and no signal comes: the process does not heed any yet."""

MOST_ROOM = 1_500_000
"""Bytes left on a disk that is full, at most; no checkpoint here is larger than that."""


@dataclass(frozen=True)
class Fault:
    """A signal or a disk that is full, at the nth time that a place is passed.

    Args:
        place: One of `PLACES`, or `START`.
        nth: From 1.
        signal: Its number; 0 is a disk that is full.
        share: How much of what is being written has reached the file, in [0, 1]; of a disk, how much room it has left.
    """

    place: str
    nth: int
    signal: int
    share: float = 0.5


def note_images(file: Path) -> None:
    """Write down the images of each training batch that is handed out."""
    batches = KeyedBatchSampler.__iter__

    def noted(sampler: KeyedBatchSampler) -> Iterator[Tensor]:
        for batch in batches(sampler):
            if sampler.shuffle:
                with file.open("a") as lines:
                    lines.write(f"{batch.tolist()}\n")
            yield batch

    KeyedBatchSampler.__iter__ = noted  # type: ignore[method-assign]


def _fill_disk(room: int) -> None:
    filling = Path(sys.argv[sys.argv.index("--runs") + 1], "filling")
    filling.parent.mkdir(parents=True, exist_ok=True)
    with filling.open("wb", buffering=0) as file:
        with suppress(OSError):
            while True:
                file.write(bytes(4096))
        file.truncate(max(0, file.tell() - room))


def inject(fault: Fault) -> None:
    """Let it befall this process."""
    passed = 0

    def strikes() -> bool:
        nonlocal passed
        passed += 1
        return passed == fault.nth

    def strike() -> None:
        if fault.signal:
            os.kill(os.getpid(), fault.signal)
        else:
            _fill_disk(int(fault.share**4 * MOST_ROOM))

    def before(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def struck(*args: Any, **kwargs: Any) -> Any:
            if strikes():
                strike()
            return whole(*args, **kwargs)

        setattr(owner, name, struck)

    def in_the_middle(whole: Callable[..., None]) -> Callable[..., None]:
        def save(content: Any, file: Any, **options: Any) -> None:
            if options:  # a tensor that is sent to another process
                pass
            elif fault.signal == signal.SIGKILL and strikes():
                memory = io.BytesIO()
                whole(content, memory)
                file.write(memory.getvalue()[: int(fault.share * memory.tell())])
                file.flush()
                strike()
            elif fault.signal != signal.SIGKILL and strikes():
                strike()
            whole(content, file, **options)

        return save

    match fault.place:
        case "in a training batch":
            before(Classifier, "training_step")
        case "in a validation batch":
            before(Classifier, "validation_step")
        case "in a test batch":
            before(Classifier, "test_step")
        case "between batches":
            before(callbacks.run.safe_points, "call_safe_point")
        case "in a checkpoint's writing":
            models.serialization.checkpoint.torch.save = in_the_middle(torch.save)  # type: ignore[attr-defined]
        case "before a checkpoint's renaming":
            before(Path, "replace")
        case "in a table's writing":
            before(callbacks.curves.csv.DictWriter, "writerows")  # type: ignore[attr-defined]
        case "in a table's renewal":
            before(callbacks.curves, "_write")
        case "in TensorBoard's writing":
            before(callbacks.curves.TensorBoardLogger, "log_metrics")
        case "in packing":
            before(datamodules.packing.pack_writer, "image_sums")
        case "at the start":
            strike()
        case _:
            raise ValueError(f"place is {fault.place}; choose from {PLACES}")
