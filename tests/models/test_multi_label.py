"""What the classifier does with several labels per image."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.user_error import UserError
from models.classifier import Classifier
from models.convnet import ConvNet
from tests.conftest import quiet_trainer
from tests.multi_label import DigitProperties


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DigitProperties:
    return DigitProperties(root=tmp_path_factory.mktemp("data"))


def make(multi_label: bool = True) -> Classifier:
    torch.manual_seed(0)
    return Classifier(
        ConvNet(1, (8, 8), 4), 4, lambda groups: torch.optim.AdamW(groups, lr=0.003), multi_label=multi_label
    )


def test_data_and_classifier_have_as_many_labels_per_image(data: DigitProperties, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"The data has several labels per image, the classifier one label per image; give both the same",
    ):
        quiet_trainer(tmp_path, fast_dev_run=True).fit(make(multi_label=False), data)


def test_an_old_checkpoint_is_of_one_label_per_image() -> None:
    checkpoint: dict[str, Any] = {"class_names": [], "preprocessing": {}, "state_dict": {}}
    make(multi_label=False).on_load_checkpoint(checkpoint)
    with pytest.raises(UserError, match=r"The checkpoint has one label per image, the data several labels per image"):
        make().on_load_checkpoint(checkpoint)
