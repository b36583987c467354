import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch.nn import functional as F

from models.training.metrics import ClassificationMetrics


@pytest.mark.parametrize("sizes", [[64, 64, 1], [7, 100, 22], [129]])
def test_are_means_over_images_whatever_the_batches(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(129, 12, generator=generator)
    labels = torch.randint(12, (129,), generator=generator)
    metrics = ClassificationMetrics(num_classes=12)
    for chunk, target in zip(torch.split(logits, sizes), torch.split(labels, sizes), strict=True):
        metrics.update(chunk, target, F.cross_entropy(chunk.double(), target))

    figures = {name: float(value) for name, value in metrics.figures().items()}

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
    assert restored.figures() == metrics.figures()
    for each in (metrics, restored):
        each.update(torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor(0.25))
    assert restored.figures() == metrics.figures() == {"loss": 0.375, "accuracy": 5 / 6}


def test_count_exactly_in_a_network_of_bfloat16() -> None:
    metrics = ClassificationMetrics(2).to(torch.bfloat16)
    for _ in range(257):
        metrics.update(torch.eye(2)[:1], torch.tensor([0]), torch.tensor(1.0))
    assert metrics.correct == metrics.loss_sum == 257
