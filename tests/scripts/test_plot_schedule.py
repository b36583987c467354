from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.diagnostics.schedule_rehearsal import ScheduleRehearsal
from scripts.plot_schedule import draw, main


@pytest.fixture
def plot(tmp_path: Path, data_root: Path) -> Callable[..., None]:
    def run(*flags: str) -> None:
        places = ["--runs", str(tmp_path / "runs"), "--data.root", str(data_root)]
        main([*flags, *places, "--output", str(tmp_path / "schedule.png")])

    return run


@pytest.mark.slow
def test_draws_the_picture_and_leaves_nothing_else(
    plot: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot("--trainer.max_epochs=3")
    assert [path.name for path in tmp_path.iterdir()] == ["schedule.png"]
    with Image.open(tmp_path / "schedule.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
    *_, sentence, file = capsys.readouterr().out.splitlines()
    assert file == str(tmp_path / "schedule.png")
    assert sentence.startswith("63 steps in 3 epochs, learning rate 0.00041 to 0.003 in step 8 and ")


@pytest.mark.slow
def test_draws_each_rate_and_a_momentum_that_changes() -> None:
    schedule = ScheduleRehearsal()
    schedule.steps_per_epoch = 2
    pictures = []
    for lrs, momenta in (
        ([[0.1], [0.2], [0.1]], [0.9, 0.9, 0.9]),
        ([[0.1], [0.2], [0.1]], [0.9, 0.8, 0.9]),
        ([[0.1, 0.01], [0.2, 0.02], [0.1, 0.01]], [0.9, 0.9, 0.9]),
        ([[0.1, 0.1], [0.2, 0.2], [0.1, 0.1]], [0.9, 0.9, 0.9]),
    ):
        schedule.lrs, schedule.momenta = lrs, momenta
        pictures.append(draw(schedule))
    assert pictures[0] not in pictures[1:3]
    assert pictures[0] == pictures[3]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau", "--model.scheduler.monitor=val/loss"),
            "ReduceLROnPlateau lowers the learning rate when val/loss gets no better, which nobody knows before",
        ),
        (("--trainer.max_epochs=-1", "--model.scheduler=null"), "The run has no end"),
        (("--trainer.max_epochs=0",), "The run has no step to draw"),
        (("--trainer.max_epochs=-1",), "the run has no end for the schedule to come to; give trainer.max_epochs"),
    ],
)
def test_says_what_cannot_be_drawn(
    plot: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    words: str,
) -> None:
    with pytest.raises(SystemExit) as exit_:
        plot(*flags)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
