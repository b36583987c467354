from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional as F

from callbacks.whitening import Whitening, whitening_kernels
from datamodules.digits import Digits
from models.airbench import AirbenchNet
from models.classifier import Classifier
from tests.conftest import Run, quiet_trainer

NETWORK = (
    *("--model.network=models.airbench.AirbenchNet", "--model.network.channels=[8, 8]", "--model.freeze=[whitening]"),
    *("--trainer.max_epochs=2", "--data.batch_size=256", "--trainer.precision=32-true"),
)
WHITENING = "--trainer.callbacks=[{class_path: callbacks.whitening.Whitening, init_args: {images: 300}}]"


def test_outputs_are_uncorrelated_with_variance_1(digits: Digits) -> None:
    images, _ = digits.on_after_batch_transfer(digits.pack[digits.splits["val"]], 0)  # type: ignore[index]
    kernels = whitening_kernels(images, (2, 2), 8)
    outputs = F.conv2d(images, kernels).transpose(0, 1).flatten(1)
    second_moments = outputs @ outputs.T / outputs.shape[1]
    assert torch.allclose(second_moments[:4, :4], torch.eye(4), atol=0.01)
    assert torch.equal(outputs[:4], -outputs[4:])


def test_keeps_the_directions_of_most_variance() -> None:
    images = torch.randn(50, 2, 6, 6) * torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    kernels = whitening_kernels(images, (1, 1), 2)
    assert torch.allclose(kernels[0].flatten(), torch.tensor([0.0, 0.1]), atol=0.02)


@pytest.mark.slow
def test_a_frozen_layer_stays_as_it_was_set(
    train: Callable[..., Run], resume: Callable[..., Run], digits: Digits
) -> None:
    run = train(*NETWORK, WHITENING)
    name = "network.whitening.weight"
    set_to = run.checkpoint["state_dict"][name]
    images, _ = digits.on_after_batch_transfer(digits.pack[digits.splits["train"][:300]], 0)  # type: ignore[index]
    assert torch.allclose(set_to, whitening_kernels(images, (2, 2), 8))
    longer = resume(run, "--trainer.max_epochs=3", "--data.limit=0.5")
    assert torch.equal(longer.checkpoint["state_dict"][name], set_to)


class Watched(Whitening):
    """Compares the generator's state before and after."""

    drew = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before = torch.get_rng_state()
        super().on_fit_start(trainer, pl_module)
        self.drew = not torch.equal(before, torch.get_rng_state())


def test_draws_no_random_numbers(digits: Digits, tmp_path: Path) -> None:
    watched = Watched()
    classifier = Classifier(AirbenchNet(1, (8, 8), 10, channels=(4, 4)), 10, partial(torch.optim.SGD, lr=0.1))
    quiet_trainer(tmp_path, max_steps=1, callbacks=[watched], limit_val_batches=0).fit(classifier, digits)
    assert not watched.drew


def test_refuses_a_network_without_the_layer(refused: Callable[..., str], data_root: Path, tmp_path: Path) -> None:
    answer = refused("fit", WHITENING, "--data.root", data_root, "--runs", tmp_path)
    assert (
        "ConvNet has no convolution whitening of the images' channels, 1, to whiten by; give the name of its first"
        in answer
    )


def test_refuses_a_layer_that_does_not_take_the_images(
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    inner = WHITENING.replace("images: 300", "layer: stages.0")
    answer = refused("fit", *NETWORK, inner, "--data.root", data_root, "--runs", tmp_path)
    assert (
        "AirbenchNet has no convolution stages.0 of the images' channels, 1, to whiten by; give the name of its"
        in answer
    )


def test_refuses_a_layer_with_more_outputs_than_directions(
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    layer = "[{class_path: callbacks.whitening.Whitening, init_args: {layer: stages.0}}]"
    answer = refused("fit", f"--trainer.callbacks={layer}", "--data.root", data_root, "--runs", tmp_path)
    assert "stages.0 has 32 outputs; to whiten patches of 9 numbers, give it an even number up to 18." in answer
