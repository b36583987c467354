"""The way of every image from its pack to a normalised batch on the device.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import zlib
from abc import ABCMeta
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loops.progress import _ProcessedTracker
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor, nn

from core.names import escape_name
from core.user_error import UserError
from datamodules.batching.data_changes import KnownImages, data_changes, known_images
from datamodules.batching.module_state import ModuleState
from datamodules.batching.normalization import Normalization, chosen_normalization
from datamodules.batching.randomness import EVALUATION, Generator, own_generators, random_key, seed_generators
from datamodules.batching.sampler import KeyedBatchSampler, balanced_counts
from datamodules.batching.split import SPLITS, Rule, draw_splits
from datamodules.batching.transform import Batch, BatchTransform
from datamodules.loading.cores import available_cores
from datamodules.loading.loader import TimedLoader
from datamodules.packing.features import Features
from datamodules.packing.pack import Pack
from datamodules.packing.source import ImageSource

# From this size on, copying a batch takes longer than what is spent on a batch of any size, some 0.1 ms.
LARGE_BATCH_BYTES = 2**22


class NotesArguments(ABCMeta):
    """Keeps the arguments that a data set adds to those of every other: they belong to the identity of its pack."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Construct the data module."""
        data = super().__call__(*args, **kwargs)
        constructor = signature(cls.__init__)  # type: ignore[misc]  # which is that of the class
        shared = signature(ImageDataModule.__init__).parameters
        bound = constructor.bind(data, *args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        for name, parameter in constructor.parameters.items():
            if parameter.kind is Parameter.VAR_KEYWORD:
                given |= given.pop(name)
        data.own_arguments = {name: value for name, value in given.items() if name not in shared}
        return data


class ImageDataModule(ImageSource, LightningDataModule, metaclass=NotesArguments):
    """Reads a data set once, packs it, and feeds it as normalised batches in an order that only the seed decides.

    A data set says its `class_names` and `image_shape`, and how to `read` it; the rest is done here. Images travel to
    the device as `uint8` and are augmented (training only) and normalised there, a whole batch at a time.

    A split that the source does not come with is drawn from its training images, as `split_rule` says.

    Args:
        root: The folder of downloaded data sets.
        packs: The folder of the packs made from them, where training is fed from; by default `packs` in `root`.
        download: Whether to fetch the data set if it is not there.
        storage: `packed`, as one array that is mapped into memory, or `files`, decoded by workers for each batch; both
            give the same batches. By default packed if that takes at most half of memory and of the free disk.
        on_corrupt: Whether files that give no image are an `error`, or left out (`skip`) and listed in the run's
            folder.
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
            exactly and all images are drawn anew when one comes or goes. Runs from before this choice have the latter.
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
        root: Path = Path("data"),
        packs: Path | None = None,
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
        self.limit = None if limit is None else _size("limit", limit)
        self.batch_size = batch_size
        self.val_size = _size("val_size", val_size)
        self.test_size = _size("test_size", test_size)
        self.split_seed = split_seed
        self.split_rule = split_rule
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
        self.features: Features | None = None
        """What the loaders of its splits give in place of images, if anything: neither augmented nor normalised."""
        self.splits: dict[str, Tensor] = {}
        self._is_computed = chosen is None
        self._position = (0, 0)
        self._may_be_over = False
        self._transform: BatchTransform | None = None
        self._transform_state = ModuleState({"augmentation": self.augmentation, "mixing": self.mixing})
        self._own_generators: list[Generator] | None = None

    # What others may ask.

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.class_names)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What was done to an image before the network saw it, in plain types; known after `setup`."""
        channels, height, width = self.image_shape
        return {
            "channels": channels,
            "image_size": [height, width],
            "resize": self.resize,
            "mean": self.mean,
            "std": self.std,
        }

    @property
    def class_counts(self) -> list[int]:
        """The training images of each class, `K` numbers; known after `setup`."""
        assert self.pack is not None, "setup comes before"
        return torch.bincount(self.pack.labels[self.splits["train"]], minlength=self.num_classes).tolist()

    @property
    def epoch_counts(self) -> list[int]:
        """The images of each class that an epoch of training shows, `K` numbers; known after `setup`."""
        counts = self.class_counts
        return balanced_counts(sum(counts), len(counts)) if self.balanced else counts

    @property
    def data_fingerprint(self) -> str:
        """A digest of all images with their labels, the same for a copy elsewhere; known after `prepare_data`."""
        pack = self.open_pack() if self.pack is None else self.pack
        assert pack is not None, "prepare_data comes before"
        return pack.fingerprint

    @property
    def known_images(self) -> dict[str, Tensor]:
        """By what the images of each split are known again; known after `setup`."""
        assert self.pack is not None, "setup comes before"
        return known_images(self.splits, self.pack.contents)

    def changes_since(self, training: KnownImages | None) -> str:
        """Say in how far these are not the data that a network was trained on; nothing if they are.

        Args:
            training: The `known_images` in its checkpoint; one from before there were any has none.
        """
        assert self.pack is not None, "setup comes before"
        if training:
            return data_changes(training, self.known_images)
        drawn = {"val", "test"} - self.pack.splits.keys()
        if self.split_rule == "hash" or not drawn:
            return ""
        return (
            "the splits depend on how many images there are, and the checkpoint is too old to say which it was trained "
            f"on: if any has come or gone, {' and '.join(sorted(drawn))} images may have been"
        )

    @property
    def remedy_for_waiting(self) -> str:
        """What to change when training waits for batches; known after `setup`."""
        assert self.pack is not None, "setup comes before"
        workers, cores = self._workers(), available_cores()
        if self.pack.files is not None:
            if workers < cores:
                return f"decode with --data.num_workers {cores}"
            return "decode once for all with --data.storage packed, or make the images smaller"
        if workers == 0 and self.batch_size * torch.Size(self.image_shape).numel() > LARGE_BATCH_BYTES:
            return "gather batches beside training with --data.num_workers 2"
        return "take larger batches with --data.batch_size; what is waited for is a batch's fixed cost"

    # The way of an image.

    def setup(self, stage: str) -> None:
        """Map the pack, draw the splits, and compute mean and std unless they are given or restored.

        Raises:
            UserError: If a file could not be read and is not to be skipped, or a split is left without
                images.
        """
        self._own_generators = None
        if self.pack is None:
            self.pack = self.open_pack()
            if self.pack is None:
                raise UserError(f"The pack in {self.pack_folder} is not whole; start again.")
            self._refuse_skipped(self.pack)
            splits = {name: torch.arange(ends.start, ends.stop) for name, ends in self.pack.splits.items()}
            self.splits = self.draw_splits(splits, self.pack.labels, self.pack.identities)
            if stage == "fit":
                self._tell()
                if self.trainer is not None and self.trainer.is_global_zero:
                    self.remembered_times.look_at_all()
        if self.mean is None or self.std is None:
            self.mean, self.std = self.pack.mean_and_std(self.splits["train"])
        if len(self.mean) != self.image_shape[0]:
            raise UserError(
                f"The checkpoint normalises {len(self.mean)} channels; the images have {self.image_shape[0]}; use "
                "the data that it was trained on."
            )

    @property
    def is_training(self) -> bool:
        """Whether a Trainer fits with it."""
        return self.trainer is not None and self.trainer.state.fn is TrainerFn.FITTING

    def teardown(self, stage: str) -> None:
        """See that no file was written to behind the start of training.

        Raises:
            UserError: If one was.
        """
        self.remembered_times.refuse_changed()

    def _refuse_skipped(self, pack: Pack) -> None:
        if pack.skipped and self.on_corrupt == "error":
            shown = ", ".join(f"{self.source_folder / name} ({reason})" for name, reason in pack.skipped[:3])
            more = f" and {len(pack.skipped) - 3} more" if len(pack.skipped) > 3 else ""
            raise UserError(
                f"{len(pack.skipped)} of {len(pack.skipped) + len(pack)} files give no image: {shown}{more}; replace "
                "or remove them, or leave them out with --data.on_corrupt skip."
            )

    def draw_splits(
        self, splits: dict[str, Tensor], labels: Tensor, identities: NDArray[np.uint64]
    ) -> dict[str, Tensor]:
        """Choose the images of each split, as `datamodules.batching.split.draw_splits` does with the sizes asked for.

        Args:
            splits: The places of the images of each split that the source comes with, int64.
            labels: The labels of all images, int64 `[N]`; -1 for a class that is not asked for.
            identities: What identifies each image, uint64 `[N]`.

        Raises:
            UserError: If a class has no training image, or a split is left without any.
        """
        self._check_classes(labels[splits["train"]], f"in {self.source_folder}; add some")
        try:
            drawn = draw_splits(
                splits,
                labels,
                identities,
                val_size=self.val_size,
                test_size=self.test_size,
                limit=self.limit,
                seed=self.split_seed,
                tests_on_validation=self.tests_on_validation,
                rule=self.split_rule,
            )
        except ValueError as error:
            raise UserError(f"data.{error}.") from error
        if self.split_rule == "hash":  # the other is that of runs which have been trained without the class
            self._check_classes(labels[drawn["train"]], "left by the splits and data.limit; use more images")
        return drawn

    def _check_classes(self, labels: Tensor, remedy: str) -> None:
        counts = torch.bincount(labels + 1, minlength=self.num_classes + 1)[1:]
        if (counts == 0).any():
            name = self.class_names[int(counts.argmin())]
            raise UserError(f"The class {name} has no training image {remedy}, or leave it out of --data.classes.")

    @rank_zero_only
    def _tell(self) -> None:
        assert self.pack is not None
        channels, height, width = self.image_shape
        counts = ", ".join(f"{len(self.splits[name]):,} {name}" for name in SPLITS)
        if self.tests_on_validation:
            counts += " (the same: labels of others are not public)"
        if self.pack.files is None:
            how = f"packed in {self.pack.folder}"
        else:
            how = f"decoded by {self._workers()} workers from {self.source_folder}"
        line = f"{type(self).__name__}: {counts} images of {channels}x{height}x{width}, {how}"
        if self.balanced:
            most, least = max(self.class_counts), min(self.class_counts)
            line += f"; balanced, {min(self.epoch_counts):,} of each class an epoch instead of {least:,} to {most:,}"
        if self.pack.skipped:
            line += f"; left out because they give no image: {len(self.pack.skipped)}"
        print(line)
        if self.pack.left_out:
            print(f"left out of {escape_name(str(self.source_folder))}: {self.pack.left_out}")

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        assert self.pack is not None
        if self.pack.files is None:
            return 0
        return max(1, available_cores() // (self.trainer.num_devices if self.trainer else 1))

    def _loader(self, split: str, *, shuffle: bool = False) -> TimedLoader:
        assert self.pack is not None, "setup comes before the loaders"
        trainer = self.trainer
        sampler = KeyedBatchSampler(
            self.splits[split],
            self.batch_size,
            shuffle=shuffle,
            balance=self.pack.labels[self.splits[split]] if shuffle and self.balanced else None,
            seed=self.seed,
            drop_last=shuffle and self.drop_last,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        if shuffle:
            if not len(sampler):
                raise UserError(
                    f"data.batch_size is {self.batch_size} but training has {len(self.splits[split])} images, too few "
                    "for one batch; give a smaller batch size."
                )
            interval = getattr(trainer, "val_check_interval", None)  # which the Trainer lacks if it is a time
            if isinstance(interval, int) and interval > len(sampler) and trainer and trainer.check_val_every_n_epoch:
                raise UserError(
                    f"trainer.val_check_interval is {interval}, but an epoch has {len(sampler)} batches; give at most "
                    "that, or count batches over all epochs with --trainer.check_val_every_n_epoch null."
                )
            sampler.resume(*self._position)
        from_features = self.features is not None and split in self.features.splits
        # Features lie ready in memory, and which variant is due is known in this process.
        workers = 0 if from_features else self._workers()
        return TimedLoader(
            self.features.batches(split, sampler) if self.features is not None and from_features else self.pack,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> TimedLoader:
        """Batches of the training split, shuffled anew in every epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> TimedLoader:
        """Batches of the validation split, in order."""
        return self._loader("val")

    def test_dataloader(self) -> TimedLoader:
        """Batches of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> TimedLoader:
        """The test split again: predictions are for images never trained on."""
        return self._loader("test")

    def training_batches(self, epoch: int, device: torch.device) -> Iterator[Batch]:
        """All batches of an epoch as the network sees them in training, augmented and mixed alike.

        The generators are seeded for each of them; a training that is under way stays where it is.

        Args:
            epoch: The epoch.
            device: Where the batches are wanted.

        Returns:
            Images float32 `[B, C, H, W]`, normalised, or the `features` in their place, and labels int64 `[B]` or, when
            mixed, float32 `[B, K]`.
        """
        loader, rank = self.train_dataloader(), self.trainer.global_rank if self.trainer else 0
        cast(KeyedBatchSampler, loader.sampler).resume(epoch, 0)
        with self.keep_transform_state():
            for batch_idx, (images, labels) in enumerate(loader):
                if len(labels):  # the last of a process may be empty
                    self.seed_by(epoch, batch_idx, rank, device=device)
                    batch = images.to(device), labels.to(device)
                    yield batch if self.features is not None else self.transform(batch, training=True)

    def images_in_order(self, split: str, batch_size: int) -> Iterator[Batch]:
        """All images of a split once, in its order, as they were read.

        Args:
            split: The split.
            batch_size: Images at a time, B.

        Returns:
            Images uint8 `[B, C, H, W]` and labels int64 `[B]`.
        """
        assert self.pack is not None, "setup comes before"
        sampler = KeyedBatchSampler(self.splits[split], batch_size)
        yield from TimedLoader(self.pack, batch_size=None, sampler=sampler, num_workers=self._workers())

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
        """Seed all generators by a place such as (epoch, batch, rank), also those that modules hold.

        Args:
            place: Integers, besides `seed`.
            device: Where the batch is going.
        """
        if self._own_generators is None:
            network = self.trainer.lightning_module if self.trainer else None
            self._own_generators = own_generators([*([network] if network else []), *self.augmentation, *self.mixing])
        seed_generators(random_key(self.seed, *place), device, self._own_generators)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: augment if in training, and normalise, unless these are features.

        A process that has no image left in an epoch's last step takes part in it with two that do not count.
        """
        images, labels = batch
        trainer = self.trainer
        training = trainer is not None and trainer.training
        if trainer and training and not len(labels):
            stand_ins, _ = cast(TimedLoader, trainer.train_dataloader).dataset[self.splits["train"][:2]]
            batch, training = (stand_ins.to(images.device), labels), False
        return batch if self.features is not None else self.transform(batch, training=training)

    def transform(self, batch: Batch, *, training: bool) -> Batch:
        """Make of a batch as it was read what the network sees.

        Args:
            batch: Images uint8 `[B, C, H, W]` and labels int64 `[B]`.
            training: Whether to augment and to mix.

        Returns:
            Images float32 `[B, C, H, W]`, normalised, and labels int64 `[B]` or, when mixed, float32 `[B, K]`.
        """
        if self._transform is None:
            assert self.mean is not None and self.std is not None, "setup comes before"  # noqa: PT018
            self._transform = BatchTransform(self.mean, self.std, self.augmentation, self.mixing, self.num_classes)
        return self._transform(batch, training=training)

    @contextmanager
    def keep_transform_state(self) -> Iterator[None]:
        """Leave the buffers of augmentation and mixing as they are, whatever passes through them within."""
        with self._transform_state.kept():
            yield

    # The place in a run, kept here because state on the loader is not restored before it is iterated.

    def state_dict(self) -> dict[str, Any]:
        """Epoch and images done in it, in their order, what the images are normalised by, and the transforms' state."""
        state: dict[str, Any] = {"mean": self.mean, "std": self.std, "computed": self._is_computed}
        if self.trainer is not None and self.is_training:
            epochs = cast(_ProcessedTracker, self.trainer.fit_loop.epoch_progress.current)
            batches = cast(_ProcessedTracker, self.trainer.fit_loop.epoch_loop.batch_progress.current)
            state |= {"epoch": epochs.processed, "images_done": 0, "order": self._order()}
            state["transforms"] = self._transform_state.of_each_rank(self.trainer.world_size)
            # An epoch that was cut off by the run's last step has been processed, and yet goes on in a longer run.
            in_all = int(self.trainer.num_training_batches) if epochs.ready else 0
            if epochs.processed < epochs.ready or batches.processed < in_all:
                sampler = self._training_sampler()
                since = batches.processed - (in_all - sampler.batches_left(in_all))
                state["epoch"], state["is_over"] = epochs.ready - 1, batches.processed == in_all
                state["images_done"] = sampler.images_done + since * sampler.batch_size * sampler.world_size
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the place and the normalisation of a checkpoint.

        Raises:
            UserError: If another normalisation is asked for.
        """
        mean, std = state_dict["mean"], state_dict["std"]
        if self._is_computed != state_dict.get("computed", self._is_computed) or not (
            self._is_computed or (self.mean, self.std) == (mean, std)
        ):
            raise UserError(
                f"data.normalization is another than the checkpoint's weights were trained with, mean {mean} and std "
                f"{std}; leave it as it was, or begin a new run from its backbone with --model.network.weights."
            )
        self.mean, self.std, self._transform = mean, std, None
        size = self.batch_size * (self.trainer.world_size if self.trainer else 1)
        done = state_dict.get("images_done", size * state_dict.get("batches_done", 0))
        is_over = state_dict.get("is_over", False)
        if states := state_dict.get("transforms"):
            rank = self.trainer.global_rank if self.trainer else 0
            if not self._transform_state.load(states[rank % len(states)]) and rank == 0:
                print("data.augmentation and data.mixing begin anew: their state in the checkpoint is of others")
        self._position = state_dict.get("epoch", 0), len(self.splits["train"]) if is_over else done
        self._may_be_over = is_over or "batches_done" in state_dict  # as older checkpoints have it
        if done and not is_over and state_dict.get("order", self._order()) != self._order():
            self._begin_epoch_again("the order of its training images is not what it was")

    def batches_done(self, batches: int) -> int:
        """Of an epoch of so many batches, those before the place that training is taken up at; known with its loader.

        An epoch that was not over begins again if it has no batch left.
        """
        left = self._training_sampler().batches_left(batches)
        if left or self._may_be_over:
            return batches - left
        self._begin_epoch_again("in batches of this size and number nothing is left of it")
        self._training_sampler().resume(*self._position)
        return 0

    @property
    def place(self) -> tuple[int, int]:
        """The epoch that training is taken up in, and the images done in it before."""
        return self._position

    def _begin_epoch_again(self, why: str) -> None:
        epoch, _ = self._position
        self._position = epoch, 0
        if self.trainer is None or self.trainer.is_global_zero:
            print(f"epoch {epoch} begins again: {why}")

    def _training_sampler(self) -> KeyedBatchSampler:
        assert self.trainer is not None, "training is taken up by a Trainer"
        return cast(KeyedBatchSampler, cast(TimedLoader, self.trainer.train_dataloader).sampler)

    def _order(self) -> int:
        """A number that stands for the order of the training images in every epoch."""
        return random_key(zlib.crc32(self.splits["train"].contiguous().numpy().data), self.seed, self.balanced)


def _size(name: str, size: int | float) -> int | float:
    """A number of images or a fraction of them; 1e4 is a number."""
    if size > 1 and float(size).is_integer():
        return int(size)
    if not size > 0 or (isinstance(size, float) and not size < 1):
        raise UserError(f"data.{name} is {size}; give a fraction between 0 and 1 or a whole number of images.")
    return size
