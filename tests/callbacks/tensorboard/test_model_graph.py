from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from callbacks.tensorboard.network_tracing import trace
from models.convnet import ConvNet
from tests.callbacks.tensorboard.test_preview import events
from tests.conftest import Run

IMAGE = {"channels": 1, "image_size": [8, 8]}
SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")


class Untraceable(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            raise RuntimeError("this is no tensor")
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def test_a_run_has_the_graph_of_its_network(train: Callable[..., Run]) -> None:
    graph = events(train(*SHORT).folder).Graph()
    names = {node.name for node in graph.node}
    assert any("stages" in name and "conv" in name.lower() for name in names)
    assert graph.ByteSize() < 50_000, "no weights are in it"


def test_one_that_cannot_be_traced_trains_without(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trace(Untraceable(), IMAGE) is None
    assert trace(ConvNet(1, (8, 8), 10), {}) is None
    capsys.readouterr()
    run = train(*SHORT, "--model.network", f"{__name__}.Untraceable")
    assert "graph" not in {key for key, value in events(run.folder).Tags().items() if value is True}
    printed = capsys.readouterr()
    assert "no tensor" not in printed.out + printed.err
    assert run.results["steps"] == 2
