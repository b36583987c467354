import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from core.user_error import UserError
from models.classifier import Classifier
from models.serialization.checkpoint import CheckpointContent
from models.serialization.saved_network import build_network
from tests.conftest import Run

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2")


def content_of(run: Run, **changed: Any) -> CheckpointContent:
    return cast(CheckpointContent, run.checkpoint | changed)


@pytest.mark.parametrize("flags", [(), ("--trainer.precision=bf16-true", "--model.channels_last=true")])
def test_is_the_network_of_the_classifier(train: Callable[..., Run], flags: tuple[str, ...]) -> None:
    run = train(*SHORT, *flags)
    network, classifier = build_network(content_of(run), run.last), Classifier.load_from_checkpoint(run.last)
    assert type(network) is type(classifier.network)
    assert not network.training
    for (name, value), expected in zip(
        network.state_dict().items(), classifier.network.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name
        assert (value.dtype, value.stride()) == (expected.dtype, expected.stride())


def test_what_is_not_a_networks_class_is_not_built(train: Callable[..., Run]) -> None:
    run = train(*SHORT)
    arguments = run.checkpoint["hyper_parameters"]
    for network, words in (
        ({"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "here"}}, "cannot be built again|a function"),
        ({"class_path": "torch.nn.Identity", "init_args": {}}, "cannot be built again: .*Unexpected key"),
        ({"class_path": "stranger.Network"}, "names stranger.Network, whose code is not run unasked"),
        ({"class_path": "subprocess.Popen", "init_args": {"args": "touch"}}, "names subprocess.Popen, whose code"),
    ):
        changed = content_of(run, hyper_parameters=arguments | {"network": network})
        with pytest.raises(UserError, match=words):
            build_network(changed, Path("x.ckpt"))
    assert "stranger" not in sys.modules


def test_a_ready_made_network_is_not_in_the_checkpoint(train: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match=r"x\.ckpt was saved around a ready-made network"):
        build_network(content_of(train(*SHORT), hyper_parameters={}), Path("x.ckpt"))
