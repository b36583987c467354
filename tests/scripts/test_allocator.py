import subprocess
import sys

import pytest

from tests.discovery import ROOT

CODE = """
import resource, sys
import numpy as np
from scripts.allocator import keep_freed_memory
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
