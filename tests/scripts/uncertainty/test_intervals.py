import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from scripts.uncertainty.intervals import class_metrics, wilson


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(right: int, total: int, low: float, high: float) -> None:
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_one_image_and_of_no_mistake() -> None:
    assert 0 < wilson(1, 1).low < wilson(1, 1).high == 1
    assert wilson(1000, 1000).low > 0.996


def figures_of(confusion: np.ndarray) -> np.ndarray:
    return class_metrics(np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1))


def some_predictions(classes: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    labels = random.integers(0, classes, images)
    predictions = np.where(random.random(images) < 0.7, labels, random.integers(0, classes, images))
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    return labels, predictions, confusion


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_figures_are_those_of_scikit_learn(classes: int) -> None:
    labels, predictions, confusion = some_predictions(classes, 30 * classes)
    expected = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=np.nan)[:3]
    np.testing.assert_allclose(figures_of(confusion)[0], np.stack(expected))


@pytest.mark.parametrize("right", [0, 10])
def test_a_class_of_ten_images_is_not_known_for_sure(right: int) -> None:
    confusion = np.array([[90, 0], [10 - right, right]])
    ends = figures_of(confusion)[1:]
    assert ends[:, 1, 1].tolist() == pytest.approx(wilson(right, 10))
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)
    assert (ends[1] - ends[0] > 0.01)[:, 0].all()
    assert ends[1, 2, 1] - ends[0, 2, 1] > 0.15, "F1 of 0 or 1 is no surer"


def test_intervals_hold_what_is_true_19_times_in_20() -> None:
    shares = np.array([[0.3, 0.1], [0.15, 0.45]])
    expected, random = figures_of((shares * 1000).astype(np.int64))[0], np.random.default_rng(0)
    drawn = [figures_of(random.multinomial(60, shares.ravel()).reshape(2, 2))[1:] for _ in range(1000)]
    held = np.mean([(low <= expected) & (expected <= high) for low, high in drawn], axis=0)
    np.testing.assert_allclose(held, 0.95, atol=0.025)


def test_intervals_are_those_of_drawing_images() -> None:
    labels, predictions, confusion = some_predictions(3, 1200)
    random = np.random.default_rng(2)
    drawn = []
    for _ in range(200):
        rows = random.integers(0, len(labels), len(labels))
        drawn.append(precision_recall_fscore_support(labels[rows], predictions[rows], labels=range(3))[:3])
    expected = np.quantile(drawn, (0.025, 0.975), axis=0)
    np.testing.assert_allclose(figures_of(confusion)[1:], expected, atol=0.03)


def test_a_class_that_is_not_there_has_no_figures_and_no_intervals() -> None:
    confusion = np.array([[5, 0, 0], [1, 4, 0], [0, 0, 0]])
    figures, ends = figures_of(confusion)[0], figures_of(confusion)[1:]
    assert np.isnan(figures[:, 2]).all()
    assert np.isnan(ends[:, :, 2]).all()
    assert not np.isnan(ends[:, :, :2]).any()
    assert (ends[0] <= ends[1])[:, :2].all()


def test_one_image() -> None:
    ends = figures_of(np.array([[1, 0], [0, 0]]))[1:]
    assert (ends[0] < 0.5)[:, 0].all()
    assert ends[1, :, 0].tolist() == [1, 1, 1]
