"""The program that is commonly written for the same task, timed beside scripts/train.py in the same process.

    python -m tests.benchmarks.standard_program [--config FILE ...] [--steps 20] [any flag of scripts/train.py]

A Dataset that opens, transforms and normalises one image at a time, a DataLoader, and a LightningModule that logs loss
and accuracy of every step with torchmetrics. It runs without workers and with one per core; the faster counts.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
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

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.image_file import FORMATS
from datamodules.decoding.image_files import ImageFiles
from datamodules.loading.loader import available_cores
from datamodules.packing.pack import Images
from scripts.benchmark import STEPS, TimedTraining, configurations, run_alone
from scripts.command.process import training_process
from scripts.report.table import Table, show

PILLOW_IMAGES = 3000  # images that Pillow decodes to be compared with

# Arguments that a transform of torchvision shares with the augmentation of the same name.
COUNTERPARTS = {
    "RandomAffine": ("degrees", "translate", "scale", "shear"),
    "RandomRotation": ("degrees",),
    "RandomCrop": ("size", "padding", "padding_mode"),
    "RandomResizedCrop": ("size", "scale", "ratio"),
    "RandomHorizontalFlip": ("p",),
    "RandomVerticalFlip": ("p",),
    "ColorJitter": ("brightness", "contrast", "saturation", "hue"),
    "RandomGrayscale": ("p",),
}

Row = dict[str, Any]

DATA = (
    *("data", "images", "packing\nimages/s", "Pillow, one core\nimages/s", "times\nfaster"),
    *("to first batch\nwhen packed, s", "memory\ngrown, MB", "pack\nMB"),
)


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
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


class Clock(Callback):
    """Notes the milliseconds of a step, from the end of the first batch to the end of the last."""

    def __init__(self) -> None:
        self.step_ms: list[float] = []
        self._first = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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
    """Train with the standard program; milliseconds of a step in each epoch."""
    assert data.pack is not None, "it has been set up"
    images = data.from_source(data.read)["train"][0]
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


def counterparts(augmentation: Sequence[Any], size: tuple[int, int]) -> list[Any]:
    """Transforms of torchvision with the names and values of an augmentation."""
    made = []
    for module in augmentation:
        name = module.class_path.rpartition(".")[2]
        if name not in COUNTERPARTS:
            raise UserError(
                f"The standard program has no {name}; leave the augmentation out with --data.augmentation '[]'."
            )
        arguments = {key: value for key in COUNTERPARTS[name] if (value := module.init_args.get(key)) is not None}
        if name == "RandomCrop":
            arguments.setdefault("size", size)
        made.append(getattr(T, name)(**arguments))
    return made


def measure(flags: Sequence[str], steps: int, seconds: float) -> Row:
    """Train one configuration with both programs, and follow its images to the first batch."""
    with tempfile.TemporaryDirectory() as folder:
        timed = TimedTraining(flags, steps, seconds, folder)
        cli = timed.cli
        data, model, trainer = cli.datamodule, cli.model, cli.trainer
        program_ms = median(program_ms for _, program_ms, _ in timed.epochs)
        row: Row = {"steps": timed.cells(), "program_ms": program_ms, "experiment": cli.experiment}
        augmentation = counterparts(cli.config.data.get("init_args.augmentation") or [], data.image_shape[1:])
        row["standard_ms"] = min(
            median(
                time_standard_program(
                    data,
                    copy.deepcopy(model.network),
                    model.make_optimizer,
                    augmentation=augmentation,
                    folder=folder,
                    precision=trainer.precision,
                    steps=min(steps, int(trainer.num_training_batches)),
                    epochs=len(timed.epochs) if row["program_ms"] < 100 else 1,
                    num_workers=workers,
                )
            )
            for workers in (0, available_cores())
        )
        return row | measure_data(data, Path(folder))


def measure_data(data: ImageDataModule, folder: Path) -> Row:
    """Time the start with a pack, an epoch's memory and, of image files, packing beside Pillow alone."""
    source = data.from_source(data.read)
    row: Row = {"images": sum(len(rows[1]) for rows in source.values())}

    start = time.perf_counter()
    data = _as_new(data)
    data.prepare_data()
    data.setup("validate")
    next(iter(data.train_dataloader()))
    row["start_seconds"] = time.perf_counter() - start

    before = _own_memory()
    for _ in data.train_dataloader():
        pass
    row["grown_mb"] = (_own_memory() - before) / 1e6
    row["pack_mb"] = data.pack.images.numel() / 1e6 if data.pack is not None and data.pack.images is not None else 0.0

    images = source["train"][0]
    if isinstance(images, ImageFiles):
        some = np.random.default_rng(0).permutation(len(images))[:PILLOW_IMAGES]
        start = time.perf_counter()
        for index in some:
            with Image.open(images.path(index), formats=FORMATS) as file:
                np.asarray(file.convert("RGB"))
        row["pillow_rate"] = len(some) / (time.perf_counter() - start)
        data = _as_new(data)
        data.packs, data.storage = folder / "packs", "packed"
        start = time.perf_counter()
        data.prepare_data()
        row["packing_rate"] = row["images"] / (time.perf_counter() - start)
    return row


def _as_new(data: ImageDataModule) -> ImageDataModule:
    """The data module as it was before it looked for its pack."""
    new = copy.copy(data)
    new.pack = None
    vars(new).pop("pack_folder", None)
    return new


def _own_memory() -> int:
    """Bytes of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def print_rows(rows: Sequence[Row]) -> None:
    standard = [f"{row['standard_ms']:,.2f}" for row in rows]
    faster = [f"{row['standard_ms'] / row['program_ms']:.2f}" for row in rows]
    steps = [[*row["steps"], *more] for row, *more in zip(rows, standard, faster, strict=True)]
    show(Table([*STEPS, "standard\nms", "times\nfaster"], steps))
    show(Table([*DATA], [data_cells(row) for row in rows]))


def data_cells(row: Row) -> list[str]:
    packing, pillow = (row.get(f"{name}_rate") for name in ("packing", "pillow"))
    return [
        row["experiment"],
        f"{row['images']:,}",
        *(f"{rate:,.0f}" if rate else "" for rate in (packing, pillow)),
        f"{packing / pillow:.2f}" if packing and pillow else "",
        *(f"{row[name]:,.2f}" for name in ("start_seconds", "grown_mb", "pack_mb")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", help="a file in configs/; may be given several times")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each configuration's steps, roughly")
    parser.add_argument("--steps", type=int, default=20, help="training batches per epoch, at most")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.into:
        flags = [*(f"--config={file}" for file in options.config or ()), *flags]
        with training_process():
            options.into.write_text(json.dumps(measure(flags, options.steps, options.seconds)))
        return
    own = ["-m", "tests.benchmarks.standard_program", f"--seconds={options.seconds}", f"--steps={options.steps}"]
    print_rows([run_alone([*own, *config, *flags]) for config in configurations(options.config)])


if __name__ == "__main__":
    main()
