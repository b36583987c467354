import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.user_error import UserError
from datamodules.decoding.image_file import UnreadableImageError
from datamodules.decoding.stored_numbers import channels_first, stored_numbers
from tests.odd_images import png

PLANES = np.random.default_rng(0).integers(0, 65536, (5, 8, 6)).astype(np.uint16)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_objects_in_an_array_are_not_unpickled(tmp_path: Path) -> None:
    trap = np.empty((2, 2), object)
    trap[:] = Trap(tmp_path / "sprung")
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": (2, 2)})
        pickle.dump(trap, file)
    with pytest.raises(UnreadableImageError, match=r"[Oo]bject"):
        stored_numbers(tmp_path / "a.npy", 1, is_shown=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(trap))
    with pytest.raises(UnreadableImageError, match="it is no image"):
        stored_numbers(tmp_path / "b.npy", 1, is_shown=True)
    assert not (tmp_path / "sprung").exists()


def test_an_array_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PLANES)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-10])
    with pytest.raises(UnreadableImageError, match="array data"):
        stored_numbers(tmp_path / "a.npy", 5, is_shown=False)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 8, 8), (4, 4, 4), (8, 4, 8), (0, 8, 8)])
def test_an_array_that_does_not_tell_its_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"does not tell its channels; save it as \[C, H, W\]"):
        channels_first(np.zeros(shape), (3,))


def test_what_is_stored_is_given_as_it_is(tmp_path: Path) -> None:
    levels = PLANES[0]
    Image.fromarray(levels).save(tmp_path / "grey.png")
    assert np.array_equal(stored_numbers(tmp_path / "grey.png", 1, is_shown=False), levels[None])
    four = (PLANES[:4] >> 8).astype(np.uint8)
    for mode in ("RGBA", "CMYK"):
        name = tmp_path / ("a.png" if mode == "RGBA" else "a.tif")
        Image.merge(mode, list(map(Image.fromarray, four))).save(name)
    assert np.array_equal(stored_numbers(tmp_path / "a.png", 4, is_shown=False), four)


def test_sixteen_bits_in_colour_that_pillow_would_cut_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 6 8 65535\n" + PLANES[:3].transpose(1, 2, 0).astype(">u2").tobytes())
    (tmp_path / "b.png").write_bytes(png(PLANES[:4].transpose(1, 2, 0)))
    (tmp_path / "c.png").write_bytes(png(PLANES[:2].transpose(1, 2, 0)))
    for name in ("a.ppm", "b.png", "c.png"):
        with pytest.raises(UnreadableImageError, match="Pillow cuts to 8; save it as TIFF"):
            stored_numbers(tmp_path / name, 3, is_shown=True)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_channels_and_pages_of_a_tiff(tmp_path: Path, compression: str | None) -> None:
    tifffile = pytest.importorskip("tifffile")
    file, kind = tmp_path / "a.tif", {"photometric": "minisblack", "compression": compression}
    for planes in (PLANES, PLANES.astype(np.float32), PLANES.astype(np.float64), (PLANES >> 8).astype(np.uint8)):
        for written in (
            {"data": planes},  # a page each
            {"data": planes.transpose(1, 2, 0), "planarconfig": "contig", "extrasamples": [0] * 4},
            {"data": planes, "planarconfig": "separate", "extrasamples": [0] * 4},
        ):
            tifffile.imwrite(file, **written, **kind)
            found = stored_numbers(file, 5, is_shown=False)
            assert found.dtype == planes.dtype
            assert np.array_equal(found, planes)
    tifffile.imwrite(file, PLANES[:3].transpose(1, 2, 0), photometric="rgb", compression=compression)
    assert np.array_equal(stored_numbers(file, 3, is_shown=True), PLANES[:3])
    tifffile.imwrite(file, PLANES[0].astype(np.float32), compression=compression)
    assert np.array_equal(stored_numbers(file, 1, is_shown=True), PLANES[:1].astype(np.float32))


def test_a_tiff_of_more_than_channels_is_refused(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", PLANES.reshape(5, 2, 4, 6), imagej=True)
    with pytest.raises(UnreadableImageError, match=r"a TIFF of shape .* save one with channels alone"):
        stored_numbers(tmp_path / "a.tif", 5, is_shown=False)
    tifffile.imwrite(tmp_path / "b.tif", PLANES[0], extratags=[(274, 3, 1, 6, False)])
    with pytest.raises(UnreadableImageError, match="stored turned; save it upright"):
        stored_numbers(tmp_path / "b.tif", 2, is_shown=False)


def test_names_the_extra_that_a_file_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    page = Image.fromarray(np.zeros((8, 6), np.uint16))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(UserError, match=r"tifffile, which is not installed; run pip install -e '\.\[tiff\]'"):
        stored_numbers(tmp_path / "a.tif", 2, is_shown=False)
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(UserError, match=r"pydicom, which is not installed; run pip install -e '\.\[dicom\]'"):
        stored_numbers(tmp_path / "a.dcm", 1, is_shown=True)
