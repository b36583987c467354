"""What a training step costs beyond its arithmetic."""

import copy
import time
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from models.classifier import Classifier

WARMUP_STEPS = 5  # steps of the bare loop before each measurement, in which caches and allocators settle

FEWEST_EPOCHS = 3  # epochs that are kept at least, for a median


class StepBenchmark(Callback):
    """Times the running program against the bare training step, in turn, epoch by epoch.

    The bare step is forward, loss, backward and the optimizer's update on one synthetic batch that is on the
    device already, with the same network, optimizer, precision and memory format: the limit. The program's step is all
    that happens from the end of one training batch to the end of the next: data, augmentation, metrics, logging,
    callbacks. The first epoch warms up and is not kept.

    Args:
        seconds: Training stops with the first epoch that ends later than this, when enough epochs were measured.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self.limit_ms: list[float] = []
        """Milliseconds of a bare step, for each epoch."""
        self.program_ms: list[float] = []
        """Milliseconds of a step of the program, likewise."""
        self.waiting: list[float] = []
        """The share of these that was spent waiting for data."""
        self._is_warm = False
        self._started = time.perf_counter()
        self._marks: list[tuple[float, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the bare step."""
        self.limit_ms.append(self._time_bare_step(trainer, cast(Classifier, pl_module)))
        self._marks = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the end of the first batch and of the last."""
        if batch_idx in (0, trainer.num_training_batches - 1):
            _synchronize(pl_module.device)
            waited = float(getattr(trainer.train_dataloader, "seconds_waited", 0.0))
            self._marks.append((time.perf_counter(), waited))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the program's mean over the epoch."""
        (first, waited_before), (last, waited) = self._marks
        self.program_ms.append(1000 * (last - first) / (int(trainer.num_training_batches) - 1))
        self.waiting.append((waited - waited_before) / (last - first))
        if not self._is_warm:
            self.limit_ms, self.program_ms, self.waiting, self._is_warm = [], [], [], True
        if len(self.limit_ms) >= FEWEST_EPOCHS and time.perf_counter() - self._started > self.seconds:
            trainer.should_stop = True

    def _time_bare_step(self, trainer: Trainer, classifier: Classifier) -> float:
        data: Any = getattr(trainer, "datamodule")  # noqa: B009 - the Trainer declares none
        device = classifier.device
        network = copy.deepcopy(classifier.network)
        if classifier.hparams["compile"]:
            network.compile(dynamic=False)
        optimizer = classifier.make_optimizer(classifier.parameter_groups(network))
        images = torch.randn(data.batch_size, *data.image_shape, device=device).to(
            memory_format=torch.channels_last if classifier.hparams["channels_last"] else torch.contiguous_format
        )
        labels = torch.randint(classifier.num_classes, (data.batch_size,), device=device)

        def step() -> None:
            with trainer.precision_plugin.forward_context():
                loss = classifier.loss(network(images).float(), labels)
            loss.backward()
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
