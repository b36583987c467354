"""What every other folder uses: the error for users, names, plain data and atomic writes."""

import os
import signal
import sys
from pathlib import Path


def leave_at_once(*_: object) -> None:
    """Leave on Ctrl-C, while a command imports its libraries, which takes seconds, without a traceback."""
    os._exit(130)


if (
    Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve().parent
    == Path(__file__).parents[1] / "scripts"
):
    signal.signal(signal.SIGINT, leave_at_once)
