"""An average of the weights over the steps of training, evaluated in their place."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn


class WeightAverage(Callback, ABC):
    """Keeps an average beside the weights that are trained, and puts it in their place for validation.

    A checkpoint's `state_dict` is the average, because that is what was validated: `Classifier.load_from_checkpoint`,
    test and prediction take it without knowing of this callback. The weights that are trained lie beside it, in
    `raw_state_dict`, and a resumed run goes on from them bit for bit; one that is resumed without the callback goes on
    from the average. After training the network holds the average.

    Averaged are parameters and floating-point buffers, such as the running statistics of batch norm, which belong to
    the weights that they were measured with; integer buffers are copied.

    Lightning's `WeightAveraging` is not used: a test of the best checkpoint at the end of `fit` loads the raw weights
    there, an average that begins late is validated before anything was averaged, and tensors are updated one by one.
    """

    is_evaluated = True
    """What is validated and stored is not what is trained: no score goes with those of a run without it."""

    def __init__(self) -> None:
        self.updates = 0
        """How often the average was updated."""
        self._names: list[str] = []
        self._trained: list[Tensor] = []
        self._average: list[Tensor] | None = None
        self._raw: list[Tensor] | None = None  # the trained values, while the average is in their place

    @abstractmethod
    def share(self, updates: int) -> float:
        """The share in the average, in (0, 1], of the weights that are taken in after so many updates."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin without an average."""
        if stage == "fit":
            self.updates, self._average, self._raw = 0, None, None

    def state_dict(self) -> dict[str, Any]:
        """How often the average was updated."""
        return {"updates": self.updates}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the average as the weights, and the trained ones beside it."""
        if trainer.state.fn == "fit" and self._average is not None:
            trained = self._trained if self._raw is None else self._raw
            checkpoint["raw_state_dict"] = dict(zip(self._names, trained, strict=True))
            checkpoint["state_dict"].update(zip(self._names, self._average, strict=True))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from the trained weights, and with the average if it is of this kind; test the average."""
        if trainer.state.fn != "fit" or "raw_state_dict" not in checkpoint:
            return
        raw: dict[str, Tensor] = checkpoint["raw_state_dict"]
        tensors = _named_tensors(pl_module)
        with torch.no_grad():
            for name, value in raw.items():
                tensors[name].copy_(value)
        if state := checkpoint["callbacks"].get(self.state_key):
            self.updates = state["updates"]
            self._average = [checkpoint["state_dict"][name] for name in raw]
        elif trainer.is_global_zero:
            print("the average of the weights begins anew: the run to go on with had another kind of it")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the weights, now that they are on their device."""
        tensors = _named_tensors(pl_module)
        self._names, self._trained = list(tensors), list(tensors.values())
        if self._average is not None:
            self._average = [
                value.to(trained.device) for value, trained in zip(self._average, self._trained, strict=True)
            ]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == "fit":
            self._put_in()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on."""
        if trainer.state.fn == "fit":
            self._take_out()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the network, also of a run that is taken up when it was at its end."""
        self._put_in()

    def snapshot(self) -> dict[str, Any]:
        """The average as it is now, in plain types, to `go_back` to."""
        average = None if self._average is None else [value.clone() for value in self._average]
        return {"updates": self.updates, "average": average}

    def go_back(self, snapshot: dict[str, Any]) -> None:
        """Have the average that there was."""
        self.updates, average = snapshot["updates"], snapshot["average"]
        self._average = average and [
            value.to(trained.device, copy=True) for value, trained in zip(average, self._trained, strict=True)
        ]

    @torch.no_grad()
    def _begin(self) -> None:
        """Start from the weights as they are."""
        self._average = [value.clone() for value in self._trained]

    @torch.no_grad()
    def _update(self) -> None:
        """Take in the weights as they are."""
        if self._average is None:
            self._begin()
        assert self._average is not None
        pairs = list(zip(self._average, self._trained, strict=True))
        averages = [average for average, _ in pairs if average.is_floating_point()]
        trained = [value for _, value in pairs if value.is_floating_point()]
        torch._foreach_lerp_(averages, trained, self.share(self.updates))
        for average, value in pairs:
            if not value.is_floating_point():
                average.copy_(value)
        self.updates += 1

    @torch.no_grad()
    def _keep(self, tensors: Sequence[Tensor]) -> None:
        """Make the values of these tensors part of the average."""
        kept = {id(tensor) for tensor in tensors}
        for average, value in zip(self._average or (), self._trained, strict=True):
            if id(value) in kept:
                average.copy_(value)

    @torch.no_grad()
    def _put_in(self) -> None:
        if self._average is not None and self._raw is None:
            self._raw = [value.clone() for value in self._trained]
            torch._foreach_copy_(self._trained, self._average)

    @torch.no_grad()
    def _take_out(self) -> None:
        if self._raw is not None:
            torch._foreach_copy_(self._trained, self._raw)
            self._raw = None


def _named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under their names in the state, a shared one under each of its names."""
    saved = module.state_dict().keys()
    found = {name: parameter.data for name, parameter in module.named_parameters(remove_duplicate=False)}
    found |= dict(module.named_buffers(remove_duplicate=False))
    return {name: value for name, value in found.items() if name in saved}
