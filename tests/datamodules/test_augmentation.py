"""Kornia's augmentations as a configuration names them."""

from pathlib import Path

import pytest
import torch
import yaml

from scripts.command.data_flags import build_data
from tests.datamodules.test_image_folder import write_source

SIZE = {"size": [32, 32]}
MODULES = {
    "RandomAffine": {"degrees": 30.0, "translate": [0.2, 0.2], "scale": [0.8, 1.2], "shear": 10.0},
    "RandomRotation": {"degrees": 20.0},
    "RandomHorizontalFlip": {},
    "RandomVerticalFlip": {},
    "RandomCrop": SIZE | {"padding": 4, "padding_mode": "reflect"},
    "RandomResizedCrop": SIZE | {"scale": [0.3, 1.0]},
    "ColorJitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "RandomErasing": {},
    "RandomGrayscale": {"p": 0.5},
    "auto.RandAugment": {"n": 2, "m": 10},
    "auto.TrivialAugment": {},
    "auto.AutoAugment": {"policy": "cifar10"},
}
WITH_ZEROS = {"RandomCrop with zeros": SIZE | {"padding": 4, "cropping_mode": "resample"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_source(folder, per_class=10)
    return folder


@pytest.mark.parametrize("name", [*MODULES, *WITH_ZEROS])
def test_each_image_is_augmented_in_its_own_way_and_by_the_seed(root: Path, name: str) -> None:
    init_args = (MODULES | WITH_ZEROS)[name]
    module = {"class_path": f"kornia.augmentation.{name.split()[0]}", "init_args": init_args}
    data = build_data(
        [
            *("--data", "datamodules.image_folder.ImageFolder", "--data.root", str(root), "--data.image_size", "32"),
            *("--data.normalization", "none", "--data.augmentation", yaml.safe_dump([module])),
        ]
    )
    data.prepare_data()
    data.setup("fit")
    assert data.pack is not None
    same = torch.zeros(32, dtype=torch.long)
    torch.manual_seed(0)
    images, labels = data.transform(data.pack[same], training=True)
    assert images.shape == (32, 3, 32, 32)
    assert labels.dtype == torch.int64
    kinds = {tuple(image.flatten().tolist()) for image in images}
    assert len(kinds) > (1 if name.endswith("Flip") or name == "RandomGrayscale" else 8)
    torch.manual_seed(0)
    assert torch.equal(data.transform(data.pack[same], training=True)[0], images)
    plain = data.transform(data.pack[same], training=False)[0]
    assert torch.equal(plain, plain[:1].expand_as(plain))
