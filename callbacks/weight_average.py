"""Base class of callbacks that average the weights over training steps and evaluate the average."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class WeightAverage(Callback):
    """Keeps an average beside the trained weights, and swaps it into the network for validation.

    A checkpoint's `state_dict` is the average, because the average was validated. The trained weights are in
    `raw_state_dict`; a resumed run continues from them bit for bit. A run that is resumed without the callback starts
    from the average. After training, the network holds the average.

    Parameters and floating-point buffers are averaged, because batch norm's running statistics belong to the weights
    that they were measured with. Integer buffers are copied.

    Lightning's `WeightAveraging` tests the raw weights at the end of `fit`, and updates tensors one by one.
    """

    is_evaluated = True  # marks averages for other callbacks: scores of an average and of plain weights differ

    def __init__(self) -> None:
        self.updates = 0  # number of updates of the average
        self._trained: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] | None = None  # holds the trained weights while `_is_in_place`
        self._is_in_place = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start without an average."""
        if stage == "fit":
            self.updates, self._average, self._is_in_place = 0, None, False

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates; the average itself is the checkpoint's `state_dict`."""
        return {"updates": self.updates}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the average as the weights, and the trained ones beside it."""
        if trainer.state.fn == "fit" and self._average is not None:
            average, raw = self._average, self._trained
            if self._is_in_place:
                average, raw = raw, average
            checkpoint["raw_state_dict"] = dict(raw)
            checkpoint["state_dict"].update(average)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the trained weights, and the average if this class computed it."""
        if trainer.state.fn != "fit" or "raw_state_dict" not in checkpoint:
            return
        self.restore(pl_module, checkpoint)
        if self._average is None and trainer.is_global_zero:
            print("the average of the weights starts again: the resumed run had another kind of average")

    @torch.no_grad()
    def restore(self, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Load the trained weights and the average from a checkpoint."""
        raw: dict[str, Tensor] = checkpoint.get("raw_state_dict", {})
        tensors = _named_tensors(pl_module)
        for name, value in raw.items():
            tensors[name].copy_(value)
        state = checkpoint["callbacks"].get(self.state_key) if raw else None
        self.updates, self._average = 0, None
        if state:
            self.updates = state["updates"]
            self._average = {name: checkpoint["state_dict"][name].to(tensors[name].device, copy=True) for name in raw}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the weights, now that they are on their device."""
        self._trained = _named_tensors(pl_module)
        self._floating = [name for name, value in self._trained.items() if value.is_floating_point()]
        self._integer = self._trained.keys() - {*self._floating}
        if self._average is not None:
            self._average = {name: value.to(self._trained[name].device) for name, value in self._average.items()}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in."""
        if trainer.state.fn == "fit":
            self._swap(put_in=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the trained weights back in."""
        if trainer.state.fn == "fit":
            self._swap(put_in=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the network, also in a finished run that is resumed."""
        self._swap(put_in=True)

    def _begin(self) -> None:
        self._average = {name: value.clone() for name, value in self._trained.items()}

    @torch.no_grad()
    def _update(self, mix_in: Callable[[list[Tensor], list[Tensor], int], None]) -> None:
        """Update the average in place by a `get_*_multi_avg_fn` function of `torch.optim.swa_utils`."""
        if self._average is None:
            self._begin()
        assert self._average is not None
        average, trained = self._average, self._trained
        mix_in([average[name] for name in self._floating], [trained[name] for name in self._floating], self.updates)
        for name in self._integer:
            average[name].copy_(trained[name])
        self.updates += 1

    def _swap(self, *, put_in: bool) -> None:
        """Exchange the network's values and `_average`, unless they are already exchanged."""
        values = self._average
        if values is not None and put_in != self._is_in_place:
            self._begin()
            for name, value in self._trained.items():
                value.copy_(values[name])
            self._is_in_place = put_in


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by their names in the state; a shared tensor has several names."""
    tensors = {name: parameter.data for name, parameter in module.named_parameters(remove_duplicate=False)}
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    return {name: tensors[name] for name in module.state_dict() if name in tensors}
