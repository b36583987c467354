from types import SimpleNamespace

import torch

from models.class_weights import balanced_weights


def test_balanced_weights_of_several_labels_make_having_one_weigh_as_much_as_not() -> None:
    data = SimpleNamespace(class_counts=[10, 80, 100], splits={"train": torch.arange(100)})
    assert balanced_weights(data, multi_label=True) == [9.0, 0.25, 1.0]
