"""A pack in a GPU's memory, where a batch is gathered without the processor and without a transfer of images."""

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.packing.pack import CHUNK_BYTES, Pack, gathered

MOST_BYTES = 2**31  # of images; more would have to be read before training begins
SHARE = 8  # of the GPU's free memory, one part in this many


class PackOnDevice(Dataset[tuple[Tensor, Tensor]]):
    """Gives the batches that a pack gives, from a copy of its images and labels on `device`.

    Images are compared with their checksums when they are copied.
    """

    def __init__(self, pack: Pack, device: torch.device) -> None:
        self.labels = pack.labels.to(device)
        dtype = torch.uint16 if pack.pixel_format.is_deep else torch.uint8
        self.images = torch.empty((len(pack), *pack.shape), dtype=dtype, device=device)
        size = max(1, CHUNK_BYTES // (math.prod(pack.shape) * dtype.itemsize))
        for start in range(0, len(pack), size):
            chunk, _ = pack[torch.arange(start, min(start + size, len(pack)))]
            self.images[start : start + size] = chunk

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch: indices int64 `[B]` to images uint8 or uint16 `[B, C, H, W]` and labels int64 `[B]`."""
        places = indices.to(self.labels.device, non_blocking=True)
        return gathered(self.images, places), self.labels.index_select(0, places)


def fits_on_device(pack: Pack, device: torch.device) -> bool:
    """Whether the pixels are packed, and `device` is a GPU with ample room for them."""
    if device.type != "cuda" or pack.files is not None:
        return False
    size = len(pack) * math.prod(pack.shape) * (2 if pack.pixel_format.is_deep else 1)
    return size <= min(MOST_BYTES, torch.cuda.mem_get_info(device)[0] // SHARE)
