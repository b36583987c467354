"""Loss scaling that makes each step's gradient the mean over the images of the step."""

import torch
from lightning.pytorch import Trainer
from torch import Tensor


def scale_loss(loss: Tensor, trainer: Trainer, batch_idx: int, images: int) -> Tensor:
    """Scale a batch's mean loss to correct the weight in Lightning's average over batches and ranks."""
    accumulated = trainer.accumulate_grad_batches
    if accumulated > 1:
        # Lightning also divides an epoch's last step by `accumulated`, although the step may have fewer batches.
        first = getattr(trainer.fit_loop.epoch_loop, "first_batch", 0)
        step = first + (batch_idx - first) // accumulated * accumulated
        batches_left = trainer.num_training_batches - step
        loss = loss * (accumulated / min(accumulated, batches_left))
    if trainer.world_size > 1 and trainer.is_last_batch:
        # Lightning averages over the ranks, whose parts of an epoch's last batch may differ by an image.
        total = torch.tensor(float(images), device=loss.device)
        torch.distributed.all_reduce(total)
        loss = loss * (images * trainer.world_size / total)
    return loss
