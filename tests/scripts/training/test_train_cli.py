import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.utilities import _scan_checkpoints
from torch import Tensor, nn

from datamodules.digits import Digits
from datamodules.packing.pack import Source
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from models.serialization.checkpoint_io import DurableCheckpointIO
from scripts.train import main
from tests.conftest import Run
from tests.datamodules.test_image_folder import write_scans, write_source
from tests.scripts.test_train import ENVIRONMENT, TRAIN

AFFINE = "[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]"


@pytest.mark.slow
@pytest.mark.any_device
def test_killed_at_a_random_step_and_resumed_ends_bit_for_bit_as_unbroken(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    flags = ("--trainer.max_epochs=12", "--early_stopping=null", "--data.batch_size=16", "--model.network.dropout=0.1")
    whole = train(*flags, "--experiment=whole")
    data_root = whole.checkpoint["config"]["data"]["init_args"]["root"]
    command = [*TRAIN, "fit", *flags, "--experiment", "killed", "--runs", str(tmp_path), "--data.root", data_root]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        while not (checkpoints := list(tmp_path.glob("killed/*/checkpoints/last.ckpt"))):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    (last,) = checkpoints
    assert read_checkpoint(last)["epoch"] < 12

    resumed = train("--ckpt_path", str(last))

    for name, value in whole.checkpoint["state_dict"].items():
        assert torch.equal(value, resumed.checkpoint["state_dict"][name]), name
    assert resumed.results["metrics"] == whole.results["metrics"]


class Bare(nn.Module):
    """Its constructor asks for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits


class Listener(Logger):
    """A logger that keeps what it is told, as those of other services do."""

    told: ClassVar[dict[str, Any]] = {}

    def __init__(self, save_dir: str = "logs") -> None:
        super().__init__()
        self.told.clear()
        self.told["save_dir"] = save_dir

    @property
    def name(self) -> str:
        return "listener"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.told.setdefault("metrics", {}).update(metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.told["params"] = params

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.told["uploaded"] = [path for _, path, *_ in _scan_checkpoints(checkpoint_callback, {})]
        self.told["keeps"] = checkpoint_callback.save_top_k


class Noted(Callback):
    """Notes what it was attached to."""

    seen: ClassVar[dict[str, Any]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["root"] = trainer.default_root_dir
        self.seen["checkpoints"] = list(trainer.checkpoint_callbacks)
        self.seen["io"] = trainer.strategy.checkpoint_io


QUICK = ("--trainer.max_epochs=1", "--data.batch_size=256")
NOTED = f"--trainer.callbacks={__name__}.Noted"


@pytest.mark.slow
def test_home_and_variables_are_meant_in_flags_and_files(
    tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a.yaml").write_text(
        "runs: ~/runs\ndata: {init_args: {packs: '${DISK}/packs'}}\n"
        "trainer: {logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: ~/logs}}}"
    )
    main(["fit", "--config=~/a.yaml", f"--data.root={data_root}", *QUICK])
    (run,) = tmp_path.glob("home/runs/a/*")
    assert len(list(tmp_path.glob("disk/packs/digits-*"))) == 2, "the pack and its lock"
    assert list(tmp_path.glob("home/logs/**/metrics.csv"))
    main(["fit", f"--resume=~/runs/a/{run.name}", "--trainer.max_epochs=2"])
    main(["test", "--ckpt_path=${HOME}/runs/a/" + f"{run.name}/checkpoints/best.ckpt"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "home"]
    assert yaml.safe_load((run / "config.yaml").read_text())["runs"] == str(tmp_path / "home" / "runs")


@pytest.mark.slow
def test_a_network_that_asks_for_nothing_is_trained_tested_and_built_again(train: Callable[..., Run]) -> None:
    run = train(*QUICK, f"--model.network={__name__}.Bare")
    main(["test", "--ckpt_path", str(run.best), "--trust", "tests"])
    rebuilt = Classifier.load_from_checkpoint(run.best)
    assert isinstance(rebuilt.network, Bare)


class BareDigits(Digits):
    """Likewise."""

    def __init__(self) -> None:
        super().__init__(batch_size=256)


def test_a_data_set_that_asks_for_nothing_is_trained_with_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", f"--data={__name__}.BareDigits", "--trainer.max_epochs=1", "--seed_everything=5"])
    (results,) = tmp_path.glob("runs/*/*/results.json")
    assert json.loads(results.read_text())["seed"] == 5


@pytest.mark.slow
def test_a_logger_of_another_kind_is_told_settings_and_checkpoints(train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(*QUICK, f"--trainer.logger={__name__}.Listener")
    assert Listener.told["params"] == run.checkpoint["config"]
    assert Listener.told["uploaded"] == [str(run.best)]
    assert Listener.told["keeps"] == 1
    assert Listener.told["metrics"].keys() >= {"train/loss", "val/loss", "test/loss"}
    assert Listener.told["save_dir"] == str(run.folder / "logs")
    train(*QUICK, f"--trainer.logger={__name__}.Listener", f"--trainer.logger.save_dir={tmp_path / 'mine'}")
    assert Listener.told["save_dir"] == str(tmp_path / "mine")


def test_a_single_callback_a_plugin_and_a_root_are_kept(train: Callable[..., Run], tmp_path: Path) -> None:
    plugin = "lightning.pytorch.plugins.environments.LightningEnvironment"
    run = train(*QUICK, NOTED, f"--trainer.plugins={plugin}", f"--trainer.default_root_dir={tmp_path / 'root'}")
    assert Noted.seen["root"] == str(tmp_path / "root")
    assert isinstance(Noted.seen["io"], DurableCheckpointIO)
    assert run.best.is_file()


@pytest.mark.parametrize("flag", ["--checkpoint=null", "--trainer.enable_checkpointing=false"])
def test_no_checkpoint_is_kept_if_none_is_wanted(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    run = train(*QUICK, NOTED, flag, "--trainer.enable_progress_bar=false")
    assert not Noted.seen["checkpoints"]
    assert not list(run.folder.rglob("*.ckpt"))
    said = capsys.readouterr().out
    assert "checkpoint  none" in said
    assert "epoch 0/0" not in said
    assert "test/accuracy" in run.results["metrics"]


def test_layers_are_read_in_turn(train: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "trainer: {max_epochs: 3, log_every_n_steps: 5}\ndata: {init_args: {batch_size: 200}}"
    )
    (tmp_path / "b.yaml").write_text("trainer: {max_epochs: 2}")
    run = train("--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml"), "--data.batch_size=300")
    config = run.checkpoint["config"]
    assert config["trainer"]["max_epochs"] == 2
    assert config["trainer"]["log_every_n_steps"] == 5
    assert config["data"]["init_args"]["batch_size"] == 300
    assert run.folder.parent.name == "b"


def test_a_class_named_anew_starts_from_its_own_defaults(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=1", "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")
    assert run.checkpoint["config"]["model"]["optimizer"]["init_args"]["weight_decay"] == 0
    assert run.checkpoint["optimizer_states"][0]["param_groups"][0]["weight_decay"] == 0


@pytest.mark.slow
@pytest.mark.any_device
def test_the_seed_decides_everything(train: Callable[..., Run]) -> None:
    flags = ("--trainer.max_epochs=1", "--model.network.dropout=0.2")
    first, again, other = (train(*flags, f"--seed_everything={seed}").checkpoint["state_dict"] for seed in (1, 1, 2))
    weights = "network.head.1.weight"
    assert torch.equal(first[weights], again[weights])
    assert not torch.equal(first[weights], other[weights])


@pytest.mark.slow
@pytest.mark.parametrize("subcommand", ["validate", "test"])
def test_evaluation_needs_the_checkpoint_alone(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], subcommand: str
) -> None:
    run = train("--trainer.max_epochs=2", "--data.test_size=0.3", "--trainer.callbacks=[]")
    before = set(tmp_path.rglob("*"))
    capsys.readouterr()
    main([subcommand, "--ckpt_path", str(run.best)])
    stage = "val" if subcommand == "validate" else "test"
    (printed,) = re.findall(rf"{stage}/accuracy +│ ([\d.]+)", capsys.readouterr().out)
    expected = run.results["best"] if stage == "val" else run.results["metrics"]["test/accuracy"]
    assert float(printed) == pytest.approx(expected, abs=1e-4)
    assert set(tmp_path.rglob("*")) == before


def test_accumulation_top5_and_no_logger_work_together(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Digits.read

    def read_more_classes(self: Digits) -> Source:
        images, labels = read(self)["train"][:2]
        odd = np.arange(len(labels)) % 2
        return {"train": (images, np.where(labels < 2, labels + 10 * odd, labels))}

    monkeypatch.setattr(Digits, "class_names", tuple(f"class {number}" for number in range(12)))
    monkeypatch.setattr(Digits, "read", read_more_classes)
    monkeypatch.setattr(Digits, "fingerprint", lambda self: "12 classes")
    run = train("--trainer.max_epochs=1", "--trainer.accumulate_grad_batches=4", "--trainer.logger=false")
    assert run.checkpoint["global_step"] == 6
    assert "test/top5_accuracy" in run.results["metrics"]


MISTAKES = {
    "unknown flag": (["--trainer.max_epoch=3"], "There is no --trainer.max_epoch; did you mean --trainer.max_epochs?"),
    "unknown argument": (
        ["--data.batch_sise=3"],
        "There is no --data.batch_sise; did you mean --data.batch_size?",
    ),
    "wrong type": (["--data.batch_size=many"], "data.batch_size has the value many; give a whole number."),
    "no such class": (
        ["--model.network=models.convnet.ConvNit"],
        "names models.convnet.ConvNit, and there is no such class",
    ),
    "no such module": (["--model.network=models.nothing.Net"], "model.network names models.nothing.Net"),
    "no class at all": (["--model.optimizer=Foo"], "model.optimizer"),
    "another kind of class": (["--data=torch.nn.Linear"], "does not correspond to a subclass of ImageDataModule"),
    "argument of another class": (["--model.network.hidden_sizes=[3]"], "There is no --model.network.hidden_sizes"),
    "batch size 0": (["--data.batch_size=0"], "data.batch_size is 0; give a whole number of at least 1."),
    "too much pooling": (["--model.network.channels=[4,4,4,4,4]"], "leaves no pixel of 8x8 images"),
    "negative learning rate": (
        ["--model.optimizer.lr=-1"],
        "In model.optimizer or model.scheduler, correct this: Invalid learning rate",
    ),
    "missing argument": (["--model.scheduler=torch.optim.lr_scheduler.StepLR"], "step_size"),
    "more validation than images": (["--data.val_size=5000"], "data.val_size asks for 5000 of 1438 images"),
    "accumulation of nothing": (
        ["--trainer.accumulate_grad_batches=0"],
        "trainer.accumulate_grad_batches is 0; give a whole number of at least 1.",
    ),
    "negative clipping": (["--trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val is -1; give a number above 0"),
    "negative seed": (["--seed_everything=-1"], "seed_everything is -1; give a whole number from 0"),
    "accelerator that is not there": (["--trainer.accelerator=tpu"], "torch_xla"),
    "unknown precision": (["--trainer.precision=foo"], "trainer.precision"),
    "batch norm over processes without a GPU": (
        ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.sync_batchnorm=true"],
        "trainer.sync_batchnorm is true, but batch norm is shared on GPUs only; leave it out.",
    ),
    "not null": (["--early_stopping=none"], "early_stopping is none; give a class or null"),
    "not null of Python": (["--model.scheduler=None"], "model.scheduler is None; give a class or null"),
    "a seed of the data alone": (["--data.seed=3"], "give it as --seed_everything"),
    "no folder": (["--data.packs=None"], "None; write null to leave it out."),
    "GPUs that are not there": (["--trainer.accelerator=cpu", "--trainer.devices=[0]"], "trainer.devices is [0]"),
    "a GPU that is not there": (["--trainer.accelerator=cpu", "--trainer.devices=0,"], "give a number of processes"),
    "validation after more than an epoch": (
        ["--trainer.val_check_interval=500"],
        "trainer.val_check_interval is 500, but an epoch has 21 batches; give at most that, or count batches over all",
    ),
    "the same without a schedule": (
        ["--trainer.val_check_interval=22", "--model.scheduler=null"],
        "trainer.val_check_interval is 22, but an epoch has 21 batches",
    ),
    "validation after no batch": (["--trainer.val_check_interval=0"], "trainer.val_check_interval is 0; give a whole"),
    "validation after no epoch": (["--trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch is 0"),
    "validation by time": (
        ["--trainer.val_check_interval=00:00:00:10"],
        "a time, but early stopping counts validations, whose number would depend on the machine's speed; give",
    ),
    "barebones": (["--trainer.barebones=true"], "trainer.barebones is true"),
    "a truth value as a class": (["--data.classes=[yes, no]"], "YAML reads yes, no, 007 and 12:30 as other than text"),
    "a number as a class": (["--data.classes=[12:30, 5]"], "names 750, which Digits does not have"),
    "all frozen at first": (
        ["--model.freeze=[stages, head]", "--model.unfreeze={1: [head]}"],
        "freeze leaves nothing of ConvNet to train at first; freeze less",
    ),
    "another place for checkpoints": (["--checkpoint.dirpath=elsewhere"], "checkpoint.dirpath is elsewhere, but"),
    "another place for the curves": (
        ["--trainer.logger=callbacks.curves.CSVLogger", "--trainer.logger.save_dir=elsewhere"],
        "callbacks.curves.CSVLogger.save_dir is elsewhere, but it is always the run's folder; choose that with --runs",
    ),
    "variable that is not set": (["--data.packs=${NOT_SET}/p"], "names the environment variable NOT_SET, which is not"),
    "variable without braces": (
        ["--data.packs=$HOME"],
        "begins with an environment variable; write it as ${HOME}",
    ),
    "no configuration file": (["--config=none.yaml"], "The configuration file none.yaml cannot be read"),
    "no checkpoint": (["--ckpt_path=none.ckpt"], "There is no checkpoint none.ckpt"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(
    refused: Callable[..., str], tmp_path: Path, data_root: Path, flags: list[str], words: str
) -> None:
    places = () if "--data=torch.nn.Linear" in flags else ("--data.root", data_root)
    error = refused("fit", *flags, "--runs", tmp_path / "runs", *places)
    assert words in error
    assert not list(tmp_path.rglob("*.*"))


def test_an_unknown_key_in_a_file_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("modle: {network: {class_path: models.mlp.MLP}}")
    assert "modle" in refused("fit", "--config", tmp_path / "typo.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["truncated", "empty", "another program's"])
def test_a_broken_checkpoint_is_named(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, content: str
) -> None:
    broken = tmp_path / "broken.ckpt"
    if content == "truncated":
        broken.write_bytes(train("--trainer.max_epochs=1").last.read_bytes()[:9000])
    elif content == "empty":
        broken.touch()
    else:
        torch.save({"epoch": 3, "model": {}}, broken)
    for subcommand in ("fit", "test"):
        assert f"{broken} " in refused(subcommand, "--ckpt_path", broken)


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test"])
def test_a_missing_checkpoint_in_a_configuration_file_is_named(
    refused: Callable[..., str], tmp_path: Path, subcommand: str
) -> None:
    (tmp_path / "test.yaml").write_text(f"ckpt_path: {tmp_path}/none.ckpt")
    assert "There is no checkpoint" in refused(subcommand, "--config", tmp_path / "test.yaml")


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (5, [0, 1, 2, 10, 3], "the train labels have 10 for image 3, outside the 10 classes, 0 to 9"),
        (5, [0, -1, 2, 3, 4], "the train labels have -1 for image 1"),
        (5, [0, 1], "the train labels are int64 of shape [2]; give for each of 5 images"),
        (0, [], "has no images"),
    ],
)
def test_broken_data_is_named(
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    labels: list[int],
    words: str,
) -> None:
    def read(_: Any) -> Source:
        return {"train": (np.zeros((images, 1, 8, 8), np.uint8), np.array(labels, np.int64))}

    monkeypatch.setattr(Digits, "read", read)
    assert words in refused("fit", "--runs", tmp_path / "runs", "--data.root", tmp_path / "data")


@pytest.mark.parametrize("name", ["../elsewhere", "digits/../../elsewhere", "/elsewhere"])
def test_an_experiment_stays_in_the_folder_of_runs(refused: Callable[..., str], tmp_path: Path, name: str) -> None:
    error = refused("fit", "--runs", tmp_path / "runs", "--experiment", name)
    assert f"experiment is {name!r}, which leads out of {tmp_path / 'runs'}" in error
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(refused: Callable[..., str], tmp_path: Path, data_root: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "choose another place with --runs" in refused("fit", "--runs", file, "--data.root", data_root)
    assert "choose another folder with --data.packs" in refused("fit", "--runs", tmp_path / "runs", "--data.root", file)


@pytest.mark.slow
def test_damaged_pixels_end_a_run_before_they_are_trained_on_and_cost_none(
    train: Callable[..., Run], resume: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, data_root: Path
) -> None:
    root = ("--data.root", str(tmp_path / "data"))
    run = train(*root, "--trainer.max_epochs=1")
    (pixels,) = (tmp_path / "data" / "packs").glob("*/images.npy")
    content = bytearray(pixels.read_bytes())
    for image in range(1, 57):  # opening the pack looks at none of these
        content[128 + 64 * image] ^= 4
    pixels.write_bytes(content)
    said = refused("fit", *root, "--runs", tmp_path / "runs")
    assert f"{pixels.parent} holds other pixels of train[" in said
    assert "read the data set again with --data.repack true. A run resumes with --resume." in said
    assert list(tmp_path.glob("runs/*/*")) == [run.folder]
    assert resume(run, "--trainer.max_epochs=2", "--data.repack=true").results["epochs"] == 2


@pytest.mark.slow
def test_a_file_written_in_place_ends_a_run_before_it_leaves_anything_and_the_next_is_right(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datamodules.decoding.remembered_times.MANY_FILES", 60)
    folder = write_scans(tmp_path / "images", lambda row, label: f"class {label}/{row}.bmp")
    shape = ("--data=datamodules.image_folder.ImageFolder", "--data.image_size=8", "--data.channels=1")
    flags = (*shape, "--data.root", str(tmp_path), "--trainer.max_epochs=1")
    first = train(*flags)
    with (folder / "class 0" / "0.bmp").open("r+b") as file:
        file.write((folder / "class 1" / "1.bmp").read_bytes())
    said = refused("fit", *flags, "--runs", tmp_path / "runs")
    assert "A file of the data set has been written to since it was read" in said
    assert list(tmp_path.glob("runs/*/*")) == [first.folder]
    assert train(*flags).checkpoint["data_fingerprint"] != first.checkpoint["data_fingerprint"]


@pytest.mark.slow
def test_files_and_pack_train_to_the_same_weights(train: Callable[..., Run], tmp_path: Path) -> None:
    write_source(tmp_path)
    flags = ("--data", "datamodules.image_folder.ImageFolder", "--data.root", str(tmp_path), "--data.image_size=32")
    quick = ("--model.network.channels=[4]", "--trainer.max_epochs=2", "--data.augmentation", AFFINE)
    packed, files = (train(*flags, *quick, f"--data.storage={storage}") for storage in ("packed", "files"))
    assert files.results["metrics"] == packed.results["metrics"]
    weights = packed.checkpoint["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in files.checkpoint["state_dict"].items())


@pytest.mark.slow
def test_views_can_be_asked_for_when_testing(train: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--trainer.max_epochs=2")
    accuracies = []
    for flags in ([], ["--model.test_time_augmentation=flip"]):
        capsys.readouterr()
        main(["test", "--ckpt_path", str(run.best), *flags])
        accuracies.append(re.search(r"test/accuracy\D+([\d.]+)", capsys.readouterr().out)[1])  # type: ignore[index]
    assert float(accuracies[0]) == pytest.approx(run.results["metrics"]["test/accuracy"], abs=1e-4)
    assert accuracies[0] != accuracies[1], "digits are not alike from both sides"
