import os
import re
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from datamodules.decoding.pixel_format import PixelFormat
from datamodules.digits import Digits
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from scripts.export import main, photographs
from scripts.inference.export_formats import FORMATS, Format, facts_of
from scripts.inference.image_classifier import load_classifier
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from tests.conftest import Done, Run, trained_network
from tests.odd_images import write_odd_images

SHORT = ("--trainer.max_epochs=1", "--trainer.precision=32-true", "--early_stopping=null")
MLP = ("--model.network=models.mlp.MLP",)


@pytest.fixture
def export(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


@pytest.fixture
def refused(export: Callable[..., Done]) -> Callable[..., str]:
    """Runs the script where it cannot do what is asked, and gives the one sentence that it answers."""

    def run(status: int, *args: str | Path) -> str:
        code, out, error = export(*args)
        assert (code, out, error.count("\n")) == (status, "", 1)
        assert error.startswith("error: ")
        return error

    return run


def logits(file: Path, images: Tensor) -> Tensor:
    found = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})[0]
    return torch.from_numpy(np.asarray(found))


def compared(checkpoint: Path, file: Path, digits: Digits) -> float:
    """The largest difference of two probabilities over all test images."""
    trained = TrainedNetwork(checkpoint).in_float32()
    expected = torch.from_numpy(predict_split(trained, digits, "test").logits)
    images = digits.pack[digits.splits["test"]][0]  # type: ignore[index]
    return float((logits(file, images).softmax(1) - expected.softmax(1)).abs().max())


def files_in(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_is_exported_in_every_format(
    train: Callable[..., Run], export: Callable[..., Done], digits: Digits
) -> None:
    run = train(*SHORT)
    before = files_in(run.folder)
    for name, suffix in (("onnx", "onnx"), ("torch_export", "pt2"), ("safetensors", "safetensors")):
        status, out, error = export(run.folder, "--format", name)
        assert (status, error) == (0, "")
        assert "compared  16 photographs in batches of 1, 2, 5, 8: probabilities differ by at most" in out
        assert f"exported  {run.folder / f'best.{suffix}'} ({name}, " in out
    made = {run.folder / f"best.{suffix}" for suffix in ("onnx", "pt2", "safetensors")}
    assert files_in(run.folder) - before == made
    assert {file.stat().st_mode & 0o777 for file in made} == {0o666 & ~_umask()}

    assert compared(run.best, run.folder / "best.onnx", digits) < 1e-5
    weights = read_checkpoint(run.best)["state_dict"]
    stored = load_file(run.folder / "best.safetensors")
    assert {f"network.{name}" for name in stored} == {name for name in weights if name.startswith("network.")}
    assert all(torch.equal(value, weights[f"network.{name}"]) for name, value in stored.items())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--weight_average=callbacks.ema.EMA",),
        ("--model.channels_last=false", "--trainer.precision=bf16-mixed"),
        (
            *("--model.network=models.resnet.ResNet", "--model.network.channels=[4,8]", "--model.network.blocks=[1,1]"),
            *("--model.freeze=[backbone]", "--feature_cache=callbacks.feature_cache.FeatureCache"),
        ),
    ],
    ids=["average", "bfloat16", "feature cache"],
)
def test_however_it_was_trained(
    train: Callable[..., Run], export: Callable[..., Done], digits: Digits, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    run = train(*SHORT, *flags)
    file = tmp_path / "model.onnx"
    assert export(run.folder, "--output", file)[0] == 0
    assert compared(run.best, file, digits) < 1e-5


@pytest.mark.slow
def test_it_is_told_how_far_a_prediction_differs_in_another_precision(
    train: Callable[..., Run], export: Callable[..., Done]
) -> None:
    run = train(*SHORT, *MLP, "--trainer.precision=bf16-mixed")
    status, out, error = export(run.folder, "--format=safetensors")
    assert (status, error) == (0, "")
    found = re.search(
        r"compared  16 photographs in batches of 1, 2, 5, 8: probabilities differ by at most (\S+)\n"
        r" +in float32, and by at most (\S+) from scripts/predict.py in bfloat16\n",
        out,
    )
    assert found
    assert float(found[1]) < 1e-5
    assert 1e-5 < float(found[2]) < 0.1


@pytest.mark.slow
def test_odd_image_files_are_read_as_by_a_prediction(
    train: Callable[..., Run], export: Callable[..., Done], tmp_path: Path
) -> None:
    for folder in ("train/one", "train/other", "test/one"):
        files = write_odd_images(tmp_path / "odd" / folder)
    flags = ("--data=ImageFolder", "--data.folder=odd", "--data.root", str(tmp_path), "--data.bit_depth=8")
    run = train(*flags, *MLP, "--data.image_size=16", *SHORT)
    assert export(run.folder)[0] == 0
    classify = load_classifier(run.folder)
    pixels = torch.stack([classify.pixels(file) for file in files])
    assert torch.allclose(logits(run.folder / "best.onnx", pixels), classify.trained.logits(pixels), atol=1e-5)


def test_a_file_that_says_something_else_of_its_images_is_refused(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(*SHORT, *MLP)
    checkpoint = torch.load(run.best, weights_only=True)
    checkpoint["config"]["data"]["init_args"]["root"] = str(tmp_path / "gone")
    torch.save(checkpoint, tmp_path / "alone.ckpt")
    before = files_in(tmp_path)
    wrong = lambda *args: facts_of(*args) | {"resize": '"squash"'}  # noqa: E731
    monkeypatch.setattr("scripts.export.facts_of", wrong)
    error = refused(1, tmp_path / "alone.ckpt", "--format", "safetensors")
    assert "predicts other probabilities than" in error
    assert files_in(tmp_path) == before


@pytest.mark.slow
def test_one_that_was_compiled_is_not_compiled_again(
    train: Callable[..., Run],
    export: Callable[..., Done],
    digits: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nn.Module, "compile", lambda network, **_: network)
    run = train(*SHORT, "--model.compile=true")
    assert read_checkpoint(run.best)["hyper_parameters"]["compile"]
    monkeypatch.setattr(nn.Module, "compile", lambda network, **_: pytest.fail("compiled"))
    file = tmp_path / "model.onnx"
    assert export(run.best, "--output", file)[0] == 0
    assert compared(run.best, file, digits) < 1e-5


def test_no_data_are_needed(train: Callable[..., Run], export: Callable[..., Done], tmp_path: Path) -> None:
    run = train(*SHORT, *MLP)
    checkpoint = torch.load(run.best, weights_only=True)
    checkpoint["config"]["data"]["init_args"]["root"] = str(tmp_path / "gone")
    checkpoint["config"]["data"]["init_args"].pop("packs", None)
    torch.save(checkpoint, tmp_path / "alone.ckpt")
    before = files_in(tmp_path)
    status, out, error = export(tmp_path / "alone.ckpt", "--format", "safetensors")
    assert (status, error) == (0, "")
    assert "compared  16 photographs in batches of 1, 2, 5, 8" in out
    assert files_in(tmp_path) - before == {tmp_path / "alone.safetensors"}
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (4, 8), (3, 16)])
def test_photographs_differ_and_are_the_same_each_time(digits: Digits, channels: int, bits: int) -> None:
    trained = trained_network(Classifier(nn.Flatten(), 10, lambda groups: torch.optim.SGD(groups)), digits)
    trained.shape, trained.pixel_format = (channels, 20, 30), PixelFormat(8 if bits == 8 else 16)
    files, images = photographs(6, trained)
    assert images.dtype == (torch.uint8 if bits == 8 else torch.uint16)
    assert [file.suffix for file in files] == ([".jpg"] * 2 if channels != 4 and bits == 8 else [])
    assert images.shape == (6 - len(files), channels, 20, 30)
    levels = images.float()
    assert torch.equal(levels, photographs(6, trained)[1].float())
    for number, image in enumerate(levels):
        assert image.std() > 20 * (trained.pixel_format.highest / 255)
        assert not any(torch.equal(image, other) for other in levels[:number])


class Noise(nn.Module):
    """Gives something else each time, whatever the mode."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits + torch.rand_like(logits)


class ByValue(Noise):
    """Decides by what is in the images."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "torch_export"])
@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            Noise,
            r"The exported Noise predicts other probabilities than .*best.ckpt: they differ by .*, more than 1e-04",
        ),
        (
            ByValue,
            r"ByValue cannot be exported: Could not guard on data-dependent .* must use only tensor operations",
        ),
    ],
)
def test_what_is_not_the_same_or_cannot_be_exported_leaves_no_file(
    train: Callable[..., Run], refused: Callable[..., str], name: str, network: type[nn.Module], words: str
) -> None:
    run = train(*SHORT, f"--model.network={__name__}.{network.__name__}")
    before = files_in(run.folder)
    error = refused(1, run.folder, "--format", name, "--trust", "tests")
    assert re.search(words, error)
    assert files_in(run.folder) == before


def write_text(model: nn.Module, images: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    path.write_text("these are no weights")


def test_a_runtime_that_does_not_take_the_file_leaves_none(
    train: Callable[..., Run], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(*SHORT, *MLP)
    before = files_in(run.folder)
    for words, open_ in (
        ("does not run: Error while deserializing header", FORMATS["safetensors"].open),
        ("does not run: operands could not be broadcast", lambda *_: lambda images: images.flatten(1)),
        ("does not run: mat1 and mat2", lambda *_: nn.Linear(3, 10).double()),
    ):
        monkeypatch.setitem(FORMATS, "safetensors", Format(".safetensors", write_text, open_))
        assert words in refused(1, run.folder, "--format", "safetensors")
        assert files_in(run.folder) == before


def test_what_is_there_is_kept_unless_it_may_be_replaced(
    train: Callable[..., Run], export: Callable[..., Done], refused: Callable[..., str]
) -> None:
    run = train(*SHORT, *MLP)
    file = run.folder / "best.safetensors"
    file.write_text("mine")
    assert f"{file} exists already; replace it with --overwrite" in refused(2, run.best, "--format", "safetensors")
    assert file.read_text() == "mine"
    assert export(run.best, "--format", "safetensors", "--overwrite")[0] == 0
    assert len(load_file(file)) == 4


def test_a_place_that_cannot_be_written_to_is_refused(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path
) -> None:
    run = train(*SHORT, *MLP)
    none = tmp_path / "none" / "model.onnx"
    assert f"{none} cannot be written: No such file or directory; choose" in refused(2, run.best, "--output", none)
    error = refused(2, run.best, "--output", tmp_path, "--overwrite")
    assert f"{tmp_path} cannot be written: it is a folder" in error


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Lets no file become larger, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "torch_export", "safetensors"])
def test_a_full_disk_leaves_what_was_there(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, name: str
) -> None:
    run = train(*SHORT, *MLP)
    file = tmp_path / "out" / "model"
    file.parent.mkdir()
    file.write_text("mine")
    with disk_of(20_000):
        error = refused(1, run.best, "--format", name, "--output", file, "--overwrite")
    assert f"{file} could not be written: File too large; free space there." in error
    assert [(each.name, each.read_text()) for each in file.parent.iterdir()] == [("model", "mine")]


def write_spoilt(checkpoint: Path, folder: Path) -> dict[Path, str]:
    """Writes what cannot be used, and gives for each file what is to be said of it."""
    whole, content = checkpoint.read_bytes(), torch.load(checkpoint, weights_only=True)
    flipped = bytearray(whole)
    weight = next(tensor for tensor in content["state_dict"].values() if tensor.ndim == 2)
    flipped[whole.index(weight.cpu().numpy().tobytes())] ^= 1
    for name, data in {"short": whole[:3000], "flipped": bytes(flipped)}.items():
        (folder / f"{name}.ckpt").write_bytes(data)
    for name, other in {"code": content | {"hook": print}, "other": {"state_dict": {}}}.items():
        torch.save(other, folder / f"{name}.ckpt")
    return {
        folder / "none.ckpt": "There is no checkpoint",
        folder / "short.ckpt": "it is truncated or damaged",
        folder / "flipped.ckpt": "it is truncated or damaged",
        folder / "code.ckpt": "it holds code or an object (print)",
        folder / "other.ckpt": "is no checkpoint that Kindling",
    }


def test_checkpoints_that_cannot_be_used_are_refused(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path
) -> None:
    spoilt = write_spoilt(train(*SHORT, *MLP).best, tmp_path)
    before = files_in(tmp_path)
    for file, reason in spoilt.items():
        error = refused(2, file, "--format", "safetensors")
        assert reason in error
        assert str(file) in error
    assert files_in(tmp_path) == before
    assert "is no folder of a run" in refused(2, tmp_path / "..")
