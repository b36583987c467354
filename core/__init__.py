"""What every other folder uses: user errors, text for display, plain data, atomic writes and signals."""

import os
import signal
import sys
from pathlib import Path


def leave_at_once(*_: object) -> None:
    """Exit on Ctrl-C without a traceback, while a command imports its libraries for some seconds."""
    os._exit(130)


if (
    Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve().parent
    == Path(__file__).parents[1] / "scripts"
):
    signal.signal(signal.SIGINT, leave_at_once)
