from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules.digits import Digits
from datamodules.packing.pack import Rows
from scripts.data_quality.findings import Audit, Finding


def test_one_list_of_findings_is_for_every_output(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), np.uint8)
    images[30] = images[0]
    monkeypatch.setattr(Digits, "read", lambda self: {"train": (images, np.arange(60) // 30)})
    audit = Audit(Digits())
    findings = {finding.key: finding for finding in audit.findings}
    assert {"train[0]", "train[30]"} == {image["name"] for image in findings["label_conflicts"].value[0]["images"]}
    assert findings["exact_duplicates"].count == findings["label_conflicts"].count == 1
    assert not audit.is_clean
    assert audit.as_json()["label_conflicts"] == findings["label_conflicts"].value
    assert audit.title == "60 images of Digits"


def test_examples_are_few_and_the_others_are_counted() -> None:
    lines = [f"file {number}" for number in range(2003)]
    assert Finding("", "", lines, lines).examples == ["file 0", "file 1", "file 2", "and 2,000 more"]
    assert Finding("", "", lines[:3], lines[:3]).examples == lines[:3]


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Audit]:
    """Audits 60 digits on pages of five; with `end`, a test split begins there."""
    source = Digits().read()["train"]
    images, labels = np.asarray(source[0])[:60], np.asarray(source[1])[:60] % 2
    groups = np.array([f"page {number // 5}" for number in range(60)], object)

    def audit(end: int | None = None, copy: int | None = None) -> Audit:
        if copy is not None:
            images[copy] = images[0]
        parts = {"train": slice(0, end)} | ({} if end is None else {"test": slice(end, None)})
        read = {name: Rows(images[part], labels[part], {"group": groups[part]}) for name, part in parts.items()}
        monkeypatch.setattr(Digits, "read", lambda self: read)
        return Audit(Digits(val_size=0.3, classes=["0", "1"]))

    return audit


def test_names_groups_that_cross_given_splits_and_pictures_in_two_groups(grouped: Callable[..., Audit]) -> None:
    audit = grouped(end=42, copy=59)
    found = audit.as_json()
    assert found["groups_across_splits"] == {"page 8": {"train": 2, "test": 3}}
    assert found["splits_problem"].startswith("The group page 8 has images in train and test; put all of them into one")
    assert [[image["group"] for image in pair["images"]] for pair in found["group_conflicts"]] == [
        ["page 0", "page 11"]
    ]
    assert found["images_of_groups"]["page 8"] == ["train[40]", "train[41]", "test[0]", "test[1]", "test[2]"]
    (lines,) = (finding.lines for finding in audit.findings if finding.key == "groups_across_splits")
    assert lines == ["page 8: 2 train, 3 test"]


def test_drawn_splits_of_groups_are_those_of_training(grouped: Callable[..., Audit], tmp_path: Path) -> None:
    audit = grouped()
    data = Digits(root=tmp_path, val_size=0.3, classes=["0", "1"])
    data.prepare_data()
    data.setup("test")
    rows = list(audit.split_rows())
    assert {row[0] for row in rows} == {f"train[{place}]" for place in range(60)}
    assert {int(path[6:-1]) for path, *_, split in rows if split == "test"} == set(data.splits["test"].tolist())
    assert {(group, split) for *_, group, split in rows} == {
        (f"page {place // 5}", split) for split, places in data.splits.items() for place in places.tolist()
    }
    assert audit.as_json()["groups_across_splits"] == {}
    assert audit.is_clean
