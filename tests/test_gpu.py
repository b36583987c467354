"""What only a GPU can show; skipped where there is none."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from scripts.export import main as export
from scripts.inference.trained_network import TrainedNetwork
from tests.callbacks.test_finite_guard import Save
from tests.conftest import Run

pytestmark = pytest.mark.gpu

SHORT = ("--trainer.max_epochs=3", "--early_stopping=null", "--data.batch_size=256")  # of 6 batches
RANDOM = (
    '--data.augmentation=[{"class_path": "datamodules.random_crop.RandomCrop", "init_args": {"padding": 1}}, '
    '{"class_path": "kornia.augmentation.RandomAffine", "init_args": {"degrees": 10.0}}]',
    "--model.network.dropout=0.3",
)
TRAININGS = (
    ("models.convnet.ConvNet",),
    ("models.convnet.ConvNet", "--trainer.precision=32-true"),
    ("models.convnet.ConvNet", "--trainer.precision=32-true", "--model.channels_last=false"),
    ("models.mlp.MLP",),
    ("models.resnet.ResNet",),
    ("models.airbench.AirbenchNet", "--model.network.channels=[16, 32]"),
)


class Greedy(nn.Module):
    """Asks for more memory than any GPU has."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.is_cuda:
            torch.empty(2**46, dtype=torch.uint8, device=images.device)
        logits: Tensor = self.head(images.flatten(1))
        return logits


class Unsynchronised(Callback):
    """Lets the GPU's driver refuse whatever waits for the GPU in the second half of an epoch, data included."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        torch.cuda.set_sync_debug_mode("error" if 10 <= batch_idx < 18 else "default")


def differing(one: Run, other: Run) -> list[str]:
    """Names of the weights that are not the same bits."""
    weights = other.checkpoint["state_dict"]
    return [name for name, value in one.checkpoint["state_dict"].items() if not torch.equal(value, weights[name])]


@pytest.mark.parametrize("flags", TRAININGS, ids=" ".join)
def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(train: Callable[..., Run], flags: tuple[str, ...]) -> None:
    save = f"--trainer.callbacks={json.dumps([{'class_path': f'{Save.__module__}.Save'}])}"
    random = RANDOM if flags[0].endswith("ConvNet") else RANDOM[:1]
    fixed = (*SHORT, *random, f"--model.network={flags[0]}", *flags[1:])
    whole = train(*fixed, save)
    assert whole.results["device"] == "cuda:0"
    assert whole.results["precision"] == "bf16-mixed" or "--trainer.precision=32-true" in flags
    assert differing(train(*fixed), whole) == [], "the same run twice"
    resumed = train("--ckpt_path", str(whole.folder / "middle.ckpt"))
    assert differing(resumed, whole) == []
    assert resumed.results["metrics"] == whole.results["metrics"]


@pytest.mark.parametrize("flags", [(), ("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")])
@pytest.mark.parametrize("crop", [False, True], ids=["plain", "cropped"])
@pytest.mark.usefixtures("synchronizes_again")
def test_no_training_step_waits_for_the_gpu(train: Callable[..., Run], flags: tuple[str, ...], crop: bool) -> None:
    watch = f"--trainer.callbacks={json.dumps([{'class_path': f'{__name__}.Unsynchronised'}])}"
    more = (RANDOM[0].split(", {")[0] + "]",) if crop else ()
    run = train("--trainer.max_epochs=2", watch, *flags, *more)
    assert run.results["metrics"]["train/accuracy"] > 0.3


def test_batches_gathered_on_the_gpu_are_those_that_are_sent_to_it(train: Callable[..., Run]) -> None:
    fixed = (*SHORT, *RANDOM)
    assert differing(train(*fixed), train(*fixed, "--data.num_workers=1")) == []


def test_a_compiled_network_learns_and_keeps_its_names(train: Callable[..., Run]) -> None:
    compiled, plain = train("--model.compile=true", "--trainer.max_epochs=5"), train("--trainer.max_epochs=5")
    assert compiled.checkpoint["state_dict"].keys() == plain.checkpoint["state_dict"].keys()
    for run in (compiled, plain):
        assert run.results["metrics"]["test/accuracy"] > 0.95


def test_the_gpu_predicts_what_the_cpu_does(train: Callable[..., Run], data_root: Any) -> None:
    run = train("--trainer.max_epochs=5", "--trainer.precision=32-true")
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), np.uint8))
    trained = TrainedNetwork(run.best)
    assert trained.device.type == "cuda"
    on_cpu = TrainedNetwork(run.best, torch.device("cpu")).logits(images)
    np.testing.assert_allclose(trained.logits(images), on_cpu, atol=2e-2)  # convolutions compute in TF32


def test_what_a_gpu_trained_is_exported_for_others(
    train: Callable[..., Run], script: Callable[..., Callable[..., tuple[int, str, str]]]
) -> None:
    run = train("--trainer.max_epochs=2")
    status, said, error = script(export)(str(run.best))
    assert (status, error) == (0, ""), said
    assert run.best.with_suffix(".onnx").exists() or list(run.folder.rglob("*.onnx"))


def test_a_full_memory_is_one_sentence_with_what_to_do(
    train: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        train(f"--model.network={__name__}.Greedy", "--model_graph=null", "--trainer.num_sanity_val_steps=0")
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: The GPU's memory is full: use a smaller --data.batch_size")
    assert error.count("\n") == 1
