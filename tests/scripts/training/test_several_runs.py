import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from core.stopping import Stopped, exit_on_signals
from models.serialization.checkpoint import read_checkpoint
from scripts.train import main
from scripts.training import several_runs
from scripts.training.several_runs import Plan, PlannedRun, find_run, plan_runs, print_summary, train_several
from scripts.uncertainty.mean import mean_of_runs, mean_over_seeds
from tests.conftest import Run

ONE = ("--trainer.max_epochs=1", "--data.batch_size=256", "--trainer.logger=false")


@pytest.fixture
def flags(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return (*ONE, "--runs", str(tmp_path / "runs"), "--data.root", str(data_root))


def run_seeds(*args: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["fit", *args])
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture
def plan(tmp_path: Path, data_root: Path) -> Plan:
    return plan_runs([*ONE, "--runs", str(tmp_path / "runs"), "--data.root", str(data_root)])


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs in place of scripts/train.py: a program that finds its seed in `seed`."""

    def write(program: str) -> None:
        file = tmp_path / "child.py"
        file.write_text(f"import os, signal, sys, time\nseed = int(sys.argv[-1])\n{program}")
        monkeypatch.setattr(several_runs, "TRAIN", file)

    return write


@pytest.mark.slow
def test_trains_what_is_not_done_and_goes_on_with_what_was_broken_off(
    train: Callable[..., Run], flags: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = train(*ONE, "--seed_everything=7")
    assert run_seeds("--seeds", "2", "--seed_everything=7", *flags) == 0
    (second,) = set(first.folder.parent.iterdir()) - {first.folder}
    results = [json.loads((run / "results.json").read_text()) for run in (first.folder, second)]
    assert [of_run["seed"] for of_run in results] == [7, 8]
    accuracies = [of_run["metrics"]["test/accuracy"] for of_run in results]
    assert accuracies[0] != accuracies[1]
    said = capfd.readouterr().out
    assert f"seed 7: finished in {first.folder}" in said
    assert mean_over_seeds(accuracies).shown() in said
    assert all(f"{accuracy:.4f}" in said for accuracy in accuracies)

    weights = read_checkpoint(second / "checkpoints" / "last.ckpt")["state_dict"]
    weights = {name: value.clone() for name, value in weights.items()}
    (second / "results.json").unlink()  # as if killed before the test
    assert run_seeds("--seeds=2", "--seed_everything=7", *flags) == 0
    said = capfd.readouterr().out
    assert "seed 8: resuming" in said
    assert len(list(first.folder.parent.iterdir())) == 2
    assert json.loads((second / "results.json").read_text())["metrics"] == results[1]["metrics"]
    again = read_checkpoint(second / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in weights.items())


@pytest.mark.slow
def test_a_run_counts_with_this_configuration_these_data_and_this_seed_alone(
    train: Callable[..., Run], flags: tuple[str, ...], plan: Plan, other_digits: Callable[[], None]
) -> None:
    run = train(*ONE)
    assert find_run(plan, 0) == run.folder
    assert find_run(plan, 1) is None
    assert find_run(plan_runs([*flags, "--model.optimizer.lr=0.1"]), 0) is None
    newer = train(*ONE)
    assert find_run(plan, 0) == newer.folder
    (newer.folder / "results.json").unlink()
    assert find_run(plan, 0) == run.folder
    (run.folder.parent / "half").mkdir()
    (run.folder.parent / "half" / "config.yaml").write_text("seed_everything: 0\n a: [")
    assert find_run(plan, 0) == run.folder
    other_digits()
    assert find_run(plan, 0) is None


@pytest.mark.slow
def test_each_fold_is_trained_in_a_run_of_its_own_that_counts_for_later_commands(
    flags: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_seeds("--folds", "2", "--fold=1", *flags) == 0
    (run,) = tmp_path.glob("runs/digits-convnet/*_folds=2_fold=1_*")
    assert "Metrics of one fold, which gives no interval." in " ".join(capfd.readouterr().out.split())
    assert run_seeds("--folds=2", *flags) == 0
    said = capfd.readouterr().out
    assert f"fold 1, seed 0: finished in {run}" in said
    (other,) = {*tmp_path.glob("runs/digits-convnet/*")} - {run}
    assert "_folds=2_fold=0_" in other.name
    accuracies = [json.loads((run / "results.json").read_text())["metrics"]["test/accuracy"] for run in (other, run)]
    assert mean_of_runs(list(enumerate(accuracies)), 2).shown() in said
    assert "Mean over 2 folds ± half of its 95% t-interval, corrected for" in " ".join(said.split())


def test_folds_nest_with_seeds(
    child: Callable[[str], None], flags: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    child("print(*sys.argv[2:])\nsys.exit(1)")
    assert run_seeds("--folds", "3", "--seeds", "2", *flags) == 1
    out, error = capfd.readouterr()
    expected = [f"digits-convnet, fold {fold}, seed {seed}" for seed in (0, 1) for fold in (0, 1, 2)]
    assert [line for line in out.splitlines() if line.startswith("digits-convnet, ")] == expected
    assert "--data.folds=3 --data.fold=2 --seed_everything 1" in out
    assert "error: digits-convnet, fold 2, seed 1: it ended with status 1\n" in error
    assert run_seeds("--fold=2", "--seeds=2", *flags) == 1, "of data with a column of folds"
    out, _ = capfd.readouterr()
    assert "--data.folds" not in out
    assert [line for line in out.splitlines() if line.startswith("digits-convnet, ")] == expected[2::3]


def test_a_seed_that_fails_does_not_stop_the_others(
    child: Callable[[str], None], flags: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    child("print('error: the loss is not finite', file=sys.stderr)\nseed != 1 or os.kill(os.getpid(), 9)\nsys.exit(1)")
    assert run_seeds("--seeds", "3", *flags) == 1
    said = capfd.readouterr()
    assert [line for line in said.out.splitlines() if "seed " in line and "│" not in line and "┃" not in line] == [
        f"digits-convnet, seed {seed}" for seed in range(3)
    ]
    assert said.out.count("failed") == 3
    assert "error: digits-convnet, seed 0: the loss is not finite\n" in said.err
    assert (
        "error: digits-convnet, seed 1: it was killed, as the system does when memory runs out; resume it with the "
        "same command, or start again with fewer --data.num_workers or a smaller --data.batch_size\n"
        "error: digits-convnet, seed 2: the loss is not finite\n"
    ) in said.err


def test_a_mistake_is_said_once(child: Callable[[str], None], plan: Plan, refused: Callable[..., str]) -> None:
    child("print('error: The learning rate is -1; give a positive one.', file=sys.stderr)\nsys.exit(2)")
    flags = [*plan.flags, "--seeds", "3"]
    assert refused("fit", *flags) == "error: The learning rate is -1; give a positive one.\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_reaches_the_seed_in_work_and_stops_all(
    child: Callable[[str], None],
    flags: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    number: int,
    status: int,
) -> None:
    child(
        "def leave(*_):\n"
        f"    open({str(tmp_path / 'told')!r}, 'a').write(f'{{seed}} ')\n"
        "    sys.exit(143)\n"
        "for number in (signal.SIGTERM, signal.SIGHUP): signal.signal(number, leave)\n"
        f"os.kill(os.getppid(), {int(number)})\n"
        "time.sleep(60)\n"
    )
    before = [signal.getsignal(handled) for handled in (signal.SIGTERM, signal.SIGINT)]
    assert run_seeds("--seeds", "3", *flags) == status
    assert (tmp_path / "told").read_text() == "0 "
    said = capfd.readouterr().out
    name = signal.Signals(number).name
    assert f"stopped by {name}; finished runs are kept; continue with: scripts/train.py fit --seeds 3" in said
    assert [signal.getsignal(handled) for handled in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_a_seed_says_last_is_not_lost_when_a_signal_stops_all(
    child: Callable[[str], None], plan: Plan, capfd: pytest.CaptureFixture[str]
) -> None:
    child(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('error: the disk is full'))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n"
    )
    with exit_on_signals(), pytest.raises(Stopped):
        train_several(plan, range(1))
    assert capfd.readouterr().err == "error: the disk is full\n"


def test_ctrl_c_in_a_terminal_does_not_reach_the_seed_twice(child: Callable[[str], None], plan: Plan) -> None:
    child("sys.exit(os.getpgid(0) == os.getpgid(os.getppid()))")
    (run,) = train_several(plan, range(1))
    assert run.problem == "it ended with status 0"  # in a group of its own, and without a run


def test_the_table_shows_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / f"run-{seed}" for seed in range(2)]
    metrics = [{"test/accuracy": 0.5 + seed / 10, "val/accuracy": 0.25} for seed in (0, 1)]
    found = [PlannedRun(seed, runs[seed], {"metrics": metrics[seed]}) for seed in (0, 1)]
    print_summary([*found, PlannedRun(2, None, None, "no space")])
    said = capsys.readouterr()
    assert "│ mean │ 0.5500 ± 0.6353 │" in said.out
    assert "Mean over 2 seeds ± half of its 95% t-interval." in " ".join(said.out.split())
    assert "val/accuracy" not in said.out
    assert "│ failed" in said.out
    print_summary(found[:1])
    said = capsys.readouterr()
    assert "│ mean │ 0.5000 " in re.sub(" +", " ", said.out)
    assert "Metrics of one seed, which gives no interval." in " ".join(said.out.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--seeds", "0"), "argument --seeds: '0' is no whole number of at least 1; see scripts/train.py fit --help"),
        (("--seeds", "-3"), "argument --seeds: "),
        (("--seeds=many",), "'many' is no whole number"),
        (("--seeds",), "argument --seeds: expected one argument"),
        (("--seeds", "2", "--resume"), "--seeds and --resume are given"),
        (("--seeds", "2", "--like=runs/a/b"), "--seeds and --like are given"),
        (("--seeds", "2", "--ckpt_path", "last.ckpt"), "--seeds and --ckpt_path are given"),
        (("--seeds", "2", "--seed_everything", str(2**32 - 1)), "The last seed is 4294967296"),
        (("--seeds", "2", "--model.none", "1"), "model.none"),
        (("--folds", "1"), "argument --folds: '1' is no whole number of at least 2"),
        (("--folds", "3", "--fold", "-1"), "argument --fold: "),
        (("--folds", "3", "--resume=runs/a/b"), "--folds and --resume are given"),
        (("--folds", "3", "--like"), "--folds and --like are given"),
        (("--folds", "3", "--fold=1", "--ckpt_path=last.ckpt"), "--folds and --ckpt_path are given"),
        (("--folds", "3", "--data.fold=1"), "--folds and --data.fold are given"),
        (("--folds", "3", "--trainer.fast_dev_run=true"), "writes no results that could be compared"),
        (("--folds", "3", "--data.none", "1"), "'none' is not accepted"),
    ],
)
def test_refuses_what_makes_no_sense(refused: Callable[..., str], args: tuple[str, ...], words: str) -> None:
    assert words in refused("fit", *args)


def test_is_started_once(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    for flags in (("--seeds", "2"), ("--folds", "5"), ("--folds=5", "--fold=1")):
        assert "give it to one process" in refused("fit", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--fold", "1"), "data.folds is None and data.fold 1; give how many folds there are"),
        (("--folds", "3", "--fold", "3"), "data.folds is 3 and data.fold 3; give "),
        (("--folds", "200"), "data.folds is 200, but the class"),
    ],
)
def test_what_the_data_say_of_folds_is_said_once(
    refused: Callable[..., str], flags: tuple[str, ...], args: tuple[str, ...], words: str
) -> None:
    assert words in refused("fit", *args, *flags)


def test_a_signal_between_two_seeds_is_not_lost(child: Callable[[str], None], plan: Plan) -> None:
    child("sys.exit(1)")

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Timer(0.3, interrupt).start()
    with exit_on_signals(), pytest.raises(Stopped):
        train_several(plan, range(10_000))


def test_says_what_would_be_trained_and_begins_nothing(tmp_path: Path) -> None:
    flags = ["--trainer.max_epochs=7", "--experiment=seeds", "--runs", str(tmp_path / "runs")]
    plan = plan_runs(flags)
    assert plan.experiment == tmp_path / "runs/seeds"
    assert plan.config["trainer"]["max_epochs"] == 7
    assert plan.flags == tuple(flags)
    assert not list(tmp_path.iterdir())
