import csv
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.user_error import UserError
from scripts.inference.file_predictions import predict_files, print_rows, write_predictions
from scripts.inference.prediction_table import PredictionTable, Row
from scripts.inference.predictions import predict_split, probabilities_of
from scripts.inference.trained_network import TrainedNetwork
from tests.conftest import Run
from tests.scripts.inference.test_image_classifier import write_photos

NAMES = ["cat", 'a "dog", or\ntwo', "caf\udce9"]
TABLE = PredictionTable(NAMES, top=1, probabilities=True, logits=True)
COLUMNS = TABLE.columns
IDENTITY = {"checkpoint": "0123"}


def row(number: int) -> Row:
    values = [f"photos/{number}, =é\\n.jpg", "cat", 0.75, None, "cat", 0.75, 0.75, 0.125, 0.125, 1.5, -0.1, 2e-7]
    return dict(zip(COLUMNS, values, strict=True))  # type: ignore[arg-type]


ROWS = list(map(row, range(7)))
ROWS[3] = dict.fromkeys(ROWS[3]) | {"path": ROWS[3]["path"], "error": "it is no image"}
ENDINGS = ("csv", "jsonl", "parquet")


def read(file: Path) -> list[dict[str, object]]:
    """As other programs do."""
    if file.suffix == ".csv":
        with file.open(newline="") as opened:
            return list(csv.DictReader(opened))
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    found: list[dict[str, object]] = pq.read_table(file).to_pylist()
    return found


def part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


BATCH = 2  # rows


class StoppedError(Exception):
    """Stands for a kill."""


def write(file: Path, rows: list[Row], *, stop: int | None = None, **options: bool) -> int:
    """Write rows, or let a kill stop that after so many batches; the number of batches that were there."""
    there = 0

    def predict(begun: int) -> Generator[list[Row]]:
        nonlocal there
        there = begun
        for batch in range(begun, -(-len(rows) // BATCH)):
            if batch == stop:
                raise StoppedError
            yield rows[batch * BATCH : (batch + 1) * BATCH]
        if stop is not None:
            raise StoppedError

    with suppress(StoppedError):
        assert write_predictions(file, COLUMNS, IDENTITY, predict, **options) == sum(bool(row["error"]) for row in rows)
    return there


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Files may have so many bytes within."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_has_the_same_columns_and_rows(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    write(file, ROWS)
    found = read(file)
    assert [list(row) for row in found] == [COLUMNS] * len(ROWS)
    assert [row["path"] for row in found] == [row["path"] for row in ROWS]
    assert 'probability of a "dog", or\\ntwo' in found[0]
    assert "logit of caf\\xe9" in found[0]
    assert found[3]["error"] == "it is no image"
    empty = "" if ending == "csv" else None
    assert found[3]["prediction"] == found[3]["probability"] == found[0]["error"] == empty
    assert float(str(found[0]["probability"])) == 0.75
    assert float(str(found[0]["logit of cat"])) == 1.5
    assert [file.name for file in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_goes_on_wherever_it_was_torn(tmp_path: Path, ending: str) -> None:
    whole, file = tmp_path / f"whole.{ending}", tmp_path / f"torn.{ending}"
    write(whole, ROWS, stop=len(ROWS))
    content = part(whole).read_bytes()
    for size in range(0, len(content) + 1, 70):
        part(file).write_bytes(content[:size])
        assert write(file, ROWS, stop=len(ROWS), resume=True) == max(0, content[:size].count(b"\n") - 1)
        assert part(file).read_bytes() == content
        write(file, ROWS, resume=True)
        assert [row["path"] for row in read(file)] == [row["path"] for row in ROWS]
        assert not part(file).exists()
        file.unlink()


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_there_is_kept_unless_told_otherwise(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    write(file, ROWS)
    content = file.read_bytes()
    for resume, words in (
        (False, "exists already; replace it with --overwrite"),
        (True, "is complete, so there is nothing"),
    ):
        with pytest.raises(UserError, match=words):
            write(file, ROWS, resume=resume)
        assert file.read_bytes() == content
    write(file, ROWS, stop=2, overwrite=True)  # a kill
    assert file.read_bytes() == content
    assert write(file, ROWS, resume=True) == 2
    assert file.read_bytes() == content
    assert write(file, ROWS[:2], overwrite=True) == 0
    assert len(read(file)) == 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_appears_when_it_is_whole(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    write(file, ROWS, stop=2)
    assert [found.name for found in tmp_path.iterdir()] == [f"out.{ending}.part"]
    with pytest.raises(
        UserError, match=rf"out\.{ending}\.part has rows of an interrupted prediction; continue it with --resume"
    ):
        write(file, ROWS)
    assert write(file, ROWS, resume=True) == 2
    assert len(read(file)) == len(ROWS)


@pytest.mark.parametrize("content", ["precious", "precious\nthings\n", '{"path": 3}\n', '{"checkpoint": "4567"}\n'])
def test_rows_of_others_are_not_gone_on_with(tmp_path: Path, content: str) -> None:
    file = tmp_path / "out.csv"
    part(file).write_text(content)
    with pytest.raises(UserError, match=r"out\.csv cannot be resumed: .* --overwrite"):
        write(file, ROWS, resume=True)
    assert part(file).read_text() == content


def test_one_process_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    write(file, ROWS, stop=1)
    holding = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    holding += "print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(part(file))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.read(1) == "1"
        with pytest.raises(UserError, match="Another process is writing"):
            write(file, ROWS, resume=True)
        other.communicate("")
    assert write(file, ROWS, resume=True) == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_on_a_full_disk_what_was_written_is_whole_and_can_be_gone_on_with(tmp_path: Path, ending: str) -> None:
    whole, file = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    write(whole, ROWS * 30)
    write(file, ROWS * 30, stop=35)
    begun = part(file).read_bytes()
    with disk_of(len(begun) + 100), pytest.raises(OSError, match=r"File too large: .*part"):
        write(file, ROWS * 30, resume=True)
    assert part(file).read_bytes().startswith(begun)
    assert write(file, ROWS * 30, stop=200, resume=True) == 35
    with disk_of(100), pytest.raises(OSError, match=rf"File too large: .*out\.{ending}'"):
        write(file, ROWS * 30, resume=True)
    assert [found.name for found in tmp_path.glob("*out.*")] == [part(file).name]
    write(file, ROWS * 30, resume=True)
    assert read(file) == read(whole)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, expected in (
        ("out.txt", r"which does not end in any of \.csv, \.jsonl"),
        ("none/out.csv", "cannot be written: No such file"),
        ("none/out.parquet", "cannot be written: No such file"),
        ("folder.csv", "cannot be written: it is a folder"),
    ):
        with pytest.raises(UserError, match=expected):
            write(tmp_path / name, ROWS, overwrite=True)


def test_the_terminal_has_aligned_columns_and_errors_in_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    table = PredictionTable(NAMES[:1], top=1)
    logits, paths = np.zeros((1, 1), np.float32), ["a.jpg", "no\x1b.jpg"]
    batches = [
        table.rows([path], logits, probabilities_of(logits), errors)
        for path, errors in zip(paths, ({}, {0: "it is no image"}), strict=True)
    ]
    assert print_rows(batches, table.columns, paths, NAMES[:1]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "path        prediction  probability  class 1   probability 1",
        "a.jpg       cat         1.000000     cat       1.000000",
        "no\\x1b.jpg  error: it is no image",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_files_have_to_the_last_digit_the_logits_of_an_evaluation(
    train: Callable[..., Run], tmp_path: Path, precision: str
) -> None:
    photos = write_photos(tmp_path / "photos")
    data = ("--data=ImageFolder", f"--data.folder={photos}", "--data.image_size=24", "--data.batch_size=7")
    trained = TrainedNetwork(train("--trainer.max_epochs=1", *data, "--trainer.precision", precision).best)
    expected = predict_split(trained, trained.data(), "test")
    paths = [str(photos / name) for name in expected.names]
    table = PredictionTable(trained.class_names, logits=True)
    names = [f"logit of {name}" for name in trained.class_names]
    for workers, begun in ((0, 0), (2, 0), (2, 3)):
        batches = list(predict_files(trained, paths, table, num_workers=workers, first_batch=begun))
        rows = [row for batch in batches for row in batch]
        assert [row["path"] for row in rows] == paths[7 * begun :]
        found = np.array([[row[name] for name in names] for row in rows], np.float32)
        assert np.array_equal(found, expected.logits[7 * begun :])
        assert {row["error"] for row in rows} == {None}
