import csv
import json
import os
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from scripts.evaluate import main
from scripts.uncertainty.mean import mean_of_runs
from tests.conftest import Done, Run
from tests.scripts.browser import LOOKS, asked, needs_browser


@pytest.fixture
def evaluate(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


def figures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


@pytest.mark.slow
def test_a_run_is_enough_for_page_figures_and_table(
    train: Callable[..., Run], evaluate: Callable[..., Done], capfd: pytest.CaptureFixture[str]
) -> None:
    run = train("--trainer.max_epochs=2", "--trainer.precision=32-true")
    capfd.readouterr()
    status, out, error = evaluate(run.folder)
    folder = run.folder / "evaluation"
    assert (status, error) == (0, "")
    assert {file.name for file in folder.iterdir()} == {"evaluation.html", "evaluation.json", "predictions.csv"}
    for file in folder.iterdir():
        assert str(file) in out

    found = figures(folder)
    metrics = run.results["metrics"]
    assert found["accuracy"] == pytest.approx(metrics["test/accuracy"])
    assert found["loss"] == pytest.approx(metrics["test/loss"], rel=1e-4)
    low, high = found["accuracy_interval"]
    assert low < found["accuracy"] < high
    assert f"{found['accuracy']:.4f}" in out
    confusion = np.array(found["confusion"])
    assert confusion.sum() == found["images"] == 359
    assert np.trace(confusion) == found["right"]
    for label, name in enumerate(found["class_names"]):
        each = found["classes"][name]
        assert each["images"] == confusion[label].sum()
        assert each["recall"] == pytest.approx(confusion[label, label] / confusion[label].sum())
        assert each["recall_interval"][0] <= each["recall"] <= each["recall_interval"][1]
    assert found["top5_accuracy"] is None
    assert sum(pair["images"] for pair in found["confused_pairs"]) == 359 - found["right"]
    assert found["calibration"]["temperature_scaled"]["ece"] >= 0
    with (folder / "predictions.csv").open(newline="") as opened_:
        rows = list(csv.DictReader(opened_))
    assert sum(row["label"] == row["prediction"] for row in rows) == found["right"]

    text = (folder / "evaluation.html").read_text()
    HTMLParser().feed(text)
    assert "http" not in text
    assert "url(" not in text
    for heading in ("Training", "Confusion matrix", "Most confused pairs", "Most certain mistakes", "Calibration"):
        assert f"<h2>{heading}</h2>" in text
    assert "Grad-CAM at stages." in text


@pytest.mark.slow
def test_too_many_classes_are_not_drawn_or_listed(
    train: Callable[..., Run], evaluate: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train("--trainer.max_epochs=1")
    monkeypatch.setattr("scripts.evaluation.evaluation.MOST_CLASSES", 9)
    assert evaluate(run.folder)[0] == 0
    text, found = (run.folder / "evaluation" / "evaluation.html").read_text(), figures(run.folder / "evaluation")
    assert "<h2>Confusion matrix</h2>" not in text
    assert "<thead>" not in text
    assert "There are too many to draw or list" in text
    assert found["confusion"] is None
    assert len(found["classes"]) == 10
    assert sum(pair["images"] for pair in found["confused_pairs"]) == found["images"] - found["right"]


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(360, False), (1200, True)])
def test_in_a_browser_nothing_is_cut_off_broken_or_loaded(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path, width: int, dark: bool
) -> None:
    run = train("--trainer.max_epochs=1")
    assert evaluate(run.folder, "--output", tmp_path / "out")[0] == 0
    (tmp_path / "browser").mkdir()
    seen = asked(tmp_path / "out" / "evaluation.html", tmp_path / "browser", LOOKS, width, dark=dark)
    assert seen["width"] <= width
    assert seen["broken"] == seen["loaded"] == 0
    assert seen["paper"] == ("rgb(22, 22, 22)" if dark else "rgb(255, 255, 255)")


@pytest.mark.slow
@needs_browser
def test_in_a_browser_cells_are_told_and_classes_sorted(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1")
    assert evaluate(run.folder, "--output", tmp_path / "out")[0] == 0
    (tmp_path / "browser").mkdir()
    questions = """
      cell: (() => {
        const img = page.querySelector('.matrix img'), frame = img.getBoundingClientRect();
        const data = JSON.parse(page.querySelector('.matrix').dataset.counts);
        const at = (data.before + 3.5 * data.cell) * frame.width / img.naturalWidth;
        const place = {clientX: frame.left + at, clientY: frame.top + at};
        img.dispatchEvent(new window.PointerEvent('pointermove', place));
        return page.querySelector('.readout').textContent;
      })(),
      sorted: (() => {
        page.querySelectorAll('.classes thead th')[4].click();
        return [...page.querySelectorAll('.classes tbody th')].map(cell => cell.textContent);
      })(),
    """
    answers = asked(tmp_path / "out" / "evaluation.html", tmp_path / "browser", questions)
    found = figures(tmp_path / "out")
    assert answers["cell"] == f"3 taken for 3: {found['confusion'][3][3]} of {found['classes']['3']['images']}"
    recalls = [found["classes"][name]["recall"] for name in answers["sorted"]]
    assert recalls == sorted(recalls)
    assert len(recalls) == 10


def test_pictures_are_as_many_as_asked_for(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1", "--model.network=models.mlp.MLP")
    counts = []
    for images in ("1", "3"):
        status, _, _ = evaluate(run.best, "--output", tmp_path / "out", f"--images={images}")
        assert status == 0
        text = (tmp_path / "out" / "evaluation.html").read_text()
        hits = text.split("<h2>Least certain hits</h2>")[1].split("</section>")[0]
        counts.append(hits.count("<img"))
    assert counts == [1, 3]
    assert "no convolution that gives maps" in text
    assert 'class="both"' not in text


@pytest.mark.slow
def test_no_mistake_at_all(train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path) -> None:
    run = train("--data.classes=[0,4]", "--trainer.max_epochs=10")
    assert run.results["metrics"]["test/accuracy"] == run.results["metrics"]["val/accuracy"] == 1
    assert evaluate(run.folder, "--output", tmp_path / "out")[0] == 0
    found = figures(tmp_path / "out")
    assert found["accuracy_interval"][0] < found["accuracy_interval"][1] == 1
    assert found["calibration"]["temperature"] is None
    text = (tmp_path / "out" / "evaluation.html").read_text()
    assert "There are none." in text
    assert "there is no best temperature" in text


def test_no_image_right_and_one_image_only(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1", "--data.classes=[0,1]", "--data.val_size=2")
    checkpoint = torch.load(run.best, weights_only=True)
    bias = max(name for name, value in checkpoint["state_dict"].items() if value.shape == (2,))
    for sign in (1, -1):
        state = checkpoint["state_dict"] | {bias: torch.tensor([100.0, -100.0]) * sign}
        file = tmp_path / f"{sign}.ckpt"
        torch.save(checkpoint | {"state_dict": state}, file)
        flags = ("--data.test_size=1", "--output", tmp_path / str(sign))
        assert evaluate(file, *flags)[0] == 0
    accuracies = sorted(figures(tmp_path / sign)["accuracy"] for sign in ("1", "-1"))
    assert accuracies == [0, 1]
    assert figures(tmp_path / "1")["images"] == 1
    texts = [(tmp_path / sign / "evaluation.html").read_text() for sign in ("1", "-1")]
    assert sum("No image is right." in text for text in texts) == 1
    assert sum("There are none." in text for text in texts) == 1
    assert all("no metrics.csv" in text for text in texts), "these checkpoints lie in no run"


@pytest.mark.slow
def test_two_hundred_classes(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamodules.digits import Digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    monkeypatch.setattr(Digits, "class_names", tuple(f"class {number}" for number in range(200)))
    monkeypatch.setattr(Digits, "fingerprint", lambda self: "many")
    monkeypatch.setattr(Digits, "read", lambda self: {"train": (images[:1600], np.arange(1600) % 200)})
    run = train("--trainer.max_epochs=1", "--data.root", str(tmp_path))
    assert evaluate(run.folder, "--output", tmp_path / "out", "--images=3")[0] == 0
    found = figures(tmp_path / "out")
    assert len(found["classes"]) == 200
    assert found["top5_accuracy"] == pytest.approx(run.results["metrics"]["test/top5_accuracy"], abs=0.01)
    page = tmp_path / "out" / "evaluation.html"
    assert page.stat().st_size < 1_000_000
    with (tmp_path / "out" / "predictions.csv").open(newline="") as opened_:
        assert len(next(csv.reader(opened_))) == 5 + 10


@pytest.mark.slow
def test_another_split_and_data_changed(train: Callable[..., Run], evaluate: Callable[..., Done]) -> None:
    run = train("--trainer.max_epochs=1")
    assert evaluate(run.best, "--split=val", "--data.limit=0.5")[0] == 0
    found = figures(run.folder / "evaluation")
    assert found["images"] == pytest.approx(72, abs=6)
    assert found["calibration"]["fitted_on_the_same_images"]
    assert "too good" in (run.folder / "evaluation" / "evaluation.html").read_text()


@pytest.mark.slow
def test_names_of_classes_are_escaped(train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path) -> None:
    from PIL import Image

    digits = load_digits()
    for number in range(160):
        folder = tmp_path / "images" / ("<script>x", os.fsdecode(b"caf\xe9"))[digits.target[number] % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(folder / f"{number}.png")
    folder_data = ("--data", "datamodules.image_folder.ImageFolder", "--data.folder", str(tmp_path / "images"))
    run = train("--trainer.max_epochs=1", *folder_data, "--data.image_size=8")
    assert evaluate(run.folder)[0] == 0
    text = (run.folder / "evaluation" / "evaluation.html").read_text()
    assert "<script>x" not in text
    assert "caf\\xe9" in text


@pytest.mark.slow
def test_mistakes_are_told_in_one_sentence(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train("--trainer.max_epochs=1")
    capfd.readouterr()
    (tmp_path / "file").touch()
    before = sorted(run.folder.rglob("*"))
    for args, expected in (
        ((tmp_path / "none.ckpt",), "There is no checkpoint"),
        ((tmp_path,), "no folder of a run"),
        ((run.best, "--data.root", tmp_path / "x", "--data", "datamodules.mnist.MNIST"), "MNIST"),
        ((run.best, "--data.classes=[1,2]"), "The classes of"),
        ((run.best, "--output", tmp_path / "file" / "x"), "cannot be written"),
        ((run.best, "--images=0"), "argument --images: '0' is no whole number"),
        ((run.best, "--data.rot=1"), "rot"),
    ):
        status, out, error = evaluate(*args)
        assert (status, out) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert expected in error
    assert sorted(run.folder.rglob("*")) == before


@pytest.mark.slow
def test_images_trained_on_are_judged_apart_from_others(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path
) -> None:
    run, audit = train("--trainer.max_epochs=1", "--data.folds=5", "--data.fold=0"), tmp_path / "audit.json"
    status, out, error = evaluate(run.folder)
    assert (status, error) == (0, "")
    assert "leaked" not in out
    assert figures(run.folder / "evaluation")["leakage"] == {}
    status, out, error = evaluate(run.folder, "--data.fold=1")
    assert status == 0
    found = figures(run.folder / "evaluation")
    trained_on = int(found["data_changes"].partition(" val and ")[2].split()[0])
    assert found["leakage"]["leaked"]["images"] == trained_on > 300
    assert found["leakage"]["clean"]["images"] == found["images"] - trained_on
    page = (run.folder / "evaluation" / "evaluation.html").read_text()
    for name in ("leaked", "clean"):
        accuracy = found["leakage"][name]["share_right"]
        assert f"  {name:<11}{accuracy:.4f} (" in out
        assert f"{accuracy:.2%} of {found['leakage'][name]['images']} {name} images are right; interval" in page
    before = (run.folder / "evaluation" / "evaluation.html").read_bytes()
    status, _, error = evaluate(run.folder, "--audit", audit)
    assert status == 2
    assert f"{audit} cannot be read; write it with scripts/audit.py --json {audit}." in error
    assert (run.folder / "evaluation" / "evaluation.html").read_bytes() == before


@pytest.mark.slow
def test_folds_give_one_page_and_one_table(
    train: Callable[..., Run], evaluate: Callable[..., Done], tmp_path: Path
) -> None:
    runs = [
        train("--trainer.max_epochs=1", "--data.folds=3", f"--data.fold={fold}", "--experiment=folds")
        for fold in (0, 1, 2)
    ]
    train("--trainer.max_epochs=1", "--experiment=folds", "--test=false")
    status, out, error = evaluate(tmp_path / "runs/folds")
    assert (status, error) == (0, "")
    folder = tmp_path / "runs/folds/evaluation"
    assert {file.name for file in folder.iterdir()} == {"evaluation.html", "evaluation.json", "predictions.csv"}
    with (folder / "predictions.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert {row["path"] for row in rows} == {f"train[{number}]" for number in range(1797)}
    assert len(rows) == 1797
    found = figures(folder)
    accuracies = [run.results["metrics"]["test/accuracy"] for run in runs]
    assert [each["accuracy"] for each in found["folds"]] == pytest.approx(accuracies)
    assert [each["fold"] for each in found["folds"]] == [0, 1, 2]
    assert found["mean_over_folds"][0] == pytest.approx(np.mean(accuracies))
    assert found["accuracy"] == pytest.approx(np.mean([row["label"] == row["prediction"] for row in rows]))
    for fold, accuracy in enumerate(accuracies):
        of_fold = [row["label"] == row["prediction"] for row in rows if row["fold"] == str(fold)]
        assert np.mean(of_fold) == pytest.approx(accuracy)
    assert mean_of_runs(list(enumerate(accuracies)), 3).shown() in out
    text = (folder / "evaluation.html").read_text()
    assert "of 1,797 out-of-fold images are right" in text
    assert "<h2>Folds</h2>" in text
    assert "Grad-CAM at stages." in text
    assert all(str(run.folder) in text for run in runs)

    assert evaluate(*(run.folder for run in runs[::-1]), "--output", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/predictions.csv").read_bytes() == (folder / "predictions.csv").read_bytes()
    assert evaluate(runs[0].folder)[0] == 0
    assert figures(runs[0].folder / "evaluation")["images"] == sum(row["fold"] == "0" for row in rows)

    for args, expected in (
        ((tmp_path / "runs/folds", "--split=val"), "--split is val, but folds"),
        ((runs[0].folder, runs[1].folder), "Fold 2 of 3 with seed 0 is missing"),
    ):
        status, out, error = evaluate(*args)
        assert (status, out) == (2, "")
        assert expected in error
        assert error.count("\n") == 1
