import numpy as np
import pytest
import torch
from kornia.augmentation import RandomCrop as KorniaCrop
from sklearn.datasets import load_sample_images

from core.user_error import UserError
from datamodules.random_crop import RandomCrop

PHOTO = torch.from_numpy(np.stack(load_sample_images().images)[:, :32, :48]).permute(0, 3, 1, 2)[:1] / 255


def kinds(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_gives_every_cutting_of_the_padded_image_and_no_other(mode: str) -> None:
    torch.manual_seed(0)
    found = RandomCrop(2, mode)(PHOTO.expand(500, -1, -1, -1))  # type: ignore[arg-type]
    assert found.shape == (500, 3, 32, 48)
    padded = np.pad(PHOTO[0].numpy(), ((0, 0), (2, 2), (2, 2)), mode)  # type: ignore[call-overload]
    places = ((top, left) for top in range(5) for left in range(5))
    assert kinds(found) == {padded[:, top : top + 32, left : left + 48].tobytes() for top, left in places}


def test_cuts_what_kornia_cuts() -> None:
    torch.manual_seed(0)
    many = PHOTO.expand(500, -1, -1, -1)
    assert kinds(RandomCrop(1)(many)) == kinds(KorniaCrop((32, 48), padding=1, padding_mode="reflect")(many))


def test_refuses_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="padding is 0; give a whole number"):
        RandomCrop(0)
    with pytest.raises(UserError, match="reflects 32 pixels of images of 32x48; give it a padding of"):
        RandomCrop(32)(PHOTO)
    assert RandomCrop(32, "constant")(PHOTO).shape == PHOTO.shape
