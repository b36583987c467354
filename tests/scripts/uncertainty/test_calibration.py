import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from scripts.uncertainty.calibration import BINS, TEMPERATURES, cross_entropy, fit_temperature, reliability


def some_logits(classes: int = 5, images: int = 400) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, images)
    logits = random.normal(0, 2, (images, classes))
    logits[np.arange(images), labels] += 2
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_error_is_that_of_torchmetrics(temperature: float) -> None:
    logits, labels = some_logits()
    probabilities = torch.from_numpy(logits / temperature).softmax(dim=1)
    expected = multiclass_calibration_error(probabilities, torch.from_numpy(labels), 5, n_bins=BINS)
    found = reliability(logits, labels, temperature)
    assert found.ece == pytest.approx(float(expected), abs=1e-5)
    assert found.loss == cross_entropy(logits, labels, temperature)


def test_cross_entropy_is_that_of_torch() -> None:
    logits, labels = some_logits()
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    assert cross_entropy(logits, labels) == pytest.approx(float(expected), rel=1e-5)


def test_every_image_is_in_one_bin_also_at_the_ends() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 0.0]])  # probabilities 1 and a half
    found = reliability(logits, np.array([0, 1]))
    assert found.images == [1, 1]
    assert found.probability == [0.5, 1.0]


def test_temperature_lowers_the_cross_entropy_and_changes_no_prediction() -> None:
    logits, labels = some_logits()
    temperature = fit_temperature(logits, labels)
    assert temperature is not None
    assert cross_entropy(logits, labels, temperature) < cross_entropy(logits, labels)
    for other in (temperature * 0.99, temperature * 1.01):
        assert cross_entropy(logits, labels, temperature) <= cross_entropy(logits, labels, other)


def test_without_a_mistake_there_is_no_best_temperature() -> None:
    assert fit_temperature(np.eye(3) * 5, np.arange(3)) is None


def test_logits_that_know_nothing_are_made_uniform() -> None:
    logits, labels = some_logits()
    temperature = fit_temperature(logits, (labels + 1 + np.arange(len(labels)) % 4) % 5)
    assert temperature is not None
    assert temperature > TEMPERATURES[1] * 0.99
