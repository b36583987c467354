"""A copy of a pack in GPU memory, where a batch is gathered without the CPU and without copying images to the GPU."""

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.packing.pack import CHUNK_BYTES, Pack, select_images


class PackOnDevice(Dataset[tuple[Tensor, Tensor]]):
    """Returns the batches of a pack from a copy on `device`; checksums are verified while it is made."""

    def __init__(self, pack: Pack, device: torch.device) -> None:
        self.labels = pack.labels.to(device)
        dtype = torch.uint16 if pack.highest > 255 else torch.uint8
        self.images = torch.empty((len(pack), *pack.shape), dtype=dtype, device=device)
        chunk_size = max(1, CHUNK_BYTES // (math.prod(pack.shape) * dtype.itemsize))
        for indices in torch.split(torch.arange(len(pack)), chunk_size):
            self.images[indices[0] : indices[0] + len(indices)] = pack[indices][0]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images uint8 or uint16 `[B, C, H, W]` and labels int64 `[B]` at indices int64 `[B]`."""
        device_indices = indices.to(self.labels.device, non_blocking=True)
        return select_images(self.images, device_indices), self.labels.index_select(0, device_indices)
