"""Several labels per image, from the command that trains to those that use what was trained."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, f1_score

from models.serialization.checkpoint import read_checkpoint
from models.serialization.class_path import trust
from models.training.extra_metrics import best_thresholds
from scripts.average import main as average
from scripts.inference.image_classifier import load_classifier
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from scripts.predict import main as predict
from scripts.train import main
from tests.conftest import Done, Run
from tests.datamodules.test_base import assert_equal
from tests.multi_label import PROPERTIES

# Rooms of tools may have been removed.
audit = pytest.importorskip("scripts.audit").main
compare = pytest.importorskip("scripts.compare").main
evaluate = pytest.importorskip("scripts.evaluate").main
visualize = pytest.importorskip("scripts.visualize").main

DATA = ("--data=tests.multi_label.DigitProperties", "--trainer.precision=32-true")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("labels")
    trust("tests")
    precision = ("--model.metrics.average_precision=AveragePrecision", "--checkpoint.monitor=val/average_precision")
    weights = ("--model.class_weights=balanced", "--data.mixing=[MixUp]", "--model.loss.label_smoothing=0.01")
    place = ("--data.root", str(folder), "--runs", str(folder / "runs"), "--trainer.max_epochs=2")
    main(["fit", *DATA, *precision, *weights, *place])
    (config,) = folder.glob("runs/**/config.yaml")
    return Run(config.parent)


def test_thresholds_are_chosen_on_validation_images_alone(run: Run) -> None:
    trained = TrainedNetwork(run.best)
    data = trained.data()
    validated = predict_split(trained, data, "val")
    labels = torch.from_numpy(validated.labels)
    assert trained.thresholds == pytest.approx(best_thresholds(torch.from_numpy(validated.probabilities), labels))
    assert run.checkpoint["hyper_parameters"]["multi_label"] is True
    assert run.results["monitor"] == "val/average_precision"


def test_evaluation_says_what_was_logged_and_scikit_learn_says(run: Run, script: Any, tmp_path: Path) -> None:
    status, out, error = script(evaluate)(run.folder, "--output", tmp_path)
    assert (status, error) == (0, "")
    figures, logged = json.loads((tmp_path / "evaluation.json").read_text()), run.results["metrics"]
    for name in ("accuracy", "exact_match", "loss"):
        assert figures[name] == pytest.approx(logged[f"test/{name}"], rel=1e-5)
    assert figures["mean_average_precision"] == pytest.approx(logged["test/average_precision"], abs=1e-6)
    assert f"mAP          {figures['mean_average_precision']:.4f}" in out
    with (tmp_path / "predictions.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    labels, predicted = (
        np.array([[name in row[column].split(";") for name in PROPERTIES] for row in rows])
        for column in ("label", "prediction")
    )
    shares = np.array([[float(row[f"probability of {name}"]) for name in PROPERTIES] for row in rows])
    assert (predicted == (shares > TrainedNetwork(run.best).thresholds)).all()
    assert figures["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"), abs=1e-6)
    assert figures["micro_f1"] == pytest.approx(f1_score(labels, predicted, average="micro"), abs=1e-6)
    precision = average_precision_score(labels, shares, average="macro")
    assert figures["mean_average_precision"] == pytest.approx(precision, abs=1e-4)  # of six decimal places
    page = (tmp_path / "evaluation.html").read_text()
    for heading in ("Co-occurrence", "Mistakes by label", "Most certain mistakes", "Calibration", "Labels"):
        assert f"<h2>{heading}</h2>" in page
    assert "Confusion matrix" not in page


def test_predictions_name_the_labels_above_their_thresholds(run: Run, script: Any, tmp_path: Path) -> None:
    for number in range(10):
        scan = (load_digits().images[number] * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(scan).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.glob("*.png"))
    status, _, error = script(predict)(
        run.folder, *files, "--top", 2, "--probabilities", "--output", tmp_path / "p.csv"
    )
    assert (status, error) == (0, "")
    classifier = load_classifier(run.folder)
    predictions = classifier(files)
    assert isinstance(predictions, list)
    with (tmp_path / "p.csv").open(newline="") as opened:
        for row, seen in zip(csv.DictReader(opened), predictions, strict=True):
            shares = np.array([float(row[f"probability of {name}"]) for name in PROPERTIES])
            named = [name for name, on in zip(PROPERTIES, shares > classifier.trained.thresholds, strict=True) if on]
            assert row["prediction"] == ";".join(named) == seen.class_name
            assert float(row["probability"]) == shares.max() == pytest.approx(seen.probability, abs=1e-6)
            assert shares == pytest.approx([*seen.probabilities.values()], abs=1e-6)
    sample = tmp_path / "sample.csv"
    sample.write_text("id,labels\n" + "".join(f"{number},even\n" for number in range(10)))
    status, _, error = script(predict)(run.folder, *files, "--submission", sample, "--output", tmp_path / "s.csv")
    assert (status, (tmp_path / "s.csv").exists()) == (2, False)
    assert "has too few columns for a multi-label network; give a sample" in error


def test_an_average_and_weights_alone_have_thresholds(run: Run, script: Any, tmp_path: Path) -> None:
    status, *_ = script(average)(run.best, run.last, "--output", tmp_path / "average.ckpt")
    assert status == 0
    trained = TrainedNetwork(tmp_path / "average.ckpt")
    validated = predict_split(trained, trained.data(), "val")
    labels = torch.from_numpy(validated.labels)
    assert trained.thresholds == pytest.approx(best_thresholds(torch.from_numpy(validated.probabilities), labels))
    assert script(average)(run.best, "--output", tmp_path / "small.ckpt")[0] == 0
    assert read_checkpoint(tmp_path / "small.ckpt")["thresholds"] == read_checkpoint(run.best)["thresholds"]


def test_comparison_counts_images_whose_labels_are_all_right(run: Run, script: Any) -> None:
    status, out, _ = script(compare)(run.best, run.last)
    assert status == 0
    assert "359 test images, right if all labels are" in out
    assert "test/exact_match" in out


def test_pictures_are_of_a_label_and_an_embedding_is_refused(run: Run, script: Any, tmp_path: Path) -> None:
    look = ("--image", "test[3]", "--output", tmp_path / "seen.png")
    image = ("--image", "train[3]", "--output", tmp_path / "seen.png")
    assert script(visualize)(run.folder, "gradcam", *image, "--class", "prime")[0] == 0
    assert script(visualize)(run.folder, "gradcam", *look)[0] == 2  # the source has no such split
    status, _, error = script(visualize)(run.folder, "embedding")
    assert status == 2
    assert error == f"error: An embedding has a colour for each class, but {run.best} gives several; take gradcam.\n"


def test_the_audit_counts_images_and_names_their_labels(run: Run, script: Any, tmp_path: Path) -> None:
    flags = ("--data=tests.multi_label.DigitProperties", "--data.root", tmp_path, "--json", tmp_path / "found.json")
    _, out, _ = script(audit)(*flags)
    for split, images in (("train", "1,294"), ("val", "144"), ("test", "359")):
        assert re.search(rf"{split}\W+{images}\W+4\W", out)
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["label_conflicts"]
    assert sum(map(sum, found["images_per_class"].values())) == 3221


def test_a_loss_for_one_label_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    places = ("--data.root", tmp_path, "--runs", tmp_path / "runs")
    error = refused("fit", *DATA, "--model.loss=SoftmaxMSE", *places)
    assert "model.loss is SoftmaxMSE, for one label per image, but the data has several labels per image" in error
    error = refused("fit", "--model.loss=BinaryCrossEntropy", *places)
    assert "BinaryCrossEntropy, for several labels per image, but the data has one label per image; give Cross" in error
    error = refused("fit", *DATA, "--data.balanced=true", *places)
    assert "data.balanced cannot be combined with multi-label data or with weights" in error
    assert not list((tmp_path / "runs").rglob("config.yaml"))


def test_data_with_one_label_per_image_are_refused(run: Run, script: Any, tmp_path: Path) -> None:
    flags = ("--data=tests.multi_label.FirstProperty", "--data.root", tmp_path)
    status, _, error = script(evaluate)(run.best, *flags)
    assert status == 2
    assert f"FirstProperty has one label per image, but {run.best} was trained on several labels per image" in error


def test_thresholds_of_a_strange_file_are_refused(run: Run, script: Any, tmp_path: Path) -> None:
    for thresholds, words in ((["high"] * 4, "its thresholds are not all float"), ([0.5], "does not say what")):
        torch.save(dict(read_checkpoint(run.best)) | {"thresholds": thresholds}, tmp_path / "strange.ckpt")
        status, _, error = script(predict)(tmp_path / "strange.ckpt", tmp_path)
        assert status == 2
        assert words in error or "no image" in error


@pytest.mark.slow
def test_exports_predict_the_same_and_tell_the_thresholds(run: Run, script: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is an optional extra")
    from scripts.export import main as export

    file = tmp_path / "model.onnx"
    assert script(export)(run.folder, "--output", file)[0] == 0
    facts = {fact.key: json.loads(fact.value) for fact in onnx.load(file).metadata_props}
    assert facts["thresholds"] == read_checkpoint(run.best)["thresholds"]
    assert "sigmoid" in facts["output"]


@pytest.mark.slow
def test_resumes_bit_for_bit_in_the_middle_of_an_epoch(train: Callable[..., Run], tmp_path: Path) -> None:
    trust("tests")
    saver = "lightning.pytorch.callbacks.ModelCheckpoint"
    steps = tmp_path / "steps"
    whole = train(
        *DATA,
        *("--trainer.max_epochs=2", "--data.mixing=[MixUp, CutMix]", "--model.class_weights=balanced"),
        f"--trainer.callbacks+={{class_path: {saver}, "
        f"init_args: {{every_n_train_steps: 5, save_top_k: -1, dirpath: {steps}}}}}",
    )
    places = sorted(steps.glob("*.ckpt"))
    for place in (places[0], places[-1]):
        resumed = train("--ckpt_path", str(place), "--trainer.callbacks=null")
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "thresholds"):
            assert_equal(resumed.checkpoint[part], whole.checkpoint[part], f"{place.name}: {part}")
        assert resumed.results["metrics"] == whole.results["metrics"]


@pytest.mark.slow
def test_two_processes_choose_the_thresholds_of_one(
    train: Callable[..., Run], train_in_two_processes: Callable[..., Run]
) -> None:
    trust("tests")
    same = ("--model.network=MLP", "--model.network.dropout=0", "--data.val_size=145", "--trainer.max_epochs=1")
    one = train(*DATA, *same, "--data.batch_size=50")
    two = train_in_two_processes(*DATA, *same, "--data.batch_size=25")
    assert two.results["processes"] == 2
    for name in ("val/accuracy", "val/exact_match", "val/loss", "test/exact_match"):
        assert two.results["metrics"][name] == pytest.approx(one.results["metrics"][name], rel=1e-3), name
    assert two.checkpoint["thresholds"] == pytest.approx(one.checkpoint["thresholds"], abs=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")
@pytest.mark.parametrize(
    "flags",
    [
        ("--weight_average=EMA", "--model.test_time_augmentation=shifts"),
        ("--weight_average=SWA", "--weight_average.start=0.5", "--early_stopping=null"),
        ("--model.network=ResNet", "--model.finetune.head_epochs=1", "--feature_cache=FeatureCache"),
        ("--data.classes=[large, prime]", "--data.limit=0.5", "--data.folds=3", "--data.fold=1"),
    ],
)
def test_goes_with_the_rest(
    flags: tuple[str, ...], train: Callable[..., Run], script: Callable[..., Callable[..., Done]]
) -> None:
    trust("tests")
    trained = train(*DATA, *flags, "--trainer.max_epochs=2")
    status, _, error = script(evaluate)(trained.folder)
    assert (status, error) == (0, "")
    figures = json.loads((trained.folder / "evaluation/evaluation.json").read_text())
    assert figures["exact_match"] == pytest.approx(trained.results["metrics"]["test/exact_match"])
    assert figures["mean_average_precision"] > 0.4


@pytest.mark.slow
def test_each_fold_is_judged_at_the_thresholds_of_its_network(
    train: Callable[..., Run], script: Callable[..., Callable[..., Done]], tmp_path: Path
) -> None:
    trust("tests")
    flags = (*DATA, "--trainer.max_epochs=2", "--data.folds=2", "--experiment=cross")
    runs = [train(*flags, f"--data.fold={fold}") for fold in range(2)]
    status, _, error = script(evaluate)(runs[0].folder.parent, "--output", tmp_path)
    assert (status, error) == (0, "")
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    thresholds = np.array([TrainedNetwork(run.best).thresholds for run in runs])
    assert (thresholds[0] != thresholds[1]).any()
    with (tmp_path / "predictions.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    of_rows = thresholds[[int(row["fold"]) for row in rows]]
    shares = np.array([[float(row[f"probability of {name}"]) for name in PROPERTIES] for row in rows])
    assert [row["prediction"].split(";") for row in rows] == [
        [name for name, is_above in zip(PROPERTIES, above, strict=True) if is_above] or [""]
        for above in shares > of_rows
    ]
    shown = [figures["classes"][name]["threshold"] for name in PROPERTIES]
    assert shown == pytest.approx(of_rows.mean(axis=0).tolist())
