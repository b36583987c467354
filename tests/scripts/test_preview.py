import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.tensorboard.image_grid import batch_picture
from datamodules.batching.transform import Batch
from datamodules.digits import Digits
from models.classifier import Classifier
from scripts.preview import main
from tests.conftest import Done, Run

AFFINE = "[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 30.0, p: 1.0}}]"
MIXUP = "[{class_path: datamodules.mixing.MixUp}]"


@pytest.fixture
def preview(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--data.augmentation", AFFINE),
        ("--data.mixing", MIXUP, "--seed_everything", "3"),
        ("--data.augmentation", AFFINE, "--data.mixing", MIXUP, "--data.balanced", "true", "--data.batch_size", "9"),
    ],
    ids=["plain", "affine", "mixed", "all"],
)
def test_shows_the_pixels_that_the_network_gets_first(
    flags: tuple[str, ...],
    train: Callable[..., Run],
    preview: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    data_root: Path,
    tmp_path: Path,
    digits: Digits,
) -> None:
    batches: list[Batch] = []
    step = Classifier.training_step

    def spy(self: Classifier, batch: Batch, batch_idx: int) -> torch.Tensor:
        batches.append((batch[0].clone(), batch[1].clone()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", spy)
    run = train(*flags, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    assert len(batches) == 1
    file = tmp_path / "first.png"
    status, out, _ = preview(*flags, "--data.root", data_root, "--output", file)
    assert status == 0
    assert out.splitlines()[-1] == str(file)

    with Image.open(file) as opened:
        shown = opened.convert("RGB")
    assert shown == batch_picture(batches[0], digits.preprocessing, digits.class_names, 32)
    (event,) = EventAccumulator(str(run.folder)).Reload().Images("preview/train")
    assert shown == Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")


def test_gives_the_first_batch_as_it_is_in_the_data(
    preview: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, data_root: Path, tmp_path: Path, digits: Digits
) -> None:
    drawn: list[Batch] = []

    def spy(batch: Batch, *others: Any) -> Image.Image:
        drawn.append(batch)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr("callbacks.tensorboard.image_grid.batch_picture", spy)
    preview("--data.root", data_root, "--output", tmp_path / "x.png")
    ((images, labels),) = drawn
    assert images.shape == (64, 1, 8, 8)
    raw, expected = next(iter(digits.train_dataloader()))
    assert torch.equal(labels, expected)
    assert torch.equal(images, digits.transform((raw, expected), training=False)[0])


def test_shows_as_many_as_asked_for_and_there(
    preview: Callable[..., tuple[int, str, str]], data_root: Path, tmp_path: Path
) -> None:
    file = tmp_path / "few.jpg"
    sizes = []
    for count in ("3", "64", "65"):
        assert preview("--data.root", data_root, "--images", count, "--output", file)[0] == 0
        with Image.open(file) as picture:
            sizes.append(picture.size)
    assert sizes[0] == (3 * 104 + 8, 96 + 15 + 16)
    assert sizes[1] == sizes[2] == (8 * 104 + 8, 8 * (96 + 15 + 8) + 8)


@pytest.mark.parametrize("name", ["none/x.png", "", "x", "x.txt", "x.psd", "x.xbm", "folder.png", "file/x.png"])
def test_refuses_a_file_that_it_could_not_write(
    name: str, preview: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.iterdir())
    # Refused before any work: the data could not be read from there.
    status, out, error = preview("--output", tmp_path / name, "--data.root", tmp_path / "nowhere")
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert str(tmp_path / name) in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_leaves_an_existing_picture_when_it_is_refused(
    preview: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(b"mine")
    status, _, error = preview("--output", file, "--data.batch_size", "0")
    assert status == 2
    assert "batch_size" in error
    assert file.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5"])
def test_refuses_a_count_that_is_none(count: str, preview: Callable[..., tuple[int, str, str]]) -> None:
    status, _, error = preview(f"--images={count}")
    assert status == 2
    assert (
        error
        == f"error: argument --images: {count!r} is no whole number of at least 1; see scripts/preview.py --help.\n"
    )
