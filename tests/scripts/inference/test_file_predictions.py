from scripts.inference.file_predictions import is_same
from scripts.inference.prediction_table import Row


def row(probability: float | str | None, error: str | None = None) -> Row:
    return {"path": "image.png", "prediction": "cat", "probability": probability, "error": error}


def test_two_rows_are_the_same_but_for_rounding_and_files_that_could_not_be_read() -> None:
    assert is_same(row("0.900000"), row(0.905))
    assert not is_same(row(0.90), row(0.92))
    assert is_same(row(None, "truncated"), row(0.9))
    assert not is_same(row(None), row(0.9))
