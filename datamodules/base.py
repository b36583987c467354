"""The base class of all data sets: from a pack to normalized batches on the device.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

from collections.abc import Iterator, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import Dataset

from core.any_path import AnyPath
from core.names import escape_name
from core.user_error import UserError
from datamodules.batching.module_state import ModuleState
from datamodules.batching.randomness import EVALUATION, Generator, own_generators, random_key, seed_generators
from datamodules.batching.sampler import KeyedBatchSampler, ResumePoint
from datamodules.batching.split import SPLITS, Rule, SplitPlan, class_counts
from datamodules.batching.transform import Batch, BatchTransform, Normalization, chosen_normalization
from datamodules.loading.loader import TimedLoader, available_cores
from datamodules.packing.pack import Pack
from datamodules.packing.source import ImageSource


class KeepsArguments(ImageSource):
    """Records the constructor arguments that a subclass adds; they are part of the pack's cache key."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create the data module, and set its `own_arguments`."""
        data = super().__new__(cls)
        constructor: Any = cls.__init__
        parameters = signature(constructor).parameters
        defaults = {name: p.default for name, p in parameters.items() if p.default is not Parameter.empty}
        base_arguments = {*signature(ImageDataModule.__init__).parameters}
        if constructor is not ImageDataModule.__init__:
            base_arguments -= {"folds", "fold"} & parameters.keys()  # a data set may define these itself
        arguments = defaults | dict(zip(parameters, (data, *args), strict=False)) | kwargs
        data.own_arguments = {
            name: Path(value) if isinstance(defaults.get(name), Path) else value
            for name, value in arguments.items()
            if name not in base_arguments
        }
        return data


class ImageDataModule(KeepsArguments, LightningDataModule):
    """Packs a data set once, and loads it as normalized batches in an order that depends on the seed alone.

    A subclass defines `class_names`, `image_shape`, `fingerprint` and `read`. Images are moved to the device as `uint8`
    or `uint16`; the device augments (in training only) and normalizes whole batches. A split that the source lacks is
    drawn from its training images by `split_rule`.

    Args:
        root: The folder of downloaded data sets.
        packs: The folder of the packs, from which images are loaded; by default `packs` in `root`.
        download: Whether to download the data set if it is missing.
        storage: `packed` to load images from one memory-mapped array, or `files` to let workers decode them for each
            batch; both give the same batches. By default packed if that takes at most half of memory and of the free
            disk.
        on_corrupt: Whether unreadable images are an `error`, or are left out (`skip`) and listed in the run's folder.
        classes: The classes to use, in the order of their labels; by default all.
        repack: Whether to read the source again although there is a pack, after a change that is not detected.
        limit: How many images to use, as a number or a fraction; the proportions of splits and classes stay the same.
        batch_size: Images per batch and rank.
        val_size: The size of the validation split if the source has none: a fraction or a number of the images. With
            `hash`, a number is converted to a fraction of two digits.
        test_size: The size of the test split if the source has none; it is drawn before the validation split.
        split_seed: The seed for drawing splits; it differs from `seed`, so that several seeds share their splits.
        split_rule: `hash` or `shuffle`. With `hash`, an image's split depends only on `split_seed` and its path (or its
            pixels, if there are no files), so that sizes are met on average. With `shuffle`, sizes are met exactly,
            but adding or removing one image changes all splits. If the source has a `group` column, whole groups are
            drawn; adding or removing a group may then move others.
        folds: The number of cross-validation folds. They are drawn by `split_seed`, stratified by class, unless the
            source has a `fold` column. Not allowed if the source has its own test split.
        fold: The fold that is the test split, from 0 on; validation images are drawn from the other folds.
        seed: The seed of order and augmentation; on the command line, `--seed_everything`.
        augmentation: Modules that are applied in turn to training batches, float32 `[B, C, H, W]` in [0, 1]; modules
            of kornia draw new parameters for each image.
        mixing: Modules that mix images and labels of a training batch, such as `datamodules.mixing.MixUp`; one of them
            is drawn for each batch.
        normalization: `computed` from the training split, the name of a known normalization such as `imagenet`, `none`
            to only scale to [0, 1], or mean and std.
        balanced: Whether each epoch shows equally many training images of every class.
        drop_last: Whether to drop the last training batch if it is incomplete.
        num_workers: Worker processes that load batches; by default none for a pack, and one per core for files.

    Raises:
        UserError: If an argument is out of its range.
    """

    def __init__(
        self,
        root: AnyPath = Path("data"),
        packs: AnyPath | None = None,
        download: bool = False,
        storage: Literal["packed", "files"] | None = None,
        on_corrupt: Literal["error", "skip"] = "error",
        classes: Sequence[str | int] | None = None,
        repack: bool = False,
        limit: int | float | None = None,
        batch_size: int = 64,
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        split_rule: Rule = "hash",
        folds: int | None = None,
        fold: int | None = None,
        seed: int = 0,
        augmentation: Sequence[nn.Module] = (),
        mixing: Sequence[nn.Module] = (),
        normalization: str | Normalization = "computed",
        balanced: bool = False,
        drop_last: bool = False,
        num_workers: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"data.batch_size is {batch_size}; give a whole number of at least 1.")
        if num_workers is not None and num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}; give 0 or a positive number.")
        super().__init__(root, packs, download, storage, classes, repack)
        self.on_corrupt = on_corrupt
        self.split_plan = SplitPlan(
            self.class_names, self.tests_on_validation, val_size, test_size, limit, split_seed, split_rule, folds, fold
        )
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = list(augmentation)
        self.mixing = list(mixing)
        fixed_normalization = chosen_normalization(normalization, self.image_shape[0])
        self.mean = list(fixed_normalization.mean) if fixed_normalization else None
        self.std = list(fixed_normalization.std) if fixed_normalization else None
        self.balanced = balanced
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.pack: Pack | None = None
        self.splits: dict[str, Tensor] = {}  # the indices of each split's images in the pack, int64
        self.replaced: dict[str, Dataset[Batch]] = {}  # by split, a dataset to load instead of the pack
        self.module_state = ModuleState({"augmentation": self.augmentation, "mixing": self.mixing})
        self._is_computed = fixed_normalization is None
        self._on_device: Dataset[Batch] | None = None
        self._transform: BatchTransform | None = None
        self._generators: list[Generator] | None = None
        self._resume_point = ResumePoint()

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.class_names)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How images are prepared for the network, in plain types; known after `setup`."""
        channels, *size = self.image_shape
        shape = {"channels": channels, "image_size": size, "resize": self.resize}
        return {**shape, "mean": self.mean, "std": self.std, **(self.pack.pixel_facts if self.pack else {})}

    @property
    def class_counts(self) -> list[int]:
        """The number of training images of each class, `K` numbers; known after `setup`."""
        return class_counts(self._pack.labels[self.splits["train"]], self.num_classes).tolist()

    @property
    def epoch_counts(self) -> list[int]:
        """The number of images of each class in a training epoch, `K` numbers; known after `setup`."""
        if self.balanced:
            from datamodules.batching.shares import balanced_counts

            return balanced_counts(len(self.splits["train"]), self.num_classes)
        weights = self._weights
        if weights is None:
            return self.class_counts
        labels = self._pack.labels[self.splits["train"]]
        return class_counts(labels, self.num_classes, weights / weights.mean()).round().long().tolist()

    @property
    def _weights(self) -> Tensor | None:
        """The weight of each training image, float64 `[N]`, if the source has weights."""
        weights = self._pack.columns.get("weight")
        return None if weights is None else torch.from_numpy(weights)[self.splits["train"]]

    @property
    def data_fingerprint(self) -> str:
        """A hash of all images and labels, which does not depend on their location; known after `prepare_data`."""
        pack = self.pack or self.open_pack()
        assert pack is not None, "call prepare_data first"
        return pack.fingerprint

    @property
    def known_images(self) -> dict[str, Tensor]:
        """A 32-bit hash of each image's pixels, int32 `[N]` for each split; known after `setup`."""
        hashes = torch.from_numpy(self._pack.contents.astype(np.uint32).view(np.int32))
        return {split: hashes[indices] for split, indices in self.splits.items()}

    # Open the pack, draw the splits, and create loaders.

    def setup(self, stage: str) -> None:
        """Open the pack, draw the splits, and compute mean and std unless they are fixed or restored."""
        self._generators = None
        if self.pack is None:
            self.pack = pack = self.open_pack()
            if pack is None:
                raise UserError(f"The pack in {self.pack_folder} is not whole; start again.")
            if self.on_corrupt == "error":
                self.check_complete(pack)
            if self.balanced and (self.is_multi_label or "weight" in pack.columns):
                raise UserError(
                    "data.balanced cannot be combined with multi-label data or with weights; leave it out, or weight "
                    "the loss with --model.class_weights balanced."
                )
            source_splits = {name: torch.arange(bounds.start, bounds.stop) for name, bounds in pack.splits.items()}
            self.splits = self.split_plan.draw(source_splits, pack.labels, pack.identities, pack.columns)
            if stage == "fit":
                self.print_summary()
                if self.remembered_times and self.trainer is not None and self.trainer.is_global_zero:
                    self.remembered_times.look_at_all()
        if self.mean is None or self.std is None:
            self.mean, self.std = self._pack.mean_and_std(self.splits["train"])

    def teardown(self, stage: str) -> None:
        """Raise UserError if an image file was changed in place during training."""
        self.check_unchanged()

    @property
    def is_training(self) -> bool:
        """True while a Trainer is fitting with this data module."""
        return self.trainer is not None and self.trainer.state.fn is TrainerFn.FITTING

    @property
    def _overfits(self) -> bool:
        return self.is_training and bool(getattr(self.trainer, "overfit_batches", 0))

    @property
    def _pack(self) -> Pack:
        assert self.pack is not None, "call setup first"
        return self.pack

    @rank_zero_only
    def print_summary(self) -> None:
        """Print the sizes of the splits, and where images are loaded from."""
        pack, fold = self._pack, self.split_plan.fold
        sizes = ", ".join(f"{len(self.splits[name]):,} {name}" for name in SPLITS)
        if self.tests_on_validation:
            sizes += " (the same: labels of others are not public)"
        if fold is not None:
            sizes += f" (fold {fold})"
        shape = "x".join(map(str, self.image_shape)) + (" in 16 bits" if pack.highest > 255 else "")
        storage = f"packed in {pack.folder}"
        if pack.files is not None:
            storage = f"decoded by {self._worker_count()} workers from {self.source_folder}"
        if pack.skipped:
            storage += f"; left out because they give no image: {len(pack.skipped)}"
        print(f"{type(self).__name__}: {sizes} images of {shape}, {storage}")
        if pack.left_out:
            print(f"left out of {escape_name(str(self.source_folder))}: {pack.left_out}")

    def _worker_count(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if self._pack.files is None:
            return 0
        return max(1, available_cores() // (self.trainer.num_devices if self.trainer else 1))

    def _sampler(self, split: str, *, shuffle: bool = False) -> KeyedBatchSampler:
        indices, trainer = self.splits[split], self.trainer
        return KeyedBatchSampler(
            indices,
            self.batch_size,
            shuffle=shuffle,
            balance=self._pack.labels[indices] if shuffle and self.balanced else None,
            weights=self._weights if shuffle else None,
            seed=self.seed,
            drop_last=shuffle and self.drop_last,
            repeats=self._overfits,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )

    def _loader(self, split: str, sampler: KeyedBatchSampler) -> TimedLoader:
        replacement = self.replaced.get(split)
        workers = self._worker_count() if replacement is None else 0
        dataset = self._images(workers) if replacement is None else replacement
        is_on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return TimedLoader(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=is_on_gpu and dataset is not self._on_device,
        )

    def _images(self, workers: int) -> Dataset[Batch]:
        """Return the pack, or its copy in GPU memory if it fits."""
        if workers or self.trainer is None:
            return self._pack
        device = self.trainer.strategy.root_device
        if self._on_device is None and self._pack.fits_on(device):
            from datamodules.packing.pack_on_device import PackOnDevice

            self._on_device = PackOnDevice(self._pack, device)
        return self._on_device or self._pack

    def train_dataloader(self) -> TimedLoader:
        """Return a loader of the training split, which is shuffled again in every epoch."""
        sampler, trainer = self._sampler("train", shuffle=True), self.trainer
        if not len(sampler):
            raise UserError(
                f"data.batch_size is {self.batch_size} but training has {len(self.splits['train'])} images, too few "
                "for one batch; give a smaller batch size."
            )
        interval = getattr(trainer, "val_check_interval", None)  # missing if it is a time
        if isinstance(interval, int) and interval > len(sampler) and trainer and trainer.check_val_every_n_epoch:
            raise UserError(
                f"trainer.val_check_interval is {interval}, but an epoch has {len(sampler)} batches; give at most "
                "that, or count batches over all epochs with --trainer.check_val_every_n_epoch null."
            )
        sampler.resume(*self.place)
        return self._loader("train", sampler)

    def val_dataloader(self) -> TimedLoader:
        """Return a loader of the validation split in order; with `overfit_batches`, of the training batches."""
        split = "train" if self._overfits else "val"
        return self._loader(split, self._sampler(split, shuffle=self._overfits))

    def test_dataloader(self) -> TimedLoader:
        """Return a loader of the test split in order."""
        return self._loader("test", self._sampler("test"))

    predict_dataloader = test_dataloader  # predict images that the network was not trained on

    # Transform a loaded batch for the network.

    def images_in_order(self, split: str, batch_size: int) -> Iterator[Batch]:
        """Yield all images of a split in order: uint8 or uint16 `[B, C, H, W]`, with labels int64 `[B]`."""
        sampler = KeyedBatchSampler(self.splits[split], batch_size)
        yield from TimedLoader(self._pack, batch_size=None, sampler=sampler, num_workers=self._worker_count())

    def training_batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """Yield all batches of a training epoch as the network gets them, augmented and mixed.

        The state of a running fit does not change, except that all generators are seeded for each batch.
        """
        sampler, rank = self._sampler("train", shuffle=True), self.trainer.global_rank if self.trainer else 0
        sampler.resume(epoch, 0)
        with self.module_state.kept():
            for batch_idx, (images, labels) in enumerate(self._loader("train", sampler)):
                if len(labels):  # the last batch of a rank may be empty
                    self.seed_by(epoch, batch_idx, rank, device=device)
                    yield self.transform((images.to(device), labels.to(device)), training=True)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed all generators for the batch by (seed, epoch, batch, rank)."""
        trainer = self.trainer
        if trainer is not None and (function := trainer.state.fn) is not None:
            loop, epoch = getattr(trainer, f"{function.value}_loop"), EVALUATION
            if function is TrainerFn.FITTING:
                loop = loop.epoch_loop if trainer.training else loop.epoch_loop.val_loop
            if trainer.training:
                epoch = trainer.current_epoch
            batch_idx = loop.batch_progress.current.ready
            self.seed_by(epoch, batch_idx, trainer.global_rank, device=trainer.strategy.root_device)
        return batch

    def seed_by(self, *position: int, device: torch.device) -> None:
        """Seed all generators, also those that modules hold, by `seed` and a position such as (epoch, batch, rank)."""
        if self._generators is None:
            network = [self.trainer.lightning_module] if self.trainer and self.trainer.lightning_module else []
            self._generators = own_generators([*network, *self.augmentation, *self.mixing])
        seed_generators(random_key(self.seed, *position), device, self._generators)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment and mix a training batch on the device, and normalize every batch."""
        images, labels = batch
        trainer = self.trainer
        training = trainer is not None and trainer.training
        if trainer and training and not len(labels):
            # A rank without images in the last step still runs two dummy images, because DDP waits for every rank.
            dummy_images, _ = cast(TimedLoader, trainer.train_dataloader).dataset[self.splits["train"][:2]]
            batch, training = (dummy_images.to(images.device), labels), False
        return self.transform(batch, training=training)

    def transform(self, batch: Batch, *, training: bool) -> Batch:
        """Augment and mix if `training`, and normalize images uint8 or uint16 `[B, C, H, W]`.

        Labels are int64 `[B]` or uint8 `[B, K]`. The images become float32; multi-label and mixed labels become float32
        `[B, K]`. Features, which are floating-point, are returned as they are.
        """
        images, labels = batch
        if images.is_floating_point():
            return images, labels.float() if self.is_multi_label else labels
        if self._transform is None:
            mean, std = cast(list[float], self.mean), cast(list[float], self.std)  # known after `setup`
            modules, highest = (self.augmentation, self.mixing), self._pack.highest
            self._transform = BatchTransform(mean, std, *modules, self.num_classes, highest)
        return self._transform(batch, training=training)

    # Save and restore state. State of the loader itself would be restored too late, when it is iterated.

    def state_dict(self) -> dict[str, Any]:
        """Return the normalization, the position in the run, and the state of augmentation and mixing."""
        state: dict[str, Any] = {"mean": self.mean, "std": self.std, "computed": self._is_computed}
        if self.trainer is not None and self.is_training:
            state |= self._resume_point.state(self.trainer, self._training_sampler())
            state["transforms"] = self.module_state.of_each_rank(self.trainer.world_size)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; raise UserError if its normalization differs."""
        mean, std = state_dict["mean"], state_dict["std"]
        if len(mean) != self.image_shape[0]:
            raise UserError(
                f"The checkpoint normalises {len(mean)} channels; the images have {self.image_shape[0]}; use the data "
                "that it was trained on."
            )
        is_same = self._is_computed or (self.mean, self.std) == (mean, std)
        if not is_same or self._is_computed != state_dict.get("computed", self._is_computed):
            raise UserError(
                f"data.normalization is another than the checkpoint's weights were trained with, mean {mean} and std "
                f"{std}; leave it as it was, or begin a new run from its backbone with --model.network.weights."
            )
        self.mean, self.std, self._transform = mean, std, None
        rank = self.trainer.global_rank if self.trainer else 0
        states = state_dict.get("transforms")
        if states and not self.module_state.load(states[rank % len(states)]) and rank == 0:
            print("data.augmentation and data.mixing start with fresh state: the checkpoint has other modules")
        self._resume_point.load(state_dict, self._sampler("train", shuffle=True))

    @property
    def place(self) -> tuple[int, int]:
        """The epoch in which training starts or resumes, and how many of its images are already done."""
        return self._resume_point.epoch, self._resume_point.images_done

    def batches_done(self, batches: int) -> int:
        """Return how many of an epoch's `batches` are already done where training resumes."""
        return self._resume_point.batches_done(self._training_sampler(), batches)

    def _training_sampler(self) -> KeyedBatchSampler:
        loader = self.trainer.train_dataloader if self.trainer else None
        return cast(KeyedBatchSampler, loader.sampler) if loader is not None else self._sampler("train", shuffle=True)
