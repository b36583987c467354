"""The place in a training where a resumed run goes on."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from datamodules.batching.sampler import KeyedBatchSampler


class ResumePoint:
    """An epoch and how many of its images are done: images, because a resumed run may have batches of another size."""

    epoch = images_done = 0
    _is_over = False  # whether the epoch was cut off by the run's last step, and nothing is left of it

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
        self.images_done = len(sampler.indices) if self._is_over else done
        if done and not self._is_over and state.get("order", sampler.order) != sampler.order:
            self._begin_epoch_again(sampler, "the order of its training images is not what it was")

    def batches_done(self, sampler: KeyedBatchSampler, batches: int) -> int:
        """How many of an epoch's `batches` are done; an epoch with none left begins again unless it was over."""
        left = sampler.batches_left(batches)
        if left or self._is_over:
            return batches - left
        self._begin_epoch_again(sampler, "in batches of this size and number nothing is left of it")
        return 0

    def _begin_epoch_again(self, sampler: KeyedBatchSampler, why: str) -> None:
        self.images_done = 0
        sampler.resume(self.epoch, 0)
        if sampler.rank == 0:
            print(f"epoch {self.epoch} begins again: {why}")
