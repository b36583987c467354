import math

import pytest
from scipy.stats import t

from scripts.uncertainty.mean import by_fold, caption, mean_of_runs, mean_over_seeds
from tests.scripts.uncertainty.test_significance import with_moments


def test_the_interval_is_the_published_one() -> None:
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2, ZARR13.DAT
    found = mean_over_seeds(with_moments(195, 9.261460, 0.022789).tolist())
    assert found.interval == pytest.approx((9.258242, 9.264679), abs=1e-6)
    assert found.number == 195


def test_over_folds_the_interval_is_wider_for_the_training_images_that_they_share() -> None:
    values = with_moments(5, 0.9, 0.02).tolist()
    low, high = mean_of_runs(list(enumerate(values)), 5).interval or (0, 0)
    # Nadeau and Bengio, 2003: n_test / n_train of five folds is 0.2 / 0.8
    assert (high - low) / 2 == pytest.approx(t.ppf(0.975, 4) * math.sqrt((1 / 5 + 0.2 / 0.8) * 0.02**2))
    assert (high + low) / 2 == pytest.approx(0.9)
    seeds = mean_over_seeds(values).interval or (0, 0)
    assert (high - low) / (seeds[1] - seeds[0]) == pytest.approx(1.5)


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [math.nan, 0.5]])
def test_one_seed_and_equal_figures_have_no_interval(values: list[float]) -> None:
    found = mean_over_seeds(values)
    assert found.interval is None
    assert "±" not in found.shown()
    assert mean_of_runs(list(enumerate(values)), 5).interval is None


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
        "Mean over 1 to 3 seeds ± half of its 95% t-interval, where seeds gave different values."
    )
    assert caption([one]) == "Metrics of one seed, which gives no interval."
    assert caption([]) == ""


def test_the_caption_says_what_is_a_mean_of_runs() -> None:
    folds, one = mean_of_runs([(0, 0.5), (1, 0.6)], 2), mean_of_runs([(0, 0.5)], 2)
    seeds = mean_over_seeds([0.5, 0.6])
    over_folds = (
        "Mean over 2 folds ± half of its 95% t-interval, corrected for the training images that folds share (Nadeau "
        "and Bengio, 2003)."
    )
    assert caption([folds]) == over_folds
    assert caption([folds, seeds]) == f"Mean over 2 seeds ± half of its 95% t-interval. {over_folds}"
    assert caption([folds, one]).endswith("(Nadeau and Bengio, 2003), where folds gave different values.")
    assert caption([one]) == "Metrics of one fold, which gives no interval."


def test_seeds_are_averaged_before_folds() -> None:
    runs = [(0, 0.5), (1, 0.8), (0, 0.7), (1, 0.8)]
    assert by_fold(runs) == pytest.approx({0: 0.6, 1: 0.8})
    found = mean_of_runs(runs, 2)
    assert found == mean_of_runs([(0, 0.6), (1, 0.8)], 2)
    assert (found.number, found.over) == (2, "fold")
    assert mean_of_runs([(None, 0.5), (None, 0.7)], None) == mean_over_seeds([0.5, 0.7])
