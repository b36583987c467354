import csv
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core.user_error import UserError
from scripts.inference.prediction_output import OutputError, Row, Terminal, columns_for, output_file

NAMES = ["cat", 'a "dog", or\ntwo', "caf\udce9"]
COLUMNS = columns_for(NAMES, 1, probabilities=True, logits=True)
ROWS: list[Row] = [
    [f"photos/{number}, =é\\n.jpg", "cat", 0.75, None, "cat", 0.75, 0.75, 0.125, 0.125, 1.5, -0.1, 2e-7]
    for number in range(7)
]
ROWS[3] = [ROWS[3][0], None, None, "it is no image", *[None] * 8]
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


def write(file: Path, rows: list[Row], *, finish: bool = True, width: int | None = None, **options: bool) -> list[Row]:
    """Write rows as a process does, and give those that were there."""
    with closing(output_file(file, COLUMNS[:width], **options)) as output:
        if len(output.kept) < len(rows):
            output.append([row[:width] for row in rows[len(output.kept) :]])
        if finish:
            output.finish()
        return list(output.kept)


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
    assert [row["path"] for row in found] == [row[0] for row in ROWS]
    assert 'probability of a "dog", or\\ntwo' in found[0]
    assert "logit of caf\\xe9" in found[0]
    assert found[3]["error"] == "it is no image"
    empty = "" if ending == "csv" else None
    assert found[3]["prediction"] == found[3]["probability"] == found[0]["error"] == empty
    text = ending == "csv"
    assert found[0]["probability"] == ("0.750000" if text else 0.75)
    assert float(str(found[0]["logit of cat"])) == 1.5
    assert [file.name for file in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_goes_on_wherever_it_was_torn(tmp_path: Path, ending: str) -> None:
    whole = tmp_path / f"whole.{ending}"
    write(whole, ROWS, finish=ending != "parquet")
    rows_file = tmp_path / "whole.parquet.part" if ending == "parquet" else whole
    content = rows_file.read_bytes()
    for size in range(0, len(content) + 1, 7):
        file = tmp_path / f"torn.{ending}"
        torn = tmp_path / f"torn.{ending}{rows_file.name.removeprefix(whole.name)}"
        torn.write_bytes(content[:size])
        kept = write(file, ROWS, finish=False, resume=True)
        assert torn.read_bytes() == content
        assert len(kept) == max(0, content[:size].count(b"\n") - (ending == "csv"))
        assert [row[:4] for row in kept] == [row[:4] for row in ROWS[: len(kept)]]
        write(file, ROWS, resume=True)
        assert [row["path"] for row in read(file)] == [row[0] for row in ROWS]
        file.unlink()


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_there_is_kept_unless_told_otherwise(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    write(file, ROWS)
    content = file.read_bytes()
    with pytest.raises(UserError, match=r"is there already; go on with it \(--resume\)"):
        output_file(file, COLUMNS)
    assert file.read_bytes() == content
    assert [row[:4] for row in write(file, ROWS, resume=True)] == [row[:4] for row in ROWS]
    assert file.read_bytes() == content
    assert write(file, ROWS[:2], overwrite=True) == []
    assert len(read(file)) == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_a_parquet_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "out.parquet"
    write(file, ROWS[:4], finish=False)
    assert [found.name for found in tmp_path.iterdir()] == ["out.parquet.part"]
    with pytest.raises(UserError, match=r"out\.parquet\.part is there already"):
        output_file(file, COLUMNS)


@pytest.mark.parametrize("content", ["precious", "precious\nthings\n", '{"path": 3}\n', "path,prediction\n", "[1]\n"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_files_of_others_are_not_gone_on_with(tmp_path: Path, content: str, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    file.write_text(content)
    with pytest.raises(UserError, match=r"out\.\w+ cannot be gone on with: .* --overwrite"):
        output_file(file, COLUMNS, resume=True)
    assert file.read_text() == content


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_columns_and_damaged_rows_are_not_gone_on_with(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    write(file, ROWS, width=5)
    with pytest.raises(UserError, match="cannot be gone on with: "):
        output_file(file, COLUMNS, resume=True)
    if ending != "parquet":
        file.unlink()
        write(file, ROWS)
        lines = file.read_bytes().split(b"\n")
        damaged = b"\n".join([*lines[:3], b"\0" * 40, *lines[4:]])
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"its row [34] is not what this command would have written"):
            output_file(file, COLUMNS, resume=True)
        assert file.read_bytes() == damaged


@pytest.mark.parametrize("ending", ENDINGS)
def test_one_process_at_a_time(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"out.{ending}"
    write(file, ROWS[:3], finish=False)
    begun = tmp_path / "out.parquet.part" if ending == "parquet" else file
    holding = "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
    holding += "print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(begun)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.read(1) == "1"
        with pytest.raises(UserError, match="Another process is writing"):
            output_file(file, COLUMNS, resume=True)
        other.communicate("")
    assert len(write(file, ROWS, resume=True)) == 3


@pytest.mark.parametrize("ending", ENDINGS)
def test_on_a_full_disk_what_was_written_is_whole_and_can_be_gone_on_with(tmp_path: Path, ending: str) -> None:
    whole, file = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    write(whole, ROWS * 30)
    rows_file = tmp_path / "out.parquet.part" if ending == "parquet" else file
    with closing(output_file(file, COLUMNS)) as output:
        output.append(ROWS * 10)
        written = rows_file.read_bytes()
        with disk_of(len(written) + 100), pytest.raises(OutputError, match=r"File too large.* go on with --resume"):
            output.append(ROWS * 20)
    assert rows_file.read_bytes() == written
    if ending == "parquet":
        write(file, ROWS * 30, finish=False, resume=True)
        with disk_of(100), pytest.raises(OutputError, match=r"all rows are in .*out\.parquet\.part: free space"):
            write(file, ROWS * 30, resume=True)
        assert [found.name for found in tmp_path.glob("*out.parquet*")] == ["out.parquet.part"]
    kept = write(file, ROWS * 30, resume=True)
    assert len(kept) == (210 if ending == "parquet" else 70)
    assert read(file) == read(whole)


def test_a_device_without_room_is_told(tmp_path: Path) -> None:
    (tmp_path / "full.csv").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        output_file(tmp_path / "full.csv", COLUMNS, overwrite=True)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, expected in (
        ("out.txt", r"whose ending is none of \.csv, \.jsonl"),
        ("none/out.csv", "cannot be written: No such file"),
        ("none/out.parquet", "cannot be written: No such file"),
        ("folder.csv", "cannot be written: Is a directory"),
    ):
        with pytest.raises(UserError, match=expected):
            output_file(tmp_path / name, COLUMNS, overwrite=True)


def test_the_terminal_has_aligned_columns_and_errors_in_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    columns = columns_for(NAMES[:1], 1)
    table = Terminal(columns, ["a.jpg", "二.jpg", "no\x1b.jpg"], NAMES[:1])
    table.append([["a.jpg", "cat", 1.0, None, "cat", 1.0], ["二.jpg", "cat", 1.0, None, "cat", 1.0]])
    table.append([["no\\x1b.jpg", None, None, "it is no image", None, None]])
    assert capsys.readouterr().out.splitlines() == [
        "path        prediction  probability  class 1  probability 1",
        "a.jpg       cat         1.000000     cat      1.000000",
        "二.jpg      cat         1.000000     cat      1.000000",
        "no\\x1b.jpg  error: it is no image",
    ]
