from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.image_folder import ImageFolder
from tests.datamodules.test_image_folder import write_source


def test_images_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    write_source(tmp_path)
    images = ImageFolder(root=tmp_path, image_size=(12, 20), channels=1).read()["train"][0]
    assert images.shape[1:] == (1, 12, 20)
    assert ImageFolder(root=tmp_path, image_size=16).image_shape == (3, 16, 16)


@pytest.mark.parametrize("size", [0, -3, (12, 0)])
def test_refuses_a_size_without_pixels(tmp_path: Path, size: int | tuple[int, int]) -> None:
    with pytest.raises(UserError, match="give a positive number of pixels"):
        ImageFolder(root=tmp_path, image_size=size)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": 0}, "data.channels is 0; give their number, or a list"),
        ({"channels": []}, r"data.channels is \[\]; give"),
        ({"channels": [3, 0]}, r"data.channels is \[3, 0\]; give"),
        ({"value_range": (1, 1)}, r"data.value_range is \[1, 1\]; give two numbers, the lower first"),
    ],
)
def test_refuses_channels_and_ranges_that_are_none(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    write_source(tmp_path)
    with pytest.raises(UserError, match=words):
        ImageFolder(root=tmp_path, **arguments)


def write_deep(folder: Path, number: int = 12) -> None:
    """Digits of 16 bits that use few of them, as a microscope's do."""
    digits = load_digits()
    for place in range(number):
        file = folder / str(digits.target[place]) / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[place] * 16 + 100).astype(np.uint16)).save(file)


def data_of(root: Path, **arguments: Any) -> ImageFolder:
    return ImageFolder(root=root, image_size=8, channels=1, val_size=2, test_size=2, **arguments)


def test_sixteen_bits_are_kept_without_being_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_deep(tmp_path / "images", 60)
    data = data_of(tmp_path)
    data.prepare_data()
    assert "0.png has 8x8 pixels, channels: 1, uint16, read as uint16\n" in capsys.readouterr().out
    data.setup("fit")
    assert " images of 1x8x8 in 16 bits, packed in " in capsys.readouterr().out
    assert data.preprocessing.items() >= {"bit_depth": 16, "stored_bits": 16}.items()
    images, labels = next(data.images_in_order("train", 64))
    assert images.dtype == torch.uint16
    assert images.int().max() == 356
    normalised, _ = data.transform((images, labels), training=False)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-3)
    assert normalised.std().item() == pytest.approx(1, abs=1e-3)
    assert data.mean == pytest.approx([images.double().mean().item() / 65535])


def test_several_depths_in_one_set_are_refused_unless_one_is_asked_for(tmp_path: Path) -> None:
    write_deep(tmp_path / "images", 60)
    for name in ("3/13.png", "3/3.png"):
        Image.new("L", (8, 8), 7).save(tmp_path / "images" / name)
    for skip in ("error", "skip"):
        data = data_of(tmp_path, on_corrupt=skip)
        words = r"3/13\.png cannot be used: it has 8 bits a channel, where 16 are read; take it out, or"
        with pytest.raises(UserError, match=words):
            data.prepare_data()
        assert not list((tmp_path / "packs").glob("*/facts.json"))
    for bits in (8, 16):
        data = data_of(tmp_path, bit_depth=bits)
        data.prepare_data()
        data.setup("fit")
        images = torch.cat([images for images, _ in data.images_in_order("train", 64)])
        assert images.dtype == (torch.uint16 if bits == 16 else torch.uint8)
        assert int(images.int().max()) == (7 * 257 if bits == 16 else 7)


def test_several_channel_counts_in_one_set_are_refused(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "images" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        planes = np.zeros((4 if number % 4 else 5, 8, 8), np.uint8)
        np.save(tmp_path / "images" / str(number % 2) / f"{number:02}.npy", planes)
    data = ImageFolder(root=tmp_path, image_size=8, channels=[3, 2, 1])
    with pytest.raises(UserError, match=r"npy cannot be used: it has 4 channels, where 5 are read"):
        data.prepare_data()


def test_arrays_are_images_where_there_are_no_others(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "images" / str(number % 2)).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "images" / str(number % 2) / f"{number}.npy", np.full((8, 8), number, np.uint8))
    names = ImageFolder(root=tmp_path, channels=1).read()["train"][0].names  # type: ignore[union-attr]
    assert len(names) == 12
    write_deep(tmp_path / "images", 2)
    names = ImageFolder(root=tmp_path, channels=1).read()["train"][0].names  # type: ignore[union-attr]
    assert names.tolist() == [b"0/0.png", b"1/1.png"]
