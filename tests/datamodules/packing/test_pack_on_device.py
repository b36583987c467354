from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from core.user_error import UserError
from datamodules.digits import Digits
from datamodules.packing.pack import Pack
from datamodules.packing.pack_on_device import PackOnDevice, fits_on_device
from tests.conftest import Run

CPU = torch.device("cpu")


def test_gives_the_batches_of_the_pack(data_root: Path) -> None:
    data = Digits(root=data_root, classes=[7, 3])
    data.setup("fit")
    assert data.pack is not None
    copied = PackOnDevice(data.pack, CPU)
    assert len(copied) == len(data.pack)
    for indices in (torch.tensor([1700, 3, 3]), data.splits["train"][:100], torch.tensor([], dtype=torch.int64)):
        for copy, original in zip(copied[indices], data.pack[indices], strict=True):
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
    assert not fits_on_device(data.pack, CPU)
    free = {"bytes": 8 * 64 * len(data.pack)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["bytes"], 2**40))
    assert fits_on_device(data.pack, torch.device("cuda", 0))
    free["bytes"] -= 8
    assert not fits_on_device(data.pack, torch.device("cuda", 0))


@pytest.mark.slow
def test_training_from_it_is_the_same_bit_for_bit(train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--trainer.max_epochs=2", "--data.balanced=true", "--data.batch_size=128")
    from_disk = train(*flags)
    made = Mock(wraps=PackOnDevice)
    monkeypatch.setattr("datamodules.base.fits_on_device", lambda pack, device: True)
    monkeypatch.setattr("datamodules.base.PackOnDevice", made)
    copied = train(*flags)
    assert made.call_count == 1, "copied once for all splits"
    for name, value in from_disk.checkpoint["state_dict"].items():
        assert torch.equal(value, copied.checkpoint["state_dict"][name])
    assert from_disk.results["metrics"] == copied.results["metrics"]
