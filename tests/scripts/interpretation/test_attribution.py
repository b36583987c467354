import sys

import pytest
import torch
from torch import nn

from core.user_error import UserError
from scripts.interpretation.attribution import occlusion, saliency

CLASSES = torch.tensor([0, 2])


def images() -> torch.Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_saliency_is_the_size_of_the_gradient() -> None:
    linear = nn.Linear(64, 3)
    network = nn.Sequential(nn.Flatten(), linear).eval()
    expected = linear.weight[2].detach().abs().view(8, 8)
    torch.testing.assert_close(saliency(network, images(), CLASSES)[1], expected / expected.max())


def test_occlusion_finds_what_speaks_for_a_class() -> None:
    linear = nn.Linear(64, 2, bias=False)
    network = nn.Sequential(nn.Flatten(), linear).eval()
    nn.init.zeros_(linear.weight)
    linear.weight.data[1, 27] = 1.0
    picture = torch.zeros(1, 1, 8, 8)
    picture[0, 0, 3, 3] = 4.0
    lost = occlusion(network, picture, torch.tensor([1]))
    assert lost.shape == (1, 8, 8)
    assert lost.flatten().argmax() == 27
    assert lost[0, 3, 3] == pytest.approx(torch.tensor([0.0, 4.0]).softmax(0)[1].item() - 0.5)


def test_layers_that_work_in_place_are_left_as_they_are() -> None:
    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)).eval()
    assert saliency(network, images(), CLASSES).max() == 1
    assert network[0].inplace


def test_without_captum_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"needs captum, .* run pip install -e '\.\[interpretation\]'"):
        saliency(nn.Flatten(), images(), CLASSES)
