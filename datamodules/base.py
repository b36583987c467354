"""The way of every image from its pack to a normalised batch on the device.

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
    """Keeps the arguments that a data set adds to those of every other: they belong to the identity of its pack."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the data module, which is then initialised with the same arguments."""
        data = super().__new__(cls)
        constructor: Any = cls.__init__
        parameters = signature(constructor).parameters
        defaults = {name: each.default for name, each in parameters.items() if each.default is not Parameter.empty}
        shared = {*signature(ImageDataModule.__init__).parameters}
        if constructor is not ImageDataModule.__init__:
            shared -= {"folds", "fold"} & parameters.keys()  # of a data set that has folds of its own
        given = defaults | dict(zip(parameters, (data, *args), strict=False)) | kwargs
        data.own_arguments = {
            name: Path(value) if isinstance(defaults.get(name), Path) else value
            for name, value in given.items()
            if name not in shared
        }
        return data


class ImageDataModule(KeepsArguments, LightningDataModule):
    """Reads a data set once, packs it, and feeds it as normalised batches in an order that only the seed decides.

    A data set says its `class_names` and `image_shape`, and how to `read` it; the rest is done here. Images travel to
    the device as `uint8` or `uint16` and are augmented (training only) and normalised there, a whole batch at a time.

    A split that the source does not come with is drawn from its training images, as `split_rule` says.

    Args:
        root: The folder of downloaded data sets.
        packs: The folder of the packs made from them, where training is fed from; by default `packs` in `root`.
        download: Whether to fetch the data set if it is not there.
        storage: `packed`, as one array that is mapped into memory, or `files`, decoded by workers for each batch; both
            give the same batches. By default packed if that takes at most half of memory and of the free disk.
        on_corrupt: Whether files without an image are an `error`, or left out (`skip`) and listed in the run's folder.
        classes: The classes to use, in the order of their labels; by default all.
        repack: Whether to read the source anew although there is a pack of it, for a change that no start can notice.
        limit: How many images to use: a number or a fraction; every split and class keeps its share.
        batch_size: Images per batch and process.
        val_size: The validation split where the source has none: a fraction of the images at hand, or a number of them,
            which under `hash` stands for a fraction of two digits.
        test_size: The test split where the source has none: likewise, drawn before validation.
        split_seed: The seed of these draws; apart from `seed`, so that several seeds train on the same images.
        split_rule: `hash`, by which an image's split follows from `split_seed` and its path in the source (where there
            are no files, its pixels) alone, so that sizes are met on average; or `shuffle`, by which they are met
            exactly and all images are drawn anew when one comes or goes. If the source says of each image which `group`
            it is of, whole groups are drawn instead; then a group that comes or goes may move others.
        folds: The number of folds of a cross-validation; `fold` is the test split, and validation is drawn from the
            others. They are drawn by `split_seed`, stratified by class, unless the source says which `fold` each image
            is in. A source with a test split of its own is a UserError.
        fold: Which of the folds is the test split, from 0 on.
        seed: The seed of order and augmentation; on the command line that of the whole run.
        augmentation: Modules that map float32 images `[B, C, H, W]` in [0, 1] to such images, applied in turn to
            training batches; kornia's draw anew for each image.
        mixing: Modules that mix the images of a training batch and their labels, such as
            `datamodules.mixing.MixUp`; one of them is drawn for each batch.
        normalization: `computed` from the training split, the name of a known one such as `imagenet`, `none` for
            scaling to [0, 1] alone, or mean and std.
        balanced: Whether every class has the same share of each epoch's training images, however many it has.
        drop_last: Whether training leaves out a last batch that is not full.
        num_workers: Processes that gather batches; by default none for packed images and one per core for files.

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
        chosen = chosen_normalization(normalization, self.image_shape[0])
        self.mean = list(chosen.mean) if chosen else None
        self.std = list(chosen.std) if chosen else None
        self.balanced = balanced
        self.drop_last = drop_last
        self.num_workers = num_workers
        self.pack: Pack | None = None
        self.splits: dict[str, Tensor] = {}
        self.replaced: dict[str, Dataset[Batch]] = {}  # by split, what its loaders read in place of the pack
        self.module_state = ModuleState({"augmentation": self.augmentation, "mixing": self.mixing})
        self._is_computed = chosen is None
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
        """What was done to an image before the network saw it, in plain types; known after `setup`."""
        channels, *size = self.image_shape
        shape = {"channels": channels, "image_size": size, "resize": self.resize}
        return {**shape, "mean": self.mean, "std": self.std, **(self.pack.pixel_facts if self.pack else {})}

    @property
    def class_counts(self) -> list[int]:
        """The training images of each class, `K` numbers; known after `setup`."""
        return class_counts(self._pack.labels[self.splits["train"]], self.num_classes).tolist()

    @property
    def epoch_counts(self) -> list[int]:
        """The images of each class that an epoch of training shows, `K` numbers; known after `setup`."""
        if self.balanced:
            from datamodules.batching.shares import balanced_counts

            return balanced_counts(len(self.splits["train"]), self.num_classes)
        shares = None if self._weights is None else self._weights / self._weights.mean()
        counts = class_counts(self._pack.labels[self.splits["train"]], self.num_classes, shares)
        return counts.round().long().tolist()

    @property
    def _weights(self) -> Tensor | None:
        """The weight of each training image, float64 `[N]`, where the source says it."""
        weights = self._pack.columns.get("weight")
        return None if weights is None else torch.from_numpy(weights)[self.splits["train"]]

    @property
    def data_fingerprint(self) -> str:
        """A digest of all images with their labels, the same for a copy elsewhere; known after `prepare_data`."""
        pack = self.pack or self.open_pack()
        assert pack is not None, "prepare_data comes before"
        return pack.fingerprint

    @property
    def known_images(self) -> dict[str, Tensor]:
        """32 bits of a digest of each image's pixels, int32 `[N]` for each split; known after `setup`."""
        digests = torch.from_numpy(self._pack.contents.astype(np.uint32).view(np.int32))
        return {split: digests[places] for split, places in self.splits.items()}

    # From the pack to splits and loaders.

    def setup(self, stage: str) -> None:
        """Map the pack, draw the splits, and compute mean and std unless they are given or restored."""
        self._generators = None
        if self.pack is None:
            self.pack = pack = self.open_pack()
            if pack is None:
                raise UserError(f"The pack in {self.pack_folder} is not whole; start again.")
            if self.on_corrupt == "error":
                self.check_complete(pack)
            if self.balanced and (self.is_multi_label or "weight" in pack.columns):
                raise UserError(
                    "data.balanced goes neither with several labels per image nor with weights; leave it out, or weigh "
                    "the loss with --model.class_weights balanced."
                )
            given = {name: torch.arange(ends.start, ends.stop) for name, ends in pack.splits.items()}
            self.splits = self.split_plan.draw(given, pack.labels, pack.identities, pack.columns)
            if stage == "fit":
                self.print_summary()
                if self.remembered_times and self.trainer is not None and self.trainer.is_global_zero:
                    self.remembered_times.look_at_all()
        if self.mean is None or self.std is None:
            self.mean, self.std = self._pack.mean_and_std(self.splits["train"])

    def teardown(self, stage: str) -> None:
        """Check that no file was written to since training began."""
        self.check_unchanged()

    @property
    def is_training(self) -> bool:
        """Whether a Trainer fits with it."""
        return self.trainer is not None and self.trainer.state.fn is TrainerFn.FITTING

    @property
    def _overfits(self) -> bool:
        return self.is_training and bool(getattr(self.trainer, "overfit_batches", 0))

    @property
    def _pack(self) -> Pack:
        assert self.pack is not None, "setup comes before"
        return self.pack

    @rank_zero_only
    def print_summary(self) -> None:
        """Say what is trained on."""
        pack, fold = self._pack, self.split_plan.fold
        counts = ", ".join(f"{len(self.splits[name]):,} {name}" for name in SPLITS)
        if self.tests_on_validation:
            counts += " (the same: labels of others are not public)"
        if fold is not None:
            counts += f" (fold {fold})"
        shape = "x".join(map(str, self.image_shape)) + (" in 16 bits" if pack.highest > 255 else "")
        where = f"packed in {pack.folder}"
        if pack.files is not None:
            where = f"decoded by {self._workers()} workers from {self.source_folder}"
        if pack.skipped:
            where += f"; left out because they give no image: {len(pack.skipped)}"
        print(f"{type(self).__name__}: {counts} images of {shape}, {where}")
        if pack.left_out:
            print(f"left out of {escape_name(str(self.source_folder))}: {pack.left_out}")

    def _workers(self) -> int:
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
        workers = 0 if split in self.replaced else self._workers()
        dataset = self.replaced[split] if split in self.replaced else self._images(workers)
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
        """What batches are gathered from: the pack, or its copy on the device."""
        if workers or self.trainer is None:
            return self._pack
        device = self.trainer.strategy.root_device
        if self._on_device is None and self._pack.fits_on(device):
            from datamodules.packing.pack_on_device import PackOnDevice

            self._on_device = PackOnDevice(self._pack, device)
        return self._on_device or self._pack

    def train_dataloader(self) -> TimedLoader:
        """Batches of the training split, shuffled anew in every epoch."""
        sampler, trainer = self._sampler("train", shuffle=True), self.trainer
        if not len(sampler):
            raise UserError(
                f"data.batch_size is {self.batch_size} but training has {len(self.splits['train'])} images, too few "
                "for one batch; give a smaller batch size."
            )
        interval = getattr(trainer, "val_check_interval", None)  # a Trainer lacks it if it is a time
        if isinstance(interval, int) and interval > len(sampler) and trainer and trainer.check_val_every_n_epoch:
            raise UserError(
                f"trainer.val_check_interval is {interval}, but an epoch has {len(sampler)} batches; give at most "
                "that, or count batches over all epochs with --trainer.check_val_every_n_epoch null."
            )
        sampler.resume(*self.place)
        return self._loader("train", sampler)

    def val_dataloader(self) -> TimedLoader:
        """Batches of the validation split, in order; with the Trainer's `overfit_batches` those of training."""
        split = "train" if self._overfits else "val"
        return self._loader(split, self._sampler(split, shuffle=self._overfits))

    def test_dataloader(self) -> TimedLoader:
        """Batches of the test split, in order."""
        return self._loader("test", self._sampler("test"))

    predict_dataloader = test_dataloader  # predictions are for images never trained on

    # From a batch as it was read to what the network sees.

    def images_in_order(self, split: str, batch_size: int) -> Iterator[Batch]:
        """All images of a split once, in its order: uint8 or uint16 `[B, C, H, W]`, with labels int64 `[B]`."""
        sampler = KeyedBatchSampler(self.splits[split], batch_size)
        yield from TimedLoader(self._pack, batch_size=None, sampler=sampler, num_workers=self._workers())

    def training_batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """All batches of an epoch as the network sees them in training, augmented and mixed alike.

        The generators are seeded for each batch; a training that is under way stays where it is.
        """
        sampler, rank = self._sampler("train", shuffle=True), self.trainer.global_rank if self.trainer else 0
        sampler.resume(epoch, 0)
        with self.module_state.kept():
            for batch_idx, (images, labels) in enumerate(self._loader("train", sampler)):
                if len(labels):  # the last of a process may be empty
                    self.seed_by(epoch, batch_idx, rank, device=device)
                    yield self.transform((images.to(device), labels.to(device)), training=True)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Seed everything random of the coming batch by its place: (seed, epoch, batch, rank)."""
        trainer = self.trainer
        if trainer is not None and (function := trainer.state.fn) is not None:
            loop, epoch = getattr(trainer, f"{function.value}_loop"), EVALUATION
            if function is TrainerFn.FITTING:
                loop = loop.epoch_loop if trainer.training else loop.epoch_loop.val_loop
            if trainer.training:
                epoch = trainer.current_epoch
            place = epoch, loop.batch_progress.current.ready, trainer.global_rank
            self.seed_by(*place, device=trainer.strategy.root_device)
        return batch

    def seed_by(self, *place: int, device: torch.device) -> None:
        """Seed all generators by `seed` and a place such as (epoch, batch, rank), also generators inside modules."""
        if self._generators is None:
            network = [self.trainer.lightning_module] if self.trainer and self.trainer.lightning_module else []
            self._generators = own_generators([*network, *self.augmentation, *self.mixing])
        seed_generators(random_key(self.seed, *place), device, self._generators)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: augment and mix if in training, and normalise."""
        images, labels = batch
        trainer = self.trainer
        training = trainer is not None and trainer.training
        if trainer and training and not len(labels):
            # A process that has no image left in an epoch's last step takes part in it with two that do not count.
            stand_ins, _ = cast(TimedLoader, trainer.train_dataloader).dataset[self.splits["train"][:2]]
            batch, training = (stand_ins.to(images.device), labels), False
        return self.transform(batch, training=training)

    def transform(self, batch: Batch, *, training: bool) -> Batch:
        """Augment and mix, if in training, and normalise images uint8 or uint16 `[B, C, H, W]` with their labels.

        Labels are int64 `[B]` or uint8 `[B, K]`. Images become float32, and so do several labels per image and labels
        of mixed images, `[B, K]`. Features, which are float, stay as they are.
        """
        images, labels = batch
        if images.is_floating_point():
            return images, labels.float() if self.is_multi_label else labels
        if self._transform is None:
            assert self.mean is not None and self.std is not None, "setup comes before"  # noqa: PT018
            modules, highest = (self.augmentation, self.mixing), self._pack.highest
            self._transform = BatchTransform(self.mean, self.std, *modules, self.num_classes, highest)
        return self._transform(batch, training=training)

    # What a resumed run restores. State of the loader would be restored too late: when it is iterated.

    def state_dict(self) -> dict[str, Any]:
        """The normalisation, the place in the run, and the state of augmentation and mixing."""
        state: dict[str, Any] = {"mean": self.mean, "std": self.std, "computed": self._is_computed}
        if self.trainer is not None and self.is_training:
            state |= self._resume_point.state(self.trainer, self._training_sampler())
            state["transforms"] = self.module_state.of_each_rank(self.trainer.world_size)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a checkpoint's state; refuse another normalisation."""
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
            print("data.augmentation and data.mixing begin anew: their state in the checkpoint is of others")
        self._resume_point.load(state_dict, self._sampler("train", shuffle=True))

    @property
    def place(self) -> tuple[int, int]:
        """The epoch in which training begins or resumes, and the images of it that are done."""
        return self._resume_point.epoch, self._resume_point.images_done

    def batches_done(self, batches: int) -> int:
        """How many of an epoch's `batches` lie before the place where training resumes; call it after that is known."""
        return self._resume_point.batches_done(self._training_sampler(), batches)

    def _training_sampler(self) -> KeyedBatchSampler:
        loader = self.trainer.train_dataloader if self.trainer else None
        return cast(KeyedBatchSampler, loader.sampler) if loader is not None else self._sampler("train", shuffle=True)
