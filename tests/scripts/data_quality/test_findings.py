import numpy as np
import pytest

from datamodules.digits import Digits
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
    assert Finding("", "", lines, lines, 2003).examples == ["file 0", "file 1", "file 2", "and 2,000 more"]
    assert Finding("", "", lines[:3], lines[:3], 3).examples == lines[:3]
