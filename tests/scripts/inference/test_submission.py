"""From a folder as Kaggle lays it out to a submission."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.user_error import UserError
from scripts.inference.submission import Submission
from scripts.predict import main as predict_main
from scripts.train import main as train_main
from tests.conftest import Done
from tests.datamodules.test_image_table import LABELS, NAMES, SCANS, write_scans, write_table

# Rooms of tools may have been removed.
evaluate_main = pytest.importorskip("scripts.evaluate").main

TEST = range(300, 360)


def write_competition(folder: Path) -> None:
    """Real scans of digits: `train.csv`, `train/`, `test/`, and samples of what is to be submitted."""
    rows = write_scans(folder / "train", 300)
    head = ("id", "patient", "label", "age")
    write_table(
        folder / "train.csv",
        head,
        [(name[:3], number // 3, label, 30 + number) for number, (name, label) in enumerate(rows)],
    )
    (folder / "test").mkdir()
    for number in TEST:
        Image.fromarray(SCANS[number]).save(folder / "test" / f"{number}.png")
    ids = [str(number) for number in reversed(TEST)]
    write_table(folder / "sample_submission.csv", ("id", "label"), [(each, "one") for each in ids])
    write_table(folder / "shares.csv", ("image", *NAMES[::-1]), [(f"test/{each}.png", 0, 0, 1) for each in ids])


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder, and that of a run that was trained on it."""
    folder = tmp_path_factory.mktemp("leaves")
    write_competition(folder)
    table = ["--data", "ImageTable", "--data.table", str(folder / "train.csv"), "--data.folder", str(folder / "train")]
    sizes = ["--data.image_size", "8", "--data.channels", "1", "--trainer.max_epochs", "6", "--data.group", "patient"]
    train_main(["fit", *table, *sizes, "--data.root", str(folder / "data"), "--runs", str(folder / "runs")])
    (run,) = folder.glob("runs/*/*/config.yaml")
    return folder, run.parent


@pytest.fixture
def predict(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(predict_main)


def rows_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as opened:
        return list(csv.reader(opened))


def test_a_submission_has_the_rows_and_columns_of_the_sample(
    competition: tuple[Path, Path], predict: Callable[..., Done], tmp_path: Path
) -> None:
    folder, run = competition

    def submitted(sample: str) -> tuple[list[list[str]], str]:
        output = tmp_path / f"of {sample}"
        status, out, err = predict(run, folder / "test", "--submission", folder / sample, "--output", output)
        assert (status, err) == (0, "")
        return rows_of(output), out

    rows, said = submitted("sample_submission.csv")
    assert f"submission   {tmp_path / 'of sample_submission.csv'}: prediction of 60 images\n" in said
    assert rows[0] == ["id", "label"]
    assert [row[0] for row in rows[1:]] == [str(number) for number in reversed(TEST)]
    right = [NAMES[LABELS[int(name)]] == label for name, label in rows[1:]]
    assert sum(right) > 40

    shares, said = submitted("shares.csv")
    assert ": probability of two, probability of one, probability of nought of 60 images" in said
    assert shares[0] == ["image", *NAMES[::-1]]
    for (name, *row), (_, label) in zip(shares[1:], rows[1:], strict=True):
        assert name.startswith("test/")
        assert abs(sum(map(float, row)) - 1) < 1e-6
        assert NAMES[::-1][row.index(max(row, key=float))] == label


def test_an_evaluation_carries_the_other_columns_along(
    competition: tuple[Path, Path], script: Callable[..., Callable[..., Done]], tmp_path: Path
) -> None:
    _, run = competition
    status, _, err = script(evaluate_main)(run, "--output", tmp_path)
    assert (status, err) == (0, "")
    head, *rows = rows_of(tmp_path / "predictions.csv")
    path, group, age = (head.index(name) for name in ("path", "group", "age"))
    for row in rows:
        number = int(row[path][:3])
        assert row[group] == str(number // 3)
        assert row[age] == str(30 + number)
    page = (tmp_path / "evaluation.html").read_text()
    wrong = next(row for row in rows if row[head.index("label")] != row[head.index("prediction")])
    assert f"{wrong[path]}<br>age {wrong[age]}, group {wrong[group]}</figcaption>" in page


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (
            ["id,label", "300,one", "7,one"],
            "names in row 3 images such as 7, but none of the given images have this name; give",
        ),
        (
            ["id,label", "300,one", "twice,one"],
            "names in row 3 images such as twice, but 2 of the given images have this name",
        ),
        (
            ["id,label,score", "300,one,1"],
            "has the columns id, label, score, but the classes are nought, one, two; expected the images",
        ),
        (
            ["id,label", "300,0.5"],
            "has the columns id, label, but the classes are nought, one, two; expected the images",
        ),
        (
            ["id,label", "broken,one"],
            "broken.png, which the sample names, cannot be predicted (image file is truncated",
        ),
        (["id,label"], "has no rows; give one for each image"),
        ([], "cannot be read: No such file or directory; give the competition's sample"),
    ],
)
def test_a_sample_that_cannot_be_followed_is_refused(
    competition: tuple[Path, Path], predict: Callable[..., Done], tmp_path: Path, sample: list[str], words: str
) -> None:
    folder, run = competition
    for name in ("a/twice.png", "b/twice.png", "broken.png"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(SCANS[0]).save(tmp_path / "in" / name)
    broken = tmp_path / "in" / "broken.png"
    broken.write_bytes(broken.read_bytes()[:60])
    if sample:
        (tmp_path / "sample.csv").write_text("\n".join(sample) + "\n")
    given: list[Any] = [run, folder / "test", tmp_path / "in", "--submission", tmp_path / "sample.csv"]
    status, _, err = predict(*given, "--output", tmp_path / "s.csv")
    assert status == 2
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "s.csv").exists()


def test_other_options_are_refused_or_do_what_they_say(
    competition: tuple[Path, Path], predict: Callable[..., Done], tmp_path: Path
) -> None:
    folder, run = competition
    given: list[Any] = [run, folder / "test", "--submission", folder / "sample_submission.csv"]
    assert "give --output" in predict(*given)[2]
    assert "leave out --top" in predict(*given, "--output", tmp_path / "s.csv", "--top", "2")[2]
    assert "ends in .csv" in predict(*given, "--output", tmp_path / "s.parquet")[2]
    (tmp_path / "s.csv").write_text("mine")
    assert "exists already; replace it with --overwrite" in predict(*given, "--output", tmp_path / "s.csv")[2]
    assert (tmp_path / "s.csv").read_text() == "mine"
    assert predict(*given, "--output", tmp_path / "s.csv", "--overwrite")[0] == 0
    assert len(rows_of(tmp_path / "s.csv")) == 61


@pytest.mark.parametrize(
    ("classes", "shown", "probability", "cells"),
    [
        (["0", "1"], "1", False, ["prediction"]),
        (["0", "1"], "0.5", False, ["probability of 1"]),
        (["0", "1"], "0", True, ["probability of 1"]),
        (["cat", "dog"], "cat", False, ["prediction"]),
        (["cat", "dog"], "", False, ["prediction"]),
        (["cat", "dog"], "1", False, None),
        (["cat", "dog"], "1", True, ["probability of dog"]),
        (["cat", "dog"], "0.5|0", False, ["probability of dog"]),
        (["1", "2", "3"], "0", False, ["prediction"]),
        (["1", "2", "3"], "0.5", False, None),
        (["cat", "dog", "fox"], "cat", True, None),
    ],
)
def test_one_column_has_what_the_sample_shows(
    tmp_path: Path, classes: list[str], shown: str, probability: bool, cells: list[str] | None
) -> None:
    write_table(tmp_path / "sample.csv", ("id", "label"), list(zip("ab", shown.split("|") * 2, strict=False)))
    given = tmp_path / "sample.csv", ["in/b.png", "in/a.png", "in/c.png"], classes, probability
    if cells is None:
        with pytest.raises(UserError, match="expected the images and either a column"):
            Submission(*given)
    else:
        submission = Submission(*given)
        assert submission.cells == cells
        assert submission.paths == ["in/a.png", "in/b.png"]
