from collections.abc import Callable
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from scripts.compare import FILES, main
from tests.conftest import Done, Run
from tests.scripts.comparison.test_runs import write_run

SHORT = ("--trainer.max_epochs=1", "--trainer.precision=32-true")


@pytest.fixture
def compare(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


@pytest.mark.slow
def test_runs_are_compared_and_written_as_asked_for(
    train: Callable[..., Run], compare: Callable[..., Done], tmp_path: Path
) -> None:
    ours = [train(*SHORT, f"--seed_everything={seed}") for seed in (0, 2)]
    other = train(*SHORT, "--model.network=models.mlp.MLP")
    files = {kind: tmp_path / f"out.{kind}" for kind in FILES}
    flags = [part for kind, file in files.items() for part in (f"--{kind}", file)]
    status, out, error = compare(ours[0].folder.parent, other.best, *flags)
    assert (status, error) == (0, "")
    assert "model.network" in out
    assert "2 (seeds 0, 2)" in out
    assert "test/accuracy" in out
    mean = np.mean([run.results["metrics"]["test/accuracy"] for run in ours])
    accuracies = f"{mean:.4f} ± ", f"{other.results['metrics']['test/accuracy']:.4f}"
    for kind, file in files.items():
        text = file.read_text()
        for accuracy in accuracies if kind != "csv" else ():
            assert accuracy.replace("±", r"$\pm$" if kind == "latex" else "±") in text
        rule = "95\\% t-interval" if kind == "latex" else "95% t-interval"
        assert rule in text
        assert rule.replace("\\", "") in out
        assert kind == "csv" or "Mean over 1 to 2 seeds" in text
    (sentence,) = (line for line in out.splitlines() if "359 test images" in line)
    assert sentence.startswith("digits-mlp ")
    assert "digits-convnet (seed 0)" in sentence
    assert sentence in unescape(files["html"].read_text())
    assert not list(tmp_path.glob(".*"))

    status, out, error = compare(ours[0].folder, other.folder, "--no-predict")
    assert (status, error) == (0, "")
    assert "test images" not in out


@pytest.mark.slow
def test_the_checkpoints_of_one_run(train: Callable[..., Run], compare: Callable[..., Done]) -> None:
    run = train("--trainer.max_epochs=3", "--trainer.precision=32-true")
    status, out, error = compare(run.best, run.last)
    assert (status, error) == (0, "")
    assert "last.ckpt" in out
    (accuracies,) = (line.split("│")[2:4] for line in out.splitlines() if line.startswith("│ test/accuracy"))
    accuracies = [cell.replace("*", "") for cell in accuracies]
    assert float(accuracies[0]) == pytest.approx(run.results["metrics"]["test/accuracy"], abs=5e-5)
    assert float(accuracies[1]) > 0.5
    assert sum("359 test images" in line for line in out.splitlines()) == 1


@pytest.mark.slow
def test_one_group_is_shown_alone(train: Callable[..., Run], compare: Callable[..., Done]) -> None:
    run = train(*SHORT)
    status, out, error = compare(run.folder, run.best)
    assert (status, error) == (0, "")
    assert "1 (seeds 0)" in out
    assert "Metrics of one seed, which gives no interval." in out
    assert "Bold" not in out


def test_the_table_has_the_figures_that_were_asked_for(compare: Callable[..., Done], tmp_path: Path) -> None:
    for rate, lowest in ((1, 0.9), (2, 0.5)):
        for seed in range(3):
            write_run(tmp_path / f"x/{rate}-{seed}", seed=seed, accuracy=lowest + seed / 100, lr=rate)
    files = {kind: tmp_path / f"out.{kind}" for kind in FILES}
    flags = ["--percent", "--no-predict", *(part for kind, file in files.items() for part in (f"--{kind}", file))]
    status, out, error = compare(tmp_path / "x", "--figures", "test/accuracy", "test/loss", *flags)
    assert (status, error) == (0, "")
    for kind, best in (
        ("markdown", "| lr=1 | **91.00 ± 2.48** | **0.0900 ± 0.0248** |\n| lr=2 | 51.00 ± 2.48 | "),
        ("latex", r"lr=1 & \textbf{91.00 $\pm$ 2.48} & "),
        ("html", "<strong>91.00 ± 2.48</strong>"),
    ):
        assert best in files[kind].read_text()
        assert "significantly worse" in files[kind].read_text()
    assert "│ lr=1 │ 91.00 ± 2.48 *    │" in out
    status, out, error = compare(tmp_path / "x", "--figures", "test/acuracy", *flags)
    assert (status, out) == (2, "")
    assert error == "error: No run has the metric test/acuracy; did you mean test/accuracy?\n"


def test_a_broken_run_is_named_and_the_others_go_on(compare: Callable[..., Done], tmp_path: Path) -> None:
    write_run(tmp_path / "x/good")
    write_run(tmp_path / "x/other", lr=2)
    write_run(tmp_path / "x/unfinished", accuracy=None, seed=1)
    (write_run(tmp_path / "x/bad") / "results.json").write_text("{")
    status, out, error = compare(tmp_path / "x", "--html", tmp_path / "page.html")
    assert status == 1
    assert error.startswith(f"error: {tmp_path / 'x/bad/results.json'} cannot be read")
    assert error.count("\n") == 1
    assert "0.9000" in out
    assert f"{tmp_path / 'x/unfinished'} is unfinished." in out
    assert "lr=- is not tested on the same images as the others: it has no checkpoint" in out
    assert "Left out: " in (tmp_path / "page.html").read_text()


def test_mistakes_are_told_in_one_sentence(compare: Callable[..., Done], tmp_path: Path) -> None:
    run = write_run(tmp_path / "x/good")
    (tmp_path / "file").touch()
    for args, expected in (
        ((tmp_path / "none",), "is no run and holds none"),
        ((f"{tmp_path}/n*",), "is no run and holds none"),
        ((tmp_path / "file",), "cannot be read"),
        (
            (run, "--html", tmp_path / "no/page.html"),
            "No such file or directory; choose another file with --html",
        ),
        ((run, "--csv", tmp_path), "cannot be written"),
    ):
        status, _, error = compare(*args)
        assert status == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert expected in error


@pytest.mark.slow
def test_other_classes_are_named_and_the_table_is_there(
    train: Callable[..., Run], compare: Callable[..., Done]
) -> None:
    runs = [train(*SHORT, f"--data.classes={classes}").folder for classes in ("[1,2,3]", "[1,2,4]")]
    status, out, error = compare(*runs)
    assert (status, error) == (0, "")
    assert "data.classes" in out
    first, second = "classes=[1, 2, 3]", "classes=[1, 2, 4]"
    assert f"{second} is not compared with {first}: The classes of {first} and {second} differ in 3, 4;" in out


@pytest.mark.slow
def test_two_hundred_classes(
    train: Callable[..., Run], compare: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamodules.digits import Digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    monkeypatch.setattr(Digits, "class_names", tuple(f"class {number}" for number in range(200)))
    monkeypatch.setattr(Digits, "fingerprint", lambda self: "many")
    monkeypatch.setattr(Digits, "read", lambda self: {"train": (images[:1600], np.arange(1600) % 200)})
    runs = [train(*SHORT, "--data.root", str(tmp_path), f"--model.optimizer.lr={rate}").folder for rate in (0.1, 0.01)]
    status, out, error = compare(*runs, "--html", tmp_path / "page.html")
    assert (status, error) == (0, "")
    assert "test/top5_accuracy" in out
    assert "model.optimizer.lr" in out
    assert "test images" in out
    assert (tmp_path / "page.html").stat().st_size < 100_000


@pytest.mark.slow
def test_one_test_image(train: Callable[..., Run], compare: Callable[..., Done]) -> None:
    flags = (*SHORT, "--data.classes=[0,1]", "--data.val_size=2")
    runs = [train(*flags, f"--model.optimizer.lr={rate}").folder for rate in (0.003, 0.01)]
    status, out, error = compare(*runs, "--data.test_size=1")
    assert (status, error) == (0, "")
    assert "cannot be told apart" in out
    assert "1 test images)" in out
