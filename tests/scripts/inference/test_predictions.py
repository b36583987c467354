import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scripts.inference.predictions import Predictions, predict_split, write_predictions
from scripts.inference.trained import data_of, load_trained
from tests.conftest import Run


def test_are_those_that_the_test_counts(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=2", "--trainer.precision=32-true", "--model.test_time_augmentation=flip")
    classifier = load_trained(run.best)
    data = data_of(run.best, classifier, [])
    found = predict_split(classifier, data, "test")
    assert len(found) == 359
    assert float((found.classes == found.labels).mean()) == pytest.approx(run.results["metrics"]["test/accuracy"])
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(359))
    assert found.confusion.sum() == 359
    assert np.trace(found.confusion) == (found.classes == found.labels).sum()
    assert found.labels.tolist() == load_digits().target[[int(name[6:-1]) for name in found.names]].tolist()


def test_files_are_named_by_their_paths(train: Callable[..., Run], tmp_path: Path) -> None:
    digits = load_digits()
    for number in range(120):
        folder = tmp_path / "images" / ("test" if number % 4 == 0 else "train") / f"digit {digits.target[number] % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / f"{number}.png")
    folder_data = ("--data", "datamodules.image_folder.ImageFolder", "--data.folder", str(tmp_path / "images"))
    run = train("--trainer.max_epochs=1", *folder_data, "--data.image_size=8")
    classifier = load_trained(run.best)
    found = predict_split(classifier, data_of(run.best, classifier, []), "test")
    assert len(found) == 30
    assert all((tmp_path / "images" / name).is_file() for name in found.names)
    assert [name.split("/")[1] for name in found.names] == [found.class_names[label] for label in found.labels]


def some(classes: int, images: int = 4) -> Predictions:
    logits = np.random.default_rng(0).normal(0, 3, (images, classes)).astype(np.float32)
    names = [f"test[{number}]" for number in range(images)]
    class_names = [f"class {number}" for number in range(classes)]
    return Predictions(class_names, names, np.arange(images), np.arange(images) % classes, logits)


@pytest.mark.parametrize("classes", [2, 20, 200])
def test_the_table_has_each_class_or_the_most_probable(classes: int, tmp_path: Path) -> None:
    found = some(classes)
    file = tmp_path / "predictions.csv"
    write_predictions(file, found)
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["image"] for row in rows] == found.names
    for row, probabilities, label, predicted in zip(
        rows, found.probabilities, found.labels, found.classes, strict=True
    ):
        assert row["label"] == f"class {label}"
        assert row["prediction"] == f"class {predicted}"
        assert float(row["probability"]) == pytest.approx(probabilities.max(), abs=1e-6)
        if classes <= 20:
            for number in range(classes):
                expected = pytest.approx(probabilities[number], abs=1e-6)
                assert float(row[f"probability of class {number}"]) == expected
        else:
            shown = [float(row[f"probability {number}"]) for number in range(1, 6)]
            assert shown == pytest.approx(sorted(probabilities)[-1:-6:-1], abs=1e-6)
            assert row["class 1"] == row["prediction"]
    assert list(tmp_path.iterdir()) == [file]


def test_what_follows_from_logits_is_computed_once() -> None:
    found = some(3, 30)
    assert found.probabilities is found.probabilities
    assert found.classes is found.classes
    assert found.confusion is found.confusion
    expected = np.zeros((3, 3), np.int64)
    np.add.at(expected, (found.labels, found.classes), 1)
    assert (found.confusion == expected).all()


def test_names_of_no_known_encoding_are_written(tmp_path: Path) -> None:
    found = some(2, 1)
    write_predictions(
        tmp_path / "x.csv", Predictions(["caf\udce9", "b"], ["\udce9.jpg"], *(found.places, found.labels, found.logits))
    )
    assert "caf\\xe9" in (tmp_path / "x.csv").read_text()
