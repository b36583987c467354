from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError
from models.classifier import Classifier
from models.losses import BinaryCrossEntropy, CrossEntropy, Loss, SoftmaxMSE, make_loss
from tests.conftest import Run

B, K = 50, 10
LOSSES = {"cross-entropy": CrossEntropy(), "smoothed": CrossEntropy(label_smoothing=0.2), "MSE": SoftmaxMSE()}

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(B, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(K, (B,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights() -> Tensor:
    return torch.rand(K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def by_an_independent_library(loss: Loss, logits: Tensor, labels: Tensor, of_images: Tensor | None = None) -> float:
    probabilities = logits.softmax(dim=1).numpy()
    options = {"labels": np.arange(K), "sample_weight": None if of_images is None else of_images.numpy()}
    if isinstance(loss, SoftmaxMSE):
        return float(brier_score_loss(labels.numpy(), probabilities, scale_by_half=False, **options)) / K
    assert isinstance(loss, CrossEntropy)
    if loss.label_smoothing:
        uniform = -np.log(probabilities).mean(axis=1)
        smoothing, options["sample_weight"] = loss.label_smoothing, None
        hard = log_loss(labels.numpy(), probabilities, **options)
        return float((1 - smoothing) * hard + smoothing * uniform.mean())
    return float(log_loss(labels.numpy(), probabilities, **options))


@every_loss
def test_agrees_with_scikit_learn(loss: Loss, logits: Tensor, labels: Tensor) -> None:
    assert float(loss(logits, labels)) == pytest.approx(by_an_independent_library(loss, logits, labels), rel=1e-10)


@pytest.mark.parametrize("loss", [CrossEntropy(), SoftmaxMSE()])
def test_classes_weigh_their_images_over_the_number_of_images(
    loss: Loss, logits: Tensor, labels: Tensor, weights: Tensor
) -> None:
    of_images = weights[labels]
    mean = by_an_independent_library(loss, logits, labels, of_images)
    assert float(loss(logits, labels, weights)) == pytest.approx(mean * float(of_images.sum()) / B, rel=1e-10)


@every_loss
def test_agrees_with_torch(loss: Loss, logits: Tensor, labels: Tensor, weights: Tensor) -> None:
    if isinstance(loss, CrossEntropy):
        torchs = nn.CrossEntropyLoss(weights, reduction="sum", label_smoothing=loss.label_smoothing)(logits, labels) / B
        assert torch.allclose(loss(logits, labels, weights), torchs)
    else:
        torchs = nn.MSELoss()(logits.softmax(dim=1), F.one_hot(labels, K).double())
        assert torch.allclose(loss(logits, labels), torchs)


def test_cross_entropy_is_the_negative_log_likelihood_of_the_log_softmax(logits: Tensor, labels: Tensor) -> None:
    log_probabilities = logits.log_softmax(dim=1)
    expected = nn.NLLLoss()(log_probabilities, labels)
    assert torch.allclose(CrossEntropy()(logits, labels), expected)
    assert torch.allclose(CrossEntropy()(log_probabilities, labels), expected)


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_a_label_and_certainty_of_it_are_the_same(
    loss: Loss, logits: Tensor, labels: Tensor, weights: Tensor, weighted: bool
) -> None:
    certain = F.one_hot(labels, K).double()
    of_classes = weights if weighted else None
    assert torch.allclose(loss(logits, labels, of_classes), loss(logits, certain, of_classes))


@every_loss
def test_weights_of_one_change_nothing(loss: Loss, logits: Tensor, labels: Tensor) -> None:
    ones = torch.ones(K, dtype=torch.float64)
    mixed = F.one_hot(labels, K).double().lerp(F.one_hot(labels.flip(0), K).double(), 0.3)
    for targets in (labels, mixed):
        assert torch.allclose(loss(logits, targets, ones), loss(logits, targets))


@every_loss
def test_has_the_gradient_of_its_value(loss: Loss, logits: Tensor, labels: Tensor, weights: Tensor) -> None:
    assert torch.autograd.gradcheck(lambda inputs: loss(inputs, labels[:5], weights), logits[:5].requires_grad_())


def test_mean_squared_error_keeps_its_bounds(labels: Tensor) -> None:
    right = 1000 * F.one_hot(labels, K).double()
    assert float(SoftmaxMSE()(right, labels)) == 0
    assert float(SoftmaxMSE()(right, (labels + 1) % K)) == pytest.approx(2 / K)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0])
def test_refuses_what_is_no_probability(label_smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing is .*; give a probability"):
        CrossEntropy(label_smoothing)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model.loss.label_smoothing=1.5"], "label_smoothing is 1.5"),
        (["--model.loss=torch.nn.CrossEntropyLoss"], "does not correspond to a subclass of Loss"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(refused: Callable[..., str], flags: list[str], words: str) -> None:
    assert words in refused("fit", *flags)


@pytest.mark.slow
def test_is_part_of_a_checkpoint_and_of_training_alone(train: Callable[..., Run]) -> None:
    short = ("--trainer.max_epochs=1", "--model.optimizer.lr=0", "--trainer.limit_val_batches=1")
    plain, smoothed = train(*short), train(*short, "--model.loss.label_smoothing=0.5")
    loss = Classifier.load_from_checkpoint(smoothed.last).loss
    assert isinstance(loss, CrossEntropy)
    assert loss.label_smoothing == 0.5
    for stage, same in (("train", False), ("val", True), ("test", True)):
        figure = f"{stage}/loss"
        assert (plain.results["metrics"][figure] == smoothed.results["metrics"][figure]) is same


def test_of_several_labels_is_the_mean_over_images_and_labels(logits: Tensor, weights: Tensor) -> None:
    labels = torch.randint(2, (B, K), generator=torch.Generator().manual_seed(3)).double()
    probabilities = logits.sigmoid().numpy()
    each = [log_loss(labels[:, k].numpy(), probabilities[:, k]) for k in range(K)]
    assert float(BinaryCrossEntropy()(logits, labels)) == pytest.approx(np.mean(each), rel=1e-10)
    weighted = [
        log_loss(labels[:, k].numpy(), probabilities[:, k], sample_weight=of_images, normalize=False) / B
        for k, of_images in enumerate(torch.where(labels == 1, weights, 1.0).T.numpy())
    ]
    assert float(BinaryCrossEntropy()(logits, labels, weights)) == pytest.approx(np.mean(weighted), rel=1e-10)
    smoothed = 0.8 * float(BinaryCrossEntropy()(logits, labels)) + 0.2 * float(
        BinaryCrossEntropy()(logits, torch.full_like(labels, 0.5))
    )
    assert float(BinaryCrossEntropy(label_smoothing=0.2)(logits, labels)) == pytest.approx(smoothed, rel=1e-10)


def test_the_cross_entropy_of_several_labels_is_the_binary_one() -> None:
    for given in (None, CrossEntropy(), BinaryCrossEntropy()):
        assert type(make_loss(given, multi_label=True)) is BinaryCrossEntropy
    smoothed = make_loss(CrossEntropy(0.1), multi_label=True)
    assert isinstance(smoothed, BinaryCrossEntropy)
    assert smoothed.label_smoothing == 0.1
    own = CrossEntropy(0.1)
    assert make_loss(own, multi_label=False) is own
    with pytest.raises(UserError, match=r"SoftmaxMSE, for one label per image, but the data has several labels"):
        make_loss(SoftmaxMSE(), multi_label=True)
    with pytest.raises(UserError, match=r"BinaryCrossEntropy, for several labels per image, but the data has one"):
        make_loss(BinaryCrossEntropy(), multi_label=False)
