"""Which images make which batch, and where a resumed run goes on."""

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
    """Yields index tensors whose order is a function of (seed, epoch), from any image of the epoch on.

    With `shuffle`, `world_size` processes see together what one process with the global batch size sees. Without, image
    `i` goes to process `i % world_size`, so that an evaluation counts every image exactly once. All processes have as
    many batches; the last is empty in some if fewer images than processes are left. Lightning replaces a sampler that
    is not a `DistributedSampler` in several processes, and one that is not a `SequentialSampler` for `overfit_batches`.
    """

    indices: Tensor  # the images to draw from, int64 `[N]`
    batch_size: int  # images per batch and process
    _: KW_ONLY
    shuffle: bool = False  # whether to permute the images anew in every epoch; if not, the next four have no effect
    balance: Tensor | None = None  # the class of each of `indices`, int64 `[N]`, to give all classes the same share
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


class ResumePoint:
    """An epoch and how many of its images are done: images, because a resumed run may have batches of another size."""

    epoch = images_done = 0
    _is_over = False  # whether the epoch was cut off by the run's last step, and nothing is left of it
    _may_be_over = False  # likewise, of an older checkpoint, which does not say so

    @staticmethod
    def state(trainer: Trainer, sampler: KeyedBatchSampler) -> dict[str, Any]:
        """What a checkpoint holds of the place that a training has reached."""
        epochs = trainer.fit_loop.epoch_progress.current.state_dict()
        done = trainer.fit_loop.epoch_loop.batch_progress.current.state_dict()["processed"]
        in_all = int(trainer.num_training_batches) if epochs["ready"] else 0
        if epochs["processed"] == epochs["ready"] and done >= in_all:
            return {"epoch": epochs["processed"], "images_done": 0, "order": sampler.order}
        # An epoch that was cut off by the run's last step has been processed, and yet goes on in a longer run.
        since = done - (in_all - sampler.batches_left(in_all))
        images = sampler.images_done + since * sampler.batch_size * sampler.world_size
        place = {"epoch": epochs["ready"] - 1, "images_done": images, "order": sampler.order}
        return {**place, "is_over": done == in_all}

    def load(self, state: Mapping[str, Any], sampler: KeyedBatchSampler) -> None:
        """Go on at the place of a checkpoint; begin its epoch again, and say so, if the images have another order."""
        batches = state.get("batches_done", 0)  # older checkpoints count batches
        done = state.get("images_done", batches * sampler.batch_size * sampler.world_size)
        self.epoch, self._is_over = state.get("epoch", 0), state.get("is_over", False)
        self._may_be_over = "batches_done" in state
        self.images_done = len(sampler.indices) if self._is_over else done
        if done and not self._is_over and state.get("order", sampler.order) != sampler.order:
            self._begin_epoch_again(sampler, "the order of its training images is not what it was")

    def batches_done(self, sampler: KeyedBatchSampler, batches: int) -> int:
        """How many of an epoch's `batches` are done; an epoch with none left begins again unless it was over."""
        left = sampler.batches_left(batches)
        if left or self._is_over or self._may_be_over:
            return batches - left
        self._begin_epoch_again(sampler, "in batches of this size and number nothing is left of it")
        return 0

    def _begin_epoch_again(self, sampler: KeyedBatchSampler, why: str) -> None:
        self.images_done = 0
        sampler.resume(self.epoch, 0)
        if sampler.rank == 0:
            print(f"epoch {self.epoch} begins again: {why}")
