import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from datamodules.digits import Digits
from models.serialization.pretrained import adapt_channels, load_weights, read_weights
from tests.conftest import Run


def network(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 2), (3, 4), (3, 6), (1, 3), (6, 3)])
def test_channels_that_are_equal_are_answered_as_before(old: int, new: int, digits: Digits) -> None:
    grey = digits.pack[digits.splits["train"][:4]][0].float()  # type: ignore[index]
    kernels = torch.randn(8, 1, 3, 3).expand(-1, old, -1, -1)
    before, after = (F.conv2d(grey.expand(-1, count, -1, -1), adapt_channels(kernels, count)) for count in (old, new))
    assert torch.allclose(before, after, rtol=1e-4, atol=1e-3)


def test_one_channel_is_answered_as_the_colour_image_of_equal_channels(digits: Digits) -> None:
    grey = digits.pack[digits.splits["train"][:4]][0].float()  # type: ignore[index]
    kernels = torch.randn(8, 3, 3, 3)
    colour = F.conv2d(grey.expand(-1, 3, -1, -1), kernels)
    assert torch.allclose(F.conv2d(grey, adapt_channels(kernels, 1)), colour, rtol=1e-4, atol=1e-3)


def test_loads_what_is_given_and_leaves_what_is_skipped() -> None:
    source, target = network(), network(channels=1)
    last = target[3].weight.clone()  # type: ignore[index]
    load_weights(target, source.state_dict(), "file", "network", skip=["3."])
    for name, value in source.state_dict().items():
        if not name.startswith(("0.weight", "3.")):
            assert torch.equal(target.state_dict()[name], value)
    assert torch.equal(target[0].weight, source[0].weight.sum(dim=1, keepdim=True))  # type: ignore[index]
    assert torch.equal(target[3].weight, last)  # type: ignore[index]


def test_batches_need_not_be_counted() -> None:
    state = {name: value for name, value in network().state_dict().items() if "num_batches" not in name}
    load_weights(network(), state, "file", "network")


def test_what_does_not_fit_is_counted_and_named_and_nothing_is_loaded() -> None:
    state = network().state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        state[f"old.{name}"] = state.pop(name)
    state["3.weight"] = torch.zeros(7, 16)
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    message = (
        "The weights a.pth do not fit resnet: 4 missing (0.weight, 0.bias, 1.weight, ...); 4 unexpected (old.0.weight, "
        "old.0.bias, old.1.weight, ...); 1 of another shape (3.weight [7, 16] for [5, 16]); give weights of resnet, or"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        load_weights(target, state, "a.pth", "resnet")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_reads_a_state_dict(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(state, tmp_path / "a.pth")
    read = read_weights(tmp_path / "a.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in read.items())


def test_reads_the_backbone_of_a_checkpoint(train: Callable[..., Run]) -> None:
    run = train(
        *("--model.network=models.resnet.ResNet", "--model.network.channels=[4,8]", "--model.network.blocks=[1,1]"),
        *("--trainer.max_epochs=1", "--trainer.limit_train_batches=1"),
    )
    read = read_weights(run.last)
    names = {f"network.backbone.{name}" for name in read}
    assert names == {name for name in run.checkpoint["state_dict"] if name.startswith("network.backbone.")}
    assert names


def test_leaves_out_what_wrappers_put_before_the_names(tmp_path: Path) -> None:
    state = network().state_dict()
    for wrapper in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        torch.save({f"{wrapper}{name}": value for name, value in state.items()}, tmp_path / "wrapped.pth")
        assert read_weights(tmp_path / "wrapped.pth").keys() == state.keys()
    partly = {f"module.{name}" if name.startswith("0.") else name: value for name, value in state.items()}
    torch.save(partly, tmp_path / "partly.pth")
    assert read_weights(tmp_path / "partly.pth").keys() == partly.keys()


def test_refuses_a_file_with_another_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"weight": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(1000)) + 500] ^= 1
    path.write_bytes(content)
    assert torch.load(path)["weight"].any()
    with pytest.raises(ValueError, match=r"a\.pth cannot be read: .* damaged"):
        read_weights(path)


def test_refuses_what_holds_no_weights(tmp_path: Path, train: Callable[..., Run]) -> None:
    for content in ({"epoch": 3}, [1], {}, torch.zeros(3), {1: torch.zeros(3)}):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"other\.pth are no state dict"):
            read_weights(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("weights")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"weight": 1}))
    torch.save(network(), tmp_path / "code.pth")
    for name in ("text.pth", "pickle.pth", "code.pth", "missing.pth"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read: the file is missing, truncated"):
            read_weights(tmp_path / name)
    run = train("--model.network=models.mlp.MLP", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    with pytest.raises(ValueError, match="no checkpoint of a network that has a backbone; give"):
        read_weights(run.last)
