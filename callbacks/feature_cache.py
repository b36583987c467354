"""A frozen backbone's outputs, computed once instead of in every epoch."""

import hashlib
import re
import sys
from collections.abc import Generator, Iterable, Mapping
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

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.loading.progress import Advance, progress
from datamodules.packing.features import PREFIX, Chunk, Features, write_features
from models.classifier import Classifier

SPLITS = ("train", "val")  # the splits that are gone through in every epoch

# Images that the backbone is given at once; the same whatever training's batch size, so that the cache serves all.
IMAGES_AT_A_TIME = 64

# By how much of the largest feature one may differ from what was kept: another processor rounds otherwise.
TOLERANCE = 1e-3


class FeatureCache(Callback):
    """Trains the head on what the frozen backbone makes of the images, which is computed once and kept on disk.

    For networks of a `backbone` and a `head`, with `--model.freeze '[backbone]'`. Layers that a head, a sequence,
    begins with and that are named there as well (`[backbone, head.0, head.1]`) belong to what is computed once. The
    outputs for the training and validation images lie beside the packs, as `features-...`, and are found again by
    every run with the same data, weights, preprocessing, code of the backbone and of the augmentation, and arguments
    that their modules keep; those that are damaged or belong to others are computed again. So are those that differ
    from what the backbone gives now, by the first images of each split, which are computed at every start. Without
    augmentation training is the same as without the cache, but for the rounding of the outputs, which depends on how
    many images are computed at once. Testing, and the checkpoint, are those of the whole network.

    Args:
        variants: How often each training image is augmented: epoch `e` trains on variant `e % variants`. Without
            augmentation there is one.
        folder: The folder of the caches; by default that of the packs.

    Raises:
        ValueError: If `variants` is not positive.
    """

    def __init__(self, variants: int = 1, folder: Path | None = None) -> None:
        if variants < 1:
            raise ValueError(f"feature_cache.variants is {variants}; give a whole number of at least 1")
        self.variants = variants
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the loaders give features, before any of them is made."""
        if stage != "fit":
            return
        data, classifier = self._parts(trainer, pl_module)
        _refuse_what_changes(classifier, data)
        assert data.pack is not None, "the data module is set up before"
        data.features = Features({split: data.splits[split] for split in SPLITS}, data.pack.labels)
        # Not the module itself, which would become a part of the classifier's state.
        classifier.on_features = _parts_of_network(classifier)[1].forward

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the features or compute them, now that the weights are in place; of several processes one does."""
        data, classifier = self._parts(trainer, pl_module)
        assert data.features is not None, "setup comes before"
        variants = self.variants if data.augmentation else 1
        made_from = _identity(data, classifier, trainer, variants)
        digest = hashlib.sha256(made_from.encode(errors="surrogateescape")).hexdigest()
        folder = (self.folder or data.packs) / f"{PREFIX}{digest[:12]}"
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                try:
                    data.features.open(folder, made_from)
                    _compare_some(data, classifier, trainer, folder)
                except ValueError as error:
                    if folder.exists():
                        print(f"{error}; computing them again")
                    sizes = {"train": (variants, len(data.splits["train"])), "val": (1, len(data.splits["val"]))}
                    with progress("Computing features", sum(images for _, images in sizes.values())) as advance:
                        chunks = {
                            split: _chunks(data, classifier, trainer, split, sizes[split][0], advance)
                            for split in SPLITS
                        }
                        write_features(folder, made_from, sizes, chunks)
                    data.features.open(folder, made_from)
        except OSError as error:
            raise UserError(
                f"The features cannot be written to {folder.parent}: {error.strerror or error}; choose another folder "
                "with --feature_cache.folder."
            ) from error
        if trainer.is_global_zero:
            shape, depth = list(data.features.arrays["train"].shape[2:]), len(_parts_of_network(classifier)[0]) - 1
            what = f"the head (from layer {depth})" if depth else "the head"
            print(f"Training {what} on features of shape {shape}, {variants} of each image, from {folder}")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give images to the whole network again."""
        if stage == "fit":
            data, classifier = self._parts(trainer, pl_module)
            data.features, classifier.on_features = None, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give images to the whole network again: what ends by an exception is not torn down."""
        if isinstance(pl_module, Classifier):
            pl_module.on_features = None
        if isinstance(data := getattr(trainer, "datamodule", None), ImageDataModule):
            data.features = None

    @staticmethod
    def _parts(trainer: Trainer, pl_module: LightningModule) -> tuple[ImageDataModule, Classifier]:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule) or not isinstance(pl_module, Classifier):
            raise UserError(
                "feature_cache needs one of the project's data modules and its Classifier; train without it."
            )
        return data, pl_module


def _refuse_what_changes(classifier: Classifier, data: ImageDataModule) -> None:
    network = classifier.network
    name = type(network).__name__
    parts = dict(network.named_modules())
    for part in ("backbone", "head"):
        if part not in parts:
            raise UserError(
                f"feature_cache needs a network of backbone and head, but {name} has no part {part}; take another "
                "network, or leave the cache out with --feature_cache null."
            )
    if not classifier.freezing.is_frozen("backbone", epoch=0):
        raise UserError(
            "feature_cache keeps what a backbone that is not trained gives, but it is trained; freeze it with "
            "--model.freeze '[backbone]'."
        )
    if not _is_never_trained(classifier, "backbone"):
        raise UserError(
            "feature_cache keeps what a backbone that is not trained gives, but model.unfreeze has it trained later; "
            "leave one of them out."
        )
    if data.mixing:
        raise UserError("data.mixing mixes images, of which feature_cache has no features; leave one of them out.")


def _is_never_trained(classifier: Classifier, part: str) -> bool:
    inside = [name for name, _ in classifier.network.named_modules() if f"{name}.".startswith(f"{part}.")]
    return not any(classifier.freezing.is_ever_trained(name) for name in inside)


def _parts_of_network(classifier: Classifier) -> tuple[nn.Sequential, nn.Module]:
    """What the features come out of, and what is trained on them."""
    backbone, head = (classifier.network.get_submodule(part) for part in ("backbone", "head"))
    if not isinstance(head, nn.Sequential):
        return nn.Sequential(backbone), head
    names = [f"head.{name}" for name, _ in head.named_children()]
    frozen = len(list(takewhile(partial(_is_never_trained, classifier), names)))
    return nn.Sequential(backbone, *head[:frozen]), head[frozen:]


@torch.no_grad()
def _chunks(
    data: ImageDataModule, classifier: Classifier, trainer: Trainer, split: str, variants: int, advance: Advance
) -> Generator[Chunk]:
    """The features of a split, on the CPU, whatever mode the network is in and was."""
    network, device = classifier.network, classifier.device
    cached, trained = _parts_of_network(classifier)
    modes = {module: module.training for module in network.modules()}
    start = 0
    try:
        network.eval()
        with isolate_rng(), data.keep_transform_state():
            for number, (raw, labels) in enumerate(data.images_in_order(split, IMAGES_AT_A_TIME)):
                batch = raw.to(device), labels.to(device)
                for variant in range(variants):
                    data.seed_by(variant, number, device=device)
                    images = classifier.to_memory_format(data.transform(batch, training=split == "train")[0])
                    with trainer.precision_plugin.forward_context():
                        features = cached(images)
                        if start == 0 and variant == 0:
                            _check(network, trained, images, features)
                    yield variant, start, features.cpu()
                start += len(raw)
                advance(len(raw))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _compare_some(data: ImageDataModule, classifier: Classifier, trainer: Trainer, folder: Path) -> None:
    """See that the first images of each split still have the features that were kept."""
    assert data.features is not None, "they have been opened"
    for split in SPLITS:
        with closing(_chunks(data, classifier, trainer, split, 1, lambda number=1: None)) as chunks:
            _, _, features = next(chunks)
        kept = data.features.arrays[split][0, : len(features)]
        limit = TOLERANCE * float(kept.abs().nan_to_num(0, posinf=0).max())
        if features.shape != kept.shape or not torch.allclose(
            features.double(), kept.double(), rtol=0, atol=limit, equal_nan=True
        ):
            raise ValueError(
                f"{folder} holds no features that can be used: the network gives others for {split} images"
            )


def _check(network: nn.Module, trained: nn.Module, images: Tensor, features: Any) -> None:
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


def _identity(data: ImageDataModule, classifier: Classifier, trainer: Trainer, variants: int) -> str:
    """Everything that the features depend on, down to their rounding."""
    cached, _ = _parts_of_network(classifier)
    splits = {split: hashlib.sha256(data.splits[split].numpy().data).hexdigest() for split in SPLITS}
    facts = {
        "data": data.data_fingerprint,
        "splits": splits,
        "preprocessing": data.preprocessing,
        "augmentation": [(_description(module), _digest(module.state_dict())) for module in data.augmentation],
        "variants": variants,
        "seed": data.seed if data.augmentation else None,
        "network": f"{type(classifier.network).__module__}.{type(classifier.network).__qualname__}",
        "code": _code([type(classifier.network), *map(type, nn.ModuleList([cached, *data.augmentation]).modules())]),
        "cached": hashlib.sha256(_description(cached).encode(errors="surrogateescape")).hexdigest(),
        "weights": _digest(cached.state_dict()),
        "computed": [str(trainer.precision), classifier.device.type, torch.__version__],
    }
    return "\n".join(f"{name}: {fact}" for name, fact in facts.items())


def _description(module: nn.Module) -> str:
    """What a module is and was given; its `repr` alone may leave out arguments."""
    parts = [repr(module)]
    for name, part in module.named_modules():
        settings = {key: value for key, value in vars(part).items() if key[0] != "_" and key != "training"}
        parts += [f"{name}.{key}={value!r}" for key, value in sorted(settings.items())]
    return re.sub(r"(?i) at 0x[0-9a-f]+", "", "; ".join(parts))


def _digest(state: Mapping[str, Any]) -> str:
    """Of weights and other state, down to how they lie in memory, on which rounding depends."""
    digest = hashlib.sha256()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            digest.update(f"{name} {value!r}".encode())
            continue
        digest.update(f"{name} {value.dtype} {list(value.shape)} {value.stride()}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _code(classes: Iterable[type]) -> str:
    """A digest of the files that classes, and what they inherit from, are defined in; torch is known by its version."""
    names = {base.__module__ for one in classes for base in one.__mro__}
    digest = hashlib.sha256()
    for name in sorted(name for name in names if name.split(".")[0] != "torch"):
        if file := getattr(sys.modules.get(name), "__file__", None):
            digest.update(Path(file).read_bytes())
    return digest.hexdigest()
