from scripts.inference.prediction_output import Row
from scripts.inference.prediction_rows import same


def row(probability: float | None, error: str | None = None) -> Row:
    return ["image.png", "cat", probability, error]


def test_two_rows_are_the_same_but_for_rounding_and_files_that_could_not_be_read() -> None:
    assert same(row(0.900), row(0.905))
    assert not same(row(0.90), row(0.92))
    assert same(row(None, "truncated"), row(0.9))
    assert not same(row(None), row(0.9))
