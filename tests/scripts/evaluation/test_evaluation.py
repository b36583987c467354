import json
from collections.abc import Callable

import numpy as np
import pytest

from scripts.evaluation.evaluation import Evaluation
from scripts.evaluation.evaluation_page import page_values
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from tests.conftest import Run


@pytest.fixture
def evaluation(train: Callable[..., Run]) -> Evaluation:
    trained = TrainedNetwork(train("--trainer.max_epochs=1", "--model.metrics.kappa=CohenKappa").best)
    data = trained.data()
    return Evaluation(trained, data, "test", predict_split(trained, data, "test"), predict_split(trained, data, "val"))


@pytest.mark.slow
def test_mistakes_and_hits_come_in_their_order(evaluation: Evaluation) -> None:
    tested, probability = evaluation.tested, evaluation.tested.probabilities.max(axis=1)
    wrong, right = evaluation.certain_mistakes, evaluation.uncertain_hits
    assert sorted([*wrong, *right]) == list(range(len(tested)))
    assert not tested.is_right[wrong].any()
    assert tested.is_right[right].all()
    assert (np.diff(probability[wrong]) <= 0).all()
    assert (np.diff(probability[right]) >= 0).all()
    assert len(evaluation.caption(right[0])) == 2
    assert evaluation.caption(wrong[0])[1].startswith(f"is {tested.labels[wrong[0]]}, ")


@pytest.mark.slow
def test_the_metrics_are_those_that_the_test_logged(evaluation: Evaluation) -> None:
    logged = json.loads((evaluation.trained.folder / "results.json").read_text())["metrics"]
    assert evaluation.metrics == evaluation.as_json()["metrics"] == {"kappa": logged["test/kappa"]}
    assert ("kappa", f"{logged['test/kappa']:.4f}") in page_values(evaluation, 0)["facts"]


@pytest.mark.slow
def test_confused_pairs_come_with_their_examples(evaluation: Evaluation) -> None:
    counts = [count for _, _, count in evaluation.pairs]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len(evaluation.certain_mistakes)
    for label, predicted, count in evaluation.pairs:
        rows = evaluation.examples(label, predicted)
        assert len(rows) == count
        assert set(evaluation.tested.labels[rows]) == {label}
        assert set(evaluation.tested.classes[rows]) == {predicted}


@pytest.mark.slow
def test_each_figure_is_computed_once(evaluation: Evaluation) -> None:
    assert evaluation.calibration is evaluation.calibration
    assert evaluation.classes is evaluation.classes
    expected = np.zeros((10, 10), np.int64)
    np.add.at(expected, (evaluation.tested.labels, evaluation.tested.classes), 1)
    assert (evaluation.confusion == expected).all()
    assert not evaluation.fitted_on_the_same
    assert evaluation.as_json()["right"] == np.trace(expected)
