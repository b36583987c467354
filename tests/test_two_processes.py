"""Two processes on one machine do what one does, and end when one of them dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from sklearn.metrics import f1_score, roc_auc_score

from callbacks.run.peers import LOST
from datamodules.digits import Digits
from models.classifier import Classifier
from models.mlp import MLP
from models.serialization.checkpoint import read_checkpoint
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from scripts.train import main
from tests.discovery import ROOT

pytestmark = pytest.mark.slow

SCRIPT = str(ROOT / "scripts" / "train.py")
LAUNCHERS = {
    "one": (sys.executable,),
    "Trainer": (sys.executable,),
    "srun": (sys.executable,),
    "torchrun": (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
}
TWO = ("--trainer.devices=2",)
SRUN = """
export SLURM_JOB_ID=$$ SLURM_JOB_NAME=train SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2 SLURM_NNODES=1 SLURM_NODEID=0
export SLURM_NODELIST=localhost SLURM_JOB_NODELIST=localhost
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait $!
"""
COMMON = ("--trainer.accelerator=cpu", "--early_stopping=null", "--progress_bar=null")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


def command(launcher: str, folder: Path, *flags: str, script: str = SCRIPT) -> list[str]:
    places = ("--data.root", str(folder / "data"), "--runs", str(folder / "runs"))
    stand_in = ("bash", "-c", SRUN, "srun") if launcher == "srun" else ()
    return [
        *stand_in,
        *LAUNCHERS[launcher],
        script,
        "fit",
        *COMMON,
        *(TWO if launcher != "one" else ()),
        *places,
        *flags,
    ]


def fit(launcher: str, folder: Path, *flags: str) -> tuple[dict[str, Any], Path]:
    """Train, and give results and checkpoint of the only run there."""
    done = subprocess.run(
        command(launcher, folder, *flags), env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "runs").glob("*/*")
    return json.loads((run / "results.json").read_text()), run / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    return fit("one", tmp_path_factory.mktemp("one"), *SAME, "--data.batch_size=50")


# 1,294 images, so that the last of a global batch of 50 has 43, an image more in one process than in the other; batch
# norm is left out, whose statistics are those of each process.
SAME = ("--model.network=models.mlp.MLP", "--model.network.dropout=0", "--data.val_size=145", "--trainer.max_epochs=2")


@pytest.mark.parametrize("launcher", ["Trainer", "torchrun", "srun"])
def test_train_to_what_one_process_does_at_the_same_global_batch(
    launcher: str, alone: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    results, file = fit(launcher, tmp_path, *SAME, "--data.batch_size=25")
    assert results["processes"] == 2
    one, one_file = alone
    assert results["steps"] == one["steps"] == 52
    for name, value in one["metrics"].items():
        assert results["metrics"][name] == pytest.approx(value, rel=1e-4), name
    weights = read_checkpoint(file)["state_dict"]
    for name, value in read_checkpoint(one_file)["state_dict"].items():
        if name.startswith("network."):
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5)
    assert len(list((tmp_path / "data" / "packs").glob("*/"))) == 1
    assert len(list((tmp_path / "runs").glob("*/*/config.yaml"))) == 1


def test_metrics_are_those_of_scikit_learn_over_the_images_of_all(tmp_path: Path) -> None:
    asked = ("--model.metrics.f1=F1Score", "--model.metrics.auroc=AUROC", "--checkpoint.monitor=val/auroc")
    results, last = fit("Trainer", tmp_path, *SAME, "--data.batch_size=25", *asked)
    trained = TrainedNetwork(last.with_name("best.ckpt"))
    tested = predict_split(trained, trained.data(), "test")
    f1 = f1_score(tested.labels, tested.classes, average="macro")
    assert results["metrics"]["test/f1"] == pytest.approx(f1, abs=1e-6)
    auroc = roc_auc_score(tested.labels, tested.probabilities, multi_class="ovr")
    assert results["metrics"]["test/auroc"] == pytest.approx(auroc, abs=1e-6)


def test_evaluate_each_image_once_where_there_are_fewer_images_than_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data.val_size=1", "--data.test_size=3", "--data.batch_size=1", "--trainer.limit_train_batches=2")
    results, _ = fit("Trainer", tmp_path, *flags, "--trainer.max_epochs=1", "--model.metrics.f1=F1Score")
    assert results["metrics"]["val/accuracy"] in (0, 1)
    (best,) = tmp_path.glob("runs/*/*/checkpoints/best.ckpt")
    main(["test", "--ckpt_path", str(best), "--trainer.devices=1"])
    said = capsys.readouterr().out
    assert f"{results['metrics']['test/loss']:.4f}" in said
    assert f"{results['metrics']['test/f1']:.4f}" in said


def train_in_python(devices: int, batch_size: int, root: Path) -> dict[str, float]:
    """The digits, trained by a Trainer with none of our arguments; their last image has a step for itself."""
    torch.manual_seed(0)
    model = Classifier(MLP(64, 10, dropout=0), 10, lambda groups: torch.optim.SGD(groups, lr=0.1))
    data = Digits(root=root, batch_size=batch_size, val_size=145, split_rule="shuffle")  # leaves 38 * 34 + 1
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        max_epochs=1,
        default_root_dir=root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, data)
    weights = {name: float(value.double().norm()) for name, value in model.network.state_dict().items()}
    return weights | {name: float(value) for name, value in trainer.callback_metrics.items()}


IN_PYTHON = """
import json, sys
from pathlib import Path
from tests.test_two_processes import train_in_python
Path(sys.argv[1], "figures.json").write_text(json.dumps(train_in_python(2, 17, Path(sys.argv[1]))))
"""


def test_train_in_python_to_what_one_process_does_with_fewer_images_left_than_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(IN_PYTHON)
    started = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    done = subprocess.run(started, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures == pytest.approx(train_in_python(1, 34, tmp_path), rel=1e-4)


DIES = """
import os, signal, torch
from scripts.train import main
if os.environ.get("LOCAL_RANK", "0") == os.environ["DIES"]:
    torch.distributed.init_process_group = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
main()
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_end_when_one_of_them_is_killed_before_their_group_is_up(tmp_path: Path, rank: int) -> None:
    (tmp_path / "script.py").write_text(DIES)
    started = command("Trainer", tmp_path, script=str(tmp_path / "script.py"))
    environment = ENVIRONMENT | {"DIES": str(rank)}
    with subprocess.Popen(started, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said, _ = process.communicate(timeout=60)  # to the end of what either has to say
    assert process.returncode != 0
    assert f"error: {LOST}" in said.decode()
    assert "Traceback" not in said.decode()
    assert bool(list(tmp_path.glob("runs/*/*"))) == (rank == 0), "the first process leaves nothing, if it can"


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_end_when_one_of_them_is_killed(tmp_path: Path, rank: int) -> None:
    started = command("Trainer", tmp_path, "--trainer.max_epochs=100000", "--data.batch_size=8")
    with subprocess.Popen(started, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child) if rank else process.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)  # to the end of what either has to say
        assert process.returncode != 0
    assert LOST in said.decode()
    assert "Traceback" not in said.decode()
    (last,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert read_checkpoint(last)["epoch"] >= 0
