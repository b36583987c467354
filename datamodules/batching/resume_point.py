"""The place in a training where a resumed run goes on."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from datamodules.batching.sampler import KeyedBatchSampler


class ResumePoint:
    """An epoch and how many of its images are done: images, because a resumed run may have batches of another size."""

    def __init__(self) -> None:
        self.epoch = 0
        self.images_done = 0
        self._may_be_over = False

    @staticmethod
    def state(trainer: Trainer, sampler: KeyedBatchSampler) -> dict[str, Any]:
        """What a checkpoint holds of the place that a training has reached."""
        epochs = trainer.fit_loop.epoch_progress.current.state_dict()
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.state_dict()
        in_all = int(trainer.num_training_batches) if epochs["ready"] else 0
        if epochs["processed"] == epochs["ready"] and batches["processed"] >= in_all:
            return {"epoch": epochs["processed"], "images_done": 0, "order": sampler.order}
        # An epoch that was cut off by the run's last step has been processed, and yet goes on in a longer run.
        since = batches["processed"] - (in_all - sampler.batches_left(in_all))
        return {
            "epoch": epochs["ready"] - 1,
            "images_done": sampler.images_done + since * sampler.batch_size * sampler.world_size,
            "order": sampler.order,
            "is_over": batches["processed"] == in_all,
        }

    def load(self, state: Mapping[str, Any], sampler: KeyedBatchSampler) -> None:
        """Go on at the place of a checkpoint; begin its epoch again, and say so, if the images have another order."""
        batches = state.get("batches_done", 0)  # older checkpoints count batches
        done = state.get("images_done", batches * sampler.batch_size * sampler.world_size)
        is_over = state.get("is_over", False)
        self.epoch, self.images_done = state.get("epoch", 0), len(sampler.indices) if is_over else done
        self._may_be_over = is_over or "batches_done" in state
        if done and not is_over and state.get("order", sampler.order) != sampler.order:
            self._begin_epoch_again(sampler, "the order of its training images is not what it was")

    def batches_done(self, sampler: KeyedBatchSampler, batches: int) -> int:
        """How many of an epoch's `batches` are done; an epoch with none left begins again unless it was over."""
        left = sampler.batches_left(batches)
        if left or self._may_be_over:
            return batches - left
        self._begin_epoch_again(sampler, "in batches of this size and number nothing is left of it")
        sampler.resume(self.epoch, 0)
        return 0

    def _begin_epoch_again(self, sampler: KeyedBatchSampler, why: str) -> None:
        self.images_done = 0
        if sampler.rank == 0:
            print(f"epoch {self.epoch} begins again: {why}")
