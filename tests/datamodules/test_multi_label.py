"""What the data module does with several labels per image, or none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.batching.split import SPLITS
from datamodules.mixing import CutMix, MixUp
from datamodules.packing.features import Features
from tests.multi_label import PROPERTIES, DigitProperties


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def prepared(root: Path, kind: type[DigitProperties] = DigitProperties, **arguments: Any) -> DigitProperties:
    data = kind(root=root, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def source(data: DigitProperties) -> np.ndarray[Any, Any]:
    return np.asarray(data.read()["train"][1])


def test_a_batch_has_a_number_for_each_label(root: Path) -> None:
    data = prepared(root)
    assert data.pack is not None
    assert torch.equal(data.pack.labels, torch.from_numpy(source(data)))
    batch = next(iter(data.train_dataloader()))
    assert (batch[1].shape, batch[1].dtype) == ((64, 4), torch.uint8)
    _, labels = data.transform(batch, training=True)
    assert labels.dtype == torch.float32
    assert torch.equal(labels, batch[1].float())
    assert data.class_counts == source(data)[data.splits["train"]].sum(axis=0).tolist() == data.epoch_counts


def test_the_labels_used_are_columns_in_their_order_and_no_image_is_left_out(root: Path) -> None:
    data = prepared(root, classes=["large", "even"])
    assert data.pack is not None
    assert torch.equal(data.pack.labels, torch.from_numpy(source(data)[:, [3, 0]]))
    assert sum(len(data.splits[name]) for name in SPLITS) == 1797
    _, labels = data.pack[torch.tensor([1, 2])]
    assert labels.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("rule", ["hash", "shuffle"])
def test_splits_keep_the_share_of_each_label(root: Path, rule: Any) -> None:
    data = prepared(root, split_rule=rule, limit=600, val_size=0.3)
    labels = source(data)
    for split in SPLITS:
        assert labels[data.splits[split]].mean(axis=0) == pytest.approx(labels.mean(axis=0), abs=0.1)
    again = prepared(root, split_rule=rule, limit=600, val_size=0.3, seed=5)
    assert all(torch.equal(data.splits[split], again.splits[split]) for split in SPLITS)


def test_features_come_with_the_same_labels(root: Path) -> None:
    data = prepared(root)
    assert data.pack is not None
    features = Features(data.splits["val"], data.pack.labels, lambda: 0)
    assert data.transform((torch.zeros(3, 5), features.labels[:3]), training=True)[1].dtype == torch.float32


@pytest.mark.parametrize("mixing", [MixUp(alpha=1.0), CutMix()])
def test_labels_of_mixed_images_are_shares_of_both(root: Path, mixing: torch.nn.Module) -> None:
    data = prepared(root, mixing=[mixing])
    labels = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.uint8)
    torch.manual_seed(0)
    _, mixed = data.transform((torch.zeros(3, 1, 8, 8, dtype=torch.uint8), labels), training=True)
    assert mixed.shape == (3, 4)
    assert (mixed >= 0).all()
    assert (mixed <= 1).all()
    assert (mixed % 1 != 0).any()
    assert (mixed[:, 2] == 0).all()


def test_labels_change_the_fingerprint_and_nothing_else_does(root: Path, tmp_path: Path) -> None:
    class Turned(DigitProperties):
        def read(self) -> Any:
            images, labels = super().read()["train"][:2]
            return {"train": (images, 1 - np.asarray(labels))}

    prints = [prepared(*each).data_fingerprint for each in ((root,), (tmp_path,), (tmp_path, Turned))]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.zeros(1797), r"of shape \[1797\]; give \[1797, 4\], a column for each class"),
        (np.zeros((1797, 3)), r"of shape \[1797, 3\]; give \[1797, 4\]"),
        (np.full((1797, 4), 0.5), "1 for each that an image has, else 0"),
        (np.full((1797, 4), np.nan), "1 for each that an image has, else 0"),
        (np.zeros((1797, 4)), "The class even has no training image"),
        (np.eye(4)[np.zeros(1797, int)], "The class prime has no training image"),
    ],
)
def test_says_what_is_wrong_with_labels(labels: Any, words: str, tmp_path: Path) -> None:
    class Wrong(DigitProperties):
        def read(self) -> Any:
            return {"train": (load_digits().images[:, None].astype(np.uint8), labels)}

    with pytest.raises(UserError, match=words):
        prepared(tmp_path, Wrong)


def test_says_how_to_have_several_labels(tmp_path: Path) -> None:
    class Single(DigitProperties):
        is_multi_label = False

    with pytest.raises(UserError, match=r"or say is_multi_label = True if it may have several"):
        prepared(tmp_path, Single)


def test_no_epoch_gives_each_of_several_labels_the_same_share(root: Path) -> None:
    with pytest.raises(UserError, match=r"data.balanced .* --model.class_weights balanced"):
        prepared(root, balanced=True)


def test_there_are_labels_of_each_kind() -> None:
    has = np.array([[digit in some for some in PROPERTIES.values()] for digit in range(10)])
    assert not has[1].any()
    assert set(has.sum(axis=1)) == {0, 1, 2, 3}
