import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_two_processes import ENVIRONMENT, SCRIPT, command


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
@pytest.mark.parametrize("variable", [{}, {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}], ids=["shared store", "own"])
def test_torchrun_starts_them_again_in_the_same_run(tmp_path: Path, variable: dict[str, str]) -> None:
    torchrun = command("torchrun", tmp_path, "--trainer.max_epochs=15")
    torchrun.insert(torchrun.index(SCRIPT), "--max_restarts=1")
    environment = ENVIRONMENT | variable
    with subprocess.Popen(torchrun, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[1]), signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said.decode()
    (run,) = tmp_path.glob("runs/*/*")
    assert f"going on in {run} after step" in said.decode()
    assert json.loads((run / "results.json").read_text())["epochs"] == 15
