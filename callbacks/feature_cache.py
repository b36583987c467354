"""Compute a frozen backbone's outputs once instead of in every epoch."""

import hashlib
import re
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from core.any_path import AnyPath
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.loading.progress import progress
from datamodules.packing.features import PREFIX, Features, open_features, write_features
from models.classifier import Classifier
from models.training.freezing import check_parts

# Batch size for computing features; fixed, so that runs of any batch size share a cache.
IMAGES_AT_A_TIME = 64

RELOAD = "reload_dataloaders_every_n_epochs"  # the Trainer's argument, and an attribute that it does not declare

# Largest difference between a cached and a recomputed feature, relative to the largest: CPUs round differently.
TOLERANCE = 1e-3


class FeatureCache(Callback):
    """Trains the head on features: the outputs of the frozen backbone, computed once and cached on disk.

    For networks with a `backbone` and a `head`, with `--model.freeze '[backbone]'` or `--model.finetune`. If the head
    is an `nn.Sequential`, its first layers can be frozen too (`[backbone, head.0, head.1]`) and are then cached.

    The features of the training and validation images lie beside the packs, as `features-...`. Runs share them if
    their data, weights and preprocessing agree, and the code and arguments of backbone and augmentation. They are
    computed again if they are damaged, or if the first images of a split now have other features. Without
    augmentation, training differs from training without the cache only by the rounding of the features. Tests and
    checkpoints use the whole network. The whole network is trained on images from the epoch in which any part of the
    backbone is unfrozen.

    Args:
        variants: Number of augmented versions of each training image: epoch `e` trains on variant `e % variants`.
            Without augmentation there is one.
        folder: The folder of the caches; by default that of the packs.

    Raises:
        ValueError: If `variants` is not positive.
    """

    def __init__(self, variants: int = 1, folder: AnyPath | None = None) -> None:
        if variants < 1:
            raise ValueError(f"feature_cache.variants is {variants}; give a whole number of at least 1")
        self.variants = variants
        self.folder = Path(folder) if folder else None
        self._features: dict[str, Features] = {}  # by split: train and val
        self._reload: int | None = None  # the Trainer's reload_dataloaders_every_n_epochs, while it is changed
        self._data: ImageDataModule
        self._classifier: Classifier

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let the data module load features instead of images; its loaders are created later."""
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or not isinstance(pl_module, Classifier):
            raise UserError(
                "feature_cache needs one of the project's data modules and its Classifier; train without it."
            )
        check_parts(pl_module.network, "feature_cache")
        if not (pl_module.freezing and pl_module.freezing.is_frozen("backbone", epoch=0)):
            raise UserError(
                "feature_cache keeps what a frozen backbone gives; freeze it with --model.freeze '[backbone]' or "
                "--model.finetune.head_epochs, or leave the cache out with --feature_cache null."
            )
        if data.mixing:
            raise UserError("feature_cache has no features of images that data.mixing mixes; leave one of them out.")
        assert data.pack is not None, "the data module is set up before"
        self._data, self._classifier = data, pl_module
        for split in ("train", "val"):
            self._features[split] = Features(data.splits[split], data.pack.labels, lambda: trainer.current_epoch)
        data.replaced |= self._features

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Do not cache in a run that is resumed where the backbone is already trained."""
        if self._features and self._data.place[0] >= self._classifier.freezing.first_trained("backbone"):
            self._restore()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open or compute the features, now that the weights are loaded; a lock lets one process compute them."""
        data, features = self._data, self._features
        if not data.replaced:
            return
        variants = {"train": self.variants if data.augmentation else 1, "val": 1}
        key = self._key(trainer, variants["train"])
        folder = (self.folder or data.packs) / f"{PREFIX}{key[:12]}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                try:
                    open_features(folder, key, features)
                    for split in features:
                        self._check_unchanged(trainer, split)
                except ValueError as error:
                    if folder.exists():
                        print(f"{error}; computing them again")
                    with progress("Computing features", sum(map(len, features.values()))) as advance:
                        computed = {
                            split: (len(features[split]), self._computed(trainer, split, number, advance))
                            for split, number in variants.items()
                        }
                        write_features(folder, key, data.data_fingerprint, computed)
                    open_features(folder, key, features)
        except OSError as error:
            raise UserError(
                f"The features cannot be written to {folder.parent}: {error.strerror or error}; choose another folder "
                "with --feature_cache.folder."
            ) from error
        # An attribute of the instance hides the method; the network keeps its submodules, and checkpoints their keys.
        self._classifier.network.forward = self._parts()[1].forward
        if trainer.is_global_zero:
            shape = list(features["train"].first(1).shape[1:])
            print(f"Training the head on features of shape {shape}, {variants['train']} of each image, from {folder}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the backbone's first trained epoch, train the whole network on images, with new loaders."""
        if trainer.current_epoch + 1 == self._classifier.freezing.first_trained("backbone"):
            self._restore()
            self._reload = getattr(trainer, RELOAD)
            setattr(trainer, RELOAD, 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop recreating the loaders, now that both are new."""
        if self._reload is not None:
            setattr(trainer, RELOAD, self._reload)
            self._reload = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the network's forward method and the data module's images."""
        if stage == "fit":
            self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore them here too: Lightning calls no teardown after an exception."""
        self._restore()

    def _restore(self) -> None:
        if self._features:
            vars(self._classifier.network).pop("forward", None)
            for split in self._features:
                self._data.replaced.pop(split, None)

    def _parts(self) -> tuple[nn.Sequential, nn.Module]:
        """Return the modules that compute the features, and the module that is trained on them."""
        backbone, head = (self._classifier.network.get_submodule(part) for part in ("backbone", "head"))
        if not isinstance(head, nn.Sequential):
            return nn.Sequential(backbone), head
        first_trained = self._classifier.freezing.first_trained
        names = [f"head.{name}" for name, _ in head.named_children()]
        frozen = len(list(takewhile(lambda name: first_trained(name) >= first_trained("backbone"), names)))
        return nn.Sequential(backbone, *head[:frozen]), head[frozen:]

    @torch.no_grad()
    def _computed(
        self, trainer: Trainer, split: str, variants: int, advance: Callable[[int], None] | None = None
    ) -> Generator[Tensor]:
        """Yield a split's features, computed in eval mode, as batches `[B, V, *F]` on the CPU with `V` variants."""
        data, classifier, device = self._data, self._classifier, self._classifier.device
        cached, trained = self._parts()
        modes = {module: module.training for module in classifier.network.modules()}
        try:
            classifier.network.eval()
            with isolate_rng(), data.module_state.kept():
                for number, (raw, labels) in enumerate(data.images_in_order(split, IMAGES_AT_A_TIME)):
                    batch = raw.to(device), labels.to(device)
                    rows = []
                    for variant in range(variants):
                        data.seed_by(variant, number, device=device)
                        images = classifier.to_memory_format(data.transform(batch, training=split == "train")[0])
                        with trainer.precision_plugin.forward_context():
                            features = cached(images)
                            if number == variant == 0:
                                _check_network(classifier.network, trained, images, features)
                        rows.append(features.cpu())
                    yield torch.stack(rows, dim=1)
                    if advance is not None:
                        advance(len(raw))
        finally:
            for module, mode in modes.items():
                module.training = mode

    def _check_unchanged(self, trainer: Trainer, split: str) -> None:
        """Raise ValueError unless the first images of a split still have their cached features."""
        with closing(self._computed(trainer, split, 1)) as chunks:
            computed = next(chunks)[:, 0]
        cached = self._features[split].first(len(computed))
        limit = TOLERANCE * float(cached.abs().nan_to_num(0, posinf=0).max())
        if cached.shape != computed.shape or not torch.allclose(
            computed.double(), cached.double(), rtol=0, atol=limit, equal_nan=True
        ):
            raise ValueError(f"the network gives others for {split} images than were kept")

    def _key(self, trainer: Trainer, variants: int) -> str:
        """Return the cache key: a hash of everything that the features depend on, including their rounding."""
        data, classifier = self._data, self._classifier
        modules = nn.ModuleList([self._parts()[0], *data.augmentation])
        settings = [  # the `repr` of a module may omit arguments
            (name, type(part), sorted((key, repr(value)) for key, value in vars(part).items() if _is_setting(key)))
            for name, part in modules.named_modules()
        ]
        seed = data.seed if data.augmentation else None
        place = trainer.precision, classifier.device.type, torch.__version__
        facts = [data.data_fingerprint, data.preprocessing, variants, seed, place, modules, settings]
        digest = hashlib.sha256(re.sub(" at 0x[0-9a-f]+", "", repr(facts)).encode(errors="surrogateescape"))
        for name, value in (modules.state_dict() | {split: data.splits[split] for split in self._features}).items():
            if isinstance(value, Tensor):  # strides too, because rounding depends on the memory layout
                digest.update(f"{name} {value.dtype} {list(value.shape)} {value.stride()}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            else:
                digest.update(f"{name} {value!r}".encode())
        classes = [type(classifier.network), *map(type, modules.modules())]
        for name in sorted({base.__module__ for class_ in classes for base in class_.__mro__}):
            file = getattr(sys.modules.get(name), "__file__", None)
            if file and name.split(".")[0] != "torch":  # its version is in `facts`
                digest.update(Path(file).read_bytes())
        return digest.hexdigest()


def _is_setting(name: str) -> bool:
    return not name.startswith("_") and name != "training"


def _check_network(network: nn.Module, trained: nn.Module, images: Tensor, features: Any) -> None:
    """Raise UserError unless the network is its head applied to its backbone's output, one row per image."""
    is_batch = isinstance(features, Tensor) and features.ndim > 1 and len(features) == len(images)
    # Call `forward` itself: a call of the network might compile it for a batch shape that does not occur again.
    if not is_batch or not torch.allclose(trained(features), network.forward(images), 1e-3, 1e-3, equal_nan=True):
        raise UserError(
            f"feature_cache needs a network that gives its head what its backbone gives, one row an image, but "
            f"{type(network).__name__} does otherwise; leave the cache out with --feature_cache null."
        )
