"""A trained network and the facts that its checkpoint stores about it.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from core.names import distinct_names, some_of
from core.user_error import UserError
from datamodules.batching.transform import Normalize
from datamodules.decoding.image_file import Resize
from datamodules.decoding.pixel_format import PixelFormat
from models.losses import PER_IMAGE
from models.serialization.checkpoint import CheckpointContent, read_checkpoint
from models.serialization.saved_network import build_network, saved_arguments
from models.training.test_time_augmentation import Views, average_logits
from scripts.inference.run_checkpoint import find_checkpoint, run_of

if TYPE_CHECKING:  # Lightning takes seconds to import
    from datamodules.base import ImageDataModule

BATCH_SIZE = 64  # images per batch if the checkpoint has no configuration

# The Trainer's precisions with autocast: the network computes in another dtype than its weights have.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16, "16-mixed": torch.float16, "16": torch.float16}


class TrainedNetwork:
    """Reads a checkpoint, and predicts as its run does; the network is built on first use.

    Args:
        path: A checkpoint, or the folder of a run, whose best checkpoint is read.
        device: The device of the network; by default an accelerator if one is available, else the CPU.
        content: The content of the checkpoint, if it was read before.

    Raises:
        UserError: If the checkpoint is unreadable or lacks class names or preprocessing; on first use of the network,
            if the network cannot be built.
    """

    def __init__(
        self, path: str | Path, device: torch.device | None = None, content: CheckpointContent | None = None
    ) -> None:
        self.path = find_checkpoint(Path(path))
        self.folder = run_of(self.path) or self.path.parent
        """The folder for results: the run's folder, or the checkpoint's folder if it is in no run."""
        self.device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.checkpoint = content or read_checkpoint(self.path)
        self.class_names: list[str] = distinct_names(self.checkpoint["class_names"])
        """`K` names, in the order of the labels."""
        self.preprocessing: dict[str, Any] = self.checkpoint["preprocessing"]
        """Channels, image size, resize mode, mean, std and pixel format of the training images."""
        self.config: dict[str, Any] = self.checkpoint.get("config", {})
        """The run's resolved configuration; empty if the checkpoint has none."""
        arguments = saved_arguments(self.checkpoint, self.path)
        self.is_multi_label: bool = arguments.get("multi_label", False)
        thresholds = self.checkpoint.get("thresholds") or [0.5] * len(self.class_names)
        self.thresholds = np.array(thresholds if self.is_multi_label else [], np.float64)
        """Multi-label: a label is predicted if its probability exceeds its threshold, `[K]`. Single-label: empty."""
        if len(self.class_names) != arguments.get("num_classes") or not self.preprocessing:
            raise UserError(
                f"{self.path} has no class names or preprocessing, because it was trained without a data module; give "
                "a checkpoint that scripts/train.py has written."
            )
        height, width = self.preprocessing["image_size"]
        self.shape: tuple[int, int, int] = (self.preprocessing["channels"], height, width)
        """(C, H, W) of the network's input."""
        self.resize: Resize = self.preprocessing.get("resize", "crop")
        self.pixel_format = PixelFormat.of(self.preprocessing)
        mean, std = self.preprocessing["mean"], self.preprocessing["std"]
        self.normalizer = Normalize(mean, std, self.pixel_format.highest).to(self.device)
        self.test_time_augmentation: Views | None = arguments.get("test_time_augmentation")
        self.batch_size: int = (self.config.get("data", {}).get("init_args") or {}).get("batch_size", BATCH_SIZE)
        """Images per batch in the run."""
        self._memory_format = torch.channels_last if arguments.get("channels_last") else torch.preserve_format

    def read(self, path: str | Path) -> Tensor:
        """Read an image file as network input, uint8 or uint16 `[C, H, W]`; raises UnreadableImageError."""
        channels, height, width = self.shape
        return torch.from_numpy(self.pixel_format.read(path, channels, (height, width), self.resize).copy())

    @cached_property
    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode, on the device."""
        return build_network(self.checkpoint, self.path).to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next((parameter.dtype for parameter in self.network.parameters()), torch.float32)

    @cached_property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype of autocast; None if the network computes in the dtype of its weights."""
        precision = self.config.get("trainer", {}).get("precision")
        if precision is None:
            from models.training.precision import choose_precision

            precision, _ = choose_precision(self.network, self.shape, self.device)
        return AUTOCAST.get(str(precision))

    @property
    def precision(self) -> str:
        """The name of the dtype that the network computes in, such as `bfloat16`."""
        return str(self.autocast_dtype or self.dtype).removeprefix("torch.")

    def in_float32(self, device: torch.device | None = None) -> "TrainedNetwork":
        """Return a copy that computes in float32, by default on the same device."""
        copied = copy.copy(self)
        copied.device = device or self.device
        copied.network = copy.deepcopy(self.network).to(copied.device, torch.float32)
        copied.autocast_dtype = None
        copied.normalizer = copy.deepcopy(self.normalizer).to(copied.device)
        return copied

    @contextmanager
    def autocast_context(self) -> Iterator[None]:
        """Compute inside the block in the precision that `scripts/train.py test` would choose."""
        default_dtype, autocast_dtype = torch.get_default_dtype(), self.autocast_dtype
        torch.set_default_dtype(self.dtype)
        try:
            with torch.autocast(self.device.type, autocast_dtype, enabled=autocast_dtype is not None):
                yield
        finally:
            torch.set_default_dtype(default_dtype)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn images, uint8 or uint16 `[B, C, H, W]`, into the network's input: normalised, in its dtype."""
        return self.to_memory_format(self.normalizer(images.to(self.device, non_blocking=True)))

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Convert normalised images, float `[B, C, H, W]`, to the dtype and memory format of the network."""
        return images.to(self.dtype, memory_format=self._memory_format)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Predict images, uint8 or uint16 `[B, C, H, W]`, as `scripts/train.py test` does; float32 `[B, K]` on the CPU.

        Logits are averaged over the views of the run's test-time augmentation.
        """
        with self.autocast_context():
            normalized = self.normalizer(images.to(self.device, non_blocking=True))
            logits = average_logits(
                lambda view: self.network(self.to_memory_format(view)),
                normalized,
                self.test_time_augmentation,
                self.is_multi_label,
            )
        return logits.float().cpu()

    def data(self, flags: Sequence[str] = ()) -> "ImageDataModule":
        """Return the run's data, changed by flags of `scripts/train.py`; set up, with the normalisation of training.

        Prints how the data differ from the training data. Raises UserError if the network cannot predict them.
        """
        data = self.unread_data(flags)
        data.prepare_data()
        data.setup("test")
        assert data.pack is not None, "setup builds the pack"
        self._check_equal(data, f"levels up to {data.pack.highest}", f"levels up to {self.pixel_format.highest}")
        if data.pack.pixel_facts != self.pixel_format.facts:
            read, trained = data.pack.pixel_facts or "default", self.pixel_format.facts or "default"
            print(f"note: files are read with {read}, the training images were read with {trained}")
        if changes := self.changes_of(data):
            print(f"note: {changes}")
        return data

    def unread_data(self, flags: Sequence[str] = ()) -> "ImageDataModule":
        """Build the data module of `data` without reading a file."""
        names = ("--data", "--config", "-c")
        if "data" not in self.config and not any(flag.partition("=")[0] in names for flag in flags):
            raise UserError(
                f"{self.path} does not say what data it was trained on; give them with --data datamodules.mnist.MNIST "
                "or another."
            )
        from scripts.command.data_flags import build_data

        data = build_data(flags, (str(self.path), self.config))
        check_same_classes(self.class_names, list(data.class_names), str(self.path), type(data).__name__)
        self._check_equal(data, PER_IMAGE[data.is_multi_label], PER_IMAGE[self.is_multi_label])
        self._check_equal(data, f"images of {list(data.image_shape)}", f"images of {list(self.shape)}")
        data.mean, data.std = list(self.preprocessing["mean"]), list(self.preprocessing["std"])
        return data

    def _check_equal(self, data: "ImageDataModule", actual: str, trained_on: str) -> None:
        if actual != trained_on:
            raise UserError(
                f"{type(data).__name__} has {actual}, but {self.path} was trained on {trained_on}; give matching data, "
                "for example with --data.image_size, --data.channels or --data.bit_depth."
            )

    def changes_of(self, data: "ImageDataModule") -> str:
        """Say how data differ from the training data; empty if they are equal or the checkpoint does not list them."""
        from datamodules.batching.data_changes import data_changes

        return data_changes(self.checkpoint.get("data_images"), data.known_images)


def check_same_classes(classes: Sequence[str], other_classes: Sequence[str], name: str, other_name: str) -> None:
    """Raise UserError unless two networks or data sets have the same classes in the same order."""
    if list(classes) != list(other_classes):
        differing = some_of(sorted({*classes} ^ {*other_classes}), 5) or "their order"
        raise UserError(
            f"The classes of {name} and {other_name} differ in {differing}; choose with --data.classes, or give other "
            "data."
        )
