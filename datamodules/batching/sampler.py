"""Which images make which batch."""

import zlib
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler, SequentialSampler

from datamodules.batching.randomness import random_key


@dataclass(eq=False)
class KeyedBatchSampler(DistributedSampler[Tensor], SequentialSampler):
    """Yields index tensors whose order is a function of (seed, epoch), from any image of the epoch on.

    With `shuffle`, every process draws the same permutation and takes its share of each global batch, so that
    `world_size` processes see together what one process with the global batch size sees. Without, image `i` goes to
    process `i % world_size`, so that an evaluation counts every image exactly once. All processes have as many batches,
    because they wait for each other in each; the last is empty in some if fewer images than processes are left.

    It is a `DistributedSampler` and a `SequentialSampler` because Lightning replaces any other sampler in several
    processes, and for `overfit_batches`.
    """

    indices: Tensor  # the images to draw from, int64 `[N]`
    batch_size: int  # images per batch and process
    _: KW_ONLY
    shuffle: bool = False  # whether to permute the images anew in every epoch; if not, the next four have no effect
    # The class of each of `indices`, int64 `[N]`, to give every class the same share of an epoch: images of a rare
    # class come several times, of a frequent one some, others in each epoch.
    balance: Tensor | None = None
    weights: Tensor | None = None  # of each of `indices`, float64 `[N]`, to give it a share of an epoch in proportion
    drop_last: bool = False  # whether to leave out a last batch that is not full
    repeats: bool = False  # whether every epoch has the batches of the first
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = field(default=0, init=False)
    images_done: int = field(default=0, init=False)  # of the epoch and all processes, before the first batch yielded

    @property
    def order(self) -> int:
        """A number that stands for the order of the images in every epoch."""
        images = zlib.crc32(self.indices.contiguous().numpy().data)
        weights = [] if self.weights is None else [zlib.crc32(self.weights.contiguous().numpy().data)]
        return random_key(images, self.seed, self.balance is not None, *[1] * self.repeats, *weights)

    def resume(self, epoch: int, images_done: int) -> None:
        """Continue `epoch` behind its first `images_done` images, of all processes and in batches of whatever size."""
        self.epoch, self.images_done = epoch, images_done

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch`; called by the Trainer, also for the epoch that `resume` has placed us in."""
        if epoch != self.epoch:
            self.resume(epoch, 0)

    def __len__(self) -> int:
        """The batches of a whole epoch, wherever this one was resumed."""
        return self._batches(len(self.indices))

    def batches_left(self, batches: int) -> int:
        """The batches from where the epoch was resumed on, if it is cut off after as many as `batches`."""
        size = self.batch_size * self.world_size
        within = -(-(batches * size - self.images_done) // size)
        return max(0, min(within, self._batches(len(self.indices) - self.images_done)))

    def _batches(self, images: int) -> int:
        full, rest = divmod(images, self.batch_size * self.world_size)
        return full + (rest > 0 and not (self.shuffle and self.drop_last))

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # torch's own yields single places
        if not self.shuffle:
            share, size = self.indices[self.rank :: self.world_size], self.batch_size
            yield from (share[number * size : (number + 1) * size] for number in range(len(self)))
            return
        generator = torch.Generator().manual_seed(random_key(self.seed, 0 if self.repeats else self.epoch))
        indices = self.indices
        if self.balance is not None or self.weights is not None:
            from datamodules.batching.shares import drawn_by_shares

            indices = indices[drawn_by_shares(self.balance, self.weights, generator)]
        order = indices[torch.randperm(len(indices), generator=generator)][self.images_done :]
        size = self.batch_size * self.world_size
        for number in range(self._batches(len(order))):
            yield order[number * size : (number + 1) * size].tensor_split(self.world_size)[self.rank]
