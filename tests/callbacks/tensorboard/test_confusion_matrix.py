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
from callbacks.tensorboard.confusion_matrix import ConfusionMatrix
from callbacks.tensorboard.confusion_picture import confusion_picture
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
