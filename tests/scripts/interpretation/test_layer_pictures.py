import numpy as np
import pytest
import torch
from torch import nn

from scripts.interpretation.layer_pictures import activations_picture, attribution_picture, occlusion, saliency


@pytest.mark.parametrize("shape", [(5, 6, 6), (3, 1, 1), (7, 40), (10,), (500,)])
def test_any_output_is_drawn(shape: tuple[int, ...]) -> None:
    picture = activations_picture(torch.randn(shape, generator=torch.Generator().manual_seed(0)), max_maps=4)
    assert picture.mode == "RGB"
    assert min(picture.size) > 50
    assert len(np.unique(np.asarray(picture))) > 5


def test_as_many_maps_as_asked_for() -> None:
    output = torch.randn(20, 6, 6)
    widths = [activations_picture(output, most).width for most in (1, 2, 8)]
    assert widths == sorted(set(widths))
    assert activations_picture(output, 9).height > activations_picture(output, 8).height


def test_a_constant_map_is_drawn() -> None:
    assert activations_picture(torch.zeros(2, 4, 4), 2).size == activations_picture(torch.rand(2, 4, 4), 2).size


@pytest.mark.parametrize("signed", [False, True])
def test_maps_stand_beside_the_image(signed: bool) -> None:
    image = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8)
    picture = attribution_picture(image, "map", torch.rand(12, 16), "title", signed=signed)
    assert picture.width > picture.height
    assert attribution_picture(image, "map", torch.zeros(12, 16), "title", signed=signed).size == picture.size


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


@pytest.mark.parametrize("shape", [(8, 8), (7, 21), (1, 30), (33, 20)])
def test_every_pixel_is_covered_and_its_mean_loss_is_that_of_a_linear_network(shape: tuple[int, int]) -> None:
    class Total(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            total = images.sum(dim=(1, 2, 3))
            return torch.stack([total, torch.zeros_like(total)], dim=1)

    picture = torch.full((1, 1, *shape), 0.01)
    before = Total()(picture).sigmoid()[0, 0]
    squares = max(1, shape[0] // 8) * max(1, shape[1] // 8)
    lost = occlusion(Total(), picture, torch.tensor([0]), multi_label=True)
    assert lost.shape == (1, *shape)
    assert lost.min() > 0
    one = before - torch.tensor(0.01 * (shape[0] * shape[1] - squares)).sigmoid()
    assert lost[0, shape[0] // 2, shape[1] // 2] == pytest.approx(float(one), rel=1e-3)
