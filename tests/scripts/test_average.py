import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from datamodules.digits import Digits
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from scripts.average import average, average_states, load_average, main
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from scripts.train import main as train_main
from scripts.uncertainty.calibration import cross_entropy
from tests.conftest import Done, Run
from tests.scripts.test_export import disk_of, files_in, write_spoilt

SHORT = ("--trainer.precision=32-true", "--early_stopping=null", "--model.scheduler=null")
TINY = (*SHORT, "--model.network.channels=[8,16]", "--model.network.head_sizes=[]", "--data.batch_size=128")
FIGURES = ["val/accuracy", "val/loss", "test/accuracy", "test/loss"]


@pytest.fixture
def averaged(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


@pytest.fixture
def epochs(train: Callable[..., Run], tmp_path: Path) -> list[Path]:
    """Checkpoints of one course of training, after 3 and 4 epochs."""
    first = train(*TINY, "--trainer.max_epochs=3").last
    return [first, train("--ckpt_path", str(first), "--trainer.max_epochs=4").last]


def logits(checkpoint: Path, digits: Digits) -> np.ndarray[Any, Any]:
    return predict_split(TrainedNetwork(checkpoint), digits, "test").logits


@pytest.mark.slow
def test_is_the_mean_with_torchs_statistics_and_loads_everywhere(
    epochs: list[Path], averaged: Callable[..., Done], digits: Digits, tmp_path: Path, data_root: Path
) -> None:
    file = tmp_path / "soup.ckpt"
    status, out, error = averaged(*epochs, "--output", file)
    assert (status, error) == (0, "")
    for number, each in enumerate(epochs, 1):
        assert f"{number}           {each}\n" in out
    lines = [re.split(" *[│┃] *", line.strip("│┃ ")) for line in out.splitlines()]
    assert FIGURES in lines
    rows = {name: cells for name, *cells in lines}
    for name, each in zip(("1", "2", "average of 1, 2"), (*epochs, file), strict=True):
        found = predict_split(TrainedNetwork(each), digits, "test")
        accuracy, loss = (found.classes == found.labels).mean(), cross_entropy(found.logits, found.labels)
        assert rows[name][2:] == [f"{accuracy:.4f}", f"{loss:.4f}"]

    first, second = (Classifier.load_from_checkpoint(each) for each in epochs)
    mean = AveragedModel(first)
    mean.update_parameters(first)
    mean.update_parameters(second)
    digits.batch_size = 128
    update_bn((images for images, _ in digits.training_batches(0, torch.device("cpu"))), mean)
    state = read_checkpoint(file)["state_dict"]
    for name, value in mean.module.state_dict().items():
        if name.startswith("network."):
            assert torch.allclose(state[name].float(), value.float(), atol=1e-5), name

    saved = read_checkpoint(file)
    assert [source["checkpoint"] for source in saved["averaged"]] == list(map(str, epochs))
    assert file.stat().st_size < 0.6 * epochs[0].stat().st_size
    train_main(["test", "--ckpt_path", str(file), "--data.root", str(data_root)])


@pytest.mark.slow
def test_of_others_the_greedy_takes_none_that_makes_it_worse(
    epochs: list[Path], train: Callable[..., Run], tmp_path: Path
) -> None:
    stranger = train(*TINY, "--trainer.max_epochs=4", "--seed_everything=5").last
    uniform = average([*epochs, stranger], [], tmp_path / "all.ckpt", greedy=False, overwrite=False)
    greedy = average([*epochs, stranger], [], tmp_path / "greedy.ckpt", greedy=True, overwrite=False)
    (*_, (_, all_)), (*parts, (name, best)) = uniform.items(), greedy.items()
    assert all_["val/accuracy"] < best["val/accuracy"]
    assert best["val/accuracy"] >= max(found["val/accuracy"] for _, found in parts)
    assert name.startswith("average of ")
    assert not ("3" in name and ("1" in name or "2" in name)), "those that began elsewhere do not go together"


@pytest.mark.slow
def test_one_checkpoint_predicts_the_same_without_its_training_state(
    train: Callable[..., Run], averaged: Callable[..., Done], digits: Digits, tmp_path: Path, data_root: Path
) -> None:
    run = train(*TINY, "--trainer.max_epochs=2", "--weight_average=callbacks.ema.EMA")
    file = tmp_path / "small.ckpt"
    status, out, error = averaged(run.folder, "--output", file)
    assert (status, error) == (0, "")
    size, before = (each.stat().st_size for each in (file, run.best))
    assert size < before / 2
    assert out == f"checkpoint  {file} ({size / 1e6:.1f} MB instead of {before / 1e6:.1f})\n"
    assert np.array_equal(logits(file, digits), logits(run.best, digits))
    kept = dict(read_checkpoint(file))
    assert not {"optimizer_states", "lr_schedulers", "loops", "callbacks", "raw_state_dict"} & kept.keys()
    assert kept["Digits"] == {"mean": digits.mean, "std": digits.std}
    for name in ("test", "validate"):
        train_main([name, "--ckpt_path", str(file), "--data.root", str(data_root)])


@pytest.mark.slow
def test_no_training_goes_on_from_weights_alone(
    train: Callable[..., Run],
    resume: Callable[..., Run],
    refused: Callable[..., str],
    tmp_path: Path,
) -> None:
    run = train(*TINY, "--trainer.max_epochs=1")
    file = run.last.with_name("small.ckpt")
    average([run.last], [], file, greedy=False, overwrite=False)
    error = refused("fit", "--ckpt_path", file, "--runs", tmp_path / "more")
    assert f"{file} is a weights-only checkpoint; give a run's last.ckpt" in error
    assert not (tmp_path / "more").exists()
    assert resume(run, "--trainer.max_epochs=2").checkpoint["epoch"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--model.network.channels=[8,9]",),
            r"network\.init_args\.channels is \[32, 64\] in the first and \[8, 9\] in",
        ),
        (("--data.classes=[0,1,2,3,4,5,6,7,9,8]",), "class 8 is 8 in the first and 9 in the second"),
        (("--data.normalization=none",), r"preprocessing\.mean is \[0\.30.*\] in the first and \[0\.0\] in the second"),
        (
            ("--model.network=models.mlp.MLP",),
            r"network\.class_path is models\.convnet\.ConvNet in the first and models",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(
    train: Callable[..., Run], tmp_path: Path, flags: tuple[str, ...], words: str, averaged: Callable[..., Done]
) -> None:
    files = [train(*SHORT, "--trainer.max_epochs=1", *more).last for more in ((), flags)]
    status, out, error = averaged(*files, "--output", tmp_path / "soup.ckpt")
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"error: {files[0]} and {files[1]} cannot be averaged: " in error
    assert re.search(words, error)
    assert not (tmp_path / "soup.ckpt").exists()


def test_checkpoints_and_places_that_cannot_be_used_are_refused(
    train: Callable[..., Run], averaged: Callable[..., Done], tmp_path: Path
) -> None:
    run = train(*TINY, "--trainer.max_epochs=1")
    spoilt = write_spoilt(run.best, tmp_path)
    (tmp_path / "mine.ckpt").write_text("mine")
    before = files_in(tmp_path)
    out = ("--output", tmp_path / "soup.ckpt")
    for args, words in (
        *(((run.best, file, *out), reason) for file, reason in spoilt.items()),
        ((run.best, "--output", tmp_path / "mine.ckpt"), "exists already; replace it with --overwrite"),
        ((run.best, "--output", tmp_path / "no" / "soup.ckpt"), "cannot be written: No such file or directory"),
        ((run.best, *out, "--data.limit=3"), "is not evaluated, so --data.limit=3 has no effect"),
        ((run.best, run.last, *out, "--data.root", tmp_path, "--data.val_sice=3"), "There is no --data.val_sice"),
    ):
        status, said, error = averaged(*args)
        assert (status, said, error.count("\n")) == (2, "", 1), error
        assert words in error
    assert files_in(tmp_path) == before
    assert (tmp_path / "mine.ckpt").read_text() == "mine"


def test_a_full_disk_leaves_what_was_there(
    train: Callable[..., Run], averaged: Callable[..., Done], tmp_path: Path
) -> None:
    run = train(*TINY, "--trainer.max_epochs=1")
    file = tmp_path / "out" / "small.ckpt"
    file.parent.mkdir()
    file.write_text("mine")
    with disk_of(20_000):
        status, _, error = averaged(run.best, "--output", file, "--overwrite")
    assert status == 1
    assert f"error: {file} could not be written: File too large; free space there." in error
    assert error.count("\n") == 1
    assert [(each.name, each.read_text()) for each in file.parent.iterdir()] == [("small.ckpt", "mine")]


@pytest.mark.slow
def test_frozen_statistics_are_left_as_they_are(train: Callable[..., Run], digits: Digits) -> None:
    files = [train(*TINY, "--model.freeze=[stages]", f"--trainer.max_epochs={number}").last for number in (1, 2)]
    states = [read_checkpoint(file)["state_dict"] for file in files]
    averaged = load_average(TrainedNetwork(files[0]), states, digits)
    for name, value in averaged.items():
        if name.startswith("network.stages.") and value.is_floating_point():
            assert torch.equal(value, states[0][name]), name
    assert not torch.equal(averaged["network.head.1.weight"], states[0]["network.head.1.weight"])


@pytest.mark.slow
def test_statistics_that_fine_tuning_keeps_are_left_as_they_are(train: Callable[..., Run], digits: Digits) -> None:
    network = ("--model.network=ResNet", "--model.network.channels=[4, 8]", "--model.network.blocks=[1, 1]")
    flags = (*network, *SHORT[:2], "--data.batch_size=256", "--model.finetune.head_epochs=1")
    files = [train(*flags, f"--trainer.max_epochs={number}").last for number in (2, 3)]
    states = [read_checkpoint(file)["state_dict"] for file in files]
    averaged = load_average(TrainedNetwork(files[0]), states, digits)
    kept = [name for name in averaged if "running" in name]
    assert kept
    assert all(torch.equal(averaged[name], states[0][name]) for name in kept)


def test_what_is_no_number_to_average_is_that_of_the_first() -> None:
    states = [
        {"weight": torch.tensor([value]), "count": torch.tensor(number), "_extra_state": {"calls": number}}
        for value, number in ((1.0, 1), (2.0, 2))
    ]
    averaged = average_states(states)  # type: ignore[arg-type]  # extra state is no tensor
    assert averaged == {"weight": torch.tensor([1.5]), "count": torch.tensor(1), "_extra_state": {"calls": 1}}
