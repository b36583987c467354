from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.user_error import UserError
from models.training.monitor import basis, direction, still_holds

LOWER = (
    "val/loss train/loss val/error val/top1_err val/cross_entropy val/CrossEntropy val/MeanSquaredError val/ECE val/nll"
)
HIGHER = (
    "val/accuracy train/accuracy val/top5_accuracy val/acc@5 val/acc1 val/f1 val/MulticlassF1Score val/mAP val/auroc"
)
UNKNOWN = "lr val/score val/accuracy_loss val/seconds train/nonfinite_steps"


@pytest.mark.parametrize(("names", "expected"), [(LOWER, "min"), (HIGHER, "max")])
def test_the_direction_follows_from_the_name(names: str, expected: str) -> None:
    assert {name: direction(name, None, "checkpoint") for name in names.split()} == dict.fromkeys(
        names.split(), expected
    )


@pytest.mark.parametrize("name", UNKNOWN.split())
def test_a_name_that_says_no_direction_needs_a_mode(name: str) -> None:
    with pytest.raises(UserError, match=f"checkpoint.monitor is {name}, whose .* give checkpoint.mode min or max"):
        direction(name, None, "checkpoint")
    assert direction(name, "min", "checkpoint") == "min"


def test_what_is_given_holds_if_it_is_a_direction() -> None:
    assert direction("val/loss", "max", "checkpoint") == "max"
    with pytest.raises(UserError, match=r"checkpoint.mode is mean; give max or min"):
        direction("val/loss", "mean", "checkpoint")


def trainer(images: int = 10, limit: float = 1.0, *callbacks: Any) -> Any:
    data = SimpleNamespace(splits={"val": torch.arange(images)}, batch_size=4)
    return SimpleNamespace(callbacks=callbacks, datamodule=data, limit_val_batches=limit)


def test_scores_compare_only_of_the_same_metric_on_the_same_images_of_the_same_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = basis(trainer(), "val/loss", "min")
    assert still_holds(here, basis(trainer(), "val/loss", "min"), "it")
    assert still_holds({}, here, "it"), "nothing is known of the other"
    average = SimpleNamespace(is_evaluated=True)
    others = [
        (basis(trainer(), "val/accuracy", "max"), "metric and mode changed"),
        (basis(trainer(11), "val/loss", "min"), "images changed"),
        (basis(trainer(10, 1), "val/loss", "min"), "images changed"),
        (basis(trainer(10, 1.0, average), "val/loss", "min"), "weight average changed"),
    ]
    for other, words in others:
        capsys.readouterr()
        assert not still_holds(here, other, "it")
        assert f"it starts again: {words}" in capsys.readouterr().out
