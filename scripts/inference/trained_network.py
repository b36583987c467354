"""A trained network with all that its checkpoint says of it.

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

BATCH_SIZE = 64  # images per batch where the checkpoint does not say how many its run had

# The Trainer's precisions that compute in another number format than that of the weights.
AUTOCAST = {"bf16-mixed": torch.bfloat16, "bf16": torch.bfloat16, "16-mixed": torch.float16, "16": torch.float16}


class TrainedNetwork:
    """Reads a checkpoint once; the network is built when it is first used.

    Args:
        path: A checkpoint, or the folder of a run, whose best checkpoint is read.
        device: Where the network computes; by default an accelerator, if there is one.
        content: The content of the checkpoint, if it was read before.

    Raises:
        UserError: If the checkpoint cannot be read, or does not say what its classes are called and what images it
            takes; on the first use of the network, if that cannot be built again.
    """

    def __init__(
        self, path: str | Path, device: torch.device | None = None, content: CheckpointContent | None = None
    ) -> None:
        self.path = find_checkpoint(Path(path))
        self.folder = run_of(self.path) or self.path.parent
        """The folder for results: that of the run, or else that of the checkpoint."""
        self.device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.checkpoint = content or read_checkpoint(self.path)
        self.class_names: list[str] = distinct_names(self.checkpoint["class_names"])
        """`K` names, in the order of the labels."""
        self.preprocessing: dict[str, Any] = self.checkpoint["preprocessing"]
        """Channels, image size, resize mode, mean, std and pixel format of the images that it was trained on."""
        self.config: dict[str, Any] = self.checkpoint.get("config", {})
        """The run's resolved configuration; empty if it is not known."""
        arguments = saved_arguments(self.checkpoint, self.path)
        self.is_multi_label: bool = arguments.get("multi_label", False)
        thresholds = self.checkpoint.get("thresholds") or [0.5] * len(self.class_names)
        self.thresholds = np.array(thresholds if self.is_multi_label else [], np.float64)
        """Of several labels per image, `[K]`: the probability above which each is predicted."""
        if len(self.class_names) != arguments.get("num_classes") or not self.preprocessing:
            raise UserError(
                f"{self.path} does not say what its classes are called and what images it takes: it was trained "
                "without a data module; give one that scripts/train.py has written."
            )
        height, width = self.preprocessing["image_size"]
        self.shape: tuple[int, int, int] = (self.preprocessing["channels"], height, width)
        """(C, H, W) of the images that the network takes."""
        self.resize: Resize = self.preprocessing.get("resize", "crop")
        """How an image of another shape is fitted."""
        self.test_time_augmentation: Views | None = arguments.get("test_time_augmentation")
        self._memory_format = torch.channels_last if arguments.get("channels_last") else torch.preserve_format
        self.pixel_format = PixelFormat.of(self.preprocessing)
        mean, std = self.preprocessing["mean"], self.preprocessing["std"]
        self.normalizer = Normalize(mean, std, self.pixel_format.highest).to(self.device)

    def read(self, path: str | Path) -> Tensor:
        """Read a file as the network takes it, uint8 or uint16 `[C, H, W]`; an UnreadableImageError says why not."""
        channels, height, width = self.shape
        return torch.from_numpy(self.pixel_format.read(path, channels, (height, width), self.resize).copy())

    @property
    def batch_size(self) -> int:
        """Images per batch in the run."""
        size: int = self.config.get("data", {}).get("init_args", {}).get("batch_size", BATCH_SIZE)
        return size

    @cached_property
    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode, on the device."""
        return build_network(self.checkpoint, self.path).to(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights."""
        return next((parameter.dtype for parameter in self.network.parameters()), torch.float32)

    @cached_property
    def autocast_dtype(self) -> torch.dtype | None:
        """The number format that the network computes in, if it is not that of its weights."""
        precision = self.config.get("trainer", {}).get("precision")
        if precision is None:
            from models.training.precision import choose_precision

            precision, _ = choose_precision(self.network, self.shape, self.device)
        return AUTOCAST.get(str(precision))

    @property
    def precision(self) -> str:
        """The number format that the network computes in, such as `bfloat16`."""
        return str(self.autocast_dtype or self.dtype).removeprefix("torch.")

    def in_float32(self, device: torch.device | None = None) -> "TrainedNetwork":
        """A copy that computes in float32, by default on the same device."""
        copied = copy.copy(self)
        copied.device = device or self.device
        copied.network = copy.deepcopy(self.network).to(copied.device, torch.float32)
        copied.autocast_dtype = None
        copied.normalizer = copy.deepcopy(self.normalizer).to(copied.device)
        return copied

    @contextmanager
    def autocast_context(self) -> Iterator[None]:
        """Compute inside the block in the precision that `scripts/train.py test` would choose."""
        before, dtype = torch.get_default_dtype(), self.autocast_dtype
        torch.set_default_dtype(self.dtype)
        try:
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                yield
        finally:
            torch.set_default_dtype(before)

    def normalize(self, images: Tensor) -> Tensor:
        """Images uint8 or uint16 `[B, C, H, W]` as the network takes them, in its number format and memory format."""
        return self.to_memory_format(self.normalizer(images.to(self.device, non_blocking=True)))

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Normalised images, float `[B, C, H, W]`, in the number format and memory format of the network."""
        return images.to(self.dtype, memory_format=self._memory_format)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float `[B, C, H, W]`, to logits `[B, K]`, with the test-time augmentation of the run."""
        return average_logits(
            lambda view: self.network(self.to_memory_format(view)),
            images,
            self.test_time_augmentation,
            self.is_multi_label,
        )

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Predict images, uint8 or uint16 `[B, C, H, W]`, as the run does in its test; float32 `[B, K]` on the CPU."""
        with self.autocast_context():
            return self.forward(self.normalizer(images.to(self.device, non_blocking=True))).float().cpu()

    def data(self, flags: Sequence[str] = ()) -> "ImageDataModule":
        """The data of the run or, by flags of `scripts/train.py`, others; set up, and normalised as in training.

        Prints how these data differ from those that the network was trained on.
        """
        data = self.unread_data(flags)
        data.prepare_data()
        data.setup("test")
        assert data.pack is not None, "it is set up"
        self._check_like(data, f"levels up to {data.pack.highest}", f"levels up to {self.pixel_format.highest}")
        if (here := data.pack.pixel_facts) != (there := self.pixel_format.facts):
            print(f"note: files are read by {here or 'default'}, those of training by {there or 'default'}")
        if changes := self.changes_of(data):
            print(f"note: {changes}")
        return data

    def unread_data(self, flags: Sequence[str] = ()) -> "ImageDataModule":
        """The same before any file of it is read."""
        names = ("--data", "--config", "-c")
        if "data" not in self.config and not any(flag.partition("=")[0] in names for flag in flags):
            raise UserError(
                f"{self.path} does not say what data it was trained on; give them with --data datamodules.mnist.MNIST "
                "or another."
            )
        from scripts.command.data_flags import build_data

        data = build_data(flags, (str(self.path), self.config))
        check_same_classes(self.class_names, list(data.class_names), str(self.path), type(data).__name__)
        self._check_like(data, PER_IMAGE[data.is_multi_label], PER_IMAGE[self.is_multi_label])
        self._check_like(data, f"images of {list(data.image_shape)}", f"images of {list(self.shape)}")
        data.mean, data.std = list(self.preprocessing["mean"]), list(self.preprocessing["std"])
        return data

    def _check_like(self, data: "ImageDataModule", here: str, there: str) -> None:
        if here != there:
            raise UserError(
                f"{type(data).__name__} has {here}, {self.path} was trained on {there}; give data like those, as with "
                "--data.image_size, --data.channels or --data.bit_depth."
            )

    def changes_of(self, data: "ImageDataModule") -> str:
        """How data differ from those that the network was trained on; empty if they do not."""
        from datamodules.batching.data_changes import data_changes

        return data_changes(self.checkpoint.get("data_images"), data.known_images)


def check_same_classes(classes: Sequence[str], others: Sequence[str], name: str, other: str) -> None:
    """See that two have the same classes in the same order."""
    if list(classes) != list(others):
        differing = some_of(sorted({*classes} ^ {*others}), 5) or "their order"
        raise UserError(
            f"The classes of {name} and {other} differ in {differing}; choose with --data.classes, or give other data."
        )
