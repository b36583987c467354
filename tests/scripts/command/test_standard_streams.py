import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.discovery import ROOT

COMMAND = "from scripts.command.boundary import report_errors\nwith report_errors():\n    "


@pytest.mark.slow
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_costs_nothing(monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    code = "import sys\n    for number in range(50_000): print(number)\n    sys.stderr.write('at the end')"
    command = [sys.executable, "-c", COMMAND + code]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == "at the end"
    assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a closed terminal fails otherwise")
def test_a_terminal_that_is_closed_costs_nothing(tmp_path: Path) -> None:
    outside, inside = os.openpty()
    code = f"input()\n    print('lost')\n    open({str(tmp_path / 'done')!r}, 'w').close()"
    command = [sys.executable, "-c", COMMAND + code]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=inside) as process:
        os.close(inside)
        os.close(outside)
        process.communicate(b"\n")
    assert process.returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="has no /dev/full")
def test_output_that_is_lost_is_told_when_all_is_done(tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{COMMAND}print('lost')\n    open({str(tmp_path / 'done')!r}, 'w').close()"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.stderr == "error: Standard output could not be written (No space left on device) and is incomplete.\n"
    assert done.returncode == 1
    assert (tmp_path / "done").exists()
