import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

from core.user_error import UserError
from datamodules.image_folder import ImageFolder
from kindling import fit
from scripts.inference.image_classifier import Prediction, load_classifier
from scripts.predict import main as predict
from scripts.training.fit import TrainedRun
from tests.conftest import Run
from tests.discovery import ROOT


class Wide(nn.Module):
    """Defined in a test, as a researcher's own is in a file of his."""

    def __init__(self, in_features: int, num_classes: int, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(in_features, width), nn.ReLU(), nn.Linear(width, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class Interrupts(Callback):
    """Ctrl-C in the fifth step, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == 5:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def state_of_process() -> dict[str, Any]:
    return {
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "environment": dict(os.environ),
        "cudnn": (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "random": (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state(legacy=False)["state"]["key"].tolist(),
        ),
        "streams": (sys.stdout, sys.stderr),
        "threads": threading.enumerate(),
        "debugger": sys.breakpointhook,
    }


SETTINGS = {
    "optimizer__lr": 0.1,  # before the class, whose arguments it would else be taken from
    "network": Wide,
    "model__network__width": 16,
    "optimizer": torch.optim.SGD,
    "data": {"class_path": "datamodules.digits.Digits", "init_args": {"limit": 600}},
    "trainer": {"max_epochs": 2, "deterministic": True},
    "callbacks": [{"class_path": Interrupts, "init_args": {"times": 0}}],
    "early_stopping": None,
    "experiment": "python",
}
FLAGS = (
    "--model.network=tests.scripts.training.test_fit.Wide",
    "--model.network.width=16",
    "--model.optimizer=torch.optim.SGD",
    "--model.optimizer.lr=0.1",
    "--data=datamodules.digits.Digits",
    "--data.limit=600",
    "--trainer.max_epochs=2",
    "--trainer.deterministic=true",
    "--trainer.callbacks=[{class_path: tests.scripts.training.test_fit.Interrupts, init_args: {times: 0}}]",
    "--early_stopping=null",
    "--experiment=python",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def places(runs: Path, data_root: Path) -> dict[str, Any]:
    return {"runs": runs, "data__root": str(data_root)}


@pytest.fixture(scope="module")
def trained(places: dict[str, Any]) -> tuple[TrainedRun, dict[str, Any], dict[str, Any]]:
    """A run, and the process before and after it."""
    before = state_of_process()
    run = fit(**SETTINGS, **places)
    return run, before, state_of_process()


@pytest.fixture
def run(trained: tuple[TrainedRun, dict[str, Any], dict[str, Any]]) -> TrainedRun:
    return trained[0]


@pytest.mark.slow
def test_it_is_the_run_of_the_command_line(run: TrainedRun, train: Callable[..., Run]) -> None:
    other = train(*FLAGS)
    assert run.metrics == other.results["metrics"]
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (run.folder, other.folder)]
    assert configs[0] | {"runs": None} == configs[1] | {"runs": None}
    files = [sorted(file.name for file in folder.glob("[!e]*")) for folder in (run.folder, other.folder)]
    assert files[0] == files[1]


def test_it_leaves_the_process_as_it_was(trained: tuple[TrainedRun, dict[str, Any], dict[str, Any]]) -> None:
    _, before, after = trained
    for name, value in before.items():
        assert after[name] == value, name


def test_its_checkpoint_works_by_itself(run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = (load_digits().images[0] * 15).astype(np.uint8)
    Image.fromarray(scan).save(tmp_path / "scan.png")
    prediction = load_classifier(run.folder)(scan)
    assert run.best == run.folder / "checkpoints" / "best.ckpt"
    again = load_classifier(str(run.best))(str(tmp_path / "scan.png"))
    assert isinstance(prediction, Prediction)
    assert isinstance(again, Prediction)
    assert (prediction.class_name, prediction.probabilities) == (again.class_name, again.probabilities)
    assert f"<td>{prediction.class_name}<td>{prediction.probability:.1%}" in prediction._repr_html_()
    with pytest.raises(SystemExit, match="0"):
        predict([str(run.folder), str(tmp_path / "scan.png"), "--trust", "tests"])
    assert f"{prediction.probability:.6f}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_goes_on_and_is_repeated(run: TrainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    runs = run.folder.parents[1]
    again = fit(like=run.folder, runs=runs)
    assert f"identical to {run.folder}, bit for bit" in capsys.readouterr().out
    longer = fit(resume=str(again.folder), trainer__max_epochs=3)
    assert longer.folder == again.folder
    assert longer.metrics != run.metrics
    assert fit(resume=True, runs=runs, experiment="python") == longer


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_ctrl_c_stops_the_run_and_not_the_process(
    times: int, places: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = state_of_process()
    interrupted = {"class_path": Interrupts, "init_args": {"times": times}}
    with pytest.raises(KeyboardInterrupt):
        fit(**SETTINGS | {"callbacks": interrupted, "experiment": f"stopped-{times}"}, **places)
    assert {**state_of_process(), "random": None} == {**before, "random": None}
    (folder,) = (places["runs"] / f"stopped-{times}").iterdir()
    assert f"stopped by SIGINT; resume with: scripts/train.py fit --resume {folder}" in capsys.readouterr().out
    assert (folder / "checkpoints" / "last.ckpt").exists() == (times == 1)
    if times == 1:
        assert fit(resume=folder, trainer__callbacks=None).metrics["test/accuracy"] > 0.2


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"network": Wide(64, 10)},
            "network has <class 'tests.scripts.training.test_fit.Wide'>, which no checkpoint can rebuild; give plain",
        ),
        ({"optimizer": lambda groups: None}, "optimizer has <lambda>, which no checkpoint can rebuild"),
        ({"network": type("Wide", (Wide,), {})}, "network has Wide, which no checkpoint can rebuild"),
        ({"network": "ConvNt"}, "did you mean models.convnet.ConvNet?"),
        ({"trainer__max_epoch": 3}, "did you mean --trainer.max_epochs?"),
        ({"trainer__max_epochs": "three"}, "trainer.max_epochs has the value three"),
        (
            {"trainer__devices": 2, "trainer__accelerator": "cpu"},
            "Python trains in one process; give trainer__devices=1",
        ),
        ({"trainer__precision": "17"}, "trainer.precision has the value 17"),
        ({"seeds": 3}, "unrecognized arguments: --seeds=3"),
        ({"folds": 3}, "did you mean --data.folds?"),
        ({"config": "nowhere.yaml"}, "The configuration file nowhere.yaml cannot be read"),
    ],
    ids=lambda part: "-".join(part) if isinstance(part, dict) else "",  # what a dictionary holds has no lasting name
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    settings: dict[str, Any], sentence: str, data_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as error:
        fit(**{"runs": tmp_path / "runs", "data__root": data_root, "trainer__max_epochs": 1} | settings)
    assert sentence in str(error.value)
    assert error.value._render_traceback_() == [f"error: {error.value}"]
    assert not list(tmp_path.glob("runs/*/*"))
    assert "error" not in capsys.readouterr().err


IN_MAIN = """
import sys
import torch
from torch import nn
from kindling import fit, load_classifier

class Linear(nn.Module):
    def __init__(self, in_features, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))
    def forward(self, images):
        return self.layers(images)

if __name__ == "__main__":
    run = fit(network=Linear, trainer__max_epochs=1, runs=sys.argv[1], data__root=sys.argv[2])
    classify = load_classifier(run.folder)
    assert len(classify(classify.trained.data().pack[torch.arange(2)][0])) == 2
"""


@pytest.mark.slow
def test_a_class_of_a_script_or_notebook_belongs_in_a_file_to_be_loaded_elsewhere(
    tmp_path: Path, data_root: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "script.py").write_text(IN_MAIN)
    command = [sys.executable, "script.py", str(tmp_path), str(data_root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = tmp_path.glob("digits-linear/*")
    sentence = "__main__.Linear of a notebook or script; put that class in a file"
    with pytest.raises(UserError, match=sentence):
        load_classifier(folder)(np.zeros((8, 8), np.uint8))
    assert sentence in refused("fit", "--resume", folder)


def test_a_text_is_as_good_as_a_path(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(load_digits().images[number].astype(np.uint8) * 15).save(
                tmp_path / f"photos/{name}/{number}.png"
            )
    text, path = (
        ImageFolder(folder=kind("photos"), root=kind(tmp_path), packs=kind(tmp_path / "packs"), image_size=8)
        for kind in (str, Path)
    )
    text.prepare_data()
    assert text.pack_folder == path.pack_folder
    assert path.open_pack() is not None
