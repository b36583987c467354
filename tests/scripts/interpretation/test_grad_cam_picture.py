from collections.abc import Callable

import numpy as np
import pytest
import torch

from core.user_error import UserError
from datamodules.digits import Digits
from models.classifier import Classifier
from models.mlp import MLP
from scripts.interpretation.grad_cam_picture import class_asked_for, grad_cam_picture
from tests.conftest import trained_network


def test_it_asks_about_the_class_predicted_unless_another_is_given(
    classifier: Callable[[], Classifier], digits: Digits
) -> None:
    assert digits.pack is not None
    trained, pixels = trained_network(classifier(), digits), digits.pack[torch.tensor([0])][0]
    predicted = trained.class_names[int(trained.logits(pixels).argmax())]
    other = next(name for name in trained.class_names if name != predicted)
    first, same, changed = (np.asarray(grad_cam_picture(trained, pixels, name)) for name in (None, predicted, other))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, changed)
    label, title = class_asked_for(trained, trained.normalize(pixels), other)
    assert trained.class_names[int(label)] == other
    assert title.startswith(f"what speaks for {other} (")


def test_what_cannot_be_drawn_is_one_sentence(classifier: Callable[[], Classifier], digits: Digits) -> None:
    assert digits.pack is not None
    trained, pixels = trained_network(classifier(), digits), digits.pack[torch.tensor([0])][0]
    with pytest.raises(UserError, match=r"--class is ten, which none\.ckpt does not know"):
        grad_cam_picture(trained, pixels, "ten")
    trained.network = MLP(64, 10)
    with pytest.raises(UserError, match="MLP has no convolution that gives maps, which Grad-CAM needs; use saliency"):
        grad_cam_picture(trained, pixels)
