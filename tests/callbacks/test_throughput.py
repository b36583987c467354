from collections.abc import Callable

import pytest

from callbacks.run.run_record import TrainingClock
from tests.callbacks.run.test_logged_steps import rows
from tests.callbacks.test_curves import points
from tests.conftest import Run


def two_seconds(clock: TrainingClock, *, is_training: bool) -> None:
    """Stands for a training of two seconds."""
    clock.training_seconds = 2.0


SHORT = ("--trainer.max_epochs=2", "--data.batch_size=128")


@pytest.mark.slow
def test_each_epoch_has_its_images_by_its_time(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingClock, "measure", two_seconds)
    run = train(*SHORT)
    assert points(run.folder)["train/images_per_second"] == [(10, 647.0), (21, 647.0)]  # 1,294 images
    assert [value for _, value in rows(run.folder, "train/images_per_second")] == [647.0, 647.0]
    assert "train/images_per_second" not in run.results["metrics"], "it is no result of the weights"


@pytest.mark.slow
def test_of_an_epoch_taken_up_in_its_middle_what_came_after_is_counted(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.callbacks.test_finite_guard import __name__ as saving

    callback = f'[{{"class_path": "{saving}.Save"}}]'  # after three batches of the second epoch
    first = train(*SHORT, f"--trainer.callbacks={callback}")
    monkeypatch.setattr(TrainingClock, "measure", two_seconds)
    second = train("--ckpt_path", str(first.folder / "middle.ckpt"), "--trainer.callbacks=null")
    ((_, value),) = points(second.folder)["train/images_per_second"]
    assert value == (1294 - 3 * 128) / 2
