import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image
from torchvision import transforms

from core.user_error import UserError
from models.mlp import MLP
from tests.benchmarks.standard_program import counterparts, measure, print_rows, time_standard_program
from tests.datamodules.test_image_folder import prepared, write_source
from tests.discovery import CONFIGS


def test_trains_on_the_same_images(tmp_path: Path) -> None:
    write_source(tmp_path)
    data = prepared(tmp_path, channels=3, image_size=16, resize="squash", batch_size=8)
    network = MLP(3 * 16 * 16, 2, hidden_sizes=())
    before = copy.deepcopy(network.state_dict())
    step_ms = time_standard_program(
        data,
        network,
        partial(torch.optim.SGD, lr=0.1),
        augmentation=[transforms.RandomAffine(10)],
        folder=str(tmp_path),
        precision="32-true",
        steps=2,
        epochs=2,
        num_workers=0,
    )
    assert len(step_ms) == 2
    assert min(step_ms) > 0
    assert all(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_both_programs_are_timed_on_the_same_configuration(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    row = measure([f"--config={CONFIGS / 'digits' / 'mlp.yaml'}", f"--data.root={data_root}"], steps=3, seconds=0)
    assert min(row[name] for name in ("program_ms", "standard_ms", "start_seconds")) > 0
    assert row["images"] == 1797
    assert not list(tmp_path.iterdir()), "nothing is left behind"
    capsys.readouterr()
    print_rows([row, row | {"packing_rate": 200.0, "pillow_rate": 100.0}])
    table = capsys.readouterr().out
    for heading in ("bare", "program", "ratio", "added", "standard", "packing", "Pillow", " 2.00 "):
        assert heading in table


def test_augmentation_of_every_configuration_has_a_counterpart() -> None:
    made = []
    for file in CONFIGS.glob("*/*.yaml"):
        modules = yaml.safe_load(file.read_text()).get("data", {}).get("init_args", {}).get("augmentation", [])
        named = [SimpleNamespace(**{"init_args": {}} | module) for module in modules]
        for module, transform in zip(named, counterparts(named, (32, 32)), strict=True):
            assert module.class_path.endswith(f".{type(transform).__name__}")
            assert transform(Image.new("RGB", (32, 32))).size == (32, 32)
            made.append(type(transform).__name__)
    assert {"RandomAffine", "RandomCrop", "RandomHorizontalFlip"} <= set(made)


def test_names_augmentation_that_has_none() -> None:
    policy = SimpleNamespace(class_path="kornia.augmentation.auto.RandAugment", init_args={})
    with pytest.raises(UserError, match="no RandAugment; leave the augmentation out"):
        counterparts([policy], (32, 32))
