from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from datamodules.digits import Digits
from datamodules.mixing import CutMix, MixUp
from tests.conftest import Run

CLASSES = torch.eye(64)


def each_its_own_colour() -> Tensor:
    """64 images, image i of the one value i."""
    return torch.arange(64.0).view(-1, 1, 1, 1).expand(64, 3, 16, 12)


@pytest.mark.parametrize("mixing", [MixUp(1.0), CutMix(1.0)])
def test_labels_say_what_is_in_the_image(mixing: nn.Module) -> None:
    torch.manual_seed(0)
    images, labels = mixing(each_its_own_colour(), CLASSES)
    assert torch.allclose(labels.sum(dim=1), torch.ones(64))
    assert ((labels > 0).sum(dim=1) <= 2).all()
    # The mean of the pixels is the mean of the colours, each weighted by its label.
    assert torch.allclose(images.mean(dim=(1, 2, 3)), labels @ torch.arange(64.0), atol=1e-3)
    assert len(labels.diagonal().unique()) > 20, "each image has its own weight"


def test_cutmix_pastes_one_box(digits: Digits) -> None:
    torch.manual_seed(0)
    images, labels = CutMix()(each_its_own_colour(), CLASSES)
    for row in range(64):
        pasted = images[row, 0] != row
        if pasted.any():
            rows, columns = pasted.any(dim=1), pasted.any(dim=0)
            assert pasted.sum() == rows.sum() * columns.sum(), "a rectangle"
            assert float(labels[row, row]) == pytest.approx(1 - float(pasted.float().mean()), abs=1e-6)
        assert torch.equal(images[row, 0], images[row, 2])


def test_a_small_alpha_leaves_images_nearly_alone() -> None:
    torch.manual_seed(0)
    _, labels = MixUp(0.01)(each_its_own_colour(), CLASSES)
    assert ((labels.max(dim=1).values > 0.99).float().mean()) > 0.9


@pytest.mark.parametrize("alpha", [0.0, -1.0])
@pytest.mark.parametrize("mixing", [MixUp, CutMix])
def test_refuses_an_alpha_that_is_no_distribution(mixing: type, alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha is"):
        mixing(alpha)


def test_validation_is_never_mixed_and_training_always(digits: Digits) -> None:
    data = Digits(root=digits.root, mixing=[MixUp(), CutMix()])
    data.setup("fit")
    assert data.pack is not None
    batch = data.pack[torch.arange(20)]
    assert data.transform(batch, training=True)[1].shape == (20, 10)
    assert torch.equal(data.transform(batch, training=False)[1], batch[1])


@pytest.mark.slow
def test_a_run_counts_by_shares_and_learns(train: Callable[..., Run]) -> None:
    run = train("--data.mixing", "[{class_path: datamodules.mixing.MixUp}, {class_path: datamodules.mixing.CutMix}]")
    metrics = run.results["metrics"]
    assert metrics["test/accuracy"] > 0.95
    assert metrics["train/accuracy"] < 0.95, "no prediction of one class is all of a mixed image"
