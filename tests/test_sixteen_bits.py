"""Digits as a microscope would store them, in 16 bits of which few are used, on all ways that images go."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from scripts.export import main as export
from scripts.inference.image_classifier import Prediction, load_classifier
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from scripts.predict import main as predict
from tests.conftest import Done, Run

# Rooms of tools may have been removed.
evaluate = pytest.importorskip("scripts.evaluate").main
visualize = pytest.importorskip("scripts.visualize").main

pytestmark = pytest.mark.slow

DATA = ("--data=ImageFolder", "--data.folder=digits", "--data.image_size=8")
EXACT = "--trainer.precision=32-true"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Three planes, of which the second is the digit: levels from 100 to 356 of 65,535."""
    digits = load_digits()
    noise = np.random.default_rng(0).integers(0, 400, (1797, 2, 8, 8))
    for number, (image, label) in enumerate(zip(digits.images[:600], digits.target, strict=False)):
        folder = tmp_path / "digits" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{number}.npy", np.stack([noise[number, 0], image * 16 + 100, noise[number, 1]]).astype("u2"))
    return str(tmp_path)


def test_one_image_has_one_probability_everywhere(
    root: str, train: Callable[..., Run], script: Callable[..., Callable[..., Done]], tmp_path: Path
) -> None:
    run = train(*DATA, "--data.root", root, "--data.channels=[2, 1]", "--trainer.max_epochs=6", EXACT)
    assert run.results["metrics"]["test/accuracy"] > 0.8, "8 bits would have left two levels"
    assert (run.checkpoint["preprocessing"].items()) >= {
        "channels": 2,
        "planes": [2, 1],
        "bit_depth": 16,
        "stored_bits": 16,
        "stored_channels": 3,
    }.items()

    trained = TrainedNetwork(run.best)
    found = predict_split(trained, trained.data(), "test")
    first = tmp_path / "digits" / found.names[0]
    expected = found.probabilities[0].max()

    classify, planes = load_classifier(run.folder), np.load(first)
    for given in (first, planes.transpose(1, 2, 0), torch.from_numpy(planes)):
        answer = classify(given)
        assert isinstance(answer, Prediction)
        assert answer.probability == pytest.approx(expected, abs=1e-5)
    output = tmp_path / "predicted.jsonl"
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    status, _, _ = script(predict)(run.best, first, tmp_path / "grey.png", "--output", output)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert status == 1
    assert rows[0]["probability"] == pytest.approx(expected, abs=1e-5)
    assert "it has 8 bits a channel, where 16 are read" in str(rows[1])

    assert script(evaluate)(run.folder)[0] == 0
    assert script(visualize)(run.folder, "gradcam", "--image", first)[0] == 0
    for name in ("onnx", "torch_export"):
        status, said, _ = script(export)(run.folder, "--format", name)
        assert status == 0
        assert "probabilities differ by at most" in said
    decoded = predict_split(trained, trained.data(["--data.storage=files"]), "test")
    assert np.array_equal(decoded.logits, found.logits)


def test_resumes_bit_for_bit_in_the_middle_of_an_epoch(root: str, train: Callable[..., Run], tmp_path: Path) -> None:
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    steps = f"{{every_n_train_steps: 5, save_top_k: -1, dirpath: {tmp_path / 'steps'}}}"
    augmented = "--data.augmentation=[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]"
    flags = (*DATA, "--data.root", root, "--data.channels=3", augmented, "--trainer.max_epochs=2", EXACT)
    whole = train(*flags, f"--trainer.callbacks+={{class_path: {saver}, init_args: {steps}}}")
    place = sorted((tmp_path / "steps").glob("*.ckpt"))[0]
    resumed = train("--ckpt_path", str(place), "--trainer.callbacks=null", "--data.root", root)
    for name, value in whole.checkpoint["state_dict"].items():
        assert torch.equal(value, resumed.checkpoint["state_dict"][name]), name
    assert resumed.results["metrics"] == whole.results["metrics"]


def test_a_pack_on_the_device_and_decoded_files_train_alike(
    root: str, train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*DATA, "--data.root", root, "--data.channels=3", "--trainer.max_epochs=1", EXACT)
    runs = [train(*flags), train(*flags, "--data.storage=files", "--data.num_workers=1")]
    monkeypatch.setattr("datamodules.packing.pack.Pack.fits_on", lambda pack, device: True)
    runs.append(train(*flags))
    for run in runs[1:]:
        assert run.results["metrics"] == runs[0].results["metrics"]
        for name, value in runs[0].checkpoint["state_dict"].items():
            assert torch.equal(value, run.checkpoint["state_dict"][name]), name


def test_two_processes_measure_what_one_does(
    root: str, train: Callable[..., Run], train_in_two_processes: Callable[..., Run]
) -> None:
    flags = (*DATA, "--data.channels=3", "--trainer.max_epochs=1", EXACT, "--model.network.dropout=0")
    one = train(*flags, "--data.root", root, "--data.batch_size=50")
    two = train_in_two_processes(*flags, "--data.batch_size=25", "--data.folder", str(Path(root) / "digits"))
    assert two.results["processes"] == 2
    assert two.checkpoint["preprocessing"] == one.checkpoint["preprocessing"]
