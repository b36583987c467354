from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.convnet import ConvNet
from models.training.freezing import Freezing
from tests.conftest import Run
from tests.datamodules.test_base import assert_equal


def network() -> ConvNet:
    return ConvNet(1, (8, 8), 10, channels=[4, 8])


def trained(freezing: Freezing, net: ConvNet, epoch: int) -> set[str]:
    freezing.apply(epoch)
    net.train()
    freezing.keep_in_evaluation()
    return {name for name, parameter in net.named_parameters() if parameter.requires_grad}


def test_is_a_function_of_the_epoch() -> None:
    net = network()
    everything = {name for name, _ in net.named_parameters()}
    head = {name for name in everything if name.startswith("head")}
    freezing = Freezing(net, ["stages"], {2: ["stages.4", "stages.5"], 3: ["stages"]})
    for epochs in (range(4), (3, 0, 2, 1)):
        seen = {epoch: trained(freezing, net, epoch) for epoch in epochs}
        assert seen[0] == seen[1] == head
        assert seen[2] == head | {name for name in everything if name.startswith(("stages.4.", "stages.5."))}
        assert seen[3] == everything


def test_frozen_parts_are_in_evaluation_mode_and_thawed_ones_in_training() -> None:
    net = network()
    freezing = Freezing(net, ["stages"], {1: ["stages"]})
    trained(freezing, net, 0)
    assert not any(module.training for module in net.stages.modules())
    assert all(module.training for module in net.head.modules())
    freezing.apply(1)
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize(
    ("freeze", "unfreeze", "words"),
    [
        (["stage"], {}, "ConvNet has no part stage to freeze or unfreeze; did you mean stages"),
        (["backbone"], {}, "ConvNet has no part backbone .*; it has stages, head"),
        (["stages"], {3: ["stages.99"]}, "has no part stages.99"),
        (["stages"], {3: ["head"]}, "unfreeze names head, which is not frozen"),
        (["stages"], {0: ["stages"]}, "unfreeze names epoch 0"),
        (["stages", "head"], {}, "leaves nothing of ConvNet to train"),
        (["stages", "head"], {2: ["stages"], 1: ["head"]}, "leaves nothing of ConvNet to train at first; freeze"),
    ],
)
def test_refuses_what_makes_no_sense(freeze: list[str], unfreeze: dict[int, list[str]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Freezing(network(), freeze, unfreeze)


def parts(checkpoint: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(f"network.{prefix}")}


@pytest.mark.slow
def test_what_is_frozen_stays_bit_for_bit(train: Callable[..., Run]) -> None:
    start = train("--trainer.max_epochs=1", "--model.optimizer.lr=0")
    frozen = train("--trainer.max_epochs=2", "--model.freeze=[stages]", "--model.optimizer.weight_decay=0.5")
    untrained = parts(start.checkpoint, "stages")
    statistics = {name for name in untrained if "running" in name or "tracked" in name}
    for name, value in parts(frozen.checkpoint, "stages").items():
        if name in statistics:
            assert float(value.float().mean()) in (0.0, 1.0), f"{name} is as it was made"
        else:
            assert torch.equal(value, untrained[name])
    head = parts(start.checkpoint, "head")
    assert not any(torch.equal(value, head[name]) for name, value in parts(frozen.checkpoint, "head").items())


@pytest.mark.parametrize(("epoch", "is_told"), [(1, False), (2, True)])
def test_says_what_the_run_does_not_come_to(
    epoch: int, is_told: bool, train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("--trainer.max_epochs=2", "--trainer.limit_train_batches=1")
    train(*short, "--model.freeze=[stages]", f"--model.unfreeze={{{epoch}: [stages]}}")
    told = f"All is trained from epoch {epoch} on, which a run of 2 epochs does not reach."
    assert (told in capsys.readouterr().out) == is_told


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit_before_and_after_thawing(train: Callable[..., Run], tmp_path: Path) -> None:
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    whole = train(
        *("--trainer.max_epochs=4", "--data.batch_size=256", "--model.freeze=[stages]"),
        *("--model.unfreeze={1: [stages.4, stages.5], 2: [stages]}", "--early_stopping=null"),
        f"--trainer.callbacks+={{class_path: {saver}, "
        f"init_args: {{every_n_train_steps: 4, save_top_k: -1, dirpath: {tmp_path / 'steps'}}}}}",
    )
    steps_per_epoch = whole.results["steps"] // 4
    places = {int(place.stem.partition("step=")[2]): place for place in (tmp_path / "steps").glob("*.ckpt")}
    within = [place for step, place in places.items() if step % steps_per_epoch]
    assert len(within) >= 4
    for place in within:
        resumed = train("--ckpt_path", str(place), "--trainer.callbacks=null")
        for part in ("state_dict", "optimizer_states"):
            assert_equal(resumed.checkpoint[part], whole.checkpoint[part], f"{place.name}: {part}")


@pytest.mark.slow
def test_two_processes_freeze_thaw_and_slow_as_one(
    train: Callable[..., Run], train_in_two_processes: Callable[..., Run]
) -> None:
    flags = (
        *("--model.freeze=[stages]", "--model.unfreeze={1: [stages]}", "--model.layer_decay=0.5"),
        *("--trainer.max_epochs=2", "--data.drop_last=true", "--model.network.batch_norm=false"),
        *("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1", "--trainer.precision=32-true"),
    )
    one = train(*flags, "--data.batch_size=128")
    strategy = "--trainer.strategy=ddp_find_unused_parameters_true"
    two = train_in_two_processes(*flags, "--data.batch_size=64", strategy)
    assert one.results["steps"] == two.results["steps"]
    for name, value in one.checkpoint["state_dict"].items():
        if not name.startswith(("train_metrics", "val_metrics", "test_metrics")):
            assert torch.allclose(two.checkpoint["state_dict"][name], value, rtol=1e-3, atol=1e-5), name


def test_a_part_that_is_not_there_is_one_sentence(refused: Callable[..., str], tmp_path: Path, data_root: Path) -> None:
    error = refused("fit", "--model.freeze=[stage]", "--runs", tmp_path, "--data.root", data_root)
    assert "ConvNet has no part stage to freeze or unfreeze; did you mean stages" in error


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_code_is_of_what_is_trained_now(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    resets: list[None] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(None))
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network, dynamic: None)
    parts = ("--model.freeze=[stages]", "--model.unfreeze={1: [stages.4, stages.5], 3: [stages]}")
    train(*parts, f"--model.compile={str(compiled).lower()}", "--trainer.max_epochs=4", "--early_stopping=null")
    assert len(resets) == (2 if compiled else 0)
