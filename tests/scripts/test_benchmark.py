import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scripts.benchmark import main
from tests.conftest import Run
from tests.discovery import ROOT


@pytest.mark.slow
def test_prints_the_ratio_of_program_and_limit(data_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--seconds", "0", "--config"]
    command += [str(ROOT / "configs" / "digits" / "mlp.yaml"), "--data.root", str(data_root)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for heading in ("bare", "program", "ratio", "added", "waiting"):
        assert heading in done.stdout
    assert not list(tmp_path.iterdir()), "the benchmark leaves nothing behind"


@pytest.mark.slow
def test_says_what_each_callback_costs_in_a_whole_training(data_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--callbacks", "--trainer.max_epochs=2"]
    command += ["--config", str(ROOT / "configs" / "digits" / "mlp.yaml"), "--data.root", str(data_root)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 epochs" in done.stdout
    rows = {cells[1]: cells for line in done.stdout.splitlines() if len(cells := line.split()) > 6}
    for name in ("FiniteGuard", "ConfusionMatrix", "WorstMistakes", "ModelGraph", "Hyperparameters", "Throughput"):
        assert int(rows[name][7]) > 0
    assert not list(tmp_path.iterdir()), "the benchmark leaves nothing behind"


@pytest.mark.slow
def test_times_a_prediction_against_the_network_alone(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("--trainer.max_epochs=1", "--data.batch_size=8")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, scan in enumerate(load_digits().images[:20]):
        Image.fromarray((scan * 15).astype(np.uint8)).save(photos / f"{number}.png")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    main(["--predict", str(run.folder), "--images", str(photos), "--seconds", "0"])
    table = capsys.readouterr().out
    for expected in ("network alone", "program", "ratio", "ConvNet, 1x8x8", " 20 ", " 8 "):
        assert expected in table
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(SystemExit) as exit_:
        main(["--predict", str(run.folder)])
    assert exit_.value.code == 2


@pytest.mark.slow
def test_fails_with_what_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--config", "none.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.yaml cannot be read" in done.stderr
