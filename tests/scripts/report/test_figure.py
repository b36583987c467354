import numpy as np

from scripts.report.figure import DOTS_PER_INCH, SIZE_INCHES, new_figure, picture_of


def test_draws_what_is_in_the_figure() -> None:
    empty, full = new_figure(), new_figure()
    full.subplots().plot([0, 1], [0, 1], color="red")
    blank, curve = picture_of(empty), picture_of(full)
    assert blank.mode == curve.mode == "RGB"
    assert curve.size == tuple(inches * DOTS_PER_INCH for inches in SIZE_INCHES)
    assert (np.asarray(blank) == 255).all()
    assert (np.asarray(curve) == (255, 0, 0)).all(axis=2).any()
