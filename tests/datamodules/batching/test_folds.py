from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.user_error import UserError
from datamodules.batching.data_changes import data_changes
from datamodules.batching.groups import fold_of
from datamodules.batching.split import Rule
from datamodules.digits import Digits
from datamodules.packing.pack import Rows, Source


class Writers(Digits):
    """The digits, each 12 in a row by one writer; given folds put a writer into one, or each image into another."""

    def __init__(
        self, given_folds: int | None = None, divided: bool = False, test: bool = False, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.given = given_folds, divided, test

    def read(self) -> Source:
        images, labels, *_ = super().read()["train"]
        assert isinstance(images, np.ndarray)
        folds, divided, test = self.given
        writers = np.arange(len(labels)) // 12
        columns = {"group": writers.astype(str)}
        if folds:
            columns["fold"] = (np.arange(len(labels)) if divided else writers) % folds
        ends = {"train": slice(0, 1500), "test": slice(1500, None)} if test else {"train": slice(None)}
        return {
            name: Rows(images[some], labels[some], {key: values[some] for key, values in columns.items()})
            for name, some in ends.items()
        }


def prepared(root: Path, data_set: type[Digits] = Digits, **arguments: Any) -> Digits:
    data = data_set(root=root, **arguments)
    data.prepare_data()
    data.setup("test")
    return data


def test_every_image_is_tested_once_and_classes_are_even(data_root: Path) -> None:
    datas = [prepared(data_root, folds=5, fold=fold) for fold in range(5)]
    tested = torch.cat([data.splits["test"] for data in datas])
    assert tested.sort().values.tolist() == list(range(1797))
    for data in datas:
        assert data.pack is not None
        everything = torch.cat([data.splits[name] for name in ("train", "val", "test")])
        assert everything.sort().values.tolist() == list(range(1797))
        counts = torch.bincount(data.pack.labels[data.splits["test"]], minlength=10)
        assert (counts - torch.bincount(data.pack.labels) / 5).abs().max() < 1
        assert 110 < len(data.splits["val"]) < 180


def test_folds_follow_the_splits_seed_alone(data_root: Path) -> None:
    first, same, other = (
        prepared(data_root, folds=3, fold=1, split_seed=split_seed, seed=seed).splits
        for split_seed, seed in ((0, 0), (0, 1), (1, 0))
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert first["test"].tolist() != other["test"].tolist()


class FoldsOfItsOwn(Digits):
    """A data set from before all had these arguments."""

    def __init__(self, fold: int = 0, folds: int = 5, **arguments: Any) -> None:
        self.fold, self.folds = fold, folds
        super().__init__(**arguments)

    def read(self) -> Source:
        images, labels, *_ = super().read()["train"]
        assert isinstance(images, np.ndarray)
        is_test = np.arange(len(labels)) % self.folds == self.fold
        return {"train": (images[~is_test], labels[~is_test]), "test": (images[is_test], labels[is_test])}


def test_a_data_set_may_have_folds_of_its_own(data_root: Path) -> None:
    first, second = (prepared(data_root, FoldsOfItsOwn, fold=fold) for fold in (0, 3))
    assert (len(first.splits["test"]), len(second.splits["test"])) == (360, 359)
    assert first.pack_folder != second.pack_folder
    assert prepared(data_root, folds=5, fold=3).pack_folder == prepared(data_root).pack_folder


def test_copies_share_a_fold() -> None:
    digests = np.random.default_rng(0).integers(2**64, size=90, dtype=np.uint64).repeat(2)
    fold = fold_of(np.arange(180) // 60, digests, None, 3, 0)
    assert fold[::2].tolist() == fold[1::2].tolist()
    assert np.bincount(fold).tolist() == [60] * 3


def test_groups_stay_together_in_drawn_splits_and_folds(data_root: Path) -> None:
    tested: list[int] = []
    folds: list[dict[str, Any]] = [{"folds": 4, "fold": fold} for fold in range(4)]
    others: list[dict[str, Any]] = [{}, {"limit": 0.5}, {"split_rule": "shuffle"}]
    for arguments in others + folds:
        splits = prepared(data_root, Writers, **arguments).splits
        writers = [set((places // 12).tolist()) for places in splits.values()]
        assert sum(map(len, writers)) == len(set().union(*writers)), arguments
        assert min(map(len, splits.values())) > 50
        tested += splits["test"].tolist() if arguments in folds else []
    assert sorted(tested) == list(range(1797))


def test_several_labels_per_image_are_spread_over_folds(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Digits) -> Source:
        images, labels, *_ = whole(self)["train"]
        marks = np.eye(10, dtype=np.uint8)[labels]
        marks[:, 0] |= marks[:, 9]
        marks[:, 4] = 1
        return {"train": Rows(images, marks, {"group": (np.arange(len(labels)) // 6).astype(str)})}

    whole = Digits.read
    monkeypatch.setattr(Digits, "read", read)
    monkeypatch.setattr(Digits, "is_multi_label", True)
    datas = [prepared(data_root / "several", folds=4, fold=fold) for fold in range(4)]
    tested = [data.splits["test"] for data in datas]
    assert torch.cat(tested).sort().values.tolist() == list(range(1797))
    assert datas[0].pack is not None
    labels = datas[0].pack.labels.float()
    for data, places in zip(datas, tested, strict=True):
        assert not set((places // 6).tolist()) & set(
            (torch.cat([data.splits["train"], data.splits["val"]]) // 6).tolist()
        )
        assert (labels[places].mean(dim=0) - labels.mean(dim=0)).abs().max() < 0.02
    with pytest.raises(UserError, match="but the class 2 has only 123 groups"):
        prepared(data_root / "several", folds=170, fold=0)


def test_folds_of_the_source_are_kept(data_root: Path) -> None:
    splits = prepared(data_root, Writers, given_folds=3, fold=2).splits
    assert splits["test"].tolist() == [place for place in range(1797) if place // 12 % 3 == 2]
    assert torch.equal(prepared(data_root, Writers, given_folds=3, folds=3, fold=2).splits["val"], splits["val"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folds": 1, "fold": 0}, "data.folds is 1 and data.fold 0; give how many folds there are, at least two"),
        ({"folds": 5}, "data.folds is 5 and data.fold None; give"),
        ({"folds": 5, "fold": 5}, "data.folds is 5 and data.fold 5; give"),
        ({"folds": 5, "fold": -1}, "data.folds is 5 and data.fold -1; give"),
        ({"fold": 1}, "data.folds is None and data.fold 1; give"),
        ({"folds": 175, "fold": 1}, "data.folds is 175, but the class 8 has only 174 images; give fewer folds"),
        ({"folds": 96, "fold": 1, "data_set": Writers}, "the class 2 has only 95 groups; give fewer folds"),
        ({"folds": 5, "fold": 1, "data_set": Writers, "test": True}, "The data set has a test split of its own"),
        (
            {"data_set": Writers, "given_folds": 3},
            "data.fold None; give how many folds there are .the fold column has 3.",
        ),
        (
            {"data_set": Writers, "given_folds": 3, "fold": 3},
            "data.fold 3; give how many folds there are .the fold column has 3.",
        ),
        (
            {"data_set": Writers, "given_folds": 3, "folds": 4, "fold": 1},
            "data.folds is 4 and data.fold 1; give how many folds there are .the fold column has 3.",
        ),
        (
            {"data_set": Writers, "given_folds": 3, "divided": True, "fold": 1},
            "The group 0 has images in train and test",
        ),
    ],
)
def test_refuses_folds_that_cannot_be(data_root: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(data_root, **arguments)


def test_data_that_test_on_validation_have_no_folds(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "tests_on_validation", True)
    with pytest.raises(UserError, match="The data set has a test split of its own, so that no fold can be it; leave"):
        prepared(data_root, folds=5, fold=0)


def test_evaluation_on_another_fold_says_how_much_of_it_was_trained_on(data_root: Path) -> None:
    trained, other = (prepared(data_root, folds=5, fold=fold) for fold in (0, 1))
    assert data_changes(trained.known_images, trained.known_images) == ""
    val, test = (
        f"{int(torch.isin(other.splits[name], trained.splits['train']).sum())} of {len(other.splits[name])} {name}"
        for name in ("val", "test")
    )
    changes = data_changes(trained.known_images, other.known_images)
    assert changes.endswith(f"0 new, 0 gone; trained on: {val} and {test} images")
    assert not test.startswith("0")


@pytest.mark.parametrize("rule", ["hash", "shuffle"])
def test_a_limit_leaves_out_the_same_images_whichever_fold_is_tested_on(data_root: Path, rule: Rule) -> None:
    used, tested = [], []
    for fold in (0, 1, 2):
        data = Digits(root=data_root, folds=3, fold=fold, limit=0.5, split_rule=rule)
        data.setup("test")
        used.append(torch.cat(list(data.splits.values())).sort().values)
        tested.append(data.splits["test"])
    assert 890 < len(used[0]) < 905
    assert all(torch.equal(each, used[0]) for each in (*used, torch.cat(tested).sort().values))
