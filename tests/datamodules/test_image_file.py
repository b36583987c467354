import builtins
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from datamodules.image_file import TemporaryError, UnreadableImageError, image_pixels, is_image, read_image

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


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (300, 200), (500, 900)])
def test_a_large_jpeg_decoded_at_a_smaller_scale_looks_the_same(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.fromarray(PHOTO).resize((1600, 1068)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        image.load()
        whole = image.convert("RGB")
    whole.save(tmp_path / "a.png")
    quick, exact = (read_image(tmp_path / name, 3, size).astype(float) for name in ("a.jpg", "a.png"))
    assert np.abs(quick - exact).mean() < 2


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
            assert np.array_equal(image_pixels(opened, 3, (32, 32)), expected)
            assert opened.size == (WIDTH, HEIGHT)
            assert np.asarray(opened).shape == PHOTO.shape
    assert np.array_equal(image_pixels(Image.fromarray(PHOTO), 3, (32, 32)), expected)
    with pytest.raises(UnreadableImageError, match="32 bits"):
        image_pixels(Image.fromarray(np.zeros((8, 8), np.float32)), 1, (8, 8))


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
    for name in ("photo.heic", "photo"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        assert is_image(str(tmp_path / name))
        with pytest.raises(UnreadableImageError, match=r"it is HEIC or AVIF, .* cannot decode; convert it to JPEG"):
            read_image(tmp_path / name, 3, (8, 8))


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


def test_a_decoder_that_hides_that_the_disk_failed_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.tif")

    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(builtins, "open", no_more_files)
        raise OSError("decoding error when reading image file")

    def no_more_files(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(TemporaryError):
        read_image(tmp_path / "a.tif", 1, (8, 8))
