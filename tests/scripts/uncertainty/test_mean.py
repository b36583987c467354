import math

import pytest

from scripts.uncertainty.mean import caption, mean_over_seeds
from tests.scripts.uncertainty.test_significance import with_moments


def test_the_interval_is_the_published_one() -> None:
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2, ZARR13.DAT
    found = mean_over_seeds(with_moments(195, 9.261460, 0.022789).tolist())
    assert found.interval == pytest.approx((9.258242, 9.264679), abs=1e-6)
    assert found.seeds == 195


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [math.nan, 0.5]])
def test_one_seed_and_equal_figures_have_no_interval(values: list[float]) -> None:
    found = mean_over_seeds(values)
    assert found.interval is None
    assert "±" not in found.shown()


def test_is_shown_with_half_its_interval_and_in_percent() -> None:
    found = mean_over_seeds([0.97, 0.98, 0.99])
    assert found.interval
    half = (found.interval.high - found.interval.low) / 2
    assert found.shown() == f"0.9800 ± {half:.4f}"
    assert found.shown(100) == f"98.00 ± {100 * half:.2f}"


def test_the_caption_says_how_many_seeds_and_what_is_after_the_sign() -> None:
    one, two, three = (mean_over_seeds(values) for values in ([0.5], [0.5, 0.6], [0.5, 0.6, 0.7]))
    assert caption([three, three]) == "Mean over 3 seeds ± half of its 95% t-interval."
    assert caption([two, three]) == "Mean over 2 to 3 seeds ± half of its 95% t-interval."
    assert caption([one, three]) == (
        "Mean over 1 to 3 seeds ± half of its 95% t-interval, where seeds gave different figures."
    )
    assert caption([one]) == "Figures of one seed, which gives no interval."
    assert caption([]) == ""
