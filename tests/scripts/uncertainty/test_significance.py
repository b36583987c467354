from collections import Counter

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp, ttest_ind, ttest_rel, zscore

from scripts.uncertainty.intervals import wilson
from scripts.uncertainty.significance import (
    difference_on_the_same_images,
    difference_over_folds,
    difference_over_runs,
    error_over_folds,
    mcnemar,
    paired_interval,
)


def with_moments(number: int, mean: float, deviation: float) -> np.ndarray:
    """Figures of which only what a t-test looks at is known."""
    drawn = np.random.default_rng(0).normal(size=number)
    return np.asarray(mean + deviation * zscore(drawn, ddof=1))


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


@pytest.mark.slow
@pytest.mark.parametrize(("lost", "won", "images"), [(20, 45, 1000), (300, 250, 5000), (0, 90, 400), (40, 40, 100)])
def test_paired_interval_is_close_to_the_paired_bootstrap(lost: int, won: int, images: int) -> None:
    first, second = answers(lost, won, images)
    found = difference_on_the_same_images(first, second)
    gain = second.astype(float) - first
    expected = bootstrap((gain,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1))
    assert found.value == pytest.approx((won - lost) / images)
    assert found.p == mcnemar(lost, won)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval), abs=0.1 * np.ptp(found.interval))


@pytest.mark.parametrize(("images", "rate", "balance"), [(100, 0.2, 0.0), (100, 0.2, 0.5), (400, 0.05, 0.6)])
def test_paired_interval_holds_the_true_difference_as_often_as_it_says(
    images: int, rate: float, balance: float
) -> None:
    shares = [rate * (1 - balance) / 2, rate * (1 + balance) / 2, 1 - rate]
    drawn = Counter(map(tuple, np.random.default_rng(0).multinomial(images, shares, 4000).tolist()))
    held = 0
    for (lost, won, _), times in drawn.items():
        low, high = paired_interval(lost, won, images)
        held += times * (low <= rate * balance <= high)
    assert 0.94 < held / 4000 < 0.99


@pytest.mark.slow
def test_an_interval_excludes_0_exactly_when_its_p_value_is_below_005() -> None:
    random = np.random.default_rng(0)
    rejected = 0
    for _ in range(300):
        tests = int(random.integers(1, 12))
        lost, won = (int(random.integers(0, top)) for top in random.choice([3, 10, 40, 200], 2))
        both = [difference_on_the_same_images(*answers(lost, won, lost + won + int(random.integers(1, 500))), tests)]
        first, second = (random.normal(0, 1, random.integers(2, 6)) for _ in range(2))
        both.append(difference_over_runs(first.tolist(), (second + random.choice([0, 3, 20])).tolist(), tests))
        for value, (low, high), p in both:
            assert low <= value <= high
            assert (low > 0 or high < 0) == (p < 0.05)
            rejected += p < 0.05
    assert 100 < rejected < 500


def test_error_rates_hold_for_all_comparisons_together() -> None:
    first, second = answers(20, 45, 1000)
    alone, of_four = (difference_on_the_same_images(first, second, tests) for tests in (1, 4))
    assert of_four.p == 4 * alone.p
    assert of_four.interval == paired_interval(20, 45, 1000, 1 - 0.05 / 4)
    runs = [0.5, 0.52, 0.55], [0.6, 0.61, 0.7]
    expected = ttest_ind(runs[1], runs[0], equal_var=False)
    over_seeds = difference_over_runs(*runs, tests=4)
    assert over_seeds.p == pytest.approx(4 * expected.pvalue)
    assert over_seeds.interval == pytest.approx(tuple(expected.confidence_interval(1 - 0.05 / 4)))
    assert difference_over_runs(*runs, tests=1000).p == 1

    random = np.random.default_rng(0)
    reference, *others = random.normal(0, 1, (6, 200, 4))
    missed = sum(
        any(not low <= 0 <= high for _, (low, high), _ in (difference_over_runs(a, b, 5) for b in group))
        for a, group in zip(reference.tolist(), np.stack(others, axis=1).tolist(), strict=True)
    )
    assert missed / 200 < 0.07


def test_answers_that_are_the_same_and_one_image() -> None:
    first, _ = answers(0, 0, 50)
    value, (low, high), p = difference_on_the_same_images(first, first)
    assert (value, p) == (0, 1)
    assert high == -low == pytest.approx(wilson(0, 50).high)
    right, wrong = np.array([True]), np.array([False])
    value, (low, high), p = difference_on_the_same_images(wrong, right)
    assert (value, p) == (1, 1)
    assert low < 0 < high == 1


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


@pytest.mark.parametrize("second", [[0.5, 0.5], [1.0, 1.0], [0.6, 0.7, 0.8], [323 / 359, float(np.float32(323 / 359))]])
def test_nothing_is_concluded_of_runs_that_give_the_same(second: list[float]) -> None:
    value, interval, p = difference_over_runs([0.5, 0.5], second)
    assert value == pytest.approx(np.mean(second) - 0.5)
    assert np.isnan([*interval, p]).all()


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_over_folds_the_paired_t_statistic_shrinks_by_the_images_that_folds_share(folds: int) -> None:
    first, second = np.random.default_rng(folds).normal([[0.9], [0.92]], 0.01, (2, folds))
    plain = ttest_rel(second, first)
    # Nadeau and Bengio, 2003: of J repetitions, 1 / J + n_test / n_train in place of 1 / J
    factor = np.sqrt((1 / folds) / (1 / folds + (1 / folds) / (1 - 1 / folds)))
    found = difference_over_folds(first.tolist(), second.tolist(), folds)
    assert found.value == pytest.approx(float(np.mean(second - first)))
    shrunk = second - first
    shrunk = shrunk.mean() + (shrunk - shrunk.mean()) / factor
    assert ttest_1samp(shrunk, 0).statistic == pytest.approx(factor * plain.statistic)
    assert found.p == pytest.approx(float(ttest_1samp(shrunk, 0).pvalue))
    assert found.interval == pytest.approx(tuple(ttest_1samp(shrunk, 0).confidence_interval(0.95)))
    together = difference_over_folds(first.tolist(), second.tolist(), folds, tests=4)
    assert together.p == pytest.approx(min(1, 4 * found.p))
    assert together.interval == pytest.approx(tuple(ttest_1samp(shrunk, 0).confidence_interval(1 - 0.05 / 4)))
    swapped = difference_over_folds(second.tolist(), first.tolist(), folds)
    assert (swapped.value, swapped.p) == pytest.approx((-found.value, found.p))


def test_the_error_of_some_of_five_folds_is_that_of_the_published_formula() -> None:
    assert error_over_folds([0.1, 0.2, 0.4], 5) == pytest.approx(np.sqrt((1 / 3 + 0.2 / 0.8) * 0.07 / 3))


def test_folds_that_all_differ_by_the_same_have_no_test() -> None:
    value, interval, p = difference_over_folds([0.5, 0.6, 0.7], [0.6, 0.7, 0.8], 3)
    assert value == pytest.approx(0.1)
    assert np.isnan([*interval, p]).all()


def test_folds_of_equally_good_learners_seldom_differ() -> None:
    # One learner sees five features, the other five that say as much; both classify by the nearest mean of training.
    random, repetitions, images, folds = np.random.default_rng(1), 500, 60, 5
    labels = np.arange(images) % 2
    features = random.normal(0, 1, (2, repetitions, images, 5)) + 0.3 * labels[:, None]
    right = np.empty((2, repetitions, folds))
    for fold in range(folds):
        test = np.arange(images) // 2 % folds == fold
        means = [features[:, :, ~test & (labels == label)].mean(axis=2, keepdims=True) for label in (0, 1)]
        distances = [((features[:, :, test] - mean) ** 2).sum(axis=-1) for mean in means]
        right[..., fold] = ((distances[1] < distances[0]) == labels[test]).mean(axis=-1)
    pairs = list(zip(*right.tolist(), strict=True))
    found = [difference_over_folds(one, other, folds).p < 0.05 for one, other in pairs]
    usual = [ttest_rel(*pair).pvalue < 0.05 for pair in pairs if np.ptp(np.subtract(*pair)) > 1e-6]
    assert np.mean(found) < 0.05
    assert sum(usual) / repetitions > 0.08
