"""A frozen backbone's outputs, computed once instead of in every epoch."""

import hashlib
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from functools import partial
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
from models.training.fine_tuning import check_parts

SPLITS = ("train", "val")  # the splits that every epoch reads

# Images that the backbone is given at once; the same whatever training's batch size, so that the cache serves all.
IMAGES_AT_A_TIME = 64

RELOAD = "reload_dataloaders_every_n_epochs"  # the Trainer's argument and attribute, which it declares nowhere

# By how much of the largest feature one may differ from what was kept: another processor rounds otherwise.
TOLERANCE = 1e-3


class FeatureCache(Callback):
    """Trains the head on what the frozen backbone makes of the images, which is computed once and kept on disk.

    For networks of a `backbone` and a `head`, with `--model.freeze '[backbone]'` or `--model.finetune`. If the head is
    a sequence, its first layers can be frozen too (`[backbone, head.0, head.1]`) and are then computed once as well.
    The outputs for the training and validation images lie beside the packs, as `features-...`. Every run finds them
    again that has the same data, weights, preprocessing, code of the backbone and of the augmentation, and arguments
    that their modules keep. Damaged outputs are computed again. So are outputs that differ from what the backbone gives
    now: each start computes the first images of each split. Without augmentation training is the same as without the
    cache, but for the rounding of the outputs, which depends on how many images are computed at once. Tests and
    checkpoints are of the whole network. It is given images from the epoch on in which something of the backbone is
    trained.

    Args:
        variants: How often each training image is augmented: epoch `e` trains on variant `e % variants`. Without
            augmentation there is one.
        folder: The folder of the caches; by default that of the packs.

    Raises:
        ValueError: If `variants` is not positive.
    """

    def __init__(self, variants: int = 1, folder: AnyPath | None = None) -> None:
        if variants < 1:
            raise ValueError(f"feature_cache.variants is {variants}; give a whole number of at least 1")
        self.variants = variants
        self.folder = Path(folder) if folder else None
        self._features: dict[str, Features] = {}
        self._reload: int | None = None  # the Trainer's reload_dataloaders_every_n_epochs, while it is changed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the loaders read features, before any loader is made."""
        if stage != "fit":
            return
        data, classifier = _parts_of(trainer, pl_module)
        _check_suitable(classifier, data)
        assert data.pack is not None, "the data module is set up before"
        self._features = {
            split: Features(data.splits[split], data.pack.labels, lambda: trainer.current_epoch) for split in SPLITS
        }
        data.replaced |= self._features

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave a run alone that goes on where the backbone is trained."""
        if self._features:
            data, classifier = _parts_of(trainer, pl_module)
            if data.place[0] >= classifier.freezing.first_trained("backbone"):
                self._restore(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the features or compute them, now that the weights are in place; of several processes one computes."""
        data, classifier = _parts_of(trainer, pl_module)
        if not data.replaced:
            return
        compute = partial(_computed, data, classifier, trainer)
        variants = {"train": self.variants if data.augmentation else 1, "val": 1}
        key = _key(data, classifier, trainer, variants["train"])
        folder = (self.folder or data.packs) / f"{PREFIX}{key[:12]}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                try:
                    open_features(folder, key, self._features)
                    for split in SPLITS:
                        with closing(compute(split, 1)) as chunks:
                            if not _is_unchanged(self._features[split], next(chunks)[:, 0]):
                                raise ValueError(f"the network gives others for {split} images than {folder} holds")
                except ValueError as error:
                    if folder.exists():
                        print(f"{error}; computing them again")
                    with progress("Computing features", sum(map(len, self._features.values()))) as advance:
                        computed = {
                            split: (len(features), compute(split, variants[split], advance))
                            for split, features in self._features.items()
                        }
                        write_features(folder, key, data.data_fingerprint, computed)
                    open_features(folder, key, self._features)
        except OSError as error:
            raise UserError(
                f"The features cannot be written to {folder.parent}: {error.strerror or error}; choose another folder "
                "with --feature_cache.folder."
            ) from error
        cached, trained = _parts_of_network(classifier)
        # In an attribute of the instance: the network keeps its parts and its weights, as checkpoints have them.
        classifier.network.forward = trained.forward
        if trainer.is_global_zero:
            what = f"the head (from layer {len(cached) - 1})" if len(cached) > 1 else "the head"
            shape = list(self._features["train"].first(1).shape[1:])
            print(f"Training {what} on features of shape {shape}, {variants['train']} of each image, from {folder}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the backbone is trained, give images to the whole network, and have the loaders made anew."""
        if trainer.current_epoch + 1 == _parts_of(trainer, pl_module)[1].freezing.first_trained("backbone"):
            self._restore(trainer, pl_module)
            self._reload = getattr(trainer, RELOAD)
            setattr(trainer, RELOAD, 1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the loaders again, now that both are made."""
        if self._reload is not None:
            setattr(trainer, RELOAD, self._reload)
            self._reload = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give images to the whole network again."""
        if stage == "fit":
            self._restore(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give images to the whole network again: a training that an exception ends has no teardown."""
        self._restore(trainer, pl_module)

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, ImageDataModule) and isinstance(pl_module, Classifier):
            vars(pl_module.network).pop("forward", None)
            for split in self._features:
                data.replaced.pop(split, None)


def _parts_of(trainer: Trainer, pl_module: LightningModule) -> tuple[ImageDataModule, Classifier]:
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, ImageDataModule) or not isinstance(pl_module, Classifier):
        raise UserError("feature_cache needs one of the project's data modules and its Classifier; train without it.")
    return data, pl_module


def _check_suitable(classifier: Classifier, data: ImageDataModule) -> None:
    check_parts(classifier.network, "feature_cache")
    if not classifier.freezing.is_frozen("backbone", epoch=0):
        raise UserError(
            "feature_cache keeps what a frozen backbone gives; freeze it with --model.freeze '[backbone]' or "
            "--model.finetune.head_epochs, or leave the cache out with --feature_cache null."
        )
    if data.mixing:
        raise UserError("data.mixing mixes images, of which feature_cache has no features; leave one of them out.")


def _parts_of_network(classifier: Classifier) -> tuple[nn.Sequential, nn.Module]:
    """What the features come out of, and what is trained on them."""
    backbone, head = (classifier.network.get_submodule(part) for part in ("backbone", "head"))
    if not isinstance(head, nn.Sequential):
        return nn.Sequential(backbone), head
    names, trained = [f"head.{name}" for name, _ in head.named_children()], classifier.freezing.first_trained
    frozen = len(list(takewhile(lambda name: trained(name) >= trained("backbone"), names)))
    return nn.Sequential(backbone, *head[:frozen]), head[frozen:]


@torch.no_grad()
def _computed(
    data: ImageDataModule,
    classifier: Classifier,
    trainer: Trainer,
    split: str,
    variants: int,
    advance: Callable[[int], None] | None = None,
) -> Generator[Tensor]:
    """The features of a split, `[B, V, *F]`, some images at a time, on the CPU, whatever mode the network is in."""
    network, device = classifier.network, classifier.device
    cached, trained = _parts_of_network(classifier)
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
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
                            _check_parts(network, trained, images, features)
                    rows.append(features.cpu())
                yield torch.stack(rows, dim=1)
                if advance is not None:
                    advance(len(raw))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_parts(network: nn.Module, trained: nn.Module, images: Tensor, features: Any) -> None:
    """Refuse a network that does more than to apply its head to what its backbone gives."""
    same = isinstance(features, Tensor) and features.ndim > 1 and len(features) == len(images)
    if same:
        # The method, as a call of the network might compile it for a batch that will not come again.
        same = torch.allclose(trained(features), network.forward(images), rtol=1e-3, atol=1e-3, equal_nan=True)
    if not same:
        raise UserError(
            f"feature_cache needs a network that gives its head what its backbone gives, one row an image, but "
            f"{type(network).__name__} does otherwise; leave the cache out with --feature_cache null."
        )


def _is_unchanged(kept: Features, computed: Tensor) -> bool:
    """Whether the first images of a split still have the features that were kept."""
    first = kept.first(len(computed))
    limit = TOLERANCE * float(first.abs().nan_to_num(0, posinf=0).max())
    return first.shape == computed.shape and torch.allclose(
        computed.double(), first.double(), rtol=0, atol=limit, equal_nan=True
    )


def _key(data: ImageDataModule, classifier: Classifier, trainer: Trainer, variants: int) -> str:
    """A digest of everything that the features depend on, down to their rounding."""
    cached, _ = _parts_of_network(classifier)
    network = type(classifier.network)
    augmentation = data.augmentation
    parts = [
        data.data_fingerprint,
        *(_digest({split: data.splits[split]}) for split in SPLITS),
        data.preprocessing,
        variants,
        data.seed if augmentation else None,
        f"{network.__module__}.{network.__qualname__}",
        _code([network, *map(type, nn.ModuleList([cached, *augmentation]).modules())]),
        [(_description(module), _digest(module.state_dict())) for module in (cached, *augmentation)],
        (trainer.precision, classifier.device.type, torch.__version__),
    ]
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()


def _description(module: nn.Module) -> str:
    """A module's parts and their settings; `repr` alone may leave out arguments."""
    parts = [repr(module)]
    for name, part in module.named_modules():
        settings = {key: value for key, value in vars(part).items() if key[0] != "_" and key != "training"}
        parts += [f"{name}.{key}={value!r}" for key, value in sorted(settings.items())]
    return re.sub(r"(?i) at 0x[0-9a-f]+", "", "; ".join(parts))


def _digest(state: Mapping[str, Any]) -> str:
    """A digest of weights and other state; with strides, because rounding depends on the layout in memory."""
    digest = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {list(value.shape)} {value.stride()}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{name} {value!r}".encode())
    return digest.hexdigest()


def _code(classes: Iterable[type]) -> str:
    """A digest of the files that define classes and their bases; the key holds torch's version instead of its files."""
    names = {base.__module__ for one in classes for base in one.__mro__}
    digest = hashlib.sha256()
    for name in sorted(name for name in names if name.split(".")[0] != "torch"):
        if file := getattr(sys.modules.get(name), "__file__", None):
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()
