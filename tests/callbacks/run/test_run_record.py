import csv
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from callbacks.run import run_record
from callbacks.run.run_record import TrainingClock
from models.classifier import Classifier
from tests.conftest import Run
from tests.datamodules.test_image_folder import write_source
from tests.discovery import ROOT


@pytest.fixture(scope="module")
def names() -> set[str]:
    return {f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "accuracy")}


@pytest.mark.slow
def test_keeps_configuration_curves_and_figures(train: Callable[..., Run], names: set[str]) -> None:
    run = train("--trainer.max_epochs=2", "--seed_everything=3")
    files = {file.name.split(".tfevents")[0] for file in run.folder.iterdir()}
    assert {"config.yaml", "checkpoints", "metrics.csv", "events.out", "results.json"} <= files

    results = json.loads((run.folder / "results.json").read_text())
    assert results["metrics"].keys() == names
    assert results["seed"] == 3
    assert results["epochs"] == 2
    assert results["seconds"] > 0
    assert results["images_per_second"] > 0
    network = Classifier.load_from_checkpoint(run.last).network
    assert results["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert (run.folder / results["checkpoint"]).samefile(run.best)
    assert results["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "lightning" in results["versions"]
    assert "git_commit" in results


@pytest.mark.slow
def test_the_configuration_trains_the_same_again(train: Callable[..., Run]) -> None:
    first = train("--trainer.max_epochs=2", "--model.optimizer.lr=0.01", "--early_stopping=null")
    again = train("--config", str(first.folder / "config.yaml"))
    assert again.folder.parent == first.folder.parent
    assert again.results["metrics"] == first.results["metrics"]
    assert all(
        torch.equal(value, again.checkpoint["state_dict"][name])
        for name, value in first.checkpoint["state_dict"].items()
    )


def test_a_checkpoint_says_where_it_comes_from(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=1")
    assert run.checkpoint["config"] == yaml.safe_load((run.folder / "config.yaml").read_text())
    assert run.checkpoint["data_fingerprint"].startswith("content ")
    assert {name: len(images) for name, images in run.checkpoint["data_images"].items()} == {
        "train": 1294,
        "val": 144,
        "test": 359,
    }
    assert run.checkpoint["versions"].keys() == {"kindling", *run_record.PACKAGES}
    assert "git_commit" in run.checkpoint


@pytest.mark.slow
def test_nothing_is_left_of_a_run_that_could_not_begin(
    refused: Callable[..., str], tmp_path: Path, data_root: Path
) -> None:
    for mistake in ("--data.val_size=5000", "--model.optimizer.lr=-1", "--data.batch_size=0"):
        refused("fit", mistake, "--runs", tmp_path / "runs", "--data.root", data_root)
    assert not list(tmp_path.glob("runs/*/*"))


def test_the_clock_of_training_counts_only_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    clock = TrainingClock()
    for is_training, then in ((True, 2.0), (True, 3.0), (False, 5.0), (True, 6.0), (False, 9.0)):
        clock.measure(is_training=is_training)
        now = then
    assert clock.training_seconds == 4


def test_says_what_each_class_counts(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=1", "--data.balanced=true", "--model.class_weights=balanced")
    with (run.folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list("0123456789")
    counts = [int(row["train_images"]) for row in rows]
    assert sum(counts) == 1294
    assert {int(row["images_per_epoch"]) for row in rows} == {129, 130}
    assert [float(row["loss_weight"]) for row in rows] == pytest.approx([129.4 / count for count in counts])


@pytest.mark.slow
def test_lists_the_files_that_were_left_out(train: Callable[..., Run], tmp_path: Path) -> None:
    folder = write_source(tmp_path)
    (folder / "train" / "china" / "broken.jpg").write_bytes(b"no image")
    run = train(
        *("--config", str(ROOT / "configs" / "dogs-vs-cats" / "convnet.yaml"), "--data.root", str(tmp_path)),
        *("--data.folder=images", "--data.image_size=32", "--data.on_corrupt=skip", "--trainer.max_epochs=1"),
    )
    assert (run.folder / "skipped_files.txt").read_text() == "train/china/broken.jpg\tit is no image\n"
    assert 0 <= run.results["waiting_for_data"] <= 1


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_images_says_so_and_knows_both(
    train: Callable[..., Run], resume: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("--trainer.max_epochs=1")
    before = run.checkpoint["data_images"]
    capsys.readouterr()
    again = resume(run, "--trainer.max_epochs=2")
    assert "note: " not in capsys.readouterr().out
    assert torch.equal(again.checkpoint["data_images"]["train"], before["train"])
    again = resume(run, "--trainer.max_epochs=3", "--data.split_seed=1")
    images = again.checkpoint["data_images"]
    told = re.search(r"0 new, 0 gone; trained on: (\d+) of \d+ val and (\d+) of \d+ test", capsys.readouterr().out)
    assert told
    assert int(told[2]) > 200
    assert set(before["train"].tolist()) < set(images["train"].tolist())
    assert not set(images["test"].tolist()) & set(images["train"].tolist())
