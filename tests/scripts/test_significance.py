import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_ind, zscore

from scripts.significance import (
    difference_on_the_same_images,
    difference_over_runs,
    holm,
    mcnemar,
    t_interval,
)


def with_moments(number: int, mean: float, deviation: float) -> np.ndarray:
    """Figures of which only what a t-test looks at is known."""
    drawn = np.random.default_rng(0).normal(size=number)
    return np.asarray(mean + deviation * zscore(drawn, ddof=1))


def test_t_interval_is_the_published_one() -> None:
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2, ZARR13.DAT
    values = with_moments(195, 9.261460, 0.022789)
    assert t_interval(values.tolist()) == pytest.approx((9.258242, 9.264679), abs=1e-6)


def test_t_interval_of_figures_that_are_the_same_and_of_one() -> None:
    assert t_interval([0.5, 0.5]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="two or more"):
        t_interval([0.5])


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        # A. Agresti, "Categorical Data Analysis", 1990, p. 350, approval of a president; exact as R's exact2x2 gives it
        (150, 86, 3.716e-05),
        # M. W. Fagerland, S. Lydersen and P. Laake, "The McNemar test for binary matched-pairs data", 2013
        (1, 7, 0.0703),
        (6, 16, 0.0525),
        (0, 0, 1.0),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_gives_the_published_values(only_first: int, only_second: int, p: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(p, rel=2e-3)
    assert mcnemar(only_second, only_first) == mcnemar(only_first, only_second)


def answers(lost: int, won: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.ones(images, bool), np.ones(images, bool)
    second[:lost] = False
    first[lost : lost + won] = False
    return first, second


@pytest.mark.parametrize(("lost", "won", "images"), [(20, 45, 1000), (3, 1, 60)])
def test_paired_bootstrap_is_that_of_scipy(lost: int, won: int, images: int) -> None:
    first, second = answers(lost, won, images)
    found = difference_on_the_same_images(first, second)
    gain = second.astype(float) - first
    expected = bootstrap((gain,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1))
    assert found.value == pytest.approx((won - lost) / images)
    assert found.p == mcnemar(lost, won)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval), abs=1.5 / images + 0.001)


def test_answers_that_are_the_same_and_one_image() -> None:
    first, _ = answers(0, 0, 50)
    assert difference_on_the_same_images(first, first) == (0, (0, 0), 1)
    right, wrong = np.array([True]), np.array([False])
    assert difference_on_the_same_images(wrong, right) == (1, (1, 1), 1)
    with pytest.raises(ValueError, match="not to 1 and 50"):
        difference_on_the_same_images(right, first)
    with pytest.raises(ValueError, match="not to 0 and 0"):
        difference_on_the_same_images(right[:0], wrong[:0])


def test_difference_over_runs_is_the_published_one() -> None:
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.3, AUTO83B.DAT: t = -12.94627, 136.8750 degrees of freedom
    first, second = with_moments(249, 20.14458, 6.414700), with_moments(79, 30.48101, 6.107710)
    found = difference_over_runs(first.tolist(), second.tolist())
    expected = ttest_ind(first, second, equal_var=False)
    assert expected.statistic == pytest.approx(-12.94627, abs=1e-4)
    assert expected.df == pytest.approx(136.8750, abs=1e-3)
    assert found.value == pytest.approx(30.48101 - 20.14458)
    assert found.p == pytest.approx(expected.pvalue)
    low, high = found.interval
    assert (low + high) / 2 == pytest.approx(found.value)
    critical = 1.977431  # of t at so many degrees of freedom
    assert (high - low) / 2 == pytest.approx(critical * found.value / 12.94627, rel=1e-4)


def test_difference_over_runs_that_give_the_same() -> None:
    assert difference_over_runs([0.5, 0.5], [0.5, 0.5]) == (0, (0, 0), 1)
    assert difference_over_runs([0.5, 0.5], [1, 1]) == (0.5, (0.5, 0.5), 0)
    one_sided = difference_over_runs([0.5, 0.5, 0.5], [0.6, 0.7, 0.8])
    assert one_sided.interval.low < 0.2 < one_sided.interval.high
    with pytest.raises(ValueError, match="not 1 and 2"):
        difference_over_runs([1], [1, 2])


def test_holm_keeps_order_and_never_exceeds_one() -> None:
    # As R's p.adjust(p, "holm") gives it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.9]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []
