"""What every configuration, network and data module keeps, found by discovery."""

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional as F
from torchvision.models import vgg

from datamodules.base import ImageDataModule
from models.classifier import Classifier
from models.serialization.class_path import full_path
from scripts.command.configuration import Config, merge
from tests.conftest import Run
from tests.discovery import (
    CONFIGS,
    ROOT,
    callback_classes,
    configs,
    configured_classes,
    data_modules,
    extras,
    imported,
    networks,
)

pytestmark = pytest.mark.any_device

TINY = (
    *("--trainer.max_epochs=1", "--data.batch_size=4", "--model.compile=false"),
    *(f"--trainer.limit_{stage}_batches=2" for stage in ("train", "val", "test")),
)

# What inference needs beside a network, in processes that train nothing.
WITHOUT_LIGHTNING = ("models.losses", "models.training.precision", "models.training.test_time_augmentation")


def path_of(class_: type) -> str:
    return f"{class_.__module__}.{class_.__qualname__}"


class ThinLinear(nn.Linear):
    """A layer of VGG's head with a 64th of its units."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        thin_in, thin_out = (width // 64 if width >= 4096 else width for width in (fan_in, fan_out))
        super().__init__(thin_in, thin_out)


@pytest.fixture
def thin_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes VGG a 64th as wide: the contract is about its layers, of which the real ones have 138 million weights."""
    thin = {key: [width if width == "M" else int(width) // 64 for width in sizes] for key, sizes in vgg.cfgs.items()}
    monkeypatch.setattr(vgg, "cfgs", thin)
    monkeypatch.setattr(vgg, "nn", SimpleNamespace(**vars(nn) | {"Linear": ThinLinear}))


@pytest.mark.usefixtures("thin_vgg")
@pytest.mark.parametrize("config", configs(), ids=[str(config.relative_to(CONFIGS)) for config in configs()])
def test_config_trains_and_its_network_keeps_the_contract(
    config: Path, train: Callable[..., Run], any_source: Callable[..., None], tmp_path: Path
) -> None:
    default, own = (yaml.safe_load(file.read_text()) for file in (CONFIGS / "default.yaml", config))
    merged = merge(default, own or {})
    data, network = merged["data"], resolve_name(full_path(merged["model"]["network"]["class_path"]))
    for package in imported(Path(inspect.getfile(network))) & extras():
        pytest.importorskip(package, reason=f"{package} is an optional extra")
    any_source(resolve_name(full_path(data["class_path"])), tmp_path, **data.get("init_args", {}))
    # From scratch: no pretrained weights are at hand.
    scratch = [f"--model.network.{name}={json.dumps(v)}" for name, v in getattr(network, "rebuilt_with", {}).items()]

    run = train("--config", str(config), *TINY, *scratch, "--data.root", str(tmp_path))

    assert {f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "accuracy")} <= set(
        run.results["metrics"]
    )
    classifier = Classifier.load_from_checkpoint(run.last)
    weights = run.checkpoint["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in classifier.state_dict().items())

    preprocessing = classifier.preprocessing
    images = torch.randn(3, preprocessing["channels"], *preprocessing["image_size"])
    logits = classifier(images)
    assert logits.shape == (3, len(classifier.class_names))
    F.cross_entropy(logits, torch.tensor([0, 1, 0])).backward()  # type: ignore[no-untyped-call]
    without = [
        name for name, parameter in classifier.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not without, f"the loss does not reach {without}"


def parts(config: Config) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        if key != "class_path":  # which may name once more what its arguments are of
            yield (key,)
            yield from ((key, *rest) for rest in parts(value if isinstance(value, dict) else {}))


@pytest.mark.parametrize(
    "config",
    [config for config in configs() if config.name != "default.yaml"],
    ids=lambda config: str(config.relative_to(CONFIGS)),
)
def test_config_repeats_nothing_of_the_default(config: Path) -> None:
    default, own = (yaml.safe_load(file.read_text()) for file in (CONFIGS / "default.yaml", config))
    for part in parts(own or {}):
        shorter = deepcopy(own)
        del reduce(getitem, part[:-1], shorter)[part[-1]]
        assert merge(default, shorter) != merge(default, own), f"{'.'.join(part)} is as in default.yaml"


@pytest.mark.parametrize("data_class", data_modules(), ids=path_of)
def test_data_module_keeps_the_contract(
    data_class: type[ImageDataModule], tmp_path: Path, any_source: Callable[..., None]
) -> None:
    any_source(data_class, tmp_path)

    def prepare(**arguments: Any) -> ImageDataModule:
        data = data_class(root=tmp_path, batch_size=16, **arguments)
        data.prepare_data()
        data.setup("fit")
        return data

    data, again, other = prepare(), prepare(), prepare(seed=1)

    indices = {split: set(data.splits[split].tolist()) for split in ("train", "val", "test")}
    assert all(indices.values())
    if data.tests_on_validation:
        assert indices.pop("test") == indices["val"]
    assert sum(map(len, indices.values())) == len(set.union(*indices.values()))

    batch = next(iter(data.train_dataloader()))
    images, labels = batch
    assert images.shape == (16, *data.image_shape)
    assert images.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert 0 <= int(labels.min()) <= int(labels.max()) < data.num_classes
    normalised, _ = data.on_after_batch_transfer(batch, 0)
    assert normalised.dtype == torch.float32
    whole, _ = data.on_after_batch_transfer(data.pack[data.splits["train"]], 0)  # type: ignore[index]
    assert whole.mean(dim=(0, 2, 3)).abs().max() < 1e-3

    order, same, another = ([b[1].tolist() for b in d.train_dataloader()] for d in (data, again, other))
    assert order == same
    assert order != another


@pytest.mark.parametrize("network", networks(), ids=path_of)
def test_network_is_in_a_config_that_is_tested(network: type) -> None:
    assert path_of(network) in configured_classes(), f"add a YAML to configs/ that trains {path_of(network)}"


def test_networks_are_imported_without_lightning() -> None:
    modules = [*dict.fromkeys(network.__module__ for network in networks()), *WITHOUT_LIGHTNING]
    lines = [f"import {module}; assert 'lightning' not in sys.modules, '{module}'" for module in modules]
    subprocess.run([sys.executable, "-c", "\n".join(["import sys", *lines])], cwd=ROOT, check=True)


@pytest.mark.parametrize("data_class", data_modules(), ids=path_of)
def test_data_module_is_in_a_config_that_is_tested(data_class: type) -> None:
    assert path_of(data_class) in configured_classes(), f"add a YAML to configs/ that trains on {path_of(data_class)}"


@pytest.mark.parametrize("callback", callback_classes(), ids=path_of)
def test_callback_is_in_a_config_or_has_a_test(callback: type) -> None:
    *folders, stem = callback.__module__.split(".")
    test = Path(__file__).parent.joinpath(*folders, f"test_{stem}.py")
    assert path_of(callback) in configured_classes() or test.exists(), f"add {test}"
