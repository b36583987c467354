import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    hamming_loss,
    log_loss,
    precision_recall_curve,
    top_k_accuracy_score,
)
from torch.nn import functional as F

from models.losses import BinaryCrossEntropy
from models.training.extra_metrics import MultiLabelMetrics, best_thresholds
from models.training.metrics import ClassificationMetrics


@pytest.mark.parametrize("sizes", [[64, 64, 1], [7, 100, 22], [129]])
def test_are_means_over_images_whatever_the_batches(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(129, 12, generator=generator)
    labels = torch.randint(12, (129,), generator=generator)
    metrics = ClassificationMetrics(num_classes=12)
    for chunk, target in zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True):
        metrics.update(chunk, target, F.cross_entropy(chunk.double(), target))

    figures = {name: float(value) for name, value in metrics.compute_over_ranks().items()}

    probabilities, classes = logits.double().softmax(dim=1).numpy(), list(range(12))
    assert figures["accuracy"] == accuracy_score(labels, logits.argmax(dim=1))
    assert figures["top5_accuracy"] == top_k_accuracy_score(labels, probabilities, k=5, labels=classes)
    assert figures["loss"] == pytest.approx(log_loss(labels, probabilities, labels=classes), rel=1e-13)


def test_count_top5_only_where_it_says_something() -> None:
    assert not ClassificationMetrics(num_classes=10).top5


def test_an_interrupted_epoch_ends_with_the_figures_of_the_whole() -> None:
    metrics, restored = ClassificationMetrics(3), ClassificationMetrics(3)
    metrics.update(torch.eye(3), torch.tensor([0, 1, 1]), torch.tensor(0.5))
    restored.load_state_dict(metrics.state_dict())
    assert restored.compute_over_ranks() == metrics.compute_over_ranks()
    for each in (metrics, restored):
        each.update(torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor(0.25))
    assert restored.compute_over_ranks() == metrics.compute_over_ranks() == {"loss": 0.375, "accuracy": 5 / 6}


def test_count_exactly_in_a_network_of_bfloat16() -> None:
    metrics = ClassificationMetrics(2).to(torch.bfloat16)
    for _ in range(257):
        metrics.update(torch.eye(2)[:1], torch.tensor([0]), torch.tensor(1.0))
    assert metrics.correct == metrics.loss_sum == 257


@pytest.mark.parametrize("sizes", [[64, 64, 1], [129]])
def test_of_several_labels_are_scikit_learns_at_a_half(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(129, 5, generator=generator)
    labels = torch.randint(2, (129, 5), generator=generator).float()
    metrics = MultiLabelMetrics(5)
    for chunk, target in zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True):
        metrics.update(chunk, target, BinaryCrossEntropy()(chunk.double(), target))
    figures = {name: float(value) for name, value in metrics.compute_over_ranks().items()}
    assert figures["accuracy"] == pytest.approx(1 - hamming_loss(labels, logits > 0), abs=1e-12)
    assert figures["exact_match"] == accuracy_score(labels, logits > 0)
    each = [log_loss(labels[:, k], logits[:, k].double().sigmoid()) for k in range(5)]
    assert figures["loss"] == pytest.approx(sum(each) / 5, rel=1e-12)
    assert list(figures) == ["loss", "accuracy", "exact_match"]


def test_of_mixed_images_with_several_labels_count_shares() -> None:
    metrics = MultiLabelMetrics(2)
    metrics.update(torch.tensor([[3.0, -3.0]]), torch.tensor([[0.75, 0.25]]), torch.tensor(1.0))
    metrics.update(torch.tensor([[3.0, 3.0]]), torch.tensor([[1.0, 0.25]]), torch.tensor(1.0))
    assert {name: float(value) for name, value in metrics.compute_over_ranks().items()} == {
        "loss": 1.0,
        "accuracy": (0.75 + 0.625) / 2,
        "exact_match": 0.5,
    }


def test_no_threshold_gives_a_better_f1() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(300, 6, generator=generator) < torch.tensor([0.5, 0.1, 0.9, 0.02, 1.0, 0.0])).long()
    probabilities = (torch.randn(300, 6, generator=generator, dtype=torch.float64) + 2 * labels - 1).sigmoid()
    probabilities[:, 1] = (probabilities[:, 1] * 5).round() / 5  # many are equal
    thresholds = best_thresholds(probabilities, labels)
    for k, threshold in enumerate(thresholds[:5]):
        precision, recall, _ = precision_recall_curve(labels[:, k], probabilities[:, k])
        best = (2 * precision * recall / (precision + recall).clip(1e-9)).max()
        assert f1_score(labels[:, k], probabilities[:, k] > threshold) == pytest.approx(best, abs=1e-12)
    assert thresholds[5] == 0.5  # no image has the label


def test_a_threshold_lies_midway_of_the_gap() -> None:
    probabilities = torch.tensor([[0.9], [0.7], [0.2], [0.1]], dtype=torch.float64)
    assert best_thresholds(probabilities, torch.tensor([[1], [1], [0], [0]])) == [pytest.approx(0.45)]
