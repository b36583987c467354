import subprocess
import sys

import pytest
import torch

from tests.discovery import ROOT

CODE = """
import resource, sys
import numpy as np
from scripts.process import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    for block in [np.empty(2**22, np.uint8) for _ in range(4)]:
        block.fill(1)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


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


@pytest.mark.skipif(torch.accelerator.is_available(), reason="GPUs are there to be found")
def test_without_a_gpu_none_is_looked_for_at_every_step() -> None:
    code = (
        "import ctypes, torch; from scripts.process import prepare_process; prepare_process()\n"
        "ctypes.CDLL = None  # what is looked for is looked for with it\n"
        "weight = torch.nn.Parameter(torch.ones(1)); optimizer = torch.optim.Adam([weight])\n"
        "weight.sum().backward(); optimizer.step(); assert not torch.cuda.is_available()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
