import importlib
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import pytest
import torch
from torch import Tensor, nn

from callbacks.feature_cache import RELOAD, FeatureCache
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.batching.transform import Batch
from datamodules.digits import Digits
from datamodules.image_folder import ImageFolder
from models.classifier import Classifier
from models.mlp import MLP
from models.resnet import ResNet
from tests.conftest import Run, quiet_trainer
from tests.datamodules.test_base import assert_equal
from tests.datamodules.test_image_folder import write_source
from tests.faults.noise import Noise

pytestmark = pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")  # the backbone, as it should be

CACHE = "--feature_cache=callbacks.feature_cache.FeatureCache"
FROZEN = (
    *("--model.network=models.resnet.ResNet", "--model.network.channels=[4, 8]", "--model.network.blocks=[1, 1]"),
    *("--model.freeze=[backbone]", "--data.batch_size=128", "--trainer.max_epochs=3", "--trainer.precision=32-true"),
)
AFFINE = "--data.augmentation=[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]"


class Watched(Classifier):
    """Counts the images that the backbone was given, and keeps what it was trained on itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.images = 0
        self.seen: list[Tensor] = []
        self.network.get_submodule("backbone").register_forward_hook(self.count)

    def count(self, module: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
        self.images += len(inputs[0])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append(batch[0])
        return super().training_step(batch, batch_idx)


def classifier(seed: int = 0, **arguments: Any) -> Watched:
    torch.manual_seed(seed)
    network = ResNet(10, in_channels=1, channels=[4, 8], blocks=[1, 1])
    return Watched(network, 10, partial(torch.optim.SGD, lr=0.1), **({"freeze": ["backbone"]} | arguments))


def fit(data: ImageDataModule, model: Classifier, folder: Path, epochs: int = 3, variants: int = 1) -> None:
    cache = FeatureCache(variants, folder / "features")
    quiet_trainer(folder, max_epochs=epochs, callbacks=[cache], num_sanity_val_steps=0).fit(model, data)


def caches(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "features").iterdir() if path.is_dir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags", [(), ("--data.balanced=true", "--model.class_weights=balanced", "--data.num_workers=1")]
)
def test_trains_as_without_and_keeps_the_whole_network(
    train: Callable[..., Run], data_root: Path, flags: tuple[str, ...]
) -> None:
    images, features = train(*FROZEN, *flags), train(*FROZEN, *flags, CACHE)
    one, other = images.checkpoint["state_dict"], features.checkpoint["state_dict"]
    assert one.keys() == other.keys()
    for name in one:
        # A convolution's sums are rounded in another order for another number of images.
        assert torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-6), name
    assert features.results["metrics"] == pytest.approx(images.results["metrics"], rel=1e-4)

    data = Digits(root=data_root)
    model = Classifier.load_from_checkpoint(features.best)
    (figures,) = quiet_trainer(features.folder).test(model, data, verbose=False)
    assert figures["test/accuracy"] == pytest.approx(features.results["metrics"]["test/accuracy"])


def test_gives_the_backbone_every_image_once(digits: Digits, tmp_path: Path) -> None:
    model = classifier()
    fit(digits, model, tmp_path)
    shown = len(digits.splits["train"]) + len(digits.splits["val"])
    assert model.images == shown + 2 * 64  # one batch of each split goes through the whole network as well
    assert "forward" not in vars(model.network)
    assert not digits.replaced

    again = classifier()
    fit(digits, again, tmp_path)
    assert again.images == 4 * 64  # the first of each split, to see that the features are still these
    assert_equal(again.state_dict(), model.state_dict(), "weights")


class Deep(ResNet):
    def __init__(self) -> None:
        super().__init__(10, in_channels=1, channels=[4, 8], blocks=[1, 1])
        layers = (nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout())
        self.head = nn.Sequential(*layers, nn.Linear(12, 10))


@pytest.mark.parametrize(
    ("frozen", "width"),
    [([0, 1, 2, 3, 4], 12), ([0, 1, 2], 16), ([0, 3], 16), ([1, 2, 3], 8), ([0, 1, 2, 3, 4, 5], 12)],
)
def test_layers_that_the_head_begins_with_are_computed_once_too(
    frozen: list[int], width: int, digits: Digits, tmp_path: Path
) -> None:
    freeze, weights = ["backbone", *(f"head.{layer}" for layer in frozen)], []
    for cached in (False, True):
        torch.manual_seed(0)
        model = Watched(Deep(), 10, partial(torch.optim.SGD, lr=0.1), freeze=freeze)
        if cached:
            fit(digits, model, tmp_path)
            assert {batch.shape[1:] for batch in model.seen} == {(width,)}
        else:
            quiet_trainer(tmp_path, max_epochs=3, num_sanity_val_steps=0).fit(model, digits)
        weights.append(dict(model.network.named_parameters()))
    for name, value in weights[0].items():
        assert torch.allclose(weights[1][name], value, rtol=1e-4, atol=1e-6), name


def test_layers_that_are_trained_later_are_not_computed_once(digits: Digits, tmp_path: Path) -> None:
    model = Watched(
        Deep(), 10, partial(torch.optim.SGD, lr=0.1), freeze=["backbone", "head.0", "head.1"], unfreeze={1: ["head.1"]}
    )
    fit(digits, model, tmp_path)
    assert {batch.shape[1:] for batch in model.seen} == {(16,)}


@pytest.mark.slow
def test_gives_images_to_a_backbone_that_is_trained_later(tmp_path: Path) -> None:
    write_source(tmp_path, per_class=10)
    shapes, weights = [], []
    for storage, cached in (("packed", False), ("packed", True), ("files", True)):
        data = ImageFolder(root=tmp_path, image_size=32, batch_size=4, storage=storage, num_workers=int(cached))
        torch.manual_seed(0)
        network = ResNet(2, channels=[4], blocks=[1])
        arguments: dict[str, Any] = {"freeze": ["backbone"], "unfreeze": {2: ["backbone.0"]}}
        model = Watched(network, 2, partial(torch.optim.SGD, lr=0.1), **arguments)
        callbacks = [FeatureCache(folder=tmp_path / "features")] if cached else []
        # No validation follows at once on the epoch in which the backbone is first trained.
        trainer = quiet_trainer(tmp_path, max_epochs=6, callbacks=callbacks, check_val_every_n_epoch=3)
        trainer.fit(model, data)
        assert getattr(trainer, RELOAD) == 0
        shapes.append([len(batch.shape) for batch in model.seen])
        weights.append(model.network.state_dict())
    steps = len(shapes[0]) // 6
    assert shapes == [[4] * 6 * steps, *([[2] * 2 * steps + [4] * 4 * steps] * 2)]
    for name, value in weights[0].items():
        assert torch.allclose(weights[1][name], value, rtol=1e-3, atol=1e-5), name
    assert_equal(weights[2], weights[1], "files")


@pytest.mark.slow
def test_two_processes_share_one_cache(
    train: Callable[..., Run], train_in_two_processes: Callable[..., Run], tmp_path: Path
) -> None:
    flags = (*FROZEN, CACHE, "--feature_cache.variants=2", AFFINE, "--data.drop_last=true")
    one = train(*flags, "--feature_cache.folder", str(tmp_path / "one"))
    two = train_in_two_processes(*flags, "--data.batch_size=64", "--feature_cache.folder", str(tmp_path / "two-caches"))
    (folder,) = (path for path in (tmp_path / "two-caches").iterdir() if path.is_dir())
    (alone,) = (path for path in (tmp_path / "one").iterdir() if path.is_dir())
    assert folder.name == alone.name
    for file in ("train.npy", "val.npy"):
        assert (folder / file).read_bytes() == (alone / file).read_bytes()
    for part in ("head.weight", "head.bias"):
        first, second = (run.checkpoint["state_dict"][f"network.{part}"] for run in (one, two))
        assert torch.allclose(first, second, rtol=1e-3, atol=1e-5)
    assert two.results["metrics"]["val/loss"] == pytest.approx(one.results["metrics"]["val/loss"], rel=1e-3)


def test_takes_a_folder_of_image_files(tmp_path: Path) -> None:
    write_source(tmp_path, per_class=10)
    data = ImageFolder(root=tmp_path, image_size=32, batch_size=4, storage="files", num_workers=1)
    torch.manual_seed(0)
    model = Watched(ResNet(2, channels=[4], blocks=[1]), 2, torch.optim.SGD, freeze=["backbone"], channels_last=True)
    fit(data, model, tmp_path)
    assert all(batch.shape[1:] == (4,) for batch in model.seen)


@pytest.mark.slow
def test_computes_anew_for_other_weights_images_and_settings(data_root: Path, tmp_path: Path) -> None:
    def count(weights: int = 0, channels_last: bool = False, **arguments: Any) -> int:
        model = classifier(weights, channels_last=channels_last)
        fit(Digits(root=data_root, **arguments), model, tmp_path, epochs=1)
        return len(caches(tmp_path))

    affine = [K.RandomAffine(degrees=10.0)]
    assert count() == 1
    assert count(weights=1) == 2
    assert count(limit=200) == 3
    assert count(normalization="none") == 4
    assert count(augmentation=affine) == 5
    assert count(augmentation=affine) == 5
    assert count(augmentation=[K.RandomAffine(degrees=20.0)]) == 6
    assert count(augmentation=affine, seed=1) == 7
    assert count(batch_size=32, seed=1) == 7
    assert count(channels_last=True) == 8  # which rounds otherwise


class Scaled(nn.Module):
    hidden = 1.0

    def __init__(self, layers: nn.Module, scale: float) -> None:
        super().__init__()
        self.layers = layers
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.scale * self.hidden * self.layers(images)
        return features


def test_computes_anew_for_another_argument_or_code_of_the_backbone(
    digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def features(scale: float) -> Tensor:
        model = classifier()
        model.network.backbone = Scaled(model.network.get_submodule("backbone"), scale)
        fit(digits, model, tmp_path, epochs=1)
        return model.seen[0]

    first = features(1.0)
    assert torch.equal(features(1.0), first)
    assert torch.equal(features(2.0), 2 * first)
    assert len(caches(tmp_path)) == 2
    assert "computing them again" not in capsys.readouterr().out
    monkeypatch.setattr(Scaled, "hidden", 4.0)  # which nothing but the features shows
    assert torch.equal(features(1.0), 4 * first)
    said = capsys.readouterr().out
    assert "the network gives others for train images than were kept" in said
    assert "computing them again" in said
    assert len(caches(tmp_path)) == 2


def test_computes_anew_for_another_file_of_the_backbones_class(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_backbone.py"
    for number, code in enumerate(("input", "2 * input", "2 * input"), 1):
        file.write_text(
            "from torch import nn\n\n\nclass Own(nn.Sequential):\n"
            f"    def forward(self, input):\n        return super().forward({code})\n"
        )
        monkeypatch.delitem(sys.modules, "own_backbone", raising=False)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        importlib.invalidate_caches()
        model = classifier()
        model.network.backbone = importlib.import_module("own_backbone").Own(
            *model.network.get_submodule("backbone").children()
        )
        fit(digits, model, tmp_path, epochs=1)
        assert len(caches(tmp_path)) == min(number, 2)


def test_leaves_the_state_of_the_augmentation(data_root: Path, tmp_path: Path) -> None:
    noise = Noise()
    data = Digits(root=data_root, augmentation=[noise])
    first, again = classifier(), classifier()
    fit(data, first, tmp_path, epochs=1)
    assert not noise.mean
    fit(data, again, tmp_path, epochs=1)
    assert_equal(again.seen, first.seen, "features")
    assert len(caches(tmp_path)) == 1


@pytest.mark.parametrize("harm", ["of others", "cut", "zeroed", "without facts"])
def test_computes_anew_what_cannot_be_used(
    harm: str, digits: Digits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, repaired = classifier(), classifier()
    if harm == "of others":
        fit(digits, classifier(seed=1), tmp_path, epochs=1)
        (foreign,) = caches(tmp_path)
        foreign = foreign.rename(tmp_path / "foreign")
    fit(digits, whole, tmp_path)
    (folder,) = caches(tmp_path)
    file = folder / "train.npy"
    if harm == "of others":
        shutil.rmtree(folder)
        foreign.rename(folder)
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif harm == "zeroed":
        file.write_bytes(file.read_bytes()[:1000] + bytes(file.stat().st_size - 1000))
    else:
        (folder / "facts.json").unlink()
    fit(digits, repaired, tmp_path)
    assert "computing them again" in capsys.readouterr().out
    assert repaired.images == whole.images > 0
    assert_equal(repaired.state_dict(), whole.state_dict(), "weights")


def test_takes_the_variants_in_turn(data_root: Path, tmp_path: Path) -> None:
    data = Digits(root=data_root, batch_size=2000, augmentation=[K.RandomAffine(degrees=30.0)])
    model = classifier()
    fit(data, model, tmp_path, epochs=4, variants=2)
    first, second, third, fourth = (batch.sort(dim=0).values for batch in model.seen)
    assert torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_resumes_bit_for_bit_in_the_middle_of_an_epoch(train: Callable[..., Run], tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    whole = train(
        *(*FROZEN, CACHE, "--feature_cache.variants=2", AFFINE),
        f"--trainer.callbacks+={{class_path: {saver}, "
        f"init_args: {{every_n_train_steps: 4, save_top_k: -1, dirpath: {steps}}}}}",
    )
    places = sorted(steps.glob("*.ckpt"))
    for place in [places[0], places[-2], whole.best]:
        resumed = train("--ckpt_path", str(place), "--trainer.callbacks=null")
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal(resumed.checkpoint[part], whole.checkpoint[part], f"{place.name}: {part}")
        assert resumed.results["metrics"] == whole.results["metrics"]


@pytest.mark.slow
def test_goes_with_averaged_weights_and_half_precision(train: Callable[..., Run]) -> None:
    for flags in (
        ("--weight_average=callbacks.swa.SWA", "--weight_average.start=1", "--early_stopping=null"),
        ("--weight_average=callbacks.ema.EMA", "--trainer.precision=bf16-mixed"),
    ):
        images, features = (
            train(*FROZEN, "--model.channels_last=false", *flags, *more).results["metrics"] for more in ((), (CACHE,))
        )
        assert features["val/loss"] == pytest.approx(images["val/loss"], rel=0.01)


class Skipping(ResNet):
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = 2 * self.head(self.backbone(images))
        return logits


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"freeze": []}, r"freeze it with --model.freeze '\[backbone\]' or"),
        ({"freeze": ["backbone.0"]}, r"freeze it with --model.freeze '\[backbone\]' or"),
    ],
)
def test_refuses_a_backbone_that_is_trained(
    arguments: dict[str, Any], sentence: str, digits: Digits, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        fit(digits, classifier(**arguments), tmp_path)
    assert not digits.replaced


def test_refuses_what_it_cannot_cache(
    digits: Digits, tmp_path: Path, refused: Callable[..., str], data_root: Path
) -> None:
    optimizer = partial(torch.optim.SGD, lr=0.1)
    with pytest.raises(UserError, match="MLP has no part backbone; take another network"):
        fit(digits, Classifier(MLP(64, 10), 10, optimizer), tmp_path)
    odd = Classifier(Skipping(10, 1, [4], [1]), 10, optimizer, freeze=["backbone"])
    with pytest.raises(UserError, match="Skipping does otherwise"):
        fit(digits, odd, tmp_path)
    assert "forward" not in vars(odd.network)
    assert not caches(tmp_path)
    mixing = "--data.mixing=[{class_path: datamodules.mixing.MixUp}]"
    sentence = refused("fit", *FROZEN, CACHE, mixing, "--data.root", data_root, "--runs", tmp_path / "runs")
    assert "feature_cache has no features of images that data.mixing mixes" in sentence
    sentence = refused("fit", *FROZEN, CACHE, "--feature_cache.variants=0", "--data.root", data_root)
    assert "feature_cache.variants is 0" in sentence


def test_features_that_are_not_finite_are_no_fault_of_the_network(digits: Digits, tmp_path: Path) -> None:
    model = classifier()
    model.network.get_parameter("backbone.0.weight").data.fill_(float("nan"))
    fit(digits, model, tmp_path, epochs=1)
    assert all(batch.isnan().any() for batch in model.seen)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, refused: Callable[..., str], data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    places = ("--data.root", data_root, "--runs", tmp_path / "runs", "--feature_cache.folder", tmp_path / "features")
    sentence = refused("fit", *FROZEN, CACHE, *places)
    assert "features: 41,408 bytes are needed and 1,000 are free; choose another folder" in sentence
    assert not caches(tmp_path)
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_network_of_one_part_is_one_sentence(refused: Callable[..., str], data_root: Path, tmp_path: Path) -> None:
    sentence = refused("fit", CACHE, "--data.root", data_root, "--runs", tmp_path)
    assert "needs a network of backbone and head, but ConvNet has no part backbone; take another network" in sentence


def test_names_the_folder_that_cannot_be_written(digits: Digits, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written to .*features: .*feature_cache.folder"):
        fit(digits, classifier(), tmp_path)
