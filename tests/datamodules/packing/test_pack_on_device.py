from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from core.user_error import UserError
from datamodules.digits import Digits
from datamodules.packing.pack import Pack
from datamodules.packing.pack_on_device import PackOnDevice
from datamodules.packing.pack_writer import write_pack
from tests.conftest import Run

CPU = torch.device("cpu")


def test_gives_the_batches_of_the_pack(data_root: Path) -> None:
    data = Digits(root=data_root, classes=[7, 3])
    data.setup("fit")
    assert data.pack is not None
    check_batches(data.pack, data.splits["train"][:100])


def test_gives_levels_of_sixteen_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (1797, 2, 6, 6)).astype(np.uint16)
    write_pack(tmp_path / "pack", {"train": (levels, np.arange(1797) % 10)}, list("0123456789"))
    pack = Pack(tmp_path / "pack")
    check_batches(pack, torch.arange(100))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2 * levels.size, 2**40))
    assert pack.fits_on(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 2 * levels.size - 8, 2**40))
    assert not pack.fits_on(torch.device("cuda", 0))


def check_batches(pack: Pack, some: torch.Tensor) -> None:
    copied = PackOnDevice(pack, CPU)
    assert len(copied) == len(pack)
    for indices in (torch.tensor([1700, 3, 3]), some, torch.tensor([], dtype=torch.int64)):
        for copy, original in zip(copied[indices], pack[indices], strict=True):
            assert copy.dtype == original.dtype
            assert torch.equal(copy, original)


def test_refuses_pixels_that_the_disk_has_damaged(tmp_path: Path) -> None:
    data = Digits(root=tmp_path)
    data.prepare_data()
    file = data.pack_folder / "images.npy"
    content = bytearray(file.read_bytes())
    content[-64 * 1000] ^= 1  # not among the few that are read when a pack is opened
    file.write_bytes(content)
    with pytest.raises(UserError, match="holds other pixels of train"):
        PackOnDevice(Pack(data.pack_folder), CPU)


def test_is_for_packed_images_on_a_gpu(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Digits(root=data_root)
    data.setup("fit")
    assert data.pack is not None
    assert not data.pack.fits_on(CPU)
    free = {"bytes": 8 * 64 * len(data.pack)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["bytes"], 2**40))
    assert data.pack.fits_on(torch.device("cuda", 0))
    free["bytes"] -= 8
    assert not data.pack.fits_on(torch.device("cuda", 0))


@pytest.mark.slow
def test_training_from_it_is_the_same_bit_for_bit(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--trainer.max_epochs=2", "--data.balanced=true", "--data.batch_size=128")
    from_disk = train(*flags)
    made = Mock(wraps=PackOnDevice)
    monkeypatch.setattr(Pack, "fits_on", lambda pack, device: True)
    monkeypatch.setattr("datamodules.packing.pack_on_device.PackOnDevice", made)
    copied = train(*flags)
    assert made.call_count == 1, "copied once for all splits"
    for name, value in from_disk.checkpoint["state_dict"].items():
        assert torch.equal(value, copied.checkpoint["state_dict"][name])
    assert from_disk.results["metrics"] == copied.results["metrics"]
