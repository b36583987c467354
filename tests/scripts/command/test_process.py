import os
import subprocess
import sys

import pytest
import torch

from scripts.command.process import end_with_parent
from tests.discovery import ROOT

CODE = """
import resource, sys
import numpy as np
from scripts.command.process import prepare_process
if sys.argv[1] == "keep":
    prepare_process()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    for block in [np.empty(2**22, np.uint8) for _ in range(4)]:
        block.fill(1)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other allocators")
def test_the_same_memory_is_used_again() -> None:
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", CODE, way], cwd=ROOT, capture_output=True, check=True, text=True
            ).stdout
        )
        for way in ("keep", "leave")
    ]
    assert faults[0] < faults[1] / 3


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="GPUs are there to be found")
def test_without_a_gpu_none_is_looked_for_at_every_step() -> None:
    code = (
        "import ctypes, torch; from scripts.command.process import prepare_process; prepare_process()\n"
        "ctypes.CDLL = None  # what is looked for is looked for with it\n"
        "weight = torch.nn.Parameter(torch.ones(1)); optimizer = torch.optim.Adam([weight])\n"
        "weight.sum().backward(); optimizer.step(); assert not torch.cuda.is_available()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process")
def test_ends_when_the_process_that_has_started_it_is_killed() -> None:
    child = (
        "import time; from scripts.command.process import end_with_parent; end_with_parent()\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], env=os.environ | {{'KINDLING_PARENT': str(os.getpid())}})"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == ""  # which ends with the last process that could write


@pytest.mark.slow
def test_a_process_without_such_a_parent_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KINDLING_PARENT", raising=False)
    end_with_parent()
    monkeypatch.setenv("KINDLING_PARENT", str(os.getpid()))  # which is nobody's parent here
    if sys.platform == "linux":
        code = "from scripts.command.process import end_with_parent; end_with_parent()"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"KINDLING_PARENT": "1"}, check=False
        )
        assert done.returncode == 143
