import subprocess
import sys
from pathlib import Path

from tests.discovery import ROOT


def test_prints_the_ratio_of_program_and_limit(data_root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--seconds", "0", "--config"]
    command += [str(ROOT / "configs" / "digits" / "mlp.yaml"), "--data.root", str(data_root)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for heading in ("bare", "program", "ratio", "added", "standard", "packing", "Pillow"):
        assert heading in done.stdout
    assert not list(tmp_path.iterdir()), "the benchmark leaves nothing behind"


def test_fails_with_what_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--config", "none.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.yaml cannot be read" in done.stderr
