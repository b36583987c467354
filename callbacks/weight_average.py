"""An average of the weights over the steps of training, evaluated in their place."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class WeightAverage(Callback):
    """Keeps an average beside the weights that are trained, and puts it in their place for validation.

    A checkpoint's `state_dict` is the average, because that is what was validated. The trained weights lie beside it,
    in `raw_state_dict`, and a resumed run goes on from them bit for bit; a run that is resumed without the callback
    goes on from the average. After training the network holds the average.

    Parameters and floating-point buffers are averaged, since the running statistics of batch norm belong to the weights
    that they were measured with; integer buffers are copied.

    Lightning's `WeightAveraging` tests the raw weights at the end of `fit`, and updates tensors one by one.
    """

    is_evaluated = True  # the average is validated and stored: its scores do not compare with those of plain weights

    def __init__(self) -> None:
        self.updates = 0  # of the average so far
        self._trained: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] | None = None  # the trained values, while the average is in their place
        self._is_in_place = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin without an average."""
        if stage == "fit":
            self.updates, self._average, self._is_in_place = 0, None, False

    def state_dict(self) -> dict[str, Any]:
        """The number of updates; the average itself is the checkpoint's `state_dict`."""
        return {"updates": self.updates}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the average as the weights, and the trained ones beside it."""
        if trainer.state.fn == "fit" and self._average is not None:
            values = self._trained, self._average
            average, raw = values if self._is_in_place else reversed(values)
            checkpoint["raw_state_dict"] = dict(raw)
            checkpoint["state_dict"].update(average)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from the trained weights, and with the average if it is of this kind."""
        if trainer.state.fn != "fit" or "raw_state_dict" not in checkpoint:
            return
        self.restore(pl_module, checkpoint)
        if self._average is None and trainer.is_global_zero:
            print("the average of the weights begins anew: the run to go on with had another kind of it")

    @torch.no_grad()
    def restore(self, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Make the trained weights and the average those of a checkpoint."""
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
        """Find the weights, now that they are on their device."""
        self._trained = _named_tensors(pl_module)
        self._floating = [name for name, value in self._trained.items() if value.is_floating_point()]
        self._others = self._trained.keys() - {*self._floating}
        if self._average is not None:
            self._average = {name: value.to(self._trained[name].device) for name, value in self._average.items()}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == "fit":
            self._swap(put_in=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on."""
        if trainer.state.fn == "fit":
            self._swap(put_in=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the network, also of a run that was resumed at its end."""
        self._swap(put_in=True)

    def _begin(self) -> None:
        self._average = {name: value.clone() for name, value in self._trained.items()}

    @torch.no_grad()
    def _update(self, mix_in: Callable[[list[Tensor], list[Tensor], int], None]) -> None:
        """Update the average in place by one of `torch.optim.swa_utils`' functions of average, weights and updates."""
        if self._average is None:
            self._begin()
        assert self._average is not None
        average, trained = self._average, self._trained
        mix_in([average[name] for name in self._floating], [trained[name] for name in self._floating], self.updates)
        for name in self._others:
            average[name].copy_(trained[name])
        self.updates += 1

    def _swap(self, *, put_in: bool) -> None:
        """Exchange the values in the network and those of the average, unless that is done."""
        if (values := self._average) is not None and put_in != self._is_in_place:
            self._begin()
            for name, value in self._trained.items():
                value.copy_(values[name])
            self._is_in_place = put_in


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under their names in the state, a shared one under each of its names."""
    tensors = {name: parameter.data for name, parameter in module.named_parameters(remove_duplicate=False)}
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    return {name: tensors[name] for name in module.state_dict() if name in tensors}
