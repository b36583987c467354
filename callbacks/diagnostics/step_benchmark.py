"""Time training steps against bare ones."""

import copy
import time
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from models.classifier import Classifier

WARMUP_STEPS = 5  # bare steps before each measurement, in which caches and allocators settle
FEWEST_EPOCHS = 3  # epochs that are measured at least, for a median


class StepBenchmark(Callback):
    """Times the running program against the bare training step, in turn, epoch by epoch.

    The bare step is forward, loss, backward and the optimizer's update on one synthetic batch that is on the device
    already, with the same network, optimizer, precision and memory format: the limit. The program's step is everything
    from the end of one training batch to the end of the next: data, augmentation, metrics, logging, callbacks. The
    first epoch warms up and is not kept. Training stops with the first epoch that ends after `seconds`, when enough
    epochs were measured.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        # For each epoch: milliseconds of a bare step and of the program's, and the share of waiting for data.
        self.limit_ms: list[float] = []
        self.program_ms: list[float] = []
        self.waiting: list[float] = []
        self._started = time.perf_counter()
        self._marks: list[tuple[float, float]] = []

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.limit_ms.append(_time_bare_step(trainer, cast(Classifier, pl_module)))
        self._marks = []

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx in (0, trainer.num_training_batches - 1):
            _synchronize(pl_module.device)
            self._marks.append((time.perf_counter(), getattr(trainer.train_dataloader, "seconds_waited", 0.0)))

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (first, waited_before), (last, waited) = self._marks
        self.program_ms.append(1000 * (last - first) / (int(trainer.num_training_batches) - 1))
        self.waiting.append((waited - waited_before) / (last - first))
        if trainer.current_epoch == 0:
            self.limit_ms, self.program_ms, self.waiting = [], [], []
        if len(self.limit_ms) >= FEWEST_EPOCHS and time.perf_counter() - self._started > self.seconds:
            trainer.should_stop = True


def _time_bare_step(trainer: Trainer, classifier: Classifier) -> float:
    data: Any = getattr(trainer, "datamodule")  # noqa: B009 - the Trainer declares none
    device = classifier.device
    network = copy.deepcopy(classifier.network)
    if classifier.hparams["compile"]:
        network.compile(dynamic=False)
    optimizer = classifier.make_optimizer(classifier.parameter_groups(network))
    images = classifier.to_memory_format(torch.randn(data.batch_size, *data.image_shape, device=device))
    labels = torch.randint(classifier.num_classes, (data.batch_size,), device=device)
    if classifier.multi_label:
        labels = torch.eye(classifier.num_classes, device=device)[labels]

    def take(steps: int) -> None:
        for _ in range(steps):
            with trainer.precision_plugin.forward_context():
                loss = classifier.loss(network(images).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        _synchronize(device)

    take(WARMUP_STEPS)
    steps = int(trainer.num_training_batches)
    start = time.perf_counter()
    take(steps)
    return 1000 * (time.perf_counter() - start) / steps


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
