import pytest
import torch
from torch import Tensor

from datamodules.digits import Digits
from models.training.test_time_augmentation import Views, average_logits, views


@pytest.mark.parametrize(
    ("kind", "number"), [("flip", 2), ("crops", 6), ("crops+flip", 12), ("shifts", 3), ("shifts+flip", 6)]
)
def test_views_have_the_size_of_the_image_which_is_the_first(kind: Views, number: int) -> None:
    images = torch.rand(4, 3, 32, 24)
    seen = list(views(images, kind))
    assert len(seen) == number
    assert all(view.shape == images.shape for view in seen)
    assert torch.equal(seen[0], images)
    if "flip" in kind:
        assert torch.equal(seen[1], images.flip(3))


def test_shifts_are_of_one_pixel_each_way() -> None:
    images = torch.rand(4, 3, 8, 6)
    _, down, up = views(images, "shifts")
    assert torch.equal(down[:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(up[:, :, :-1, :-1], images[:, :, 1:, 1:])
    assert torch.equal(down[:, :, 0, 0], images[:, :, 0, 0])


def test_probabilities_are_averaged() -> None:
    images = torch.rand(4, 3, 8, 8)

    def network(view: Tensor) -> Tensor:
        return view[:, :, 0, 0] * 10

    mean = average_logits(network, images, "flip").softmax(dim=1)
    expected = (network(images).softmax(dim=1) + network(images.flip(3)).softmax(dim=1)) / 2
    assert torch.allclose(mean, expected, atol=1e-6)


def test_probabilities_of_several_labels_are_averaged_one_by_one() -> None:
    images = torch.rand(4, 3, 8, 8)

    def network(view: Tensor) -> Tensor:
        return view[:, :, 0, 0] * 40 - 20

    mean = average_logits(network, images, "flip", multi_label=True).sigmoid()
    assert torch.allclose(mean, (network(images).sigmoid() + network(images.flip(3)).sigmoid()) / 2, atol=1e-6)


def test_a_network_that_does_not_mind_flips_predicts_the_same(digits: Digits) -> None:
    assert digits.pack is not None
    images = digits.pack[torch.arange(10)][0].float()

    def network(view: Tensor) -> Tensor:
        return view.sum(dim=(1, 3))

    expected = network(images).log_softmax(dim=1)
    assert torch.allclose(average_logits(network, images, "flip"), expected, atol=1e-5)
