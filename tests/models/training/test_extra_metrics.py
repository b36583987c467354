import csv
import math
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn import metrics as sklearn
from torch import Tensor
from torchmetrics import Metric

from core.user_error import UserError
from datamodules.digits import Digits
from models.classifier import Classifier
from models.serialization.class_path import known_classes
from models.training.extra_metrics import ExtraMetrics, modes
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from scripts.train import main
from tests.conftest import Run, quiet_trainer


class RightInAll(Metric):
    """A metric of one's own: images that are right, without a state for each process."""

    higher_is_better = True

    def __init__(self, num_classes: int, least: float = 0.0) -> None:
        super().__init__()
        self.num_classes, self.least, self.seen = num_classes, least, list[Tensor]()

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        assert probabilities.shape == (len(labels), self.num_classes)
        self.seen.append((probabilities.argmax(dim=1) == labels) & (probabilities.max(dim=1).values > self.least))

    def compute(self) -> Tensor:
        return torch.cat(self.seen).sum().float()


OWN = f"{__name__}.RightInAll"


def some(classes: int, images: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    return torch.randn(images, classes, generator=generator) * 3 + 4 * torch.eye(classes)[labels], labels


def softmax(logits: Tensor) -> Any:
    return logits.double().softmax(dim=1).numpy()


def classes_of(logits: Tensor) -> Any:
    return logits.argmax(dim=1).numpy()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("F1Score", lambda logits, labels: sklearn.f1_score(labels, classes_of(logits), average="macro")),
        ("torchmetrics.F1Score", lambda logits, labels: sklearn.f1_score(labels, classes_of(logits), average="macro")),
        (
            {"class_path": "FBetaScore", "init_args": {"beta": 2.0, "average": "weighted"}},
            lambda logits, labels: sklearn.fbeta_score(labels, classes_of(logits), beta=2, average="weighted"),
        ),
        ("Accuracy", lambda logits, labels: sklearn.balanced_accuracy_score(labels, classes_of(logits))),
        ("CohenKappa", lambda logits, labels: sklearn.cohen_kappa_score(labels, classes_of(logits))),
        ("MulticlassMatthewsCorrCoef", lambda logits, labels: sklearn.matthews_corrcoef(labels, classes_of(logits))),
        ("AUROC", lambda logits, labels: sklearn.roc_auc_score(labels, softmax(logits), multi_class="ovr")),
        (
            "AveragePrecision",
            lambda logits, labels: sklearn.average_precision_score(torch.eye(7)[labels], softmax(logits)),
        ),
        (OWN, lambda logits, labels: (classes_of(logits) == labels.numpy()).sum()),
    ],
    ids=lambda value: "expected" if callable(value) else str(value),  # str of a function differs between processes
)
def test_figures_are_those_of_scikit_learn(asked: Any, expected: Callable[[Tensor, Tensor], float]) -> None:
    logits, labels = some(7)
    assert ExtraMetrics({"name": asked}, 7).compute(logits, labels) == {
        "name": pytest.approx(expected(logits, labels), abs=1e-6)
    }


def test_of_two_classes_a_binary_metric_is_of_the_second_and_its_threshold_is_told() -> None:
    logits, labels = some(2)
    asked: Any = {
        "f1": "BinaryF1Score",
        "specificity": {
            "class_path": "SpecificityAtSensitivity",
            "init_args": {"task": "binary", "min_sensitivity": 0.9},
        },
    }
    figures = ExtraMetrics(asked, 2).compute(logits, labels)
    assert figures["f1"] == pytest.approx(sklearn.f1_score(labels, classes_of(logits)), abs=1e-6)
    positive = softmax(logits)[:, 1] >= figures["specificity_threshold"] - 1e-7
    assert sklearn.recall_score(labels, positive) >= 0.9
    assert figures["specificity"] == pytest.approx(sklearn.recall_score(1 - labels, ~positive), abs=1e-6)
    assert {*figures} == {"f1", "specificity", "specificity_threshold"}


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_several_labels_per_image_take_the_same_entry(average: str) -> None:
    logits, _ = some(5)
    labels = (torch.randn(200, 5, generator=torch.Generator().manual_seed(1)) + logits > 1).float()
    asked: Any = {"f1": {"class_path": "F1Score", "init_args": {"average": average}}, "map": "AveragePrecision"}
    figures = ExtraMetrics(asked, 5, multi_label=True).compute(logits, labels.to(torch.uint8))
    assert figures["f1"] == pytest.approx(sklearn.f1_score(labels, logits > 0, average=average), abs=1e-6)
    assert figures["map"] == pytest.approx(sklearn.average_precision_score(labels, logits.sigmoid()), abs=1e-6)


def test_batches_do_not_matter_and_neither_does_the_kind_of_number() -> None:
    logits, labels = some(7)
    extra = ExtraMetrics({"auroc": "AUROC", "calibration": "CalibrationError"}, 7)
    whole = extra.compute(logits, labels)
    for size in (1, 64, 200):
        extra.reset()
        for batch in zip(torch.split(logits, size), torch.split(labels, size), strict=True):
            extra.update(*batch)
        assert extra.compute(*extra.gather(torch.device("cpu"))) == whole
    with torch.inference_mode():
        assert extra.compute(logits, labels) == whole
    assert extra.compute(logits, labels) == whole


def test_sure_predictions_are_told_apart() -> None:
    logits, labels = torch.tensor([[0.0, 20.0], [0.0, 21.0]]), torch.tensor([0, 1])
    assert ExtraMetrics({"auroc": "AUROC"}, 2).compute(logits, labels)["auroc"] == 1


def test_without_images_of_a_class_a_curve_is_not_defined() -> None:
    logits, labels = some(4)
    asked: Any = {"auroc": "AUROC", "binned": {"class_path": "AUROC", "init_args": {"thresholds": 20}}, "f1": "F1Score"}
    asked["weighted"] = {"class_path": "AUROC", "init_args": {"average": "weighted"}}
    extra, kept = ExtraMetrics(asked, 4), labels < 3
    assert extra.undefined(labels) == {}
    assert extra.undefined(labels[kept]) == {"auroc": [3], "binned": [3]}
    with warnings.catch_warnings(action="error"):
        figures = extra.compute(logits[kept], labels[kept])
        one = extra.compute(logits[labels == 0], labels[labels == 0])
        none = extra.compute(logits[:0], labels[:0])
    assert math.isnan(figures["auroc"])
    assert math.isnan(figures["binned"])
    probabilities = softmax(logits[kept])
    each = [sklearn.roc_auc_score(labels[kept] == name, probabilities[:, name]) for name in range(3)]
    expected = np.average(each, weights=np.bincount(labels[kept]))
    assert figures["weighted"] == pytest.approx(expected, abs=1e-6)
    assert math.isnan(one["weighted"])
    assert not math.isnan(one["f1"])
    assert all(map(math.isnan, none.values()))
    assert all(map(math.isnan, extra.compute(logits.fill_(torch.inf), labels).values()))


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("F1Scor", "there is no such classification metric; did you mean F1Score, .*?"),
        ("Nothing", "there is no such classification metric; F1Score is one of many in torchmetrics."),
        ("torchmetrics.MeanSquaredError", "there is no such classification metric; .*"),
        ("torchmetrics.regression.MeanSquaredError", "there is no such classification metric; .*"),
        ("torch.nn.Linear", ".*"),
        ("models.nothing.Nothing", ".*has no attribute 'nothing'."),
        ("ConfusionMatrix", "it does not give one number."),
        ("ROC", "it does not give one number."),
        ("BinaryF1Score", "it is for two classes, not 10."),
        ("MultilabelF1Score", ".* same shape.*"),
        (
            {"class_path": "F1Score", "init_args": {"averge": "macro"}},
            "it has no argument averge to set; did you mean average?",
        ),
        ({"class_path": "F1Score", "init_args": {"average": "macr"}}, ".*'macro'.*but got macr."),
        ({"class_path": "F1Score", "init_args": {"average": "none"}}, "it does not give one number."),
        ({"class_path": "F1Score", "init_args": {"num_classes": 9}}, "it has no argument num_classes to set; .*"),
        ({"class_path": "FBetaScore"}, ".*missing 1 required positional argument: 'beta'."),
        ({"class_path": OWN, "init_args": {"last": 1}}, "it has no argument last to set; did you mean least?"),
        ({"init_args": {"average": "macro"}}, "write a class with arguments as .*"),
        ({"class_path": "F1Score", "average": "macro"}, "write a class with arguments as .*"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_answered_in_a_sentence(asked: Any, sentence: str) -> None:
    with pytest.raises(
        UserError, match=f"^In model.metrics.name, correct .*: {sentence}$".replace("?$", "[?]$")
    ) as raised:
        ExtraMetrics({"name": asked}, 10)
    assert "\n" not in str(raised.value)


def test_a_name_is_not_taken_twice() -> None:
    with pytest.raises(UserError, match="its name is taken"):
        ExtraMetrics({"accuracy": "Accuracy"}, 10)


def test_the_class_says_whether_higher_is_better() -> None:
    asked: Any = {
        "score": "F1Score",
        "nothing": None,
        "wrong": "F1Scor",
        "gap": "CalibrationError",
        "s": "SpecificityAtSensitivity",
        "own": OWN,
        "npv": "NegativePredictiveValue",
    }
    assert modes(asked) == {"val/score": "max", "val/gap": "min", "val/s": "max", "val/own": "max"}
    assert modes(None) == {}


def test_nothing_is_asked_for_by_default() -> None:
    assert ExtraMetrics(None, 10).metrics == ExtraMetrics({"f1": None}, 10).metrics == {}
    assert partial(ExtraMetrics, {}, 10)().compute(*some(10)) == {}


class Unbalanced(Digits):
    """Digits with 14 times as many even ones as odd ones."""

    def read(self) -> Any:
        images, labels, *_ = super().read()["train"]
        rank = np.array([(labels[:place] == label).sum() for place, label in enumerate(labels)])
        kept = rank < np.where(labels % 2 == 0, 170, 12)
        return {"train": (images[np.flatnonzero(kept)], labels[kept])}


UNBALANCED = (
    *("--data", f"{__name__}.Unbalanced", "--data.val_size=0.4", "--data.batch_size=16", "--early_stopping=null"),
    *("--model.network=MLP", "--model.network.hidden_sizes=[]", "--model.optimizer=torch.optim.SGD"),
    *(
        "--model.optimizer.lr=1.0",
        "--model.scheduler=null",
        "--seed_everything=4",
        "--trainer.max_epochs=3",
        "--trust=tests",
    ),
)
METRICS = ("--model.metrics.f1_macro=F1Score", "--model.metrics.auroc=AUROC", f"--model.metrics.own={OWN}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Run:
    """Trained on them, the best chosen by the macro F1."""
    folder = tmp_path_factory.mktemp("unbalanced")
    with redirect_stderr(said := StringIO()):
        flags = (*UNBALANCED, *METRICS, "--checkpoint.monitor=val/f1_macro", "--runs", str(folder))
        main(["fit", *flags, "--data.root", str(data_root)])
    assert not said.getvalue()
    (made,) = folder.glob("*/*/config.yaml")
    return Run(made.parent)


def curve(run: Run, name: str) -> list[float]:
    with (run.folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def test_as_monitor_macro_f1_chooses_another_epoch_than_accuracy_on_an_unbalanced_set(run: Run) -> None:
    f1, accuracy = curve(run, "val/f1_macro"), curve(run, "val/accuracy")
    assert len(f1) == len(accuracy) == 3
    assert run.results["best_epoch"] == f1.index(max(f1))
    assert run.results["best"] == max(f1)
    assert accuracy.index(max(accuracy)) != f1.index(max(f1))
    assert f1[accuracy.index(max(accuracy))] < max(f1)


def test_saved_logits_give_what_the_test_logged(run: Run) -> None:
    trained = TrainedNetwork(run.best)
    tested = predict_split(trained, trained.data(), "test")
    logits, labels = torch.from_numpy(tested.logits), torch.from_numpy(tested.labels)
    figures = ExtraMetrics(run.checkpoint["hyper_parameters"]["metrics"], 10).compute(logits, labels)
    assert figures == {name: run.results["metrics"][f"test/{name}"] for name in ("f1_macro", "auroc", "own")}
    expected = sklearn.roc_auc_score(tested.labels, tested.probabilities, multi_class="ovr")
    assert figures["auroc"] == pytest.approx(expected, abs=1e-6)


def test_a_checkpoint_has_the_entry_in_plain_types_and_no_state(run: Run) -> None:
    expected = {"f1_macro": "F1Score", "auroc": "AUROC", "own": OWN}
    assert run.checkpoint["hyper_parameters"]["metrics"] == expected
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["model"]["metrics"] == expected
    assert not [name for name in run.checkpoint["state_dict"] if "extra" in name]
    assert {*Classifier.load_from_checkpoint(run.best).extra_metrics.metrics} == {*expected}


def test_test_logs_metrics_that_the_run_had_not(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--model.metrics.own=null", "--model.metrics.kappa=torchmetrics.CohenKappa", "--trust=tests")
    main(["test", "--ckpt_path", str(run.best), *flags])
    said = capsys.readouterr().out
    assert re.search(r"test/kappa *│ 0\.9", said)
    assert f"{run.results['metrics']['test/f1_macro']:.4f}" in said
    assert "test/own" not in said


@pytest.mark.parametrize("path", ["stranger.Metric", "torch.hub.load", "torchmetrics.text.BERTScore"])
def test_code_of_strangers_is_not_run(path: str) -> None:
    with pytest.raises(UserError), known_classes("x.ckpt"):
        ExtraMetrics({"own": path}, 10)
    assert "stranger" not in sys.modules


def test_the_flags_are_refused_in_a_sentence(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("fit", "--model.metrics.f1={class_path: F1Score, init_args: {averge: macro}}", "--runs", tmp_path)
    assert said.startswith("error: In model.metrics.f1, correct F1Score: it has no argument averge to set; did you")
    said = refused("fit", "--model.metrics.f1=F1Score", "--model.metrics.f1.average=macro", "--runs", tmp_path)
    assert "write a class with arguments as {class_path: F1Score, init_args: {average: macro}}" in said
    assert not [*tmp_path.glob("*/*")]


def test_a_direction_against_that_of_the_class_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    flags = ("--model.metrics.score=CalibrationError", "--early_stopping.monitor=val/score", "--runs", tmp_path)
    said = refused("fit", *flags, "--early_stopping.mode=max")
    assert said == "error: early_stopping.mode is max, but the class of val/score says min; give min.\n"


def test_a_monitor_that_is_not_defined_ends_the_run(
    refused: Callable[..., str], data_root: Path, tmp_path: Path
) -> None:
    flags = ("--model.metrics.auroc=AUROC", "--data.val_size=5", "--trainer.limit_train_batches=2")
    places = ("--runs", tmp_path, "--data.root", data_root)
    said = refused("fit", *flags, *places, "--checkpoint.monitor=val/auroc")
    assert said.startswith("error: The monitor val/auroc is not defined: either no image or every image of val is of ")


@pytest.mark.slow
def test_an_undefined_figure_is_named_once(train: Callable[..., Run], capsys: pytest.CaptureFixture[str]) -> None:
    run = train("--model.metrics.auroc=AUROC", "--data.val_size=5", "--trainer.max_epochs=2")
    assert capsys.readouterr().out.count("note: val/auroc is not defined, and NaN: either no image") == 1
    assert math.isnan(run.results["metrics"]["val/auroc"])
    assert run.results["metrics"]["test/auroc"] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--model.test_time_augmentation=shifts",),
        ("--weight_average=EMA", "--weight_average.decay=0.9"),
        ("--trainer.overfit_batches=1",),
        ("--trainer.val_check_interval=0.5", "--trainer.precision=bf16-mixed"),
    ],
    ids=lambda flags: flags[0],
)
def test_the_figures_are_those_of_what_is_evaluated(train: Callable[..., Run], flags: tuple[str, ...]) -> None:
    run = train("--trainer.max_epochs=1", "--model.metrics.recall=Recall", "--model.metrics.auroc=AUROC", *flags)
    trained = TrainedNetwork(run.best)
    tested = predict_split(trained, trained.data(), "test")
    expected = sklearn.recall_score(tested.labels, tested.classes, average="macro")
    assert run.results["metrics"]["test/recall"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_resumed_run_has_the_figures_of_one_that_was_not_cut(
    train: Callable[..., Run], resume: Callable[..., Run]
) -> None:
    flags = ("--model.metrics.f1=F1Score", "--checkpoint.monitor=val/f1", "--model.scheduler=null")
    whole, cut = train("--trainer.max_epochs=2", *flags), train("--trainer.max_epochs=1", *flags)
    again = resume(cut, "--trainer.max_epochs=2")
    assert curve(again, "val/f1") == curve(whole, "val/f1")
    assert again.results["best"] == whole.results["best"]


def test_nothing_is_done_where_nothing_is_asked_for(
    digits: Digits, tmp_path: Path, classifier: Callable[[], Classifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("update", "gather", "compute"):
        monkeypatch.setattr(ExtraMetrics, name, None)
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=2)
    trainer.fit(classifier(), digits)
    trainer.test(classifier(), digits, verbose=False)
