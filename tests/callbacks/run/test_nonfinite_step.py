import subprocess
import sys

import pytest
import torch

from callbacks.run.nonfinite_step import TensorCopies


@pytest.mark.parametrize("on_device", [False, True])
def test_copies_restore_a_bad_step_and_follow_a_good_one(on_device: bool) -> None:
    mean, count = torch.tensor([1.0, 2.0]), torch.tensor(3)
    copies = TensorCopies([mean, count])
    for bad, kept in ((False, 2.0), (True, 2.0), (False, 3.0)):
        mean += 1
        count += 1
        copies.restore_if(torch.tensor(float(bad)) if on_device else bad)
        assert mean.tolist() == [kept, kept + 1]
        assert count == kept + 2


def test_the_guard_alone_does_not_load_it() -> None:
    code = "import sys, callbacks.finite_guard; assert 'callbacks.run.nonfinite_step' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
