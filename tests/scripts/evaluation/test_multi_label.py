from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score

from scripts.evaluation.multi_label import MultiLabelEvaluation
from scripts.inference.predictions import Predictions

NAMES = ["cat", "dog", "fox", "owl"]


@pytest.fixture
def evaluation() -> MultiLabelEvaluation:
    random = np.random.default_rng(0)
    labels = (random.random((200, 4)) < [0.5, 0.1, 0.9, 0.0]).astype(np.uint8)  # no image has an owl
    logits = (random.normal(size=(200, 4)) + 2.0 * labels - 1).astype(np.float32)
    names = [f"test[{number}]" for number in range(200)]
    predictions = Predictions(NAMES, names, np.arange(200), cast(Any, labels), logits)
    checkpoint = {"hyper_parameters": {"multi_label": True, "metrics": {"f1": "F1Score"}}}
    trained = SimpleNamespace(thresholds=np.array([0.4, 0.3, 0.6, 0.99]), path="best.ckpt", checkpoint=checkpoint)
    trained.changes_of = lambda data: ""
    data = SimpleNamespace(data_fingerprint="")
    return MultiLabelEvaluation(cast(Any, trained), cast(Any, data), "test", predictions, predictions)


def test_figures_are_scikit_learns(evaluation: MultiLabelEvaluation) -> None:
    labels, probabilities = evaluation.tested.labels, expit(evaluation.tested.logits.astype(np.float64))
    predicted = probabilities > evaluation.trained.thresholds
    figures, there = evaluation.summary, [0, 1, 2]
    for kind in ("macro", "micro"):
        expected = f1_score(labels[:, there], predicted[:, there], average=kind)
        assert figures[f"{kind}_f1"] == pytest.approx(expected, abs=1e-6)
    precision = average_precision_score(labels[:, there], probabilities[:, there], average=None)
    assert figures["mean_average_precision"] == pytest.approx(precision.mean(), abs=1e-6)
    micro = average_precision_score(labels, probabilities, average="micro")
    assert figures["micro_average_precision"] == pytest.approx(micro, abs=1e-6)
    written = evaluation.as_json()
    for label, name in enumerate(NAMES[:3]):
        each, truth = written["classes"][name], labels[:, label]
        assert each["average_precision"] == pytest.approx(precision[label], abs=1e-6)
        for figure, function in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
            assert each[figure] == pytest.approx(function(truth, predicted[:, label]), abs=1e-6)
            low, high = each[f"{figure}_interval"]
            assert low <= each[figure] <= high
        assert each["images"] == truth.sum()
        assert each["predicted"] == predicted[:, label].sum()
    owl = written["classes"]["owl"]
    assert (owl["images"], owl["average_precision"], owl["recall"], owl["threshold"]) == (
        0,
        None,
        None,
        pytest.approx(0.99),
    )
    each = [log_loss(labels[:, k], probabilities[:, k], labels=[0, 1]) for k in range(4)]
    assert written["loss"] == pytest.approx(np.mean(each), rel=1e-6)


def test_co_occurrence_counts_images(evaluation: MultiLabelEvaluation) -> None:
    labels, together = evaluation.tested.labels.astype(bool), evaluation.as_json()["co_occurrence"]
    assert together["labels"][0][2] == (labels[:, 0] & labels[:, 2]).sum()
    assert together["label_and_predicted"][1][2] == (labels[:, 1] & evaluation.predicted[:, 2]).sum()


def test_mistakes_of_a_label_are_named_the_most_certain_first(evaluation: MultiLabelEvaluation) -> None:
    for label, _, count in evaluation.pairs:
        rows = evaluation.examples(label, label)
        off = np.abs(evaluation.tested.probabilities - evaluation.tested.labels)[rows, label]
        assert len(rows) == count == (evaluation.predicted != evaluation.tested.labels)[:, label].sum()
        assert (np.diff(off) <= 0).all()
        assert NAMES[label] in " ".join(evaluation.caption(rows[0])[:-2])
    assert len(evaluation.certain_mistakes) == (evaluation.predicted != evaluation.tested.labels).any(axis=1).sum()


def test_a_temperature_is_of_all_images_and_labels(evaluation: MultiLabelEvaluation) -> None:
    assert evaluation.temperature is not None

    def score(temperature: float) -> float:
        logits, labels = evaluation.tested.logits.ravel() / temperature, evaluation.tested.labels.ravel()
        return float(log_loss(labels, expit(logits.astype(np.float64))))

    best = score(evaluation.temperature)
    assert best < min(score(1.05 * evaluation.temperature), score(evaluation.temperature / 1.05))
    assert evaluation.calibration["temperature_scaled"].loss == pytest.approx(best, rel=1e-6)
    assert sum(evaluation.calibration["as_it_is"].images) == 800
