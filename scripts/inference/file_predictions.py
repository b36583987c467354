"""The predictions of image files: made as they come, and written to a file or the terminal."""

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

ENDINGS = (".csv", ".jsonl", ".ndjson", ".parquet")

ROW_GROUP_CELLS = 2**20  # cells of a Parquet file that are in memory at a time

# Images that a worker process decodes at a time, at least: handing over fewer costs more than it gains.
FEWEST_DECODED = 4


def predict_files(
    trained: TrainedNetwork,
    paths: Sequence[str],
    table: PredictionTable,
    batch_size: int | None = None,
    num_workers: int | None = None,
    begun: int = 0,
) -> Generator[list[Row]]:
    """Predict files, which other processes decode meanwhile; the rows of each batch after the `begun` first ones."""
    size = batch_size or trained.batch_size
    names = np.array([os.fsencode(path) for path in paths], np.bytes_)
    files = ImageFiles(Path(), names, trained.shape, trained.resize, trained.pixel_format)
    workers = available_cores() if num_workers is None else num_workers
    # Each batch is decoded by all workers, so that the first is there soonest and a small one is shared too.
    share = max(FEWEST_DECODED, -(-min(size, len(paths)) // max(1, workers)))
    batches = [range(start, min(start + size, len(paths))) for start in range(begun * size, len(paths), size)]
    chunks = [batch[place : place + share] for batch in batches for place in range(0, len(batch), share)]
    workers = min(workers, len(chunks)) if len(chunks) > 1 else 0
    on_gpu = trained.device.type == "cuda"
    decoded = iter(
        TimedLoader(TryDecode(files), batch_size=None, sampler=chunks, num_workers=workers, pin_memory=on_gpu)
    )
    with trained.autocast_context(), progress("Predicting", sum(map(len, batches)), aside=True) as advance:
        for batch in batches:
            images, errors = list[torch.Tensor](), dict[int, str]()
            for place in range(0, len(batch), share):
                some, reasons = next(decoded)
                images.append(some)
                errors |= {place + row: reason for row, reason in reasons.items()}
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
    """Write the rows of all batches; the number of those that have an error in place of a prediction.

    The file appears when all rows are there. Until then they are in a file beside it: a line of JSON for each batch,
    after a line with the identity of the prediction. A kill or a full disk may tear the last line, whose batch is
    predicted again. One process at a time writes a file.

    Args:
        path: The file.
        columns: The names of the columns.
        identity: Plain data that decide the rows.
        predict: Gives the rows of each batch after so many first ones.
        resume: Whether to go on with a prediction of this identity that was stopped.
        overwrite: Whether to replace what is there.
    """
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"--output is {path}, whose ending is none of {', '.join(ENDINGS)}; choose one of these.")
    part = path.with_name(f"{path.name}.part")
    if resume and path.exists() and not part.exists():
        raise UserError(f"{path} is finished, so that --resume has nothing to go on with; replace it with --overwrite.")
    check_output(path, overwrite or resume)
    if part.exists() and not (resume or overwrite):
        raise UserError(
            f"{part} is there already; go on with it (--resume), replace it (--overwrite) or choose another file."
        )
    with part.open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # worker processes do not inherit it, unlike flock's
        except BlockingIOError as error:
            raise UserError(f"Another process is writing {path}; wait for its end, or stop it.") from error
        except OSError:  # of a file system without locks
            pass
        header, begun, size = f"{json.dumps(identity)}\n".encode(), 0, 0
        file.seek(0)
        for number, line in enumerate(io.BytesIO(file.readall() if resume else b"")):
            if number == 0 and not header.startswith(line):
                raise UserError(
                    f"{path} cannot be gone on with: {part} is of another checkpoint, other images or options; give "
                    "those that it was begun with, or replace it with --overwrite."
                )
            if line.endswith(b"\n"):
                begun, size = number, size + len(line)
        file.truncate(size)
        if not size:
            _write(file, header)
        with closing(predict(begun)) as batches:
            for rows in batches:
                _write(file, f"{json.dumps(rows, ensure_ascii=False, allow_nan=False)}\n".encode())
    failed = _convert(part, columns, path)
    part.unlink()
    return failed


def _write(file: FileIO, line: bytes) -> None:
    rest = memoryview(line)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, file.name) from error


def _convert(part: Path, columns: Sequence[str], path: Path) -> int:
    failed, ending = 0, path.suffix.lower()

    def rows() -> Iterator[Row]:
        nonlocal failed
        for line in lines:
            for row in json.loads(line):
                failed += row["error"] is not None
                yield row

    with part.open(encoding="utf-8") as lines, replacing(path) as target:
        next(lines)  # the identity
        if ending == ".parquet":
            _write_parquet(rows(), columns, target)
            return failed
        with target.open("w", newline="", encoding="utf-8") as file:
            if ending == ".csv":
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
        while some := list(islice(rows, max(1, ROW_GROUP_CELLS // len(columns)))):
            writer.write_table(pa.Table.from_pylist(some, schema))


def print_rows(
    batches: Iterable[Sequence[Row]], columns: Sequence[str], paths: Sequence[str], class_names: Sequence[str]
) -> int:
    """Print aligned columns as the rows come; the number of those that have an error in place of a prediction."""
    columns = [name for name in columns if name != "error"]
    widest = max(len("0.000000"), *(len(escape_name(name)) for name in class_names))
    widths = [max(len(escape_name(path)) for path in paths), *(max(len(name), widest) for name in columns[1:])]

    def print_line(cells: Iterable[object]) -> None:
        texts = (f"{cell:.6f}" if isinstance(cell, float) else str(cell) for cell in cells)
        print("  ".join(f"{text:<{width}}" for text, width in zip(texts, widths, strict=False)).rstrip())

    print_line(columns)
    failed = 0
    for rows in batches:
        for row in rows:
            failed += row["error"] is not None
            print_line([row["path"], f"error: {row['error']}"] if row["error"] else [row[name] for name in columns])
        if not check_standard_output():  # such as a reader that has read enough
            break
    return failed
