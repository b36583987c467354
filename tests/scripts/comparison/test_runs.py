import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from core.user_error import UserError
from scripts.comparison.runs import COSTS, find_runs, read_all, read_run
from tests.conftest import Run
from tests.core.test_plain_data import BOMB


def write_run(folder: Path, *, seed: int = 0, accuracy: float | None = 0.9, **config: object) -> Path:
    """Write what a run leaves behind, without a checkpoint; without an accuracy, of one that has not ended."""
    folder.mkdir(parents=True)
    settings = {"seed_everything": seed, "experiment": "digits/mlp", "runs": str(folder.parent.parent), **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "metrics.csv").write_text("epoch,train/loss,val/loss,val/accuracy\n0,1.5,,\n0,,2.5,0.5\n1,0.5,1.5,0.75\n")
    if accuracy is not None:
        metrics = {"test/accuracy": accuracy, "test/loss": 1 - accuracy, "train/nonfinite_steps": 0.0}
        results = {"metrics": metrics, "parameters": 1000, "epochs": 2, "seconds": 1.5, "images_per_second": 100.0}
        (folder / "results.json").write_text(json.dumps(results | {"hardware": "a processor"}))
    return folder


@pytest.mark.slow
def test_a_run_is_read_whole(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=2", "--seed_everything=3", "--model.optimizer.lr=0.01")
    found = read_run(run.folder)
    assert found.seed == 3
    assert found.experiment == run.results["experiment"]
    assert found.settings["model.optimizer.lr"] == "0.01"
    assert found.settings["model.network"] == "models.convnet.ConvNet"
    assert found.checkpoint == run.best
    assert found.data_fingerprint == run.checkpoint["data_fingerprint"]
    costs = {name: run.results[name] for name in COSTS}
    assert found.metrics == run.results["metrics"] | {"best/val/accuracy": run.results["best"]} | costs
    assert found.metrics["epochs"] == 2
    assert [len(points) for points in found.curves.values()] == [2] * 4
    assert found.state == ""
    assert read_run(run.best) == found


@pytest.mark.slow
def test_a_checkpoint_that_its_run_has_not_ended_with_is_by_itself(train: Callable[..., Run]) -> None:
    run = train("--trainer.max_epochs=2")
    found = read_run(run.last)
    assert found.path == run.last
    assert found.settings["checkpoint file"] == "last.ckpt"
    assert found.settings["checkpoint.monitor"] == "val/accuracy"
    assert found.metrics["val/accuracy"] == run.checkpoint["progress"]["metrics"]["val/accuracy"]
    assert not any(name.startswith("test/") for name in found.metrics)
    assert found.metrics["epochs"] == 2


def test_runs_are_found_by_folder_experiment_pattern_and_checkpoint(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "digits/mlp/one"), write_run(tmp_path / "digits/mlp/two")
    other = write_run(tmp_path / "mnist/[odd]/one")
    (tmp_path / "digits" / "notes.json").write_text("{}")
    assert find_runs(str(first)) == [first]
    assert find_runs(str(tmp_path / "digits/mlp")) == find_runs(f"{tmp_path}/digits/mlp/*") == [first, second]
    assert find_runs(str(tmp_path)) == find_runs(f"{tmp_path}/**") == [first, second, other]
    assert find_runs(str(other)) == [other], "a name that is there is no pattern"
    checkpoint = first / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    assert find_runs(f"{tmp_path}/digits/*/*/checkpoints/*.ckpt") == find_runs(str(checkpoint)) == [checkpoint]


def test_runs_are_found_from_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "digits/mlp/one")
    monkeypatch.chdir(tmp_path)
    assert find_runs("digits/*") == [Path("digits/mlp/one")]


def test_what_holds_no_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "half" / "checkpoints").mkdir(parents=True)
    for name in ("none", "no*", "half", "half/checkpoints"):
        with pytest.raises(UserError, match=r"is no run and holds none, for it has no config\.yaml; give"):
            find_runs(str(tmp_path / name))


def test_a_run_that_has_not_ended_says_so(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "x/one", accuracy=None)).state == "unfinished"
    (tmp_path / "x/one/results.json").write_text('{"metrics": {"val/accuracy": 0.5}}')
    found = read_run(tmp_path / "x/one")
    assert found.state == "not tested"
    assert found.metrics == {"val/accuracy": 0.5}


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.yaml", b"a: [", "is not YAML"),
        ("config.yaml", b"- a", "holds no keys and values"),
        ("config.yaml", b"\xff\xfe", "is not YAML"),
        ("results.json", b"{", "it is not JSON"),
        ("results.json", b"[]", "holds no keys and values"),
        ("results.json", b'{"metrics": 3}', "files have unexpected content"),
        ("metrics.csv", b"epoch,val/loss\n0,much\n", "is damaged"),
        ("checkpoints/best.ckpt", b"PK", "truncated or damaged"),
    ],
)
def test_a_broken_run_is_named_and_the_others_go_on(tmp_path: Path, file: str, content: bytes, told: str) -> None:
    good, bad = write_run(tmp_path / "x/good"), write_run(tmp_path / "x/bad")
    (bad / "checkpoints").mkdir()
    (bad / file).write_bytes(content)
    runs, (problem,) = read_all([str(tmp_path), str(good)])
    assert [run.path for run in runs] == [good]
    assert told in problem
    assert str(bad if "unexpected content" in told else bad / file) in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (write_run(tmp_path / "x/one") / "results.json").chmod(0)
    with pytest.raises(UserError, match="Permission denied"):
        read_run(tmp_path / "x/one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        (
            "results.json",
            '{"metrics": {}, "checkpoint": "../../other/best.ckpt"}',
            "not in the run's folder",
        ),
        ("results.json", '{"metrics": {}, "checkpoint": "/etc/passwd"}', "not in the run's folder"),
        ("results.json", "[" * 100_000, "results.json cannot be read"),
        ("results.json", '{"metrics": {"test/loss": 1' + "0" * 400 + "}}", "more than 300 digits"),
        ("results.json", '{"metrics": {"test/loss": [1]}, "seconds": {"a": 1}, "checkpoint": 3}', None),
        ("config.yaml", BOMB, "more than 1,000,000 values"),
        ("config.yaml", "[" * 20_000, "levels deep"),
        ("config.yaml", "seed_everything: 1" + "0" * 400, "more than 300 digits"),
        ("config.yaml", "model: {'=cmd|calc!A0': 1}", "the configuration has the key"),
        ("config.yaml", "model: {class_path: a.B, init_args: 3}", "cannot be read as a run"),
        ("metrics.csv", "epoch,val/loss\n1,1e999\n1,nan\n", None),
        ("metrics.csv", "epoch,val/loss\n\xe9,0\n", "metrics.csv is damaged"),
    ],
)
def test_a_run_from_a_stranger_is_left_out_in_one_sentence(
    tmp_path: Path, name: str, content: str, told: str | None
) -> None:
    write_run(tmp_path / "runs/good/one")
    bad = write_run(tmp_path / "runs/bad/one")
    (bad / name).write_text(content)
    runs, problems = read_all([str(tmp_path / "runs/bad"), str(tmp_path / "runs/good")])
    assert [run.path.parent.name for run in runs] == (["good"] if told else ["bad", "good"])
    assert len(problems) == bool(told)
    assert all(str(told) in problem and "\n" not in problem for problem in problems)
