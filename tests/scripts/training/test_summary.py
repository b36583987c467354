import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.run.run_folder import is_tested
from scripts.train import main
from scripts.training.summary import print_results
from tests.conftest import Run
from tests.datamodules.test_image_folder import write_source


@pytest.mark.slow
def test_says_when_training_waits_for_data_and_what_helps(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(tmp_path)
    flags = ("--data", "datamodules.image_folder.ImageFolder", "--data.root", str(tmp_path), "--data.image_size=32")
    slow = ("--data.storage=files", "--data.num_workers=0", "--model.network.channels=[4]", "--trainer.max_epochs=2")
    run = train(*flags, *slow)
    assert run.results["waiting_for_data"] > 0.05
    assert "waiting for data" not in capsys.readouterr().out, "two steps tell nothing"
    print_results(run.results | {"steps": 100}, 0, may_wait=False)
    assert re.search(r"\d+% of training was waiting for data: give more --data.num_workers", capsys.readouterr().out)


SHORT = ("--data.batch_size=512", "--trainer.max_epochs=3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ((), "trainer.max_epochs 3"),
        (("--trainer.max_steps=4",), "trainer.max_steps 4"),
        (("--trainer.max_time=00:00:00:00", "--model.scheduler=null"), "trainer.max_time"),
        (("--early_stopping.patience=1", "--model.optimizer.lr=1e-12"), "early_stopping.patience 1 of val/accuracy"),
    ],
)
def test_says_why_training_has_stopped_and_that_a_run_is_finished(
    train: Callable[..., Run],
    resume: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    reason: str,
) -> None:
    run = train(*SHORT, *flags)
    out = capsys.readouterr().out
    best = run.results["best_epoch"]
    known = "" if best is None else f"; val/accuracy was best in epoch {best} of 0 to {run.results['epochs'] - 1}"
    assert f"\nstopped by {reason}{known}\n" in out
    assert run.results["stopped_by"] == reason
    if best is None:
        assert "max_time" in reason
        return
    assert best == max(range(len(accuracies(run))), key=accuracies(run).__getitem__)
    again = resume(run)
    out = capsys.readouterr().out
    assert f"the run was finished already; to train longer, resume it with a higher --{reason.split()[0]}\n" in out
    assert (again.results["stopped_by"], again.results["best_epoch"]) == (reason, best)


def accuracies(run: Run) -> list[float]:
    """Of each epoch, as metrics.csv counts them."""
    with (run.folder / "metrics.csv").open(newline="") as file:
        found = {int(row["epoch"]): float(row["val/accuracy"]) for row in csv.DictReader(file) if row["val/accuracy"]}
    assert list(found) == list(range(len(found)))
    return list(found.values())


@pytest.mark.slow
def test_the_test_set_is_left_out_and_tested_later(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*SHORT, "--test=false")
    for each in (run, resume(run, "--trainer.max_epochs=4")):
        assert not [name for name in each.results["metrics"] if name.startswith("test/")]
        assert is_tested(each.results), "it is finished"
    assert "test/accuracy" not in capsys.readouterr().out
    main(["test", "--ckpt_path", str(run.best)])
    assert "test/accuracy" in capsys.readouterr().out
    assert "test/accuracy" in resume(run, "--test=true").results["metrics"]
