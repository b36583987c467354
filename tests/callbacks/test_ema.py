from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.ema import EMA
from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.serialization.checkpoint import read_checkpoint
from tests.conftest import quiet_trainer

Weights = dict[str, Tensor]


class Slow(Callback):
    """The formula, one weight after another, in float64."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average: Weights = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.average = {name: value.double() for name, value in pl_module.state_dict().items() if "network" in name}

        def after_step(*_: Any) -> None:
            self.steps += 1
            kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
            for name, value in self.average.items():
                now = pl_module.state_dict()[name].double()
                self.average[name] = now if "num_batches" in name else kept * value + (1 - kept) * now

        trainer.optimizers[0].register_step_post_hook(after_step)


@pytest.mark.parametrize("decay", [0.9, 0.999])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_equals_the_formula(digits: Digits, tmp_path: Path, decay: float, accumulated: int) -> None:
    slow = Slow(decay)
    trainer = quiet_trainer(tmp_path, max_epochs=2, accumulate_grad_batches=accumulated, callbacks=[EMA(decay), slow])
    trainer.fit(
        Classifier(ConvNet(1, (8, 8), 10), 10, lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9)), digits
    )
    trainer.save_checkpoint(tmp_path / "ema.ckpt")
    saved = read_checkpoint(tmp_path / "ema.ckpt")
    assert slow.steps == trainer.global_step == 2 * -(-21 // accumulated)
    assert slow.average.keys() == saved["raw_state_dict"].keys()
    for name, value in slow.average.items():
        assert torch.allclose(saved["state_dict"][name].double(), value, rtol=1e-4, atol=1e-6), name


def test_half_life_and_warm_up_are_as_documented() -> None:
    ema = EMA(0.999)
    assert ema.decay_after(0) == 2 / 11
    assert ema.decay_after(8_988) < 0.999 == ema.decay_after(8_990)
    assert pytest.approx(0.5, abs=1e-3) == 0.999**693
    assert pytest.approx(0.5, abs=1e-3) == 0.99**69


@pytest.mark.parametrize("decay", ["1.0", "-0.1"])
def test_refuses_what_is_no_decay(refused: Callable[..., str], decay: str) -> None:
    flags = ("--weight_average=callbacks.ema.EMA", f"--weight_average.decay={decay}")
    assert f"decay is {decay}; give a number from 0 to below 1" in refused("fit", *flags)
