"""A trained network as a function of images, whatever they come as, from its checkpoint alone.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import os
from collections.abc import Collection, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from core.names import escape_name
from core.user_error import UserError
from datamodules.batching.transform import BatchTransform
from datamodules.decoding.image_file import UnreadableImageError, image_pixels, read_image
from datamodules.decoding.image_files import ImageFiles, TryDecode
from datamodules.loading.cores import available_cores
from datamodules.loading.loader import TimedLoader
from models.serialization.checkpoint import read_checkpoint
from scripts.command.silence import silence_libraries
from scripts.inference.predictions import probabilities_of
from scripts.inference.trained import autocast_dtype, computing_in, find_checkpoint, load_trained

BATCH_SIZE = 64  # images per batch where the checkpoint does not say how many its run had

# Images that a worker process decodes at a time, at least: handing over fewer costs more than it gains.
FEWEST_DECODED = 4

# A file, an image of Pillow, an array uint8 `[H, W]` or `[H, W, C]`, or a tensor uint8 `[C, H, W]`.
Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network says of one image.

    Args:
        class_name: The most probable class.
        probability: Its probability, in [0, 1].
        probabilities: The probability of each class, in the order of the labels.
        logits: float32 `[K]`.
    """

    class_name: str
    probability: float
    probabilities: dict[str, float]
    logits: NDArray[np.float32]


def load_classifier(checkpoint: str | Path) -> "ImageClassifier":
    """Load a trained network, to be called with images.

    Args:
        checkpoint: The file, or a run's folder.

    Raises:
        UserError: If it cannot be read, or does not say what images it takes.
    """
    silence_libraries()
    return ImageClassifier(find_checkpoint(Path(checkpoint)))


class ImageClassifier:
    """Brings images to what the network was trained on, and asks it what they show.

    Size, channels, depth and normalisation are those of the run, and so is the precision: the same images in the same
    batches have the probabilities that `scripts/evaluate.py` gives them.

    Args:
        checkpoint: The file.

    Raises:
        UserError: If it cannot be read, or does not say what images it takes.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.classifier = load_trained(checkpoint)
        self.class_names = list(self.classifier.class_names)
        """`K` names."""
        facts = self.classifier.preprocessing
        if len(self.class_names) != self.classifier.num_classes or not facts:
            raise UserError(
                f"{checkpoint} does not say what its classes are called and what images it takes: it was trained "
                "without a data module; give one that scripts/train.py has written."
            )
        self.shape: tuple[int, int, int] = (facts["channels"], *facts["image_size"])
        """(C, H, W) of what the network is shown."""
        self.resize = facts.get("resize", "crop")
        self._transform = BatchTransform(facts["mean"], facts["std"], (), (), self.classifier.num_classes)
        self._dtype = autocast_dtype(self.classifier, checkpoint)
        config = read_checkpoint(checkpoint).get("config", {})
        self.batch_size: int = config.get("data", {}).get("init_args", {}).get("batch_size", BATCH_SIZE)
        """Images per batch; that of the run."""

    def __call__(self, images: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """Say what images show.

        Args:
            images: One image, or a list of them, or a tensor uint8 `[B, C, H, W]`. Files are read as
                `datamodules.decoding.image_file.read_image` does: upright, their transparency laid on white.

        Returns:
            A prediction, or a list of them if a list or a batch was given.

        Raises:
            UnreadableImageError: If a file or an image of Pillow cannot be decoded.
            UserError: If something else than an image was given.
        """
        if isinstance(images, list | tuple) or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4):
            several = cast(Sequence[Picture], images)
            batches = (several[start : start + self.batch_size] for start in range(0, len(several), self.batch_size))
            return [prediction for batch in batches for prediction in self._predictions(batch)]
        return self._predictions([cast(Picture, images)])[0]

    def _predictions(self, images: Sequence[Picture]) -> list[Prediction]:
        logits = self.logits(torch.stack([self.pixels(image) for image in images]))
        probabilities = probabilities_of(logits)
        return [
            Prediction(
                self.class_names[label], float(row[label]), dict(zip(self.class_names, row.tolist(), strict=True)), some
            )
            for label, row, some in zip(logits.argmax(axis=1), probabilities, logits, strict=True)
        ]

    def pixels(self, image: Picture) -> Tensor:
        """Bring an image to the size and channels that the network is shown.

        Returns:
            uint8 `[C, H, W]`.

        Raises:
            UnreadableImageError: If it cannot be decoded.
            UserError: If it is none.
        """
        if isinstance(image, str | os.PathLike):
            self.refuse_files_of_other_channels()
            try:
                return torch.from_numpy(read_image(image, self.shape[0], self.shape[1:], self.resize).copy())
            except UnreadableImageError as error:
                raise UnreadableImageError(f"{escape_name(str(image))}: {error}") from error
        if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3:
            if image.shape == self.shape:
                return image.cpu()
            image = image.permute(1, 2, 0).cpu().numpy()
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
            levels = image[..., None] if image.ndim == 2 else image
            if levels.shape == (*self.shape[1:], self.shape[0]):
                return torch.from_numpy(levels.transpose(2, 0, 1).copy())
            if levels.shape[2] in (1, 2, 3, 4) and levels.size:
                image = Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)
        if not isinstance(image, Image.Image):
            kind = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray | Tensor) else repr(image)[:60]
            raise UserError(
                f"A {type(image).__name__}, {kind}, is no image: give a path, an image of Pillow, a uint8 array [H, W] "
                "or [H, W, C], a uint8 tensor [B, C, H, W], or a list of these."
            )
        self.refuse_files_of_other_channels()
        return torch.from_numpy(image_pixels(image, self.shape[0], self.shape[1:], self.resize).copy())

    def refuse_files_of_other_channels(self) -> None:
        """See that an image file can be what the network is shown.

        Raises:
            UserError: If not.
        """
        if self.shape[0] not in (1, 3):
            raise UserError(
                f"{self.checkpoint} takes images of {self.shape[0]} channels, a file has 1 or 3; give arrays of "
                f"{self.shape[1]}x{self.shape[2]} pixels with these channels in Python."
            )

    @property
    def precision(self) -> str:
        """What the network computes in, such as `bfloat16`."""
        return str(self._dtype or self.classifier.dtype).removeprefix("torch.")

    def autocast_context(self) -> AbstractContextManager[object]:
        """A context in which the network computes in the precision of its run; `logits` without it enters one."""
        return computing_in(self.classifier, self._dtype)

    @torch.no_grad()
    def logits(self, images: Tensor) -> NDArray[np.float32]:
        """Ask the network.

        Args:
            images: uint8 `[B, C, H, W]`, as `pixels` gives them.

        Returns:
            float32 `[B, K]`.
        """
        device = self.classifier.device
        batch, _ = self._transform((images.to(device, non_blocking=True), torch.zeros(len(images))), training=False)
        with self.autocast_context():
            found: NDArray[np.float32] = self.classifier.predict_logits(batch).float().cpu().numpy()
        return found

    def logits_of_files(
        self, paths: Sequence[str], *, batch_size: int | None = None, num_workers: int | None = None, first: int = 0
    ) -> Generator[tuple[NDArray[np.float32], dict[int, str]]]:
        """Ask the network about files, which other processes decode meanwhile.

        Args:
            paths: The files.
            batch_size: By default that of the run.
            num_workers: Processes that decode; by default one for each core.
            first: Where in `paths` to begin, a multiple of `batch_size`, so that batches stay what they are.

        Returns:
            For each batch, logits float32 `[B, K]`, not a number where there is no image, and the reason for each row
            of these.

        Raises:
            WorkerError: While iterating, if a process that decodes has died.
        """
        self.refuse_files_of_other_channels()
        batch_size = batch_size or self.batch_size
        files = ImageFiles(Path(), np.array([os.fsencode(path) for path in paths], np.bytes_), self.shape, self.resize)
        workers = available_cores() if num_workers is None else num_workers
        # Each batch is decoded by all workers, so that the first is there soonest and a small one is shared too.
        share = max(FEWEST_DECODED, -(-min(batch_size, len(paths) - first) // max(1, workers)))
        chunks = [
            range(start, min(start + share, stop))
            for begin in range(first, len(paths), batch_size)
            for stop in [min(begin + batch_size, len(paths))]
            for start in range(begin, stop, share)
        ]
        loader = TimedLoader(
            TryDecode(files),
            batch_size=None,
            sampler=chunks,
            num_workers=0 if len(chunks) == 1 else min(workers, len(chunks)),
            pin_memory=self.classifier.device.type == "cuda",
        )
        parts: list[Tensor] = []
        errors: dict[int, str] = {}
        filled, done = 0, first
        with self.autocast_context():
            for images, reasons in loader:
                parts.append(images)
                errors |= {filled + row: reason for row, reason in reasons.items()}
                filled += len(images)
                if filled < min(batch_size, len(paths) - done):
                    continue
                yield self._logits_of_whole(torch.cat(parts) if len(parts) > 1 else parts[0], errors), errors
                done += filled
                parts, errors, filled = [], {}, 0

    def _logits_of_whole(self, images: Tensor, errors: Collection[int]) -> NDArray[np.float32]:
        """Logits float32 `[B, K]` of images uint8 `[B, C, H, W]`, not a number in the rows that have errors."""
        logits = np.full((len(images), len(self.class_names)), np.nan, np.float32)
        if whole := [row for row in range(len(images)) if row not in errors]:
            logits[whole] = self.logits(images[whole] if errors else images)
        return logits
