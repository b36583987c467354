"""A run that an earlier version was stopped in the middle of, and what this version makes of it.

`tests/earlier_run` was written by the version at commit 8d77527, the last before callbacks of TensorBoard had a package
of their own, with `Classifier.training_step` sending the process SIGTERM at step 9 of 12:

    python scripts/train.py fit --experiment stopped --model.network models.mlp.MLP --model.network.hidden_sizes '[4]'
        --model.network.dropout 0.1 --data.limit 256 --trainer.max_epochs 2 --data.batch_size 32

Its curves for TensorBoard and facts about its machine were left out. FIGURES are those of the same run, unstopped.
"""

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scripts.train import main as train
from tests.discovery import ROOT

FIGURES = {
    "train/loss": 2.3107080459594727,
    "train/accuracy": 0.125,
    "val/loss": 2.337881088256836,
    "val/accuracy": 0.2857142984867096,
    "test/loss": 2.3101179599761963,
    "test/accuracy": 0.1568627506494522,
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(ROOT / "tests" / "earlier_run", tmp_path / "runs" / "stopped" / "2026-11-26_12-34-01")


def ends_well(command: str, *args: object) -> None:
    code, script = None, f"scripts.{command}"
    if not (ROOT / "scripts" / f"{command}.py").exists():  # a clone may have removed it
        return
    try:
        import_module(script).main([str(arg) for arg in args])
    except SystemExit as end:
        code = end.code
    assert not code


def test_it_goes_on_to_the_figures_of_a_run_that_was_not_stopped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(["fit", "--resume", str(run)])
    assert f"resuming {run} after step 9" in capsys.readouterr().out
    assert json.loads((run / "results.json").read_text())["metrics"] == pytest.approx(FIGURES, rel=1e-4)
    ends_well("compare", run)
    ends_well("evaluate", run)


@pytest.mark.slow
def test_its_checkpoint_is_tested_and_asked_and_exported(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    Image.fromarray((load_digits().images[0] * 15).astype("uint8")).save(tmp_path / "zero.png")
    train(["test", "--ckpt_path", str(last), "--trainer.logger=true"])
    assert not Path("lightning_logs").exists(), "a test has no folder to log to"
    ends_well("predict", last, tmp_path / "zero.png", "--output", tmp_path / "predictions.csv")
    ends_well("export", last, "--output", tmp_path / "exported.onnx")
    ends_well("average", last, "--output", tmp_path / "weights.ckpt")
    ends_well("visualize", last, "saliency", "--image", tmp_path / "zero.png", "--output", tmp_path / "saliency.png")
    train(["fit", "--ckpt_path", str(last), "--trainer.max_epochs=3", "--experiment=further"])
