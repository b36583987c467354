"""Which images make which batch."""

import zlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from datamodules.batching.randomness import random_key


class KeyedBatchSampler(DistributedSampler[Tensor]):
    """Yields index tensors whose order is a function of (seed, epoch), from any image of the epoch on.

    With `shuffle`, every process draws the same permutation and takes its share of each global batch, so that
    `world_size` processes see together what one process with the global batch size sees. Without, image `i` goes to
    process `i % world_size`, so that an evaluation counts every image exactly once. All processes have as many batches,
    because they wait for each other in each; the last is empty in some if fewer images than processes are left.

    It is a `DistributedSampler` because Lightning replaces any other sampler in several processes.

    `indices`, int64 `[N]`, are the images to draw from; `balance` is the class of each of them, to give every class the
    same share of an epoch: images of a rare class come several times, of a frequent one some, others in each epoch.
    `shuffle` permutes the images anew in every epoch, and only with it `balance` and `drop_last` have an effect.
    """

    def __init__(
        self,
        indices: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        balance: Tensor | None = None,
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.shuffle = shuffle
        self._by_class = None if balance is None else [indices[balance == label] for label in torch.unique(balance)]
        self.seed = seed
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.images_done = 0  # images of the epoch, of all processes, before the first batch that is yielded

    @property
    def order(self) -> int:
        """A number that stands for the order of the images in every epoch."""
        return random_key(zlib.crc32(self.indices.contiguous().numpy().data), self.seed, self._by_class is not None)

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

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shuffle:
            share, size = self.indices[self.rank :: self.world_size], self.batch_size
            yield from (share[number * size : (number + 1) * size] for number in range(len(self)))
            return
        generator = torch.Generator().manual_seed(random_key(self.seed, self.epoch))
        indices = self.indices if self._by_class is None else self._balanced(self._by_class, generator)
        order = indices[torch.randperm(len(indices), generator=generator)][self.images_done :]
        size = self.batch_size * self.world_size
        for number in range(self._batches(len(order))):
            yield order[number * size : (number + 1) * size].tensor_split(self.world_size)[self.rank]

    def _balanced(self, by_class: list[Tensor], generator: torch.Generator) -> Tensor:
        drawn = []
        for members, count in zip(by_class, balanced_counts(len(self.indices), len(by_class)), strict=True):
            rounds = -(-count // len(members))
            orders = [torch.randperm(len(members), generator=generator) for _ in range(rounds)]
            drawn.append(members[torch.cat(orders)[:count]])
        return torch.cat(drawn)


def balanced_counts(total: int, num_classes: int) -> list[int]:
    """The images of each class in a balanced epoch of `total` images.

    Example:
        >>> balanced_counts(11, 3)
        [4, 4, 3]
    """
    share, rest = divmod(total, num_classes)
    return [share + (label < rest) for label in range(num_classes)]
