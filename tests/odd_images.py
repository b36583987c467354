"""Image files that are read wrongly by whoever takes their numbers as they stand."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

PHOTO: NDArray[np.uint8] = load_sample_image("flower.jpg")[100:340, 200:500]
GREY: NDArray[np.uint8] = np.asarray(Image.fromarray(PHOTO).convert("L"))
BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANES, PALETTE, EXTRA, FORMAT = 258, 259, 262, 277, 284, 320, 338, 339


def tiff(shape: Sequence[int], strips: Sequence[bytes], tags: Mapping[int, Sequence[int]], order: str = "<") -> bytes:
    """A TIFF of H rows and W columns, whose pixels are in as many strips as there are bytes given."""
    numbers = {256: [shape[1]], 257: [shape[0]], COMPRESSION: [1], SAMPLES: [1], 278: [shape[0]]}
    rest = {273: [0] * len(strips), 279: [len(strip) for strip in strips]}
    entries: dict[int, Sequence[int]] = numbers | dict(tags) | rest
    end = 14 + 12 * len(entries)
    long = [values for _, values in sorted(entries.items()) if len(values) > 1]
    places = np.cumsum([end, *(4 * len(values) for values in long), *map(len, strips)]).tolist()
    entries[273] = places[len(long) : -1]
    directory, behind = b"", b""
    for tag, values in sorted(entries.items()):
        content = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            content, behind = struct.pack(f"{order}I", end + len(behind)), behind + content
        directory += struct.pack(f"{order}HHI", tag, 4, len(values)) + content
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return start + directory + bytes(4) + behind + b"".join(strips)


def png(levels: NDArray[np.uint16], transparent: int | tuple[int, ...] | None = None) -> bytes:
    """A PNG of 16 bits, `[H, W]` or `[H, W, C]`, one of whose levels or colours may be transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = levels.shape[2] if levels.ndim == 3 else 1
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", levels.shape[1], levels.shape[0], 16, kind, 0, 0, 0))
    key = (transparent,) if isinstance(transparent, int) else transparent or ()
    if key:
        head += chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def write_odd_images(folder: Path) -> list[Path]:
    """Writes photographs in every unusual way that is understood."""
    folder.mkdir(parents=True)
    photo, wide = Image.fromarray(PHOTO), GREY.astype(np.uint16) * 257
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = Image.fromarray(wide) if mode == "I;16" else photo.convert(mode)
        if mode in ("LA", "RGBA"):
            image.putalpha(Image.fromarray(GREY))
        image.save(folder / f"{mode.replace(';', '')}.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("L").save(folder / "grey.jpg")
    photo.resize((1200, 960)).save(folder / "large, progressive.jpg", progressive=True)
    exif = Image.Exif()
    exif[274] = 6
    photo.save(folder / "turned.jpg", exif=exif)
    Image.fromarray(wide).save(folder / "turned, 16 bits.png", exif=exif)
    photo.resize((3, 2)).save(folder / "tiny.bmp")
    photo.resize((900, 9)).save(folder / "long.webp", lossless=True)
    frames = [photo.convert("P"), photo.convert("P").transpose(Image.Transpose.FLIP_TOP_BOTTOM)]
    frames[0].save(folder / "frames.gif", save_all=True, append_images=frames[1:], transparency=3)
    (folder / "key.png").write_bytes(png(wide, int(wide[0, 0])))
    (folder / "wide.pgm").write_bytes(b"P5 %d %d 65535\n" % wide.shape[::-1] + wide.astype(">u2").tobytes())
    (folder / "thousand.pgm").write_bytes(b"P5 %d %d 1000\n" % wide.shape[::-1] + (wide // 66).astype(">u2").tobytes())
    for name, levels, tags in (
        ("white is zero", 65535 - wide, {BITS: [16], PHOTOMETRIC: [0]}),
        ("signed", wide.astype(np.int32) - 32768, {BITS: [16], PHOTOMETRIC: [1], FORMAT: [2]}),
    ):
        (folder / f"{name}.tif").write_bytes(tiff(wide.shape, [levels.astype("<u2").tobytes()], tags))
    planes = [plane.tobytes() for plane in PHOTO.transpose(2, 0, 1)]
    tags = {BITS: [8] * 3, PHOTOMETRIC: [2], SAMPLES: [3], PLANES: [2]}
    (folder / "planes.tif").write_bytes(tiff(wide.shape, planes, tags))
    return sorted(folder.iterdir())
