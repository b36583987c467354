"""Reporting, skipping and undoing of optimizer steps that are not finite; loaded only when it is needed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from core.durable_file import replacing
from models.serialization.checkpoint import read_checkpoint


def report(trainer: Trainer, facts: dict[str, Any], gradient_norms: dict[str, Tensor], *, save: bool) -> str:
    """Describe a step that is not finite, and save its batches if `save`; return the description."""
    text = f"the loss is {float(facts['loss']):.4g} at learning rate {facts['learning_rate']:.4g}"
    norms = {name: float(norm) for name, norm in gradient_norms.items()}
    if norms:
        largest = max(norms, key=lambda name: torch.inf if norms[name] != norms[name] else norms[name])
        text += f", the largest gradient {norms[largest]:.4g} ({largest})"
    else:
        text += ", without gradients"
    if not save:
        return text
    rank = f"_rank_{trainer.global_rank}" if trainer.world_size > 1 else ""
    path = Path(trainer.default_root_dir) / f"nonfinite_step_{facts['step']}{rank}.pt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            torch.save(facts | {"loss": facts["loss"].cpu(), "gradient_norms": norms}, file)
    except OSError as error:
        return f"{text}; its batch could not be saved ({error.strerror})"
    return f"{text}; its batch is in {path}"


def roll_back(trainer: Trainer, path: Path | None) -> str:
    """Restore weights, weight average and optimizer, but not the learning rate; return a phrase that names the step."""
    if path is None:  # no checkpoint is written yet
        return ""
    classifier = trainer.lightning_module
    checkpoint = cast(dict[str, Any], read_checkpoint(path))
    weights = checkpoint["state_dict"] | checkpoint.get("raw_state_dict", {})
    # The state also holds the epoch's metrics, which keep counting.
    network_weights = {name: value for name, value in weights.items() if name.startswith("network.")}
    classifier.load_state_dict(network_weights, strict=False)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # the Trainer declares none
        if hasattr(callback, "is_evaluated"):  # a weight average
            callback.restore(classifier, checkpoint)
    for optimizer, saved in zip(trainer.optimizers, checkpoint["optimizer_states"], strict=True):
        optimizer.load_state_dict(optimizer.state_dict() | {"state": saved["state"]})
    return f", back to step {checkpoint['global_step']}"


class TensorCopies:
    """Copies of tensors from before a step, in one flat tensor per dtype: many small copies would take longer."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            groups.setdefault(tensor.dtype, []).append(tensor.detach().view(-1))
        self._groups = [(group, [len(tensor) for tensor in group], torch.cat(group)) for group in groups.values()]

    def restore_if(self, bad: Tensor | bool) -> None:
        """Restore the tensors if `bad`, else update the copies. A `bad` tensor is evaluated on its device."""
        for tensors, sizes, copy in self._groups:
            if isinstance(bad, Tensor):
                torch.where(bad > 0, copy, torch.cat(tensors), out=copy)
            elif not bad:
                torch.cat(tensors, out=copy)
            if bad is not False:
                torch.split_with_sizes_copy(copy, sizes, out=tensors)
