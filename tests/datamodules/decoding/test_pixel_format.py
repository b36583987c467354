from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.user_error import UserError
from datamodules.decoding.image_file import Resize, UnreadableImageError
from datamodules.decoding.image_files import ImageFiles, decide_pixel_format, listed
from datamodules.decoding.pixel_format import AS_THE_FIRST, EIGHT_BITS, PixelFormat
from tests.odd_images import png

DEEP = PixelFormat(16)
RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


def save(folder: Path, **arrays: NDArray[Any]) -> ImageFiles:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    names = [(f"{name}.npy", 0) for name in arrays]
    return listed(folder, {"train": names}, (3, 8, 8))["train"][0]


def test_levels_are_those_that_were_stored(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert np.array_equal(DEEP.read(tmp_path / "a.png", 1, (8, 8))[0], RAMP)
    assert np.array_equal(EIGHT_BITS.read(tmp_path / "a.png", 1, (8, 8))[0], np.rint(RAMP / 257))
    np.save(tmp_path / "a.npy", RAMP)
    for deep in (DEEP, PixelFormat(16, stored_bits=16)):
        assert np.array_equal(deep.read(tmp_path / "a.npy", 3, (8, 8)), np.stack([RAMP] * 3))


def test_files_of_other_bits_are_brought_to_those_asked_for_or_refused(tmp_path: Path) -> None:
    levels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert np.array_equal(DEEP.read(tmp_path / "a.png", 1, (8, 8))[0], levels.astype(np.uint16) * 257)
    np.save(tmp_path / "b.npy", levels.astype(np.uint16) * 257)
    assert np.array_equal(EIGHT_BITS.read(tmp_path / "b.npy", 1, (8, 8))[0], levels)
    with pytest.raises(UnreadableImageError, match="it has 8 bits a channel, where 16 are read"):
        PixelFormat(16, stored_bits=16).read(tmp_path / "a.png", 1, (8, 8))
    with pytest.raises(UnreadableImageError, match="it has 16 bits a channel, where 8 are read"):
        AS_THE_FIRST.read(tmp_path / "b.npy", 1, (8, 8))


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_in_sixteen_bits_turn_into_each_other_as_in_eight(tmp_path: Path, channels: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    found = DEEP.read(tmp_path / "a.png", channels, (8, 8))
    assert np.abs(found / 257 - EIGHT_BITS.read(tmp_path / "a.png", channels, (8, 8))).max() <= 0.51


def test_resizing_is_that_of_eight_bits_in_finer_steps(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.stack([levels] * 5))
    resizes: tuple[Resize, ...] = ("crop", "squash")
    for resize in resizes:
        expected = EIGHT_BITS.read(tmp_path / "a.png", 1, (16, 24), resize)
        deep = DEEP.read(tmp_path / "a.png", 1, (16, 24), resize)
        assert np.abs(deep / 257 - expected).max() <= 1
        assert np.array_equal(EIGHT_BITS.read(tmp_path / "b.npy", 5, (16, 24), resize)[3:4], expected)


def test_planes_are_numbered_from_one_and_taken_in_order(tmp_path: Path) -> None:
    planes = np.arange(4 * 64, dtype=np.uint16).reshape(4, 8, 8)
    np.save(tmp_path / "a.npy", planes.transpose(1, 2, 0))
    assert np.array_equal(PixelFormat(16, (3, 1)).read(tmp_path / "a.npy", 2, (8, 8)), planes[[2, 0]])
    assert np.array_equal(DEEP.read(tmp_path / "a.npy", 4, (8, 8)), planes)
    with pytest.raises(UnreadableImageError, match="it has 4 channels, where \\[5\\] are read"):
        PixelFormat(16, (5,)).read(tmp_path / "a.npy", 1, (8, 8))
    with pytest.raises(UnreadableImageError, match="it has 4 channels, where 5 are read"):
        DEEP.read(tmp_path / "a.npy", 5, (8, 8))


def test_values_are_spread_over_the_range_and_held_at_its_ends(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[-2.0, -1.0, 0.0, 1.0, 7.0]], np.float32))
    ranged = PixelFormat(16, value_range=(-1, 1))
    assert ranged.read(tmp_path / "a.npy", 1, (1, 5)).ravel().tolist() == [0, 0, 32768, 65535, 65535]
    with pytest.raises(UnreadableImageError, match=r"scale only --data\.value_range tells"):
        DEEP.read(tmp_path / "a.npy", 1, (1, 5))
    np.save(tmp_path / "a.npy", np.array([[0, np.nan]], np.float32))
    with pytest.raises(UnreadableImageError, match="no numbers"):
        ranged.read(tmp_path / "a.npy", 1, (1, 2))


def test_signed_numbers_need_a_range_and_bytes_have_any_order(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[-32768, 0, 32767]], np.int16))
    signed = PixelFormat(16, value_range=(-32768, 32767))
    assert signed.read(tmp_path / "a.npy", 1, (1, 3)).ravel().tolist() == [0, 32768, 65535]
    with pytest.raises(UnreadableImageError, match="its numbers are int16, whose scale only"):
        DEEP.read(tmp_path / "a.npy", 1, (1, 3))
    np.save(tmp_path / "a.npy", np.array([[1, 256]], ">u2"))
    assert DEEP.read(tmp_path / "a.npy", 1, (1, 2)).ravel().tolist() == [1, 256]
    np.save(tmp_path / "a.npy", np.ones((2, 2), np.complex64))
    with pytest.raises(UnreadableImageError, match=r"complex64, whose scale .* save uint8"):
        EIGHT_BITS.read(tmp_path / "a.npy", 1, (2, 2))


def test_facts_say_what_is_not_eight_bits_and_are_read_again() -> None:
    for pixels in (DEEP, PixelFormat(16, (3, 1), (0.0, 1.5), 16, 4), EIGHT_BITS):
        assert PixelFormat.of(pixels.facts) == pixels
    assert EIGHT_BITS.facts == {}
    assert PixelFormat(8, stored_bits=8).facts == {}, "a network of 8 bits takes files of 16, as ever"


def test_the_first_file_that_can_be_read_settles_what_was_left_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = save(tmp_path, a=RAMP, b=RAMP)
    (tmp_path / "a.npy").write_text("broken")
    assert decide_pixel_format(images) == PixelFormat(16, stored_bits=16)
    assert capsys.readouterr().out == f"{tmp_path}/b.npy has 8x8 pixels, channels: 1, uint16, read as uint16\n"
    assert decide_pixel_format(save(tmp_path, a=RAMP.astype(np.uint8))) == PixelFormat(8, stored_bits=8)
    assert capsys.readouterr().out == ""


def test_a_bounded_number_of_files_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    def refuse(pixels: PixelFormat, path: Path, channels: int) -> None:
        looked_at.append(path.name)
        raise UnreadableImageError("broken")

    monkeypatch.setattr(PixelFormat, "numbers", refuse)
    for count in (0, 1, 150, 1234):
        images = listed(tmp_path, {"train": [(f"{number}.png", 0) for number in range(count)]}, (3, 8, 8))["train"][0]
        looked_at.clear()
        assert decide_pixel_format(images) == PixelFormat(8, stored_bits=8), "files of 16 bits are refused, not cut"
        assert looked_at[:1] == ["0.png"][:count]
        assert min(count, 75) <= len(looked_at) <= 100


def test_floats_without_a_range_are_refused_with_their_ends(tmp_path: Path) -> None:
    images = save(tmp_path, a=np.full((8, 8), 0.25, np.float32), b=np.full((8, 8), -1.5, np.float32))
    with pytest.raises(
        UserError, match=r"a\.npy holds numbers of type float32; some images have -1\.5 to 0\.25; give .*value_range"
    ):
        decide_pixel_format(images)


def test_channels_that_the_first_file_lacks_are_refused(tmp_path: Path) -> None:
    images = save(tmp_path, a=np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"a\.npy cannot be read as asked: it has 4 channels, where 3 are read; give"):
        decide_pixel_format(images)


def test_colours_of_sixteen_bits_in_a_png_are_cut_only_if_that_is_asked_for(tmp_path: Path) -> None:
    colours = np.array([[[0, 40000, 65535], [1, 2, 3]]], np.uint16)
    (tmp_path / "a.png").write_bytes(png(colours))
    assert EIGHT_BITS.read(tmp_path / "a.png", 3, (1, 2))[:, 0].T.tolist() == [[0, 40000 >> 8, 255], [0, 0, 0]]
    with pytest.raises(UnreadableImageError, match=r"it has 16 bits in colour, .*; save it as TIFF"):
        DEEP.read(tmp_path / "a.png", 3, (1, 2))
    with pytest.raises(UnreadableImageError, match="it has 16 bits a channel, where 8 are read"):
        AS_THE_FIRST.read(tmp_path / "a.png", 3, (1, 2))
