import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core import leave_at_once
from core.stopping import EXIT_STATUS, Stopped, exit_on_signals, exit_signals
from tests.discovery import ROOT


@pytest.mark.parametrize("number", EXIT_STATUS)
def test_a_signal_ends_the_process_with_its_status_and_handlers_are_put_back(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in EXIT_STATUS}
    with pytest.raises(Stopped) as stopped, exit_on_signals():
        os.kill(os.getpid(), number)
    assert stopped.value.code == EXIT_STATUS[number]
    assert not stopped.value.in_order
    assert {each: signal.getsignal(each) for each in EXIT_STATUS} == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in exit_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.SIGTERM in exit_signals()


@pytest.mark.parametrize("command", sorted(file.name for file in (ROOT / "scripts").glob("[!_]*.py")))
def test_ctrl_c_while_a_command_imports_its_libraries_leaves_without_a_traceback(command: str, tmp_path: Path) -> None:
    for library in ("torch", "numpy"):
        (tmp_path / f"{library}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    arguments = [sys.executable, str(ROOT / "scripts" / command), "fit"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_importing_this_project_leaves_signals_alone() -> None:
    assert signal.getsignal(signal.SIGINT) is not leave_at_once
