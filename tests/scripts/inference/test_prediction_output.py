import csv
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.user_error import UserError
from scripts.inference.prediction_output import Identity, OutputError, PredictionFile, Terminal, finished_rows
from scripts.inference.prediction_table import PredictionTable, Row
from scripts.inference.predictions import probabilities_of

NAMES = ["cat", 'a "dog", or\ntwo', "caf\udce9"]
TABLE = PredictionTable(NAMES, top=1, probabilities=True, logits=True)
COLUMNS = TABLE.columns
IDENTITY = {"checkpoint": "0123"}


def row(number: int) -> Row:
    values = [f"photos/{number}, =é\\n.jpg", "cat", 0.75, None, "cat", 0.75, 0.75, 0.125, 0.125, 1.5, -0.1, 2e-7]
    return dict(zip((column.name for column in COLUMNS), values, strict=True))  # type: ignore[arg-type]


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


def write(file: Path, rows: list[Row], *, finish: bool = True, identity: Identity = IDENTITY, **options: bool) -> int:
    """Write rows as a process does, and give the number of those that were there."""
    with closing(PredictionFile(file, COLUMNS, identity, **options)) as output:
        output.append(rows[output.kept :])
        if finish:
            output.finish()
        return output.kept


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
    assert [list(row) for row in found] == [[column.name for column in COLUMNS]] * len(ROWS)
    assert [row["path"] for row in found] == [row["path"] for row in ROWS]
    assert 'probability of a "dog", or\\ntwo' in found[0]
    assert "logit of caf\\xe9" in found[0]
    assert found[3]["error"] == "it is no image"
    empty = "" if ending == "csv" else None
    assert found[3]["prediction"] == found[3]["probability"] == found[0]["error"] == empty
    text = ending == "csv"
    assert found[0]["probability"] == ("0.750000" if text else 0.75)
    assert float(str(found[0]["logit of cat"])) == 1.5
    assert [file.name for file in tmp_path.iterdir()] == [file.name]
    assert [row["path"] for row in finished_rows(file, COLUMNS)] == [row["path"] for row in ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_goes_on_wherever_it_was_torn(tmp_path: Path, ending: str) -> None:
    whole, file = tmp_path / f"whole.{ending}", tmp_path / f"torn.{ending}"
    write(whole, ROWS, finish=False)
    content = part(whole).read_bytes()
    for size in range(0, len(content) + 1, 7):
        part(file).write_bytes(content[:size])
        assert write(file, ROWS, finish=False, resume=True) == max(0, content[:size].count(b"\n") - 1)
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
    with pytest.raises(UserError, match=r"is there already; go on with it \(--resume\)"):
        PredictionFile(file, COLUMNS, IDENTITY)
    assert file.read_bytes() == content
    assert write(file, ROWS[:2], overwrite=True) == 0
    assert len(read(file)) == 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_appears_when_it_is_whole(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    write(file, ROWS[:4], finish=False)
    assert [found.name for found in tmp_path.iterdir()] == [f"out.{ending}.part"]
    with pytest.raises(UserError, match=rf"out\.{ending}\.part is there already"):
        PredictionFile(file, COLUMNS, IDENTITY)


@pytest.mark.parametrize("content", ["precious", "precious\nthings\n", '{"path": 3}\n', '{"checkpoint": "4567"}\n'])
def test_rows_of_others_are_not_gone_on_with(tmp_path: Path, content: str) -> None:
    file = tmp_path / "out.csv"
    part(file).write_text(content)
    with pytest.raises(UserError, match=r"out\.csv cannot be gone on with: .* --overwrite"):
        PredictionFile(file, COLUMNS, IDENTITY, resume=True)
    assert part(file).read_text() == content


def test_one_process_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    write(file, ROWS[:3], finish=False)
    holding = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    holding += "print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(part(file))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.read(1) == "1"
        with pytest.raises(UserError, match="Another process is writing"):
            PredictionFile(file, COLUMNS, IDENTITY, resume=True)
        other.communicate("")
    assert write(file, ROWS, resume=True) == 3


@pytest.mark.parametrize("ending", ENDINGS)
def test_on_a_full_disk_what_was_written_is_whole_and_can_be_gone_on_with(tmp_path: Path, ending: str) -> None:
    whole, file = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    write(whole, ROWS * 30)
    with closing(PredictionFile(file, COLUMNS, IDENTITY)) as output:
        output.append(ROWS * 10)
        written = part(file).read_bytes()
        with disk_of(len(written) + 100), pytest.raises(OutputError, match=r"File too large.* go on with --resume"):
            output.append(ROWS * 20)
    assert part(file).read_bytes() == written
    assert write(file, ROWS * 30, finish=False, resume=True) == 70
    with disk_of(100), pytest.raises(OutputError, match=r"all rows are in .*out\.\w+\.part: free space"):
        write(file, ROWS * 30, resume=True)
    assert [found.name for found in tmp_path.glob("*out.*")] == [part(file).name]
    assert write(file, ROWS * 30, resume=True) == 210
    assert read(file) == read(whole)


def test_a_device_without_room_is_told(tmp_path: Path) -> None:
    (tmp_path / "full.csv.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        PredictionFile(tmp_path / "full.csv", COLUMNS, IDENTITY, overwrite=True)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, expected in (
        ("out.txt", r"whose ending is none of \.csv, \.jsonl"),
        ("none/out.csv", "cannot be written: No such file"),
        ("none/out.parquet", "cannot be written: No such file"),
        ("folder.csv", "cannot be written: Is a directory"),
    ):
        with pytest.raises(UserError, match=expected):
            PredictionFile(tmp_path / name, COLUMNS, IDENTITY, overwrite=True)


def test_the_terminal_has_aligned_columns_and_errors_in_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    table = PredictionTable(NAMES[:1], top=1)
    logits, paths = np.zeros((1, 1), np.float32), ["a.jpg", "二.jpg", "no\x1b.jpg"]
    terminal = Terminal(table.columns, paths, NAMES[:1])
    for path, errors in zip(paths, ({}, {}, {0: "it is no image"}), strict=True):
        terminal.append(table.rows([path], logits, probabilities_of(logits), errors))
    assert capsys.readouterr().out.splitlines() == [
        "path        prediction  probability  class 1  probability 1",
        "a.jpg       cat         1.000000     cat      1.000000",
        "二.jpg      cat         1.000000     cat      1.000000",
        "no\\x1b.jpg  error: it is no image",
    ]
