import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.decoding.image_files import listed
from datamodules.decoding.pixel_format import PixelFormat
from datamodules.packing import pack_writer
from datamodules.packing.checked_arrays import HEADER_BYTES
from datamodules.packing.pack import Pack, Source
from datamodules.packing.pack_writer import write_pack
from tests.discovery import ROOT

NAMES = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def source() -> Source:
    """Real scans in three colours, so that channels can be told apart, in two splits."""
    digits = load_digits()
    images = (digits.images[:, None] * np.array([15, 10, 5])[:, None, None]).astype(np.uint8)
    return {"train": (images[:1500], digits.target[:1500]), "test": (images[1500:], digits.target[1500:])}


def test_gives_back_what_was_read(tmp_path: Path, source: Source) -> None:
    write_pack(tmp_path / "pack", source, NAMES)
    pack = Pack(tmp_path / "pack")
    assert len(pack) == 1797
    assert pack.splits == {"train": range(1500), "test": range(1500, 1797)}
    indices = torch.tensor([1796, 3, 3, 1500])
    images, labels = pack[indices]
    everything = np.concatenate([np.asarray(rows[0]) for rows in source.values()])
    answers = np.concatenate([rows[1] for rows in source.values()])
    assert np.array_equal(images.numpy(), everything[indices])
    assert labels.tolist() == answers[indices].tolist()
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64


def test_knows_its_images_wherever_they_are_packed(tmp_path: Path, source: Source) -> None:
    images, labels, rest = *source["train"][:2], {"test": source["test"]}
    assert isinstance(images, np.ndarray)
    changed = images.copy()
    changed[7, 0, 0, 0] ^= 1
    packs = []
    for name, first in (("a", images), ("b", images), ("c", changed)):
        write_pack(tmp_path / name, {"train": (first, labels), **rest}, NAMES)
        packs.append(Pack(tmp_path / name))
    one, same, other = packs
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert np.array_equal(one.identities, one.contents)
    assert np.flatnonzero(one.contents != other.contents).tolist() == [7]


def test_mean_and_std_are_those_of_all_pixels(tmp_path: Path, source: Source) -> None:
    write_pack(tmp_path / "pack", source, NAMES)
    indices = torch.arange(0, 1500, 7)
    mean, std = Pack(tmp_path / "pack").mean_and_std(indices)
    pixels = np.asarray(source["train"][0])[indices] / 255
    assert mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-12)
    assert std == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-12)


def test_writing_to_a_batch_leaves_the_file_alone(tmp_path: Path, source: Source) -> None:
    write_pack(tmp_path / "pack", source, NAMES)
    pack = Pack(tmp_path / "pack")
    everything = torch.arange(1797)
    before = pack[everything][0]
    pack[torch.arange(4)][0].zero_()
    assert torch.equal(Pack(tmp_path / "pack")[everything][0], before)


def test_travels_to_a_worker_as_a_path(tmp_path: Path, source: Source) -> None:
    write_pack(tmp_path / "pack", source, NAMES)
    sent = pickle.dumps(Pack(tmp_path / "pack"))
    assert len(sent) < 1000
    assert len(pickle.loads(sent)) == 1797


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "sums.npy", "digests.npy", "checksums.npy", "facts.json"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_truncated_pack_is_refused(tmp_path: Path, source: Source, name: str, share: float) -> None:
    write_pack(tmp_path / "pack", source, NAMES)
    file = tmp_path / "pack" / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(ValueError, match="pack"):
        Pack(tmp_path / "pack")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "sums.npy", "digests.npy", "checksums.npy", "facts.json"])
@pytest.mark.parametrize("place", [11, 60, -2])
def test_a_changed_byte_is_noticed(tmp_path: Path, source: Source, name: str, place: int) -> None:
    """In the header or the last value; pixels in the middle are looked at where they are read."""
    write_pack(tmp_path / "pack", source, NAMES)
    file = tmp_path / "pack" / name
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is no whole pack"):
        Pack(tmp_path / "pack")


def test_a_header_that_numpy_stumbles_over_is_noticed(tmp_path: Path, source: Source) -> None:
    write_pack(tmp_path / "pack", source, NAMES)
    file = tmp_path / "pack" / "labels.npy"
    file.write_bytes(file.read_bytes().replace(b"False", b"Fals("))
    with pytest.raises(ValueError, match="is no whole pack"):
        Pack(tmp_path / "pack")


@pytest.mark.slow
def test_private_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    images = np.zeros((4000, 3, 64, 64), np.uint8)
    write_pack(tmp_path / "pack", {"train": (images, np.zeros(4000, np.int64))}, ["a", "b"])
    code = (
        "import torch; from pathlib import Path; from datamodules.packing.pack import Pack\n"
        "def own(): return next(int(line.split()[1]) for line in open('/proc/self/status') if 'RssAnon' in line)\n"
        f"pack = Pack(Path({str(tmp_path / 'pack')!r})); pack[torch.arange(64)]; before = own()\n"
        "for rows in torch.arange(4000).split(64): pack[rows]\n"
        "print(own() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(done.stdout) < images.nbytes / 1024 / 8


def test_a_flipped_bit_is_noticed_wherever_it_is_before_anything_is_made_of_it(tmp_path: Path, source: Source) -> None:
    write_pack(tmp_path / "pack", source, NAMES)
    file, random = tmp_path / "pack" / "images.npy", np.random.default_rng(0)
    for place in random.integers(0, 8 * 1797 * 3 * 64, 200).tolist():
        with file.open("r+b") as opened:
            opened.seek(HEADER_BYTES + place // 8)
            byte = opened.read(1)[0]
            opened.seek(-1, 1)
            opened.write(bytes([byte ^ 1 << place % 8]))
        with pytest.raises((ValueError, UserError), match=str(tmp_path / "pack")):
            Pack(tmp_path / "pack")[torch.tensor([place // 8 // (3 * 64), 0])]
        with file.open("r+b") as opened:
            opened.seek(HEADER_BYTES + place // 8)
            opened.write(bytes([byte]))
    assert len(Pack(tmp_path / "pack")[torch.arange(1797)][0]) == 1797


def test_levels_of_sixteen_bits_are_kept_and_summed_exactly(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (40, 2, 50, 60)).astype(np.uint16)
    images[:20] |= 0xF000
    write_pack(tmp_path / "pack", {"train": (images, np.arange(40) % 10)}, NAMES)
    written = Pack(tmp_path / "pack")
    assert PixelFormat.of(written.pixel_facts) == PixelFormat(16, stored_bits=16)
    chosen = torch.tensor([39, 3, 3])
    assert torch.equal(written[chosen][0], torch.from_numpy(images[[39, 3, 3]]))
    assert written[chosen][0].dtype == torch.uint16
    mean, std = written.mean_and_std(torch.arange(40))
    assert mean == pytest.approx((images / 65535).mean(axis=(0, 2, 3)), rel=1e-12)
    assert std == pytest.approx((images / 65535).std(axis=(0, 2, 3)), rel=1e-12)
    other = images.copy()
    other[7, 0, 0, 0] ^= 0x100
    write_pack(tmp_path / "other", {"train": (other, np.arange(40) % 10)}, NAMES)
    assert np.flatnonzero(Pack(tmp_path / "other").contents != written.contents).tolist() == [7]


def test_sums_of_billions_of_pixels_are_exact() -> None:
    white = np.full((1, 1, 2048, 2048), 65535, np.uint16)
    assert pack_writer.image_sums(white)[0, :, 0].tolist() == [65535 * 2048**2, 65535**2 * 2048**2]
    many = Mock(spec=Pack, shape=(1, 2048, 2048), highest=65535)
    many.sums = torch.from_numpy(pack_writer.image_sums(white)).expand(1000, -1, -1)  # squares of 1.8e19, above 2**63
    assert Pack.mean_and_std(many, torch.arange(1000)) == ([1.0], [0.0])


def test_files_and_their_pack_give_the_same_levels(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (20, 3, 9, 7)).astype(np.uint16)
    for number, image in enumerate(levels):
        np.save(tmp_path / f"{number}.npy", image)
    images = listed(tmp_path, {"train": [(f"{number}.npy", number % 10) for number in range(20)]}, (2, 9, 7))["train"][
        0
    ]
    pixels = PixelFormat(16, planes=(3, 1), stored_bits=16, stored_channels=3)
    rows = {"train": (replace(images, pixel_format=pixels), np.arange(20) % 10)}
    write_pack(tmp_path / "pack", rows, NAMES)
    write_pack(tmp_path / "none", rows, NAMES, packed=False)
    packed, decoded = Pack(tmp_path / "pack"), Pack(tmp_path / "none", tmp_path)
    assert PixelFormat.of(packed.pixel_facts) == PixelFormat.of(decoded.pixel_facts) == pixels
    assert packed.fingerprint == decoded.fingerprint
    indices = torch.tensor([19, 0, 4])
    for found in (packed[indices][0], decoded[indices][0]):
        assert torch.equal(found, torch.from_numpy(levels[[19, 0, 4]][:, [2, 0]]))
