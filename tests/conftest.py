import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from datamodules.packing.pack import Source
from models.classifier import Classifier
from models.convnet import ConvNet
from models.serialization.checkpoint import CheckpointContent, read_checkpoint
from scripts.inference.trained_network import TrainedNetwork
from scripts.train import main
from tests.discovery import ROOT

torch.set_num_threads(1)  # the tests share the cores


def pytest_configure(config: pytest.Config) -> None:
    """Hides GPUs from tests that were not written for them: the figures they compare are a CPU's."""
    if not {"gpu", "any_device"} & set(re.findall(r"\w+", config.getoption("markexpr"))):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU, or it was not asked for by -m")


@dataclass
class Run:
    folder: Path

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        return dict(read_checkpoint(self.last))

    @cached_property
    def results(self) -> dict[str, Any]:
        results: dict[str, Any] = json.loads((self.folder / "results.json").read_text())
        return results


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """Trains in Python, and leaves nothing behind."""
    return Trainer(
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **({"enable_checkpointing": False} | options),
    )


def trained_network(classifier: Classifier, data: ImageDataModule) -> TrainedNetwork:
    """What a checkpoint of a classifier that was built in Python would give."""
    content = CheckpointContent(
        state_dict={},
        class_names=list(data.class_names),
        preprocessing=dict(data.preprocessing),
        hyper_parameters={"network": {}, "num_classes": classifier.num_classes},
    )
    trained = TrainedNetwork("none.ckpt", classifier.device, content)
    trained.network = classifier.network.eval()
    return trained


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    Digits(root=root).prepare_data()
    return root


@pytest.fixture
def digits(data_root: Path) -> Digits:
    data = Digits(root=data_root)
    data.setup("fit")
    return data


@pytest.fixture
def classifier() -> Callable[[], Classifier]:
    """Makes a small one for the digits, the same each time."""

    def make() -> Classifier:
        torch.manual_seed(0)
        return Classifier(ConvNet(1, (8, 8), 10), 10, lambda groups: torch.optim.AdamW(groups, lr=0.003))

    return make


@pytest.fixture
def train(tmp_path: Path, data_root: Path) -> Callable[..., Run]:
    """Runs `fit` as a user would, and gives the folder it has made."""

    def fit(*flags: str) -> Run:
        before = set(tmp_path.glob("runs/**/config.yaml"))
        root = [] if "--data.root" in flags else ["--data.root", str(data_root)]
        root += ["--trust", "tests"] if "--ckpt_path" in flags else []
        main(["fit", *flags, "--runs", str(tmp_path / "runs"), *root])
        (made,) = set(tmp_path.glob("runs/**/config.yaml")) - before
        return Run(made.parent)

    return fit


@pytest.fixture
def resume() -> Callable[..., Run]:
    """Goes on with a run in its folder, as a user would."""

    def fit(run: Run, *flags: str) -> Run:
        main(["fit", "--resume", str(run.folder), *flags])
        return Run(run.folder)

    return fit


@pytest.fixture
def synchronizes_again() -> Iterator[None]:
    """Takes back, after a test, that the driver refuses whatever waits for the GPU."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def train_in_two_processes(tmp_path: Path, data_root: Path) -> Callable[..., Run]:
    """Runs `fit` as a user would over two processes on the CPU, and gives the folder it has made."""

    def fit(*flags: str) -> Run:
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "fit", "--trainer.strategy=ddp", *flags]
        command += ["--trainer.accelerator=cpu", "--trainer.devices=2"]
        command += ["--runs", str(tmp_path / "two"), "--data.root", str(data_root)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # for data sets of the tests
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (made,) = tmp_path.glob("two/**/config.yaml")
        return Run(made.parent)

    return fit


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line on a user's mistake, and gives the one sentence that it answers."""

    def run(*args: str | Path) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([str(arg) for arg in args])
        assert exit_.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return run


Done = tuple[int, str, str]
"""Exit status, what was said on stdout, and on stderr."""


@pytest.fixture
def script(capfd: pytest.CaptureFixture[str]) -> Callable[..., Callable[..., Done]]:
    """Makes of a script's `main` what runs it as a user would, and gives its exit status and what is said."""

    def runner(main: Callable[[list[str]], None]) -> Callable[..., Done]:
        def run(*args: str | Path) -> Done:
            capfd.readouterr()
            code: object = 0
            try:
                main([str(arg) for arg in args])
            except SystemExit as exit_:
                code = exit_.code
            said = capfd.readouterr()
            assert isinstance(code, int)
            return code, said.out, said.err

        return run

    return runner


@pytest.fixture
def other_digits(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, the digits are white on black."""

    def change() -> None:
        images, labels = Digits.read(Digits())["train"][:2]
        monkeypatch.setattr(Digits, "fingerprint", lambda self: "other digits")
        monkeypatch.setattr(Digits, "read", lambda self: {"train": (255 - np.asarray(images), labels)})

    return change


@pytest.fixture
def any_source(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives a data module a source to read in some folder.

    That is what `write_source` in its test writes, in the real layout; or real images in the shape and classes that it
    declares, if it has no such test and its source is not at hand.
    """

    def ensure(data_class: type[ImageDataModule], root: Path, **init_args: Any) -> None:
        test = f"datamodules/test_{data_class.__module__.rpartition('.')[2]}"
        if (Path(__file__).parent / f"{test}.py").exists():
            write_source = getattr(import_module(f"tests.{test.replace('/', '.')}"), "write_source", None)
            if write_source:
                write_source(root, **init_args)
                return

        def read(self: ImageDataModule) -> Source:
            from sklearn.datasets import load_digits

            scans = torch.from_numpy(load_digits().images[:400, None]).float() * (255 / 16)
            channels, *size = self.image_shape
            images = torch.nn.functional.interpolate(scans, size).expand(-1, channels, -1, -1)
            labels = np.arange(len(images)) % self.num_classes
            return {"train": (images.round().byte().numpy(), labels)}

        try:
            data_class(root=root).prepare_data()
        except UserError:
            monkeypatch.setattr(data_class, "read", read)
            monkeypatch.setattr(data_class, "fingerprint", lambda self: "digits")

    return ensure
