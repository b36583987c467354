"""Choose the images of each batch, and the position at which a resumed run continues."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DistributedSampler, SequentialSampler

from datamodules.batching.randomness import random_key


@dataclass(eq=False)
class KeyedBatchSampler(DistributedSampler[Tensor], SequentialSampler):
    """Yields batches of indices, int64 `[B]`, in an order that depends only on (seed, epoch).

    With `shuffle`, the batches of all ranks together are those of one process with the global batch size. Without it,
    image `i` goes to rank `i % world_size`, so that an evaluation counts every image once. All ranks have equally many
    batches; the last is empty on some ranks if fewer images than ranks are left.

    The base classes stop Lightning from replacing the sampler: it replaces any but a `DistributedSampler` if there are
    several ranks, and any but a `SequentialSampler` for `overfit_batches`.
    """

    indices: Tensor  # the images to draw from, int64 `[N]`
    batch_size: int  # images per batch and rank
    _: KW_ONLY
    shuffle: bool = False  # whether to shuffle in every epoch; the next four fields have no effect without it
    balance: Tensor | None = None  # the class of each image, int64 `[N]`, to show all classes equally often
    weights: Tensor | None = None  # the weight of each image, float64 `[N]`, to show images in proportion to it
    drop_last: bool = False  # whether to drop the last batch if it is incomplete
    repeats: bool = False  # whether every epoch repeats the batches of the first
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = field(default=0, init=False)
    images_done: int = field(default=0, init=False)  # images of this epoch, on all ranks, that are skipped

    @property
    def order(self) -> int:
        """A hash of everything that decides the order of the images in all epochs."""
        images = zlib.crc32(self.indices.contiguous().numpy().data)
        weights = [] if self.weights is None else [zlib.crc32(self.weights.contiguous().numpy().data)]
        return random_key(images, self.seed, self.balance is not None, *[1] * self.repeats, *weights)

    def resume(self, epoch: int, images_done: int) -> None:
        """Continue `epoch` after its first `images_done` images on all ranks, whatever the batch size was."""
        self.epoch, self.images_done = epoch, images_done

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch`, unless `resume` has been called for it; called by the Trainer."""
        if epoch != self.epoch:
            self.resume(epoch, 0)

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch, also if this one is resumed."""
        return self._batches(len(self.indices))

    def batches_left(self, batches: int) -> int:
        """Return the number of batches after `images_done`, if the epoch is limited to `batches` in total."""
        size = self.batch_size * self.world_size
        within_limit = -(-(batches * size - self.images_done) // size)
        return max(0, min(within_limit, self._batches(len(self.indices) - self.images_done)))

    def _batches(self, images: int) -> int:
        full, remainder = divmod(images, self.batch_size * self.world_size)
        return full + (remainder > 0 and not (self.shuffle and self.drop_last))

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]  # torch's samplers yield single indices
        if not self.shuffle:
            own_indices, size = self.indices[self.rank :: self.world_size], self.batch_size
            yield from (own_indices[number * size : (number + 1) * size] for number in range(len(self)))
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


class ResumePoint:
    """The epoch in which a run resumes, and how many of its images (not batches, whose size may change) are done."""

    epoch = 0
    images_done = 0
    _all_batches_done = False  # the run stopped after the epoch's last batch, but before what follows, like validation
    _is_old_checkpoint = False  # it does not store whether all batches were done

    @staticmethod
    def state(trainer: Trainer, sampler: KeyedBatchSampler) -> dict[str, Any]:
        """Return the current position of a training run, for its checkpoint."""
        epochs = trainer.fit_loop.epoch_progress.current.state_dict()
        batches_done = trainer.fit_loop.epoch_loop.batch_progress.current.state_dict()["processed"]
        batches = int(trainer.num_training_batches) if epochs["ready"] else 0
        if epochs["processed"] == epochs["ready"] and batches_done >= batches:
            return {"epoch": epochs["processed"], "images_done": 0, "order": sampler.order}
        # If the run's last step ended the epoch early, the Trainer counts it as processed, but a longer run resumes it.
        batches_since_resume = batches_done - (batches - sampler.batches_left(batches))
        images_done = sampler.images_done + batches_since_resume * sampler.batch_size * sampler.world_size
        position = {"epoch": epochs["ready"] - 1, "images_done": images_done, "order": sampler.order}
        return {**position, "is_over": batches_done == batches}

    def load(self, state: Mapping[str, Any], sampler: KeyedBatchSampler) -> None:
        """Restore a checkpoint's position; if the images have another order, restart its epoch and print that."""
        batches_done = state.get("batches_done", 0)  # older checkpoints count batches
        images_done = state.get("images_done", batches_done * sampler.batch_size * sampler.world_size)
        self.epoch = state.get("epoch", 0)
        self._all_batches_done = state.get("is_over", False)
        self._is_old_checkpoint = "batches_done" in state
        self.images_done = len(sampler.indices) if self._all_batches_done else images_done
        if images_done and not self._all_batches_done and state.get("order", sampler.order) != sampler.order:
            self._restart_epoch(sampler, "the order of its training images has changed")

    def batches_done(self, sampler: KeyedBatchSampler, batches: int) -> int:
        """Return how many of an epoch's `batches` are done; restart an unfinished epoch that has no batch left."""
        batches_left = sampler.batches_left(batches)
        if batches_left or self._all_batches_done or self._is_old_checkpoint:
            return batches - batches_left
        self._restart_epoch(sampler, "no batch of the new size and number is left of it")
        return 0

    def _restart_epoch(self, sampler: KeyedBatchSampler, reason: str) -> None:
        self.images_done = 0
        sampler.resume(self.epoch, 0)
        if sampler.rank == 0:
            print(f"epoch {self.epoch} begins again: {reason}")
