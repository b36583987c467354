"""Runs of the command line as real processes, each a fork of one that has imported everything already.

Reads one request per line on standard input, JSON with `args`, `env`, `log` (a file), and optionally `fault` (see
`tests.faults.fault`), `kill` ([seconds, signal]) and `images` (a file for the images of each training batch); answers
each with the exit status, as `subprocess` gives it.
"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import scripts.train
from tests.discovery import ROOT
from tests.faults.fault import Fault, inject, note_images


def run(request: dict[str, Any]) -> int:
    child = os.fork()
    if not child:
        _become(request)
    if kill := request.get("kill"):
        seconds, number = kill
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.005)
        else:
            os.kill(child, number)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _become(request: dict[str, Any]) -> None:
    """Be a process that was started with these arguments, and nothing else, to the end."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ |= request["env"]
    sys.argv = [str(ROOT / "scripts" / "train.py"), *request["args"]]
    sys.modules["__main__"].__spec__ = None
    status = 0
    try:
        if fault := request.get("fault"):
            inject(Fault(**fault))
        if images := request.get("images"):
            note_images(Path(images))
        scripts.train.main(request["args"])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)
