import numpy as np
import pytest

from scripts.inference.prediction_table import NO_FINITE_LOGITS, PredictionTable
from scripts.inference.predictions import probabilities_of

NAMES = ["cat", "dog", "caf\udce9"]
LOGITS = np.array([[0.1, 3.0, -1.0], [2.0, 0.0, 0.0], [np.nan, 0.0, 0.0], [np.nan] * 3], np.float32)


def test_columns_and_rows_of_all_kinds() -> None:
    table = PredictionTable(NAMES, top=2, probabilities=True, logits=True)
    paths = ["a.jpg", "caf\udce9.jpg", "c.jpg", "d.jpg"]
    with np.errstate(invalid="ignore"):
        probabilities = probabilities_of(LOGITS)
    rows = table.rows(paths, LOGITS, probabilities, {3: "it is no image\n"})
    assert [list(row) for row in rows] == [table.columns] * 4
    first = rows[0]
    assert [first[name] for name in ("path", "prediction", "error")] == ["a.jpg", "dog", None]
    assert first["probability"] == first["probability 1"] == first["probability of dog"]
    assert first["probability"] == float(str(np.float32(probabilities[0, 1])))
    assert (first["class 1"], first["class 2"]) == ("dog", "cat")
    assert (first["logit of cat"], first["logit of caf\\xe9"]) == (0.1, -1.0)
    assert (rows[1]["path"], rows[1]["prediction"]) == ("caf\\xe9.jpg", "cat")
    assert [rows[place]["error"] for place in (2, 3)] == [NO_FINITE_LOGITS, "it is no image\\n"]
    assert {rows[3][name] for name in rows[3].keys() - {"path", "error"}} == {None}


@pytest.mark.parametrize("classes", [2, 200])
def test_the_most_probable_classes_come_in_their_order(classes: int) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (4, classes)).astype(np.float32)
    probabilities = probabilities_of(logits)
    table = PredictionTable([f"class {number}" for number in range(classes)], top=2)
    for row, shares in zip(table.rows(list("abcd"), logits, probabilities), probabilities, strict=True):
        assert [row["probability 1"], row["probability 2"]] == pytest.approx(sorted(shares)[-1:-3:-1], rel=1e-6)
        assert row["class 1"] == row["prediction"] == f"class {shares.argmax()}"
