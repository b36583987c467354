import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import torch
from numpy.typing import NDArray
from PIL import Image

from callbacks.tensorboard import confusion_matrix
from callbacks.tensorboard.confusion_matrix import CELL, COLOURS, ConfusionMatrix, confusion_picture, shade_levels
from scripts.command.silence import silence_libraries
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from tests.callbacks.tensorboard.test_preview import events
from tests.conftest import Run


def drawn(folder: Path, split: str) -> list[tuple[int, NDArray[np.uint8]]]:
    found = events(folder).Images(f"confusion_matrix/{split}")
    return [(one.step, np.asarray(Image.open(io.BytesIO(one.encoded_image_string)))) for one in found]


@pytest.mark.slow
def test_a_run_has_that_of_its_test_and_of_its_best_validation(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=3", "--data.batch_size=50")
    trained = TrainedNetwork(run.best)
    data = trained.data()
    for split in ("val", "test"):
        ((step, pixels),) = drawn(run.folder, split)
        assert step == 3 * 26
        found = predict_split(trained, data, split)
        expected = sklearn.metrics.confusion_matrix(found.labels, found.classes)
        assert np.array_equal(pixels, np.asarray(confusion_picture(expected, list("0123456789")))), split


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 10, 20, 21, 200, 1000])
def test_any_number_of_classes_is_drawn(count: int) -> None:
    confusion = np.eye(count, dtype=np.int64) * 50
    confusion[0, 1], confusion[1, 0] = 25, 1
    names = [f"class {number} of a long name, really" for number in range(count)]
    picture = confusion_picture(confusion, names)
    assert count == 1000 or picture.height >= count * CELL, "names can be read"
    assert max(picture.size) < 3200
    numbers = np.asarray(picture).astype(np.int64) @ (2**16, 2**8, 1)
    colours = {f"#{number:06x}" for number in np.unique(numbers)}
    levels = shade_levels(confusion)
    assert {COLOURS[level - 1] for level in np.unique(levels[levels > 0])} <= colours


def test_the_shade_is_the_share_of_the_rows_images() -> None:
    confusion = np.array([[1000, 1, 0], [0, 0, 0], [3, 3, 3]])
    levels = shade_levels(confusion)
    assert levels.tolist() == [[8, 1, 0], [0, 0, 0], [6, 6, 6]]


def test_names_of_any_letters_are_drawn() -> None:
    assert confusion_picture(np.array([[1, 0], [0, 0]]), ["猫\udce9", "two\nlines"]).width > 100


def test_the_best_is_kept_in_a_checkpoint() -> None:
    kept, other = ConfusionMatrix(), ConfusionMatrix()
    assert kept.state_dict() == {}
    kept._best = torch.tensor([[5, 0, 1], [0, 0, 0], [2, 0, 7]])
    state = kept.state_dict()
    assert state["cells"].tolist() == [[0, 0, 5], [0, 2, 1], [2, 0, 2], [2, 2, 7]]
    other.load_state_dict(state)
    assert other._best is not None
    assert torch.equal(other._best, kept._best)


def test_of_too_many_classes_there_is_none(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusion_matrix, "MOST_CLASSES", 9)
    run = train("--trainer.max_epochs=1")
    assert not [tag for tag in events(run.folder).Tags()["images"] if tag.startswith("confusion_matrix")]


@pytest.mark.slow
def test_over_two_processes_every_image_is_counted_once(train_in_two_processes: Callable[..., Run]) -> None:
    silence_libraries()  # the training, which does so, is in other processes
    # 359 test images, so that the last batch of one process has an image more.
    run = train_in_two_processes("--trainer.max_epochs=1", "--data.batch_size=50", "--trainer.precision=32-true")
    trained = TrainedNetwork(run.best)
    data = trained.data()
    found = predict_split(trained, data, "test")
    ((_, pixels),) = drawn(run.folder, "test")
    expected = sklearn.metrics.confusion_matrix(found.labels, found.classes)
    assert np.array_equal(pixels, np.asarray(confusion_picture(expected, list("0123456789"))))
    wrong = min(32, int((found.classes != found.labels).sum()))
    (event,) = events(run.folder).Images("worst_mistakes/test")
    grid = Image.open(io.BytesIO(event.encoded_image_string))
    assert grid.size == (min(8, wrong) * 104 + 8, -(-wrong // 8) * (96 + 2 * 15 + 8) + 8)
