"""The program that is commonly written for the same task, to be compared with.

A Dataset that opens, transforms and normalises one image at a time, a DataLoader, and a LightningModule that logs loss
and accuracy of every step with torchmetrics.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms as T

from datamodules.base import ImageDataModule
from datamodules.decoding.image_file import FORMATS
from datamodules.decoding.image_files import ImageFiles
from datamodules.packing.pack import Images


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """One image at a time, as torchvision's data sets give them."""

    def __init__(self, images: Images, labels: Sequence[int], transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if isinstance(self.images, ImageFiles):
            with Image.open(self.images.path(index), formats=FORMATS) as file:
                image = file.convert("RGB")
        else:
            image = Image.fromarray(self.images[index].transpose(1, 2, 0).squeeze())
        return self.transform(image), self.labels[index]


class StandardModule(LightningModule):
    """A network with cross-entropy and accuracy, both logged at every step and epoch."""

    def __init__(self, network: nn.Module, num_classes: int, make_optimizer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.network = network
        self.make_optimizer = make_optimizer
        self.train_loss, self.val_loss = MeanMetric(), MeanMetric()
        self.train_accuracy, self.val_accuracy = MulticlassAccuracy(num_classes), MulticlassAccuracy(num_classes)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        mean, accuracy = getattr(self, f"{stage}_loss"), getattr(self, f"{stage}_accuracy")
        mean(loss)
        accuracy(logits.argmax(dim=1), labels)
        self.log(f"{stage}/loss", mean, on_step=False, on_epoch=True, prog_bar=True)
        self.log(f"{stage}/accuracy", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss and figures of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Figures of a batch."""
        self._step(batch, "val")

    def configure_optimizers(self) -> Any:
        """The optimizer of the program that is compared."""
        return self.make_optimizer(self.parameters())


class Clock(Callback):
    """Notes the milliseconds of a step, from the end of the first batch to the end of the last."""

    def __init__(self) -> None:
        self.step_ms: list[float] = []
        self._first = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the time."""
        if pl_module.device.type != "cpu":
            torch.accelerator.synchronize()
        now = time.perf_counter()
        if batch_idx == 0:
            self._first = now
        elif batch_idx == trainer.num_training_batches - 1:
            self.step_ms.append(1000 * (now - self._first) / batch_idx)


def time_standard_program(
    data: ImageDataModule,
    network: nn.Module,
    make_optimizer: Callable[[Iterable[Any]], Any],
    *,
    augmentation: Sequence[Callable[[Image.Image], Image.Image]],
    folder: str,
    precision: Any,
    steps: int,
    epochs: int,
    num_workers: int,
) -> list[float]:
    """Train with the standard program."""
    assert data.pack is not None, "it has been set up"
    images, _ = data.from_source(data.read)["train"]
    size = data.image_shape[1:]
    fit = [T.Resize(size)] if data.resize == "squash" else [T.Resize(min(size)), T.CenterCrop(size)]
    transform = T.Compose([*fit, *augmentation, T.ToTensor(), T.Normalize(data.mean, data.std)])
    dataset = ImageDataset(images, data.pack.labels.tolist(), transform)
    train = data.splits["train"].tolist()
    train_loader, val_loader = (
        DataLoader(
            Subset(dataset, train if split == "train" else train[: data.batch_size]),  # validation is not measured
            data.batch_size,
            shuffle=split == "train",
            drop_last=split == "train",
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.accelerator.is_available(),
        )
        for split in ("train", "val")
    )
    clock = Clock()
    Trainer(
        default_root_dir=folder,
        max_epochs=epochs + 1,
        limit_train_batches=steps,
        precision=precision,
        logger=[CSVLogger(folder), TensorBoardLogger(folder)],
        callbacks=[clock, ModelCheckpoint(monitor="val/accuracy"), EarlyStopping("val/accuracy", patience=10**6)],
        enable_model_summary=False,
    ).fit(StandardModule(network, data.num_classes, make_optimizer), train_loader, val_loader)
    return clock.step_ms[1:]
