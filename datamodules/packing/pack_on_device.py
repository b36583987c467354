"""A pack in a GPU's memory, where a batch is gathered without the processor and without a transfer of images."""

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.packing.pack import CHUNK_BYTES, Pack, gathered


class PackOnDevice(Dataset[tuple[Tensor, Tensor]]):
    """Gives the batches that a pack gives, from a copy of its images and labels on `device`.

    Images are compared with their checksums when they are copied.
    """

    def __init__(self, pack: Pack, device: torch.device) -> None:
        self.labels = pack.labels.to(device)
        dtype = torch.uint16 if pack.highest > 255 else torch.uint8
        self.images = torch.empty((len(pack), *pack.shape), dtype=dtype, device=device)
        size = max(1, CHUNK_BYTES // (math.prod(pack.shape) * dtype.itemsize))
        for places in torch.split(torch.arange(len(pack)), size):
            self.images[places[0] : places[0] + len(places)] = pack[places][0]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Gather a batch: indices int64 `[B]` to images uint8 or uint16 `[B, C, H, W]` and labels int64 `[B]`."""
        places = indices.to(self.labels.device, non_blocking=True)
        return gathered(self.images, places), self.labels.index_select(0, places)
