import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts import reproduce
from scripts.reproduce import EXPERIMENTS, Experiment, main, row
from scripts.uncertainty.mean import mean_over_seeds
from tests.discovery import ROOT

FLAGS = ["--trainer.max_epochs=2", "--trainer.logger=false"]


@pytest.fixture
def run(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with experiments on the digits, and gives the rows of the table by name."""
    experiments = (
        Experiment("digits/mlp", "test 0.1", at_least=0.1),
        Experiment("mnist/convnet", "test 0.989", at_least=0.989),
        Experiment("digits/none", "test 1.0"),
    )
    monkeypatch.setattr(reproduce, "EXPERIMENTS", experiments)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def command(*args: str, status: int = 0) -> dict[str, list[str]]:
        paths = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "RESULTS.md")]
        with pytest.raises(SystemExit) as exit_:
            main([*args, *paths, *FLAGS, "--data.root", str(data_root)])
        assert exit_.value.code == status
        lines = (tmp_path / "RESULTS.md").read_text().splitlines()
        cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
        return {row[0]: row for row in cells[1:]}

    return command


def figures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("runs/digits/mlp/*/results.json"))]


@pytest.mark.slow
def test_writes_what_runs_gave_and_does_none_twice(run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = run("--only", "digits/mlp", "--seeds", "2")
    done = figures(tmp_path)
    assert [results["seed"] for results in done] == [0, 1]
    accuracies = [results["metrics"]["test/accuracy"] for results in done]
    cells = rows["digits/mlp"]
    assert cells[2].startswith(f"test {mean_over_seeds(accuracies).shown()} (reached), train ")
    assert "With several seeds, it is the mean ± half of its 95% t-interval." in (tmp_path / "RESULTS.md").read_text()
    assert cells[2].endswith("2 seeds")
    assert cells[3] == f"{done[0]['parameters']:,}"
    assert done[0]["hardware"] in cells[6]
    assert "--config configs/digits/mlp.yaml --trainer.max_epochs=2" in cells[7]
    assert list(rows) == ["digits/mlp"]

    capfd.readouterr()
    assert run("--only", "digits/mlp", "--seeds", "2") == rows
    assert "epoch 0" not in capfd.readouterr().out
    assert len(figures(tmp_path)) == 2


@pytest.mark.slow
def test_goes_on_after_a_failure_and_says_why_once(run: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = run("--only", "mnist/convnet", "digits/none", "digits/mlp", status=1)
    assert "not run: MNIST cannot be read from" in rows["mnist/convnet"][2]
    assert "not run: The configuration file " in rows["digits/none"][2]
    errors = [line for line in capfd.readouterr().err.splitlines() if "error: " in line]
    assert [line.split(": ")[1] for line in errors] == ["mnist/convnet", "digits/none"]
    assert rows["digits/mlp"][2].startswith(f"test {figures(tmp_path)[0]['metrics']['test/accuracy']:.4f} (reached)")


@pytest.mark.slow
def test_a_run_that_was_removed_is_done_again(run: Any, tmp_path: Path) -> None:
    run("--only", "digits/mlp")
    (file,) = tmp_path.glob("runs/digits/mlp/*/results.json")
    file.unlink()
    assert run("--only", "digits/mlp")["digits/mlp"][2].startswith("test ")


@pytest.mark.slow
def test_other_experiments_keep_their_seeds_and_the_reason_why_they_have_none(run: Any) -> None:
    asked = run("--only", "digits/mlp", "mnist/convnet", "--seeds", "2", status=1)
    later = run("--only", "digits/none", status=1)
    assert later["digits/mlp"] == asked["digits/mlp"]
    assert "; 2 seeds" in later["digits/mlp"][2]
    assert later["mnist/convnet"] == asked["mnist/convnet"]
    assert "not run: MNIST cannot be read from" in later["mnist/convnet"][2]


@pytest.mark.slow
def test_a_table_made_anew_has_the_runs_that_are_there(run: Any, tmp_path: Path) -> None:
    rows = run("--only", "digits/mlp", "--seeds", "2")
    run("--only", "digits/mlp", "--model.optimizer.lr=0.01")
    (tmp_path / "RESULTS.md").unlink()
    assert run("--only", "digits/mlp", "--seeds", "2") == rows
    assert len(figures(tmp_path)) == 3


def test_a_figure_that_is_just_reached_is_reached() -> None:
    metrics = {"test/accuracy": float(np.float32(0.9845))}
    assert metrics["test/accuracy"] < 0.9845
    facts = {"parameters": 1, "epochs": 1, "seconds": 1, "hardware": "", "precision": ""}
    experiment = Experiment("digits/mlp", "", at_least=0.9845)
    assert "test 0.9845 (reached)" in row(experiment, [{"metrics": metrics, **facts}], "", [])


@pytest.mark.slow
def test_says_when_a_figure_is_not_reached(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "EXPERIMENTS", (Experiment("digits/mlp", "test 1.1", at_least=1.1),))
    assert "(**below**)" in run("--only", "digits/mlp")["digits/mlp"][2]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--only", "mnist/convnot"], "invalid choice: 'mnist/convnot' (choose from"),
        (["--seeds", "0"], "'0' is no whole number"),
        (["--seeds", "x"], "'x' is no whole number"),
        (["--seeds", "99999999999"], "argument --seeds: '99999999999' is no whole number"),
        (["--output", "nowhere/RESULTS.md"], "nowhere/RESULTS.md cannot be written: No such file"),
        (["--output", "configs"], "configs cannot be written: it is a folder"),
    ],
)
def test_refuses_what_is_not_there(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    with pytest.raises(SystemExit) as exit_:
        main(args)
    assert exit_.value.code == 2
    assert words in capsys.readouterr().err


def test_each_experiment_is_named_after_its_file() -> None:
    assert len({experiment.name for experiment in EXPERIMENTS}) == len(EXPERIMENTS) == 14
    assert (ROOT / "configs" / "mnist" / "convnet.yaml").exists()


@pytest.mark.slow
def test_on_fewer_classes_nothing_is_reached(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment("digits/mlp", "test 0.1", at_least=0.1, classes=100)
    monkeypatch.setattr(reproduce, "EXPERIMENTS", (experiment,))
    assert " (of 10 classes, published of 100: not compared), train " in run("--only", "digits/mlp")["digits/mlp"][2]


@pytest.mark.slow
def test_what_the_table_holds_besides_stays_as_it_is(run: Any, tmp_path: Path) -> None:
    run("--only", "mnist/convnet", "digits/none", status=1)
    table = tmp_path / "RESULTS.md"
    kept = "| mnist/convnet | test 0.989 | test 0.9899 (reached) | 1 | 1 | 0:00:01 | elsewhere | `by hand` |"
    lines = [kept if line.startswith("| mnist/convnet") else line for line in table.read_text().splitlines()]
    table.write_text("\n".join([*lines, "| one's own | of no | known shape", "", "A note."]) + "\n")
    rows = run("--only", "digits/mlp")
    written = table.read_text()
    assert rows["digits/mlp"][2].startswith("test ")
    assert kept in written.splitlines()
    assert "| one's own | of no | known shape\n| digits/mlp |" in written
    assert written.endswith("|\n\nA note.\n")
    assert "not run: The configuration file " in rows["digits/none"][2]
