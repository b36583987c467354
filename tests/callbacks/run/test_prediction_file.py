import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.digits import Digits
from scripts.train import main
from tests.conftest import Run


def test_has_a_row_for_each_test_image(train: Callable[..., Run], tmp_path: Path, digits: Digits) -> None:
    run = train("--trainer.max_epochs=2")
    main(["predict", "--ckpt_path", str(run.best), "--data.batch_size=100"])

    (file,) = tmp_path.glob("runs/*/*/predictions.csv")
    with file.open() as opened:
        rows = list(csv.DictReader(opened))
    assert [int(row["image"]) for row in rows] == digits.splits["test"].tolist()
    assert [int(row["label"]) for row in rows] == digits.pack.labels[digits.splits["test"]].tolist()  # type: ignore[union-attr]
    assert all(0.1 <= float(row["probability"]) <= 1 for row in rows)
    accuracy = sum(row["label"] == row["prediction"] for row in rows) / len(rows)
    assert accuracy == pytest.approx(run.results["metrics"]["test/accuracy"])
