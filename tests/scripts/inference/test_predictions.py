from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scripts.inference.predictions import Predictions, predict_split
from scripts.inference.trained_network import TrainedNetwork
from tests.conftest import Run


@pytest.mark.slow
def test_are_those_that_the_test_counts(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=2", "--trainer.precision=32-true", "--model.test_time_augmentation=flip")
    trained = TrainedNetwork(run.best)
    found = predict_split(trained, trained.data(), "test")
    assert len(found) == 359
    assert found.accuracy == pytest.approx(run.results["metrics"]["test/accuracy"])
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(359))
    assert found.labels.tolist() == load_digits().target[[int(name[6:-1]) for name in found.names]].tolist()


@pytest.mark.slow
def test_files_are_named_by_their_paths(train: Callable[..., Run], tmp_path: Path) -> None:
    digits = load_digits()
    for number in range(120):
        folder = tmp_path / "images" / ("test" if number % 4 == 0 else "train") / f"digit {digits.target[number] % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / f"{number}.png")
    folder_data = ("--data", "datamodules.image_folder.ImageFolder", "--data.folder", str(tmp_path / "images"))
    run = train("--trainer.max_epochs=1", *folder_data, "--data.image_size=8")
    trained = TrainedNetwork(run.best)
    found = predict_split(trained, trained.data(), "test")
    assert len(found) == 30
    assert all((tmp_path / "images" / name).is_file() for name in found.names)
    assert [name.split("/")[1] for name in found.names] == [found.class_names[label] for label in found.labels]


def some(classes: int, images: int = 4) -> Predictions:
    logits = np.random.default_rng(0).normal(0, 3, (images, classes)).astype(np.float32)
    names = [f"test[{number}]" for number in range(images)]
    class_names = [f"class {number}" for number in range(classes)]
    return Predictions(class_names, names, np.arange(images), np.arange(images) % classes, logits)


def test_what_follows_from_logits_is_computed_once() -> None:
    found = some(3, 30)
    assert found.probabilities is found.probabilities
    assert found.classes is found.classes
    assert found.is_right is found.is_right
