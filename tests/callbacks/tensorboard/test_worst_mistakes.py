import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from callbacks.tensorboard.worst_mistakes import WorstMistakes, captions, mistakes, worst
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from tests.callbacks.tensorboard.test_preview import events
from tests.conftest import Run

BRIEF = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--data.batch_size=50")


@pytest.mark.slow
def test_a_run_shows_the_most_certain_mistakes_of_its_test(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[list[str]] = []

    def noted(*args: Any) -> list[str]:
        said.append(captions(*args))
        return said[-1]

    monkeypatch.setattr("callbacks.tensorboard.worst_mistakes.captions", noted)
    run = train(*BRIEF, "--worst_mistakes.max_images=12", "--trainer.precision=32-true")
    (event,) = events(run.folder).Images("worst_mistakes/test")
    assert event.step == 4
    assert Image.open(io.BytesIO(event.encoded_image_string)).size == (8 * 104 + 8, 2 * (96 + 2 * 15 + 8) + 8)

    trained = TrainedNetwork(run.best)
    found = predict_split(trained, trained.data(), "test")
    best = found.probabilities.max(axis=1)
    wrong = sorted(
        (row for row in range(len(found)) if found.classes[row] != found.labels[row]), key=lambda r: -best[r]
    )
    expected = [
        f"{found.classes[row]}, {best[row]:.0%}\nis {found.labels[row]}, {found.probabilities[row, label]:.0%}"
        for row, label in ((row, found.labels[row]) for row in wrong[:12])
    ]
    assert said == [expected]


@pytest.mark.slow
def test_a_test_without_mistakes_has_no_picture(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=4", "--data.classes=[0, 4]", "--early_stopping=null")
    assert run.results["metrics"]["test/accuracy"] == 1
    assert "worst_mistakes/test" not in events(run.folder).Tags()["images"]


def test_those_that_are_right_come_last_and_the_first_of_equals_first() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1)
    logits = torch.tensor([[9.0, 0.0], [5.0, 0.0], [5.0, 0.0], [0.0, 1.0]])
    found = mistakes(images, torch.tensor([0, 1, 1, 0]), logits)
    shown, classes, probabilities = worst(found, 4)
    assert shown.flatten().tolist() == [1, 2, 3, 0]
    assert classes.tolist() == [[0, 1], [0, 1], [1, 0], [0, 0]]
    assert probabilities[3, 0] == -1
    assert captions(classes[:1], probabilities[:1], ["cat", "dog"]) == ["cat, 99%\nis dog, 1%"]


def test_refuses_to_show_no_images() -> None:
    with pytest.raises(ValueError, match="max_images is 0"):
        WorstMistakes(0)
