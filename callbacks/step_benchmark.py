"""What a training step costs beyond its arithmetic."""

import copy
import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.nn import functional as F

from models.classifier import Classifier

WARMUP_STEPS = 5
"""Steps of the bare loop before each measurement, in which caches and allocators settle."""


class StepBenchmark(Callback):
    """Times the running program against the bare training step, in turn, epoch by epoch.

    The bare step is forward, cross-entropy, backward and the optimizer's update on one synthetic batch that is on the
    device already, with the same network, optimizer, precision and memory format: the limit. The program's step is all
    that happens from the end of one training batch to the end of the next: data, augmentation, metrics, logging,
    callbacks. The first epoch warms up and is not kept.

    Args:
        file: Where the milliseconds per step of each epoch are written at the end, as JSON.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._limit: list[float] = []
        self._program: list[float] = []
        self._ends: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the bare step."""
        self._limit.append(self._time_bare_step(trainer, cast(Classifier, pl_module)))
        self._ends = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of the first batch and of the last."""
        if batch_idx in (0, trainer.num_training_batches - 1):
            _synchronize(pl_module.device)
            self._ends.append(time.perf_counter())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the program's mean over the epoch."""
        first, last = self._ends
        self._program.append(1000 * (last - first) / (int(trainer.num_training_batches) - 1))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the figures."""
        figures = {
            "limit_ms": self._limit[1:],
            "program_ms": self._program[1:],
            "batch_size": getattr(trainer, "datamodule").batch_size,  # noqa: B009 - the Trainer declares none
            "device": str(pl_module.device),
            "precision": str(trainer.precision),
        }
        self.file.write_text(json.dumps(figures))

    def _time_bare_step(self, trainer: Trainer, classifier: Classifier) -> float:
        data: Any = getattr(trainer, "datamodule")  # noqa: B009 - the Trainer declares none
        device = classifier.device
        network = copy.deepcopy(classifier.network)
        if classifier.hparams["compile"]:
            network.compile()
        optimizer = classifier.make_optimizer(network.parameters())
        images = torch.randn(data.batch_size, *data.image_shape, device=device).to(
            memory_format=torch.channels_last if classifier.hparams["channels_last"] else torch.contiguous_format
        )
        labels = torch.randint(classifier.num_classes, (data.batch_size,), device=device)

        def step() -> None:
            with trainer.precision_plugin.forward_context():
                loss = F.cross_entropy(network(images).float(), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

        for _ in range(WARMUP_STEPS):
            step()
        steps = int(trainer.num_training_batches)
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        _synchronize(device)
        return 1000 * (time.perf_counter() - start) / steps


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
