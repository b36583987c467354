import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.user_error import UserError
from datamodules.digits import Digits
from datamodules.packing.pack import Rows
from models.classifier import Classifier
from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.leakage import leaked_images, related_to
from scripts.inference.predictions import predict_split
from tests.conftest import trained_network

Audit = pytest.importorskip("scripts.data_quality.findings").Audit  # a room that may have been removed


def pair(first: str, second: str) -> dict[str, Any]:
    return {"images": [{"name": first}, {"name": second}]}


def test_copies_near_duplicates_and_groups_are_related_but_not_theirs_in_turn() -> None:
    audit = {
        "exact_duplicates": [pair("a", "a2"), pair("a", "a3"), pair("b", "b2")],
        "near_duplicates": [pair("a", "b"), pair("b", "c"), pair("d", "e")],
        "images_of_groups": {"one": ["e", "f"], "two": ["g", "h"], "three": ["h2"]},
    }
    assert related_to({"a2"}, audit) == {"a", "a2", "a3", "b", "b2"}
    assert related_to({"b2"}, audit) == {"a", "a2", "a3", "b", "b2", "c"}
    assert related_to({"e"}, audit) == {"d", "e", "f"}
    assert related_to({"h"}, audit) == {"g", "h"}


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Digits]:
    """Scans of which the first ten are among them again, with a group of two in a row."""
    images, labels, *_ = Digits().read()["train"]
    assert isinstance(images, np.ndarray)
    images[50:60] = images[:10]
    groups = np.array([f"page {number // 2}" for number in range(len(labels))], object)
    rows: dict[bool, Any] = {True: Rows(images, labels, {"group": groups}), False: Rows(images, labels)}

    def prepare(grouped: bool = False, **arguments: Any) -> Digits:
        monkeypatch.setattr(Digits, "read", lambda self: {"train": rows[grouped]})
        data = Digits(root=tmp_path, packs=tmp_path / str(grouped), split_rule="shuffle", **arguments)
        data.prepare_data()
        data.setup("test")
        return data

    return prepare


def test_evaluation_judges_leaked_images_apart(
    prepared: Callable[..., Digits], classifier: Callable[[], Classifier], tmp_path: Path
) -> None:
    file = tmp_path / "audit.json"
    file.write_text(json.dumps(Audit(prepared(grouped=True)).as_json()))
    data = prepared()
    trained = trained_network(classifier(), data)
    tested = predict_split(trained, data, "test")
    copied = leaked_images(trained, data, tested.places, None)
    train = set(data.splits["train"].tolist())
    seen = train | {place for place in range(60) if (place + 50) % 100 in train and place % 50 < 10}
    assert set(tested.places[copied].tolist()) == (seen - train) & set(tested.places.tolist())
    assert copied.any()
    leaked = leaked_images(trained, data, tested.places, file)
    mates = [bool(seen & {place // 2 * 2, place // 2 * 2 + 1}) for place in tested.places.tolist()]
    assert leaked.tolist() == mates
    assert not leaked.all()

    found = Evaluation(trained, data, "test", tested, tested, leaked).as_json()["leakage"]
    assert found["leaked"]["images"] + found["clean"]["images"] == len(tested)
    assert found["leaked"]["right"] + found["clean"]["right"] == int(tested.is_right.sum())
    assert found["clean"]["share_right"] == pytest.approx(tested.is_right[~leaked].mean())
    low, high = found["clean"]["interval"]
    assert 0 <= low <= found["clean"]["share_right"] <= high <= 1
    assert Evaluation(trained, data, "test", tested, tested, np.zeros(len(tested), np.bool_)).leakage == {}


def test_images_that_were_trained_on_under_other_splits_are_leaked(
    prepared: Callable[..., Digits], classifier: Callable[[], Classifier]
) -> None:
    before, now = prepared(split_seed=0), prepared(split_seed=1)
    trained = trained_network(classifier(), before)
    trained.checkpoint["data_images"] = before.known_images
    places = now.splits["test"].numpy()
    leaked = leaked_images(trained, now, places, None)
    again = torch.isin(now.splits["test"], before.splits["train"]).numpy()
    assert leaked[again].all()
    assert not leaked[~again & (places >= 60)].any()


def test_an_audit_of_other_data_is_refused(
    prepared: Callable[..., Digits], classifier: Callable[[], Classifier], tmp_path: Path
) -> None:
    data, file = prepared(), tmp_path / "audit.json"
    trained, places = trained_network(classifier(), data), data.splits["test"].numpy()
    file.write_text(json.dumps(Audit(data).as_json()))
    leaked_images(trained, data, places, file)
    other = prepared(classes=["0", "1", "2"])
    with pytest.raises(UserError, match="is the audit of other data; write it with"):
        leaked_images(trained, other, other.splits["test"].numpy(), file)
    for text in ("{}", "[1]", "no JSON", None):
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(UserError, match=r"audit\.json cannot be read; write it with scripts/audit\.py --json"):
            leaked_images(trained, data, places, file)
