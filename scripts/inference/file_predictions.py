"""Predict image files, and write the predictions to a file or the terminal."""

import csv
import fcntl
import io
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.durable_file import replacing
from core.names import escape_name
from core.user_error import UserError
from datamodules.decoding.image_files import ImageFiles, TryDecode
from datamodules.loading.loader import TimedLoader, available_cores
from datamodules.loading.progress import progress
from scripts.command.output_file import check_output
from scripts.command.standard_streams import check_standard_output
from scripts.inference.prediction_table import PredictionTable, Row
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained_network import TrainedNetwork

SUFFIXES = (".csv", ".jsonl", ".ndjson", ".parquet")

ROW_GROUP_CELLS = 2**20  # cells per row group of a Parquet file, which bounds the memory

# The smallest chunk that a worker process decodes: for fewer images the transfer costs more than it gains.
SMALLEST_CHUNK = 4


def predict_files(
    trained: TrainedNetwork,
    paths: Sequence[str],
    table: PredictionTable,
    batch_size: int | None = None,
    num_workers: int | None = None,
    first_batch: int = 0,
) -> Generator[list[Row]]:
    """Yield the rows of each batch from `first_batch` on; worker processes decode the files meanwhile."""
    size = batch_size or trained.batch_size
    names = np.array([os.fsencode(path) for path in paths], np.bytes_)
    files = ImageFiles(Path(), names, trained.shape, trained.resize, trained.pixel_format)
    workers = available_cores() if num_workers is None else num_workers
    # All workers decode chunks of one batch, so that the first batch is complete as early as possible.
    chunk = max(SMALLEST_CHUNK, -(-min(size, len(paths)) // max(1, workers)))
    batches = [range(start, min(start + size, len(paths))) for start in range(first_batch * size, len(paths), size)]
    chunks = [batch[start : start + chunk] for batch in batches for start in range(0, len(batch), chunk)]
    workers = min(workers, len(chunks)) if len(chunks) > 1 else 0
    on_gpu = trained.device.type == "cuda"
    decoded = iter(
        TimedLoader(TryDecode(files), batch_size=None, sampler=chunks, num_workers=workers, pin_memory=on_gpu)
    )
    with trained.autocast_context(), progress("Predicting", sum(map(len, batches)), aside=True) as advance:
        for batch in batches:
            images, errors = list[torch.Tensor](), dict[int, str]()
            for start in range(0, len(batch), chunk):
                chunk_images, chunk_errors = next(decoded)
                images.append(chunk_images)
                errors |= {start + row: message for row, message in chunk_errors.items()}
            logits = trained.logits(torch.cat(images)).numpy()
            probabilities = probabilities_of(logits, trained.is_multi_label)
            yield table.rows(paths[batch.start : batch.stop], logits, probabilities, errors)
            advance(len(batch))


def write_predictions(
    path: Path,
    columns: Sequence[str],
    identity: Mapping[str, Any],
    predict: Callable[[int], Generator[list[Row]]],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> int:
    """Write the rows of all batches; return the number of rows with an error.

    Rows are first collected in `<path>.part`: a line of JSON with `identity`, then a line for each batch. Once they are
    complete, `path` is written atomically. If a kill or a full disk cuts the last line short, its batch is predicted
    again. Only one process at a time can write a file.

    `predict` yields the rows of each batch, starting at the batch with the given number. Raises UserError if the file
    exists, or to resume a prediction with another `identity`, the facts that the rows depend on.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--output is {path}, which does not end in any of {', '.join(SUFFIXES)}; choose one of these.")
    part = path.with_name(f"{path.name}.part")
    if resume and path.exists() and not part.exists():
        raise UserError(f"{path} is complete, so there is nothing to resume; replace it with --overwrite.")
    check_output(path, overwrite or resume)
    if part.exists() and not (resume or overwrite):
        raise UserError(
            f"{part} has rows of an interrupted prediction; continue it with --resume, replace it with --overwrite, or "
            "choose another --output."
        )
    with part.open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # worker processes would inherit the lock of flock
        except BlockingIOError as error:
            raise UserError(f"Another process is writing {path}; wait for its end, or stop it.") from error
        except OSError:
            pass  # the file system has no locks
        header, finished_batches, valid_bytes = f"{json.dumps(identity)}\n".encode(), 0, 0
        file.seek(0)
        for number, line in enumerate(io.BytesIO(file.readall() if resume else b"")):
            if number == 0 and not header.startswith(line):
                raise UserError(
                    f"{path} cannot be resumed: {part} was written with another checkpoint, other images or other "
                    "options; give the original ones, or replace it with --overwrite."
                )
            if line.endswith(b"\n"):
                finished_batches, valid_bytes = number, valid_bytes + len(line)
        file.truncate(valid_bytes)
        if not valid_bytes:
            _write(file, header)
        with closing(predict(finished_batches)) as batches:
            for rows in batches:
                _write(file, f"{json.dumps(rows, ensure_ascii=False, allow_nan=False)}\n".encode())
    failed = _convert(part, columns, path)
    part.unlink()
    return failed


def _write(file: FileIO, line: bytes) -> None:
    unwritten = memoryview(line)
    try:
        while unwritten:  # an unbuffered file may take fewer bytes than it is given
            unwritten = unwritten[file.write(unwritten) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _convert(part: Path, columns: Sequence[str], path: Path) -> int:
    failed = 0

    def rows() -> Iterator[Row]:
        nonlocal failed
        for line in lines:
            for row in json.loads(line):
                failed += row["error"] is not None
                yield row

    with part.open(encoding="utf-8") as lines, replacing(path) as target:
        next(lines)  # the identity
        if path.suffix.lower() == ".parquet":
            _write_parquet(rows(), columns, target)
            return failed
        with target.open("w", newline="", encoding="utf-8") as file:
            if path.suffix.lower() == ".csv":
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows())
            else:
                file.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows())
    return failed


def _write_parquet(rows: Iterator[Row], columns: Sequence[str], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_text = {name: name in ("path", "prediction", "error") or name.startswith("class ") for name in columns}
    schema = pa.schema([(name, pa.string() if is_text[name] else pa.float64()) for name in columns])
    with pq.ParquetWriter(target, schema) as writer:
        while row_group := list(islice(rows, max(1, ROW_GROUP_CELLS // len(columns)))):
            writer.write_table(pa.Table.from_pylist(row_group, schema))


def print_rows(
    batches: Iterable[Sequence[Row]], columns: Sequence[str], paths: Sequence[str], class_names: Sequence[str]
) -> int:
    """Print the rows of each batch in aligned columns; return the number of rows with an error."""
    columns = [name for name in columns if name != "error"]
    cell_width = max(len("0.000000"), *(len(escape_name(name)) for name in class_names))
    widths = [max(len(escape_name(path)) for path in paths), *(max(len(name), cell_width) for name in columns[1:])]

    def print_line(cells: Iterable[object]) -> None:
        texts = (f"{cell:.6f}" if isinstance(cell, float) else str(cell) for cell in cells)
        print("  ".join(f"{text:<{width}}" for text, width in zip(texts, widths, strict=False)).rstrip())

    print_line(columns)
    failed = 0
    for rows in batches:
        for row in rows:
            failed += row["error"] is not None
            print_line([row["path"], f"error: {row['error']}"] if row["error"] else [row[name] for name in columns])
        if not check_standard_output():  # the reader of a pipe has closed it, as `head` does
            break
    return failed
