import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_image

from core.user_error import UserError
from datamodules.decoding.image_files import ImageFiles, listed
from scripts.data_quality.duplicates import (
    Fingerprints,
    Pair,
    concatenate,
    exact_pairs,
    fingerprint,
    fingerprint_all,
    near_pairs,
)


def photo(row: int = 0, column: int = 0) -> Image.Image:
    """A part of a photograph."""
    pixels = load_sample_image("china.jpg")
    return Image.fromarray(pixels[row : row + 200, column : column + 300])


def files(folder: Path, *images: Image.Image) -> ImageFiles:
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    names = [(f"{number}.png", 0) for number in range(len(images))]
    return listed(folder, {"train": names}, (3, 32, 32))["train"][0]


def prints(folder: Path, *images: Image.Image) -> Fingerprints:
    return concatenate(list(fingerprint_all(files(folder, *images))))


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def test_saved_anew_is_near_and_other_pictures_are_not(tmp_path: Path) -> None:
    variants = (
        photo(),
        saved(photo(), 40),
        ImageEnhance.Brightness(photo()).enhance(1.1),
        photo().resize((64, 64)),
        photo(200, 0),
        photo(200, 300),
        photo(0, 300),
    )
    found = near_pairs(prints(tmp_path, *variants), np.arange(len(variants)))
    assert {pair[:2] for pair in found} == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}
    assert all(one.likeness >= other.likeness for one, other in pairwise(found))
    assert all(pair.hash_distance <= 10 and not pair.exact for pair in found)


def test_every_pair_of_places_is_compared_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = prints(tmp_path, *(photo(row, column) for row in (0, 200) for column in (0, 300)), saved(photo(), 60))
    whole = near_pairs(looked, np.arange(5))
    monkeypatch.setattr("scripts.data_quality.duplicates.BLOCK_PAIRS", 1)
    monkeypatch.setattr("scripts.data_quality.duplicates.CHUNK_PAIRS", 1)
    parts = near_pairs(looked, np.arange(5))
    assert whole == parts
    assert [pair[:2] for pair in whole] == [(0, 4)]
    assert near_pairs(looked, np.arange(4)) == near_pairs(looked, np.arange(0)) == []


def test_copies_are_paired_with_the_first_that_counts(tmp_path: Path) -> None:
    looked = prints(tmp_path, photo(), photo(200, 0), photo(), photo())
    pairs, places = exact_pairs(looked, np.array([3, 0, 1, 2]))
    assert pairs == [Pair(3, 0, exact=True), Pair(3, 2, exact=True)]
    assert places.tolist() == [3, 1]
    assert exact_pairs(looked, np.arange(0))[0] == []


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match=r"run pip install -e '\.\[data-quality\]'"):
        fingerprint(photo())


def test_flat_and_tiny_images_are_near_nothing(tmp_path: Path) -> None:
    flat = [Image.new("RGB", (64, 64), (level,) * 3) for level in (250, 251, 252)]
    tiny = [photo().resize((8, 8)), saved(photo().resize((8, 8)), 90)]
    assert near_pairs(prints(tmp_path, *flat, *tiny), np.arange(5)) == []


def test_what_is_alike_by_nature_must_be_nearer(tmp_path: Path) -> None:
    small = photo().resize((28, 28))
    looked = prints(tmp_path, small, saved(small, 10), saved(small, 98))
    found = near_pairs(looked, np.arange(3))
    assert [pair[:2] for pair in found] == [(0, 2)]
    left, right = (fingerprint(image)[1].astype(float) for image in (small, saved(small, 10)))
    likeness = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
    assert 0.85 < likeness < 0.99, "near enough for a larger image"


def test_digest_is_of_what_a_viewer_shows(tmp_path: Path) -> None:
    grey = photo().convert("L")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    grey.save(tmp_path / "turned.png", exif=exif)
    upright = grey.transpose(Image.Transpose.ROTATE_270)
    images = files(tmp_path, grey, grey.convert("RGB"), upright, photo())
    images = listed(tmp_path, {"train": [(f"{n}.png", 0) for n in range(4)] + [("turned.png", 0)]}, (3, 8, 8))["train"][
        0
    ]
    looked = concatenate(list(fingerprint_all(images)))
    assert looked.digests[0] == looked.digests[1]
    assert looked.digests[2] == looked.digests[4]
    assert len(set(looked.digests.tolist())) == 3
    assert looked.modes.tolist() == ["L", "RGB", "L", "RGB", "L"]
    assert looked.sizes[[0, 4]].tolist() == [[300, 200], [300, 200]]


def test_arrays_and_files_are_looked_at_alike(tmp_path: Path) -> None:
    pixels = np.asarray(photo().resize((64, 64)))
    array = concatenate(list(fingerprint_all(pixels.transpose(2, 0, 1)[None])))
    file = prints(tmp_path, Image.fromarray(pixels))
    assert array.hashes == file.hashes
    assert array.sizes.tolist() == file.sizes.tolist() == [[64, 64]]
    assert array.modes.tolist() == file.modes.tolist() == ["RGB"]
    many = np.zeros((2, 5, 8, 8), np.uint8)
    many[1, 4] = 1
    digests = concatenate(list(fingerprint_all(many))).digests
    assert digests[0] != digests[1], "channels that are not shown count too"


def test_errors_keep_their_places(tmp_path: Path) -> None:
    images = files(tmp_path, *[photo().resize((16, 16))] * 70)
    for number in (3, 66):
        (tmp_path / f"{number}.png").write_bytes(b"")
    looked = concatenate(list(fingerprint_all(images)))
    reasons = {place: reason for place, reason in enumerate(looked.errors) if reason}
    assert reasons == {3: "the file is empty", 66: "the file is empty"}
    assert len(looked.modes) == len(looked.hashes) == 70
