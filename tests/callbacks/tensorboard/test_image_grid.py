import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.tensorboard.image_grid import (
    BACKGROUND,
    FONT_SIZE,
    GAP,
    LINE_HEIGHT,
    TILE,
    as_rgb,
    coloured,
    filters_picture,
    image_grid,
    label_captions,
)
from datamodules.mixing import MixUp


def tile_of(grid: Image.Image, row: int, column: int, size: int, lines: int = 1) -> NDArray[np.uint8]:
    top = GAP + row * (size + lines * LINE_HEIGHT + GAP)
    left = GAP + column * (max(size, TILE) + GAP)
    return np.asarray(grid)[top : top + size, left : left + size]


@pytest.fixture
def photographs() -> Tensor:
    return torch.randint(256, (10, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("side", "tile"), [(1, 96), (8, 96), (28, 112), (64, 128), (96, 96), (224, 112), (256, 128)])
def test_tiles_are_neither_tiny_nor_huge(side: int, tile: int) -> None:
    grid = image_grid(torch.zeros(2, 1, side, side), ["", ""])
    assert grid.size == (2 * (tile + GAP) + GAP, tile + LINE_HEIGHT + 2 * GAP)


def test_each_pixel_is_there(photographs: Tensor) -> None:
    grid = image_grid(photographs, ["x"] * 10)
    for number, photograph in enumerate(photographs):
        tile = tile_of(grid, *divmod(number, 8), size=112)
        assert np.array_equal(tile, np.kron(photograph.permute(1, 2, 0).numpy(), np.ones((4, 4, 1), np.uint8)))


def test_levels_and_fractions_are_the_same_picture(photographs: Tensor) -> None:
    fractions = photographs.float() / 255
    assert image_grid(fractions, ["x"] * 10) == image_grid(photographs, ["x"] * 10)
    assert image_grid(fractions.to(memory_format=torch.channels_last), ["x"] * 10) == image_grid(fractions, ["x"] * 10)


def test_squares_of_pixels_are_averaged() -> None:
    fine = torch.arange(192).remainder(2).mul(200).byte().expand(1, 1, 192, 192)
    assert (tile_of(image_grid(fine, ["x"]), 0, 0, 96) == 100).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_are_grey_or_colour(channels: int) -> None:
    values = torch.tensor([10, 20, 30, 40][:channels], dtype=torch.uint8)
    tile = tile_of(image_grid(values.view(1, -1, 1, 1).expand(1, -1, 8, 8), ["x"]), 0, 0, 96)
    assert (tile == ([10, 20, 30] if channels >= 3 else [10, 10, 10])).all()


@pytest.mark.parametrize("name", ["x" * 500, "猫と犬", "قطة", "🐱", "caf\udce9", "tab\tand\r", "", " ", "Αλεπού " * 20])
def test_any_name_stays_below_its_own_tile(name: str) -> None:
    grid = np.asarray(image_grid(torch.ones(2, 1, 8, 8), ["", name], columns=1))
    assert (grid[:, GAP + TILE + 1 :] == BACKGROUND).all()
    below = grid[-GAP - LINE_HEIGHT : -GAP]
    assert (below != BACKGROUND).any() == bool(name.strip())


def test_a_long_line_keeps_its_end(photographs: Tensor) -> None:
    one, other, same = (
        np.asarray(image_grid(photographs[:1], [f"a very very very long name {end}"]))[-GAP - LINE_HEIGHT :]
        for end in ("0.70", "0.30", "0.70")
    )
    assert (one == same).all()
    assert (one != other).any()


def test_lines_lie_below_each_other(photographs: Tensor) -> None:
    grid = image_grid(photographs, ["one"] * 9 + ["one\ntwo"])
    assert grid.height == 2 * (112 + 2 * LINE_HEIGHT + GAP) + GAP
    assert LINE_HEIGHT > FONT_SIZE
    assert (tile_of(grid, 1, 0, 112, lines=2)[::4, ::4] == photographs[8].permute(1, 2, 0).numpy()).all()


def test_refuses_what_is_no_grid(photographs: Tensor) -> None:
    for count in (9, 11):
        with pytest.raises(ValueError, match="zip"):
            image_grid(photographs, ["x"] * count)


def test_sixteen_bits_are_spread_between_the_ends_of_each_image() -> None:
    levels = torch.tensor([[100, 200, 300], [7, 7, 7]], dtype=torch.int32).to(torch.uint16).view(2, 1, 1, 3)
    assert as_rgb(levels)[:, 0, 0].tolist() == [[0, 128, 255], [0, 0, 0]]


def test_colours_begin_and_end_where_told() -> None:
    maps = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    colours = coloured(maps, torch.tensor(1.0), torch.tensor(2.0), "gray")
    assert colours[0, 0, 0].tolist() == [0, 0, 255, 255]
    assert torch.equal(colours[:, 0], colours[:, 2])


def test_filters_of_three_channels_are_colours_and_grey_is_zero() -> None:
    weight = torch.zeros(2, 3, 5, 5)
    weight[0, 0] = 1.0
    pixels = np.asarray(filters_picture(weight, 64))
    assert pixels[20, 20].tolist() == [255, 128, 128]
    assert pixels[20, 130].tolist() == [128, 128, 128]


def test_filters_of_other_channels_are_a_row_for_each() -> None:
    picture = filters_picture(torch.randn(6, 10, 5, 5), 20)
    assert picture.width == filters_picture(torch.randn(6, 10, 5, 5), 10).width
    assert picture.height > filters_picture(torch.randn(6, 10, 5, 5), 10).height
    assert filters_picture(torch.zeros(4, 2, 3), 64).mode == "RGB"


def test_captions_name_classes_and_the_parts_of_mixed_images() -> None:
    names = ["cat", "dog", "猫"]
    assert label_captions(torch.tensor([2, 0]), names) == ["猫", "cat"]
    parts = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.999, 0.001], [0.0, 0.5, 0.5]])
    assert [caption.replace("\n", " ") for caption in label_captions(parts, names)][:2] == [
        "cat 0.70 dog 0.30",
        "dog 1.00",
    ]
    _, labels = MixUp(alpha=1.0)(torch.zeros(64, 1, 1, 1), torch.eye(3)[torch.arange(64) % 3])
    for caption, weights in zip(label_captions(labels, names), labels, strict=True):
        lines = (line.partition(" ") for line in caption.split("\n"))
        said = {name: float(weight) for name, _, weight in lines}
        assert [said.get(name, 0.0) for name in names] == pytest.approx(weights.tolist(), abs=0.0051)
