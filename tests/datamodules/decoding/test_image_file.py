import errno
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from datamodules.decoding.image_file import TemporaryError, UnreadableImageError, is_image, pixels_of
from datamodules.decoding.pixel_format import EIGHT_BITS
from tests.odd_images import BITS, COMPRESSION, EXTRA, FORMAT, PALETTE, PHOTOMETRIC, PLANES, SAMPLES, png, tiff

read_image = EIGHT_BITS.read
PHOTO: NDArray[np.uint8] = load_sample_image("china.jpg")
HEIGHT, WIDTH = PHOTO.shape[:2]


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.tif", "a.PNG", "a.ppm"])
def test_gives_the_very_pixels_of_lossless_files(tmp_path: Path, name: str) -> None:
    Image.fromarray(PHOTO).save(tmp_path / name, lossless=True)  # which only WebP asks for
    assert np.array_equal(read_image(tmp_path / name, 3, (HEIGHT, WIDTH)), PHOTO.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_grey_or_colour(tmp_path: Path, mode: str, channels: int) -> None:
    file = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.fromarray(PHOTO).resize((40, 30)).convert(mode).save(file)
    pixels = read_image(file, channels, (30, 40)).astype(float)
    assert pixels.shape == (channels, 30, 40)
    grey = np.asarray(Image.fromarray(PHOTO).resize((40, 30)).convert("L"), float)
    assert np.corrcoef(pixels.mean(axis=0).ravel(), grey.ravel())[0, 1] > (0.6 if mode == "1" else 0.95)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / "a.png")
    for channels in (1, 3):
        pixels = read_image(tmp_path / "a.png", channels, (8, 8))
        assert np.array_equal(pixels[0], np.rint(levels / 257))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 4, 8))
    image.save(tmp_path / "a.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([255, 0, 0] * 256)
    palette.save(tmp_path / "b.gif", transparency=0)
    assert read_image(tmp_path / "a.png", 3, (8, 8))[:, 0, [0, 7]].T.tolist() == [[255, 0, 0], [255, 255, 255]]
    assert read_image(tmp_path / "b.gif", 3, (8, 8))[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright(tmp_path: Path, orientation: int) -> None:
    turn = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}[orientation]
    image = Image.fromarray(PHOTO).resize((80, 40))
    upright = np.asarray(image)
    for operation in turn:
        image = image.transpose(Image.Transpose(operation))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", 3, (40, 80)), upright.transpose(2, 0, 1))


def test_takes_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.unique(read_image(tmp_path / "a.gif", 1, (8, 8))).tolist() == [10]


def test_crop_keeps_the_shape_of_things_and_squash_keeps_all_of_them(tmp_path: Path) -> None:
    """A black and a white bar on the left and right edges of a wide picture."""
    image = np.full((40, 100), 128, np.uint8)
    image[:, :20], image[:, 80:] = 0, 255
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.unique(read_image(tmp_path / "a.png", 1, (20, 20), "crop")).tolist() == [128]
    squashed = read_image(tmp_path / "a.png", 1, (20, 20), "squash")[0]
    assert squashed[0, [1, 10, 18]].tolist() == [0, 128, 255]


@pytest.mark.parametrize("side", [48, 224])
def test_crops_every_shape(tmp_path: Path, side: int) -> None:
    for short in range(side + 1, side + 40):
        for size in ((short, short + 60), (short + 60, short)):
            Image.new("L", size).save(tmp_path / "a.bmp")
            assert read_image(tmp_path / "a.bmp", 1, (side, side)).shape == (1, side, side)


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (64, 96), (300, 200), (500, 900)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_of_any_size_gives_the_pixels_of_the_decoded_photograph(
    tmp_path: Path, size: tuple[int, int], channels: int
) -> None:
    Image.fromarray(PHOTO).resize((1601, 1067)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        decoded = Image.fromarray(np.asarray(image))
    found = read_image(tmp_path / "a.jpg", channels, size)
    assert np.array_equal(found, pixels_of(decoded, channels, size))
    grey = decoded.convert("L" if channels == 1 else "RGB")
    plain = np.asarray(grey.resize(size[::-1], Image.Resampling.BILINEAR)).reshape(*size, channels)
    assert np.array_equal(read_image(tmp_path / "a.jpg", channels, size, "squash"), plain.transpose(2, 0, 1))


def test_every_edge_of_a_picture_weighs_the_same(tmp_path: Path) -> None:
    image = np.full((257, 257, 3), 255, np.uint8)
    image[[0, -1]] = image[:, [0, -1]] = (255, 0, 0)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image).save(tmp_path / "a.jpg", quality=100, subsampling=0)
    for name in ("a.png", "a.jpg"):
        green = read_image(tmp_path / name, 3, (16, 16))[1].astype(int)
        assert np.abs(green - green[::-1]).max() <= 1
        assert np.abs(green - green[:, ::-1]).max() <= 1
        assert green[8, [0, -1]].tolist() == pytest.approx([245, 245], abs=2)


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def as_bytes(levels: NDArray[np.float64], dtype: str) -> bytes:
    """Shares of what the type holds, from its lowest number to its highest."""
    ends = np.iinfo(dtype)
    return np.rint(levels * (float(ends.max) - ends.min) + ends.min).astype(dtype).tobytes()


def packed(levels: NDArray[np.float64]) -> bytes:
    """Levels of 12 bits, two of them in three bytes."""
    text = "".join(f"{round(level * 4095):012b}" for level in levels.ravel())
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))


@pytest.mark.parametrize(
    ("content", "tags", "order"),
    [
        (as_bytes(RAMP, "u1"), {BITS: [8], PHOTOMETRIC: [1]}, "<"),
        (as_bytes(RAMP, "u1"), {BITS: [8], PHOTOMETRIC: [3], PALETTE: [257 * level for level in range(256)] * 3}, "<"),
        (as_bytes(RAMP.T, ">u2"), {BITS: [16], PHOTOMETRIC: [1], 274: [5]}, ">"),
        (as_bytes(1 - RAMP, "u1"), {BITS: [8], PHOTOMETRIC: [0]}, "<"),
        (as_bytes(RAMP, "i1"), {BITS: [8], PHOTOMETRIC: [1], FORMAT: [2]}, "<"),
        (as_bytes(RAMP, "i1"), {BITS: [8], PHOTOMETRIC: [1], FORMAT: [2]}, ">"),
        (zlib.compress(as_bytes(RAMP, "i1")), {BITS: [8], PHOTOMETRIC: [1], FORMAT: [2], COMPRESSION: [8]}, ">"),
        (packed(RAMP), {BITS: [12], PHOTOMETRIC: [1]}, "<"),
        (as_bytes(RAMP, "<u2"), {BITS: [16], PHOTOMETRIC: [1]}, "<"),
        (as_bytes(RAMP, ">u2"), {BITS: [16], PHOTOMETRIC: [1]}, ">"),
        (as_bytes(1 - RAMP, "<u2"), {BITS: [16], PHOTOMETRIC: [0]}, "<"),
        (zlib.compress(as_bytes(1 - RAMP, "<u2")), {BITS: [16], PHOTOMETRIC: [0], COMPRESSION: [8]}, "<"),
        (as_bytes(RAMP, "<i2"), {BITS: [16], PHOTOMETRIC: [1], FORMAT: [2]}, "<"),
        (as_bytes(RAMP, ">i2"), {BITS: [16], PHOTOMETRIC: [1], FORMAT: [2]}, ">"),
        (zlib.compress(as_bytes(RAMP, "<i2")), {BITS: [16], PHOTOMETRIC: [1], FORMAT: [2], COMPRESSION: [8]}, "<"),
    ],
    ids=[
        *(
            "8 bits",
            "palette",
            "turned",
            "8 bits, white is zero",
            "signed",
            "signed, big-endian",
            "signed, compressed",
            "12 bits",
        ),
        *("16 bits", "16 bits, big-endian", "16 bits, white is zero", "16 bits, white is zero, compressed"),
        *("16 bits, signed", "16 bits, signed, big-endian", "16 bits, signed, compressed"),
    ],
)
def test_levels_of_a_tiff_mean_what_its_tags_say(
    tmp_path: Path, content: bytes, tags: dict[int, list[int]], order: str
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff((8, 8), [content], tags, order))
    for channels in (1, 3):
        pixels = read_image(tmp_path / "a.tif", channels, (8, 8))
        assert np.abs(pixels - RAMP * 255).max() <= 0.6


@pytest.mark.parametrize("samples", [3, 4])
def test_channels_of_a_tiff_one_after_the_other(tmp_path: Path, samples: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, samples), np.uint8)
    tags = {BITS: [8] * samples, PHOTOMETRIC: [2], SAMPLES: [samples], PLANES: [2]} | (
        {EXTRA: [2]} if samples > 3 else {}
    )
    (tmp_path / "a.tif").write_bytes(tiff((8, 8), [plane.tobytes() for plane in colours.transpose(2, 0, 1)], tags))
    opaque = colours[..., 3:] / 255 if samples > 3 else 1.0
    expected = colours[..., :3] * opaque + 255 * (1 - opaque)
    assert np.abs(read_image(tmp_path / "a.tif", 3, (8, 8)).transpose(1, 2, 0) - expected).max() <= 1


@pytest.mark.parametrize(
    ("strips", "tags", "order", "reason"),
    [
        ([RAMP.astype("<f4").tobytes()], {BITS: [32], PHOTOMETRIC: [1], FORMAT: [3]}, "<", "its pixels have 32 bits"),
        ([as_bytes(RAMP, "<i4")], {BITS: [32], PHOTOMETRIC: [1], FORMAT: [2]}, "<", "its pixels have 32 bits"),
        ([as_bytes(RAMP, "<u4")], {BITS: [32], PHOTOMETRIC: [1]}, "<", "its pixels have 32 bits"),
        (
            [RAMP.astype("<f8").tobytes()],
            {BITS: [64], PHOTOMETRIC: [1], FORMAT: [3]},
            "<",
            "Pillow does not read",
        ),
        ([as_bytes(RAMP, "u1")], {BITS: [8], PHOTOMETRIC: [32803]}, "<", "Pillow does not read"),
        (
            [zlib.compress(as_bytes(RAMP, ">i2"))],
            {BITS: [16], PHOTOMETRIC: [1], FORMAT: [2], COMPRESSION: [8]},
            ">",
            "Pillow misreads",
        ),
        (
            [as_bytes(RAMP, "<u2")] * 3,
            {BITS: [16] * 3, PHOTOMETRIC: [2], SAMPLES: [3], PLANES: [2]},
            "<",
            "Pillow misreads",
        ),
        (
            [zlib.compress(as_bytes(RAMP, "u1"))] * 2,
            {BITS: [8] * 2, PHOTOMETRIC: [1], SAMPLES: [2], PLANES: [2], EXTRA: [2], COMPRESSION: [8]},
            "<",
            "Pillow misreads",
        ),
        ([as_bytes(RAMP, "u1")], {BITS: [8], PHOTOMETRIC: [0], PLANES: [2]}, "<", "Pillow misreads"),
        ([as_bytes(RAMP, "u1")], {BITS: [8], PHOTOMETRIC: [3], PALETTE: [*range(256)] * 3}, "<", "Pillow misreads"),
    ],
    ids=[
        *("float", "32 bits, signed", "32 bits", "64 bits", "colour filter", "16 bits, signed, big-endian, compressed"),
        *("planes of 16 bits", "planes with transparency", "planes, white is zero", "palette of 8 bits"),
    ],
)
def test_a_tiff_whose_numbers_are_not_understood_is_refused(
    tmp_path: Path, strips: list[bytes], tags: dict[int, list[int]], order: str, reason: str
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff((8, 8), strips, tags, order))
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(tmp_path / "a.tif", 1, (8, 8))


@pytest.mark.parametrize("highest", [1, 100, 255, 1000, 65535])
@pytest.mark.parametrize("plain", [True, False])
def test_levels_of_a_pgm_are_shares_of_its_highest(tmp_path: Path, highest: int, plain: bool) -> None:
    levels = np.rint(RAMP * highest).astype(int)
    head = f"{'P2' if plain else 'P5'} 8 8 {highest}\n".encode()
    numbers = " ".join(map(str, levels.ravel())).encode() if plain else levels.astype(">u2" if highest > 255 else "u1")
    (tmp_path / "a.pgm").write_bytes(head + bytes(numbers))
    assert np.abs(read_image(tmp_path / "a.pgm", 1, (8, 8))[0] - levels / highest * 255).max() <= 0.6


def test_a_transparent_level_of_sixteen_bits_is_laid_on_white(tmp_path: Path) -> None:
    levels = np.array([[0, 1000, 1001, 65535]], np.uint16)
    (tmp_path / "a.png").write_bytes(png(levels, transparent=1000))
    for channels in (1, 3):
        assert read_image(tmp_path / "a.png", channels, (1, 4))[0].tolist() == [[0, 255, 4, 255]]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jpg", b"", "the file is empty"),
        ("a.jpg", b"not a photograph", "it is no image"),
        ("a.png", None, "truncated"),
        ("a.jpg", None, "truncated"),
    ],
)
def test_says_why_a_file_gives_no_image(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    file = tmp_path / name
    if content is None:
        Image.fromarray(PHOTO).save(file)
        content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(file, 3, (32, 32))


def test_says_what_cannot_be_scaled_or_is_not_there(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImageError, match="32 bits"):
        read_image(tmp_path / "a.tif", 1, (8, 8))
    with pytest.raises(UnreadableImageError, match="not there"):
        read_image(tmp_path / "b.png", 1, (8, 8))


@pytest.mark.slow
def test_a_picture_of_one_pixel_and_one_of_more_than_memory(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 3, (4, 4))[:, 3, 3].tolist() == [1, 2, 3]
    Image.new("1", (20_000, 20_000)).save(tmp_path / "b.png")
    with pytest.raises(UnreadableImageError, match="pixels"):
        read_image(tmp_path / "b.png", 3, (4, 4))


def test_an_opened_image_gives_what_its_file_gives_and_keeps_its_size(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        Image.fromarray(PHOTO).save(tmp_path / name)
        expected = read_image(tmp_path / name, 3, (32, 32))
        with Image.open(tmp_path / name) as opened:
            assert np.array_equal(pixels_of(opened, 3, (32, 32)), expected)
            assert opened.size == (WIDTH, HEIGHT)
            assert np.asarray(opened).shape == PHOTO.shape
    assert np.array_equal(pixels_of(Image.fromarray(PHOTO), 3, (32, 32)), expected)
    with pytest.raises(ValueError, match="32 bits"):
        pixels_of(Image.fromarray(np.zeros((8, 8), np.float32)), 1, (8, 8))


def test_does_not_wait_at_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match="no file but a pipe"):
        read_image(tmp_path / "a.jpg", 1, (8, 8))


def test_knows_images_by_their_names_or_else_by_their_content(tmp_path: Path) -> None:
    for name, format_ in (("no_suffix", "PNG"), ("wrong.txt", "JPEG"), ("odd.bak", "AVIF"), ("a.b.c", "TIFF")):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format_)
        assert is_image(str(tmp_path / name))
        assert read_image(tmp_path / name, 3, (8, 8)).shape == (3, 8, 8)
    assert all(map(is_image, ("cat.0.JPEG", "not there.avif", "a.heic")))
    for name, content in (
        ("notes.txt", b"P5 is a text"),
        ("BM", b"BM"),
        ("empty", b""),
        ("data.h5", b"\x89HDF\r\n\x1a\n"),
    ):
        (tmp_path / name).write_bytes(content)
        assert not is_image(str(tmp_path / name))
    os.mkfifo(tmp_path / "pipe")
    assert not any(map(is_image, (str(tmp_path / "pipe"), str(tmp_path), "not there")))


def test_says_how_to_make_a_photograph_of_a_telephone_readable(tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(UnreadableImageError, match=r"it is HEIC, .* Pillow does not read; save it as JPEG"):
        read_image(tmp_path / "photo.heic", 3, (8, 8))


@pytest.mark.parametrize(
    ("error", "temporary"),
    [
        *((PermissionError(errno.EACCES, "Permission denied"), True), (OSError(errno.EIO, "Input/output error"), True)),
        *((OSError(errno.EMFILE, "Too many open files"), True), (OSError(errno.ESTALE, "Stale file handle"), True)),
        *((MemoryError(), True), (OSError("out of memory error when reading image file"), True)),
        *((FileNotFoundError(errno.ENOENT, "No such file"), False), (OSError(errno.EINVAL, "Invalid argument"), False)),
        *((OSError("image file is truncated"), False), (SyntaxError("broken PNG file"), False)),
    ],
)
def test_tells_a_failure_that_may_pass_from_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, temporary: bool
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnreadableImageError) as raised:
        read_image(tmp_path / "a.png", 1, (8, 8))
    assert isinstance(raised.value, TemporaryError) == temporary


def test_a_file_whose_reading_breaks_off_is_no_damaged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.tif")

    def fail(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(TemporaryError, match="Input/output error"):
        read_image(tmp_path / "a.tif", 1, (8, 8))
