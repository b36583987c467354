"""The way of every image from its source to a normalised batch on the device.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from filelock import FileLock
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from datamodules.pack import FORMAT_VERSION, Pack, Source, write_pack
from datamodules.randomness import random_key, seed_generators
from datamodules.sampler import KeyedBatchSampler
from datamodules.split import stratified_split

Batch = tuple[Tensor, Tensor]
"""Images, uint8 or float32 `[B, C, H, W]`, and labels, int64 `[B]`."""


class ImageDataModule(LightningDataModule, ABC):
    """Reads a data set once, packs it, and feeds it as normalised batches in an order that only the seed decides.

    A data set says its `class_names` and `image_shape`, and how to `read` it; the rest is done here. Images travel to
    the device as `uint8` and are augmented (training only) and normalised there, a whole batch at a time.

    A split that the source does not come with is drawn from its training images, every class in its proportion.

    Args:
        root: The folder of downloaded data sets and of the packs made from them.
        batch_size: Images per batch and process.
        val_size: The validation split where the source has none: a number of images or a fraction of those at hand.
        test_size: The test split where the source has none: likewise, drawn before validation.
        split_seed: The seed of these draws; apart from `seed`, so that several seeds train on the same images.
        seed: The seed of order and augmentation; on the command line that of the whole run.
        augmentation: Modules that map float32 images `[B, C, H, W]` in [0, 1] to such images, applied in turn to
            training batches; kornia's draw anew for each image.
        mean: Mean of each channel on the scale [0, 1]; by default computed from the training split.
        std: Standard deviation of each channel, likewise.
        drop_last: Whether training leaves out a last batch that is not full.
        num_workers: Processes that gather batches; 0 is the fastest for packed images that fit in memory.

    Raises:
        MisconfigurationException: If an argument is out of its range.
    """

    class_names: Sequence[str]
    """The classes' names; a label is a place in this list."""

    image_shape: tuple[int, int, int]
    """The images' shape (C, H, W)."""

    def __init__(
        self,
        root: Path = Path("data"),
        batch_size: int = 64,
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        augmentation: Sequence[nn.Module] = (),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        drop_last: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise MisconfigurationException(f"data.batch_size is {batch_size}; give a whole number of at least 1.")
        if num_workers < 0:
            raise MisconfigurationException(f"data.num_workers is {num_workers}; give 0 or a positive number.")
        for name, size in (("val_size", val_size), ("test_size", test_size)):
            if size <= 0 or (isinstance(size, float) and size >= 1):
                raise MisconfigurationException(
                    f"data.{name} is {size}; give a fraction between 0 and 1 or a whole number of images."
                )
        if (mean is None) != (std is None):
            raise MisconfigurationException("data.mean and data.std go together; give both or neither.")
        self.root = root
        self.batch_size = batch_size
        self.val_size = val_size
        self.test_size = test_size
        self.split_seed = split_seed
        self.seed = seed
        self.augmentation = nn.Sequential(*augmentation)
        self.mean = list(mean) if mean is not None else None
        self.std = list(std) if std is not None else None
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.pack: Pack | None = None
        self.splits: dict[str, Tensor] = {}
        self._position = (0, 0)
        self._affine: tuple[Tensor, Tensor] | None = None

    # What a data set says.

    @abstractmethod
    def fingerprint(self) -> str:
        """Text that changes whenever `read` would give other images; cheap, as every start asks for it."""

    @abstractmethod
    def read(self) -> Source:
        """Read the images, uint8 `[N, C, H, W]`, and labels, int64 `[N]`, of each split that the source comes with.

        The splits are named `train`, `val` and `test`; `train` must be there.
        """

    # What others may ask.

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.class_names)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What was done to an image before the network saw it, in plain types; known after `setup`."""
        channels, height, width = self.image_shape
        return {"channels": channels, "image_size": [height, width], "mean": self.mean, "std": self.std}

    # The way of an image.

    @property
    def pack_folder(self) -> Path:
        """Where the pack of this source is or will be; another source has another folder.

        Raises:
            MisconfigurationException: If the source is not there.
        """
        with self._reading():
            identity = repr((FORMAT_VERSION, self.fingerprint(), list(self.class_names), self.image_shape))
        digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return self.root / "packs" / f"{type(self).__name__.lower()}-{digest}"

    def prepare_data(self) -> None:
        """Pack the data set unless that has been done; of several processes, one packs and the others wait.

        Raises:
            MisconfigurationException: If the source is not there, is empty or has labels outside the classes, or the
                pack cannot be written.
        """
        folder = self.pack_folder
        if self._is_whole(folder):
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not self._is_whole(folder):
                    with self._reading():
                        source = self.read()
                    write_pack(folder, source, self.class_names)
        except OSError as error:
            raise MisconfigurationException(
                f"The data set cannot be packed in {folder.parent}: {error}; choose another folder with --data.root."
            ) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MisconfigurationException(
                f"{type(self).__name__} cannot be read from {error.filename}: {error.strerror}; put it there or give "
                "the folder it is in with --data.root."
            ) from error

    @staticmethod
    def _is_whole(folder: Path) -> bool:
        try:
            Pack(folder)
        except ValueError:
            return False
        return True

    def setup(self, stage: str) -> None:
        """Map the pack, draw the splits, and compute mean and std unless they are given or restored.

        Raises:
            MisconfigurationException: If a split is left without images, or mean and std have not one number for
                each channel.
        """
        if self.pack is None:
            self.pack = Pack(self.pack_folder)
            self.splits = self._draw_splits(self.pack)
        if self.mean is None or self.std is None:
            self.mean, self.std = self.pack.mean_and_std(self.splits["train"])
        channels = self.image_shape[0]
        if not len(self.mean) == len(self.std) == channels:
            raise MisconfigurationException(
                f"data.mean has {len(self.mean)} and data.std {len(self.std)} numbers; the images have "
                f"{channels} channels, so give {channels} of each."
            )

    def _draw_splits(self, pack: Pack) -> dict[str, Tensor]:
        splits = {name: torch.arange(ends.start, ends.stop) for name, ends in pack.splits.items()}
        for number, (name, size) in enumerate((("test", self.test_size), ("val", self.val_size))):
            if name not in splits:
                train = splits["train"]
                try:
                    rest, drawn = stratified_split(pack.labels[train], size, random_key(self.split_seed, number))
                except ValueError as error:
                    raise MisconfigurationException(f"data.{name}_size: {error}; give a smaller one.") from error
                splits["train"], splits[name] = train[rest], train[drawn]
        for name, indices in splits.items():
            if not len(indices):
                raise MisconfigurationException(
                    f"The {name} split has none of the {len(pack)} images; change data.val_size or data.test_size."
                )
        return splits

    def _loader(self, split: str, *, shuffle: bool = False) -> DataLoader[Any]:
        assert self.pack is not None, "setup comes before the loaders"
        trainer = self.trainer
        sampler = KeyedBatchSampler(
            self.splits[split],
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            drop_last=shuffle and self.drop_last,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if shuffle:
            if not len(sampler):
                raise MisconfigurationException(
                    f"data.batch_size is {self.batch_size} but training has {len(self.splits[split])} images, too few "
                    "for one batch; give a smaller batch size."
                )
            sampler.resume(*self._position)
        return DataLoader(
            self.pack,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training split, shuffled anew in every epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation split, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test split again: predictions are for images never trained on."""
        return self._loader("test")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed everything random of the coming training batch by its place: (seed, epoch, batch, rank)."""
        trainer = self.trainer
        if trainer is not None and trainer.training:
            batch_idx = trainer.fit_loop.epoch_loop.batch_progress.current.ready
            key = random_key(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
            seed_generators(key, trainer.strategy.root_device)
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: uint8 to float32, augmentation (training only), normalisation to `(x - mean) / std`."""
        images, labels = batch
        if self._affine is None or self._affine[0].device != images.device:
            mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
            # A channel that is the same everywhere has no spread to divide by.
            std = torch.tensor(self.std, device=images.device).clamp(min=1 / 255).view(1, -1, 1, 1)
            self._affine = 1 / (255 * std), -mean / std
        scale, shift = self._affine
        if self.trainer is not None and self.trainer.training and len(self.augmentation):
            with torch.no_grad():
                images = self.augmentation(images / 255) * 255
        return images.float().mul_(scale).add_(shift), labels

    # The place in a run, kept here because state on the loader is not restored before it is iterated.

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches done in it, and the numbers that the images are normalised by."""
        state: dict[str, Any] = {"mean": self.mean, "std": self.std}
        if self.trainer is not None and self.trainer.state.fn is TrainerFn.FITTING:
            epochs = cast(_ProcessedTracker, self.trainer.fit_loop.epoch_progress.current)
            batches = cast(_ProcessedTracker, self.trainer.fit_loop.epoch_loop.batch_progress.current)
            state["epoch"] = epochs.processed
            state["batches_done"] = batches.processed if epochs.processed < epochs.ready else 0
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the place and the normalisation of a checkpoint."""
        self.mean, self.std, self._affine = state_dict["mean"], state_dict["std"], None
        self._position = state_dict.get("epoch", 0), state_dict.get("batches_done", 0)
