from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from datamodules.digits import Digits
from models.classifier import Classifier
from models.convnet import ConvNet
from models.mlp import MLP
from models.training.precision import choose_precision, count_flops
from tests.conftest import quiet_trainer

CPU = torch.device("cpu")


def test_counts_two_operations_for_each_weight_of_a_linear_layer() -> None:
    network = MLP(in_features=64, num_classes=10, hidden_sizes=())
    assert count_flops(network, (1, 8, 8)) == 2 * 64 * 10


def test_counting_leaves_the_network_as_it_is() -> None:
    network = ConvNet(1, (8, 8), 10).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_flops(network, (1, 8, 8))
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("features", "network", "precision"),
    [
        ({"avx512_bf16": True}, MLP(3072, 10, (1024,)), "bf16-mixed"),
        ({"amx_bf16": True}, MLP(3072, 10, (1024,)), "bf16-mixed"),
        ({"avx512_bf16": True}, MLP(3072, 10, (16,)), "32-true"),
        ({"avx512_bf16": False}, MLP(3072, 10, (1024,)), "32-true"),
    ],
)
def test_cpu_takes_bfloat16_where_it_gains(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], network: nn.Module, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert choose_precision(network, (3, 32, 32), CPU)[0] == precision


@pytest.mark.parametrize(("supported", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_gpu_takes_bfloat16_where_it_has_it(monkeypatch: pytest.MonkeyPatch, supported: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert choose_precision(MLP(4, 2), (1, 2, 2), torch.device("cuda"))[0] == precision


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "32-true"])
def test_weights_go_on_as_they_were_saved(
    digits: Digits, classifier: Callable[[], Classifier], tmp_path: Path, precision: str
) -> None:
    trainer, trained = quiet_trainer(tmp_path, precision=precision, max_steps=2), classifier()
    trainer.fit(trained, digits)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    other = classifier()
    again = quiet_trainer(tmp_path, precision=precision, max_steps=2)
    again.fit(other, digits, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    found = other.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in trained.state_dict().items())
