import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from core.user_error import UserError
from datamodules.packing.pack import FINGERPRINT
from scripts.evaluation.fold_runs import find_folds, open_folds, predict_folds
from scripts.train import main


def write_digits(folder: Path, images: int = 90) -> None:
    """Zeros, ones and twos as PNG files, and a file that is no image."""
    digits = load_digits(n_class=3)
    for number in range(images):
        file = folder / f"digit {digits.target[number]}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(file)
    (folder / "digit 1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of two seeds."""
    folder = tmp_path_factory.mktemp("folds")
    write_digits(folder / "images")
    flags = [
        "--data=ImageFolder",
        f"--data.folder={folder / 'images'}",
        "--data.image_size=8",
        "--data.on_corrupt=skip",
    ]
    flags += [f"--data.root={folder}", f"--runs={folder / 'runs'}", "--experiment=digits", "--trainer.logger=false"]
    flags += ["--model.network=MLP", "--trainer.max_epochs=2", "--data.folds=2"]
    for seed in (0, 1):
        for fold in (0, 1):
            main(["fit", *flags, f"--data.fold={fold}", f"--seed_everything={seed}"])
    return folder / "runs" / "digits"


@pytest.mark.slow
def test_every_image_that_can_be_read_is_predicted_once_by_networks_not_trained_on_it(experiment: Path) -> None:
    found = find_folds([experiment])
    assert list(found) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    runs, whole, validated = predict_folds(found, open_folds(found))
    files = sorted((experiment.parents[1] / "images").glob("*/*.png"))
    names = [str(file.relative_to(experiment.parents[1] / "images")) for file in files if file.stem != "broken"]
    assert sorted(whole.names) == names
    assert len({*whole.places.tolist()}) == len(whole) == 90
    for run in runs:
        data = run.trained.data()
        tested = whole.places[np.array(whole.carried["fold"]) == str(run.fold)]
        assert not {*tested.tolist()} & {*data.splits["train"].tolist(), *data.splits["val"].tolist()}
        results = json.loads((run.trained.folder / "results.json").read_text())
        assert run.tested.accuracy == pytest.approx(results["metrics"]["test/accuracy"])
    mean = np.concatenate(
        [(runs[fold].tested.probabilities + runs[2 + fold].tested.probabilities) / 2 for fold in (0, 1)]
    )
    assert whole.probabilities == pytest.approx(mean, abs=1e-6)
    assert len(validated) == sum(len(run.validated) for run in runs[:2])


@pytest.mark.slow
def test_flags_by_which_images_are_in_no_fold_are_refused(experiment: Path) -> None:
    found = {key: run for key, run in find_folds([experiment]).items() if key[0] == 0}
    with pytest.raises(UserError, match="not every image is in one fold; leave those out"):
        open_folds(found, ["--data.fold=1"])


def write_fold(folder: Path, fold: int | None = 0, seed: int = 0, **written: Any) -> Path:
    """What a finished run of three folds leaves, without a checkpoint."""
    folder.mkdir(parents=True)
    data = {"class_path": "datamodules.digits.Digits", "init_args": {"folds": 3, "fold": fold}}
    config = {"seed_everything": seed, "experiment": "x", "runs": "runs", "data": data, "lr": written.get("lr", 1)}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "origin.json").write_text(json.dumps({"data_fingerprint": f"{FINGERPRINT}{written.get('images', 1)}"}))
    (folder / "constraints.txt").touch()
    (folder / "number.txt").write_text(str(written.get("number", 1)))
    if written.get("done", True):
        (folder / "results.json").write_text(json.dumps({"metrics": {"test/accuracy": 0.9}}))
    return folder


def test_of_each_fold_the_newest_finished_run_counts(tmp_path: Path) -> None:
    for fold in (0, 1, 2):
        write_fold(tmp_path / f"old-{fold}", fold)
        write_fold(tmp_path / f"finished-{fold}", fold, number=2)
        write_fold(tmp_path / f"begun-{fold}", fold, number=3, done=False)
    write_fold(tmp_path / "plain", None)
    expected = {(0, fold): tmp_path / f"finished-{fold}" for fold in (0, 1, 2)}
    assert find_folds([tmp_path]) == expected
    assert find_folds(list(expected.values())[::-1]) == expected


def without_fold_2(folder: Path) -> None:
    write_fold(folder / "a", 0)
    write_fold(folder / "b", 1)


def broken_off(folder: Path) -> None:
    without_fold_2(folder)
    write_fold(folder / "c", 2, done=False)


def without_a_seed(folder: Path) -> None:
    without_fold_2(folder)
    write_fold(folder / "c", 2)
    for fold in (0, 2):
        write_fold(folder / f"seed-1-{fold}", fold, seed=1)


def of_two_settings(folder: Path) -> None:
    write_fold(folder / "a", 0)
    write_fold(folder / "b", 1, lr=2, number=2)


def of_two_states(folder: Path) -> None:
    write_fold(folder / "a", 0)
    write_fold(folder / "b", 1, images=2, number=2)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            without_fold_2,
            "Fold 2 of 3 with seed 0 is missing; train it with scripts/train.py fit --config {}/a/",
        ),
        (without_fold_2, "config.yaml --data.fold 2 --seed_everything 0"),
        (broken_off, "Fold 2 of 3 with seed 0 is not finished; train it with scripts/train.py fit --resume {}/"),
        (without_a_seed, "Fold 1 of 3 with seed 1 is missing"),
        (of_two_settings, "{}/a and {}/b are not of one cross-validation: lr is 1 and 2; give the runs of one."),
        (
            of_two_states,
            f"of one cross-validation: data_fingerprint is {FINGERPRINT}1 and {FINGERPRINT}2; give the runs of one.",
        ),
        (lambda folder: write_fold(folder / "a", None), "{} is no folder of a run and holds none of folds; give a run"),
        (lambda folder: None, "{} is no folder of a run and holds none of folds; give a run"),
    ],
)
def test_what_is_no_whole_cross_validation_is_refused(
    tmp_path: Path, write: Callable[[Path], None], words: str
) -> None:
    write(tmp_path)
    with pytest.raises(UserError) as error:
        find_folds([tmp_path])
    assert words.replace("{}", str(tmp_path)) in str(error.value)
