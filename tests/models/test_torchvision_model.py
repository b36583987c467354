import pytest
import torch

from models.torchvision_model import TorchvisionModel


def test_gives_a_logit_for_each_class() -> None:
    assert TorchvisionModel("resnet18", num_classes=7)(torch.randn(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet81", "fcn_resnet50"])
def test_a_name_that_is_not_there_is_answered_with_those_near_it(name: str) -> None:
    with pytest.raises(ValueError, match=f"no classification network {name}; did you mean .*resnet"):
        TorchvisionModel(name, num_classes=7)
