from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from models.classifier import Classifier
from models.convnet import ConvNet
from models.training.freezing import Freezing
from models.training.parameter_groups import parameter_groups
from tests.conftest import Run


def names(module: nn.Module, group: dict[str, Any]) -> list[str]:
    of = {parameter: name for name, parameter in module.named_parameters()}
    return [of[parameter] for parameter in group["params"]]


def test_all_are_alike_unless_asked_otherwise() -> None:
    network = ConvNet(1, (8, 8), 10)
    (group,) = Classifier(network, 10, torch.optim.Adam).parameter_groups(network)
    assert list(group) == ["params"]
    assert names(network, group) == [name for name, _ in network.named_parameters()]


def test_norms_and_biases_are_told_from_weights_whatever_their_shape() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.LayerNorm([4, 6, 6]),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(9, 2),
    )
    weights, spared = parameter_groups(module, decay_norms_and_biases=False)
    assert names(module, weights) == ["0.weight", "5.weight"]
    assert len(spared["params"]) == 2 + 3 * 2
    assert spared["weight_decay"] == 0
    assert "weight_decay" not in weights


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.convolution = nn.Conv2d(1, 4, 1)
        self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 2)


def test_vectors_are_neither_weights_nor_layers_whatever_their_shape() -> None:
    module = Block()
    spared, weights = parameter_groups(module, decay_norms_and_biases=False)
    assert names(module, weights) == ["convolution.weight", "head.weight"]
    assert {"token", "layer_scale"} < set(names(module, spared))
    scales = {
        name: group["lr_scale"] for group in parameter_groups(module, layer_decay=0.5) for name in names(module, group)
    }
    assert {scales["token"], scales["layer_scale"], scales["convolution.weight"]} == {0.5}
    assert scales["head.weight"] == 1


def test_frozen_parameters_are_left_out_and_shared_ones_counted_once() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    module[2].weight = module[1].weight
    Freezing(module, ["0"]).apply(0)
    weights, spared = parameter_groups(module, decay_norms_and_biases=False)
    assert names(module, weights) == ["1.weight"]
    assert names(module, spared) == ["1.bias", "2.bias"]
    module[1].weight.requires_grad_(False)
    (spared,) = parameter_groups(module, decay_norms_and_biases=False)
    assert names(module, spared) == ["1.bias", "2.bias"]


def test_a_layers_rate_falls_with_its_distance_from_the_logits() -> None:
    network = ConvNet(1, (8, 8), 10, channels=[4, 8], head_sizes=[16])
    groups = parameter_groups(network, layer_decay=0.5, decay_norms_and_biases=False)
    scales = {name: group["lr_scale"] for group in groups for name in names(network, group)}
    assert len(scales) == len(list(network.parameters()))
    by_layer = {"stages.0": 0.125, "stages.1": 0.125, "stages.4": 0.25, "stages.5": 0.25, "head.1": 0.5, "head.3": 1.0}
    assert scales == {name: by_layer[name.rpartition(".")[0]] for name in scales}
    assert {group["name"] for group in groups} > {"layer_0_weights", "layer_3_norms_and_biases"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "options"),
    [
        ("OneCycleLR", "max_lr: 0.01"),
        ("CyclicLR", "base_lr: 0.001, max_lr: 0.01, step_size_up: 4"),
        ("StepLR", "step_size: 1"),
        ("CosineAnnealingLR", "T_max: 5"),
    ],
)
def test_every_schedule_keeps_the_proportions(train: Callable[..., Run], scheduler: str, options: str) -> None:
    run = train(
        *("--trainer.max_epochs=2", "--model.layer_decay=0.5", "--model.optimizer.lr=0.01"),
        f"--model.scheduler={{class_path: torch.optim.lr_scheduler.{scheduler}, init_args: {{{options}}}}}",
    )
    groups = run.checkpoint["optimizer_states"][0]["param_groups"]
    assert len(groups) == 4
    for group in groups:
        assert group["lr"] == pytest.approx(groups[-1]["lr"] * group["lr_scale"])
        assert group["initial_lr"] == pytest.approx(groups[-1]["initial_lr"] * group["lr_scale"])


@pytest.mark.parametrize("layer_decay", [0.0, 1.5])
def test_refuses_a_decay_that_is_none(layer_decay: float) -> None:
    with pytest.raises(ValueError, match="layer_decay is"):
        parameter_groups(ConvNet(1, (8, 8), 10), layer_decay=layer_decay)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_without_gradients_only_weights_shrink(optimizer: type[torch.optim.Optimizer]) -> None:
    network = ConvNet(1, (8, 8), 10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0).grad = torch.zeros_like(parameter)
    groups = parameter_groups(network, decay_norms_and_biases=False)
    optimizer(groups, lr=0.1, weight_decay=0.1).step()  # type: ignore[call-arg]
    assert all((parameter < 1).all() for parameter in groups[0]["params"])
    assert all((parameter == 1).all() for parameter in groups[1]["params"])


@pytest.mark.slow
def test_the_switch_reaches_the_optimizer_and_figures_keep_their_names(train: Callable[..., Run]) -> None:
    flags = ("--trainer.max_epochs=1", "--trainer.log_every_n_steps=1", "--model.optimizer.weight_decay=0.1")
    whole, parted = train(*flags), train(*flags, "--model.decay_norms_and_biases=false")
    groups = parted.checkpoint["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.1, 0]
    assert [group["weight_decay"] for group in whole.checkpoint["optimizer_states"][0]["param_groups"]] == [0.1]
    assert parted.results["metrics"].keys() == whole.results["metrics"].keys()
    header = (parted.folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"lr/weights", "lr/norms_and_biases"} <= set(header)
