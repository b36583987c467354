"""How much there is to read: lines of each room, and of what a plain fit loads.

python -m tests.size
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tests.discovery import ROOT
from tests.test_structure import SOURCES, room_of

CORE = {
    "scripts/train.py",
    "scripts/training/train_cli.py",
    "scripts/training/run_place.py",
    "scripts/training/summary.py",
    "datamodules/base.py",
    "models/classifier.py",
    "models/serialization/checkpoint.py",
    "callbacks/checkpoint.py",
}
CORE_ROOMS = {"datamodules.batching", "datamodules.packing", "models.training"}
"""What a newcomer reads, as files and as rooms."""

LOADED = """
import runpy, sys
sys.argv = ["scripts/train.py", "fit", "--trainer.max_epochs=1"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*{str(getattr(module, "__file__", "")) for module in list(sys.modules.values())}, sep="\\n", file=sys.stderr)
"""


def lines(files: Iterable[Path]) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


def main() -> None:
    rooms = Counter(
        {room: lines([file for file in SOURCES if room_of(file) == room]) for room in map(room_of, SOURCES)}
    )
    for room, count in rooms.most_common():
        print(f"{count:7,}  {room}")
    print(f"{rooms.total():7,}  all rooms")
    command = [sys.executable, "-c", LOADED.replace("scripts/train.py", str(ROOT / "scripts/train.py"))]
    with tempfile.TemporaryDirectory() as folder:
        for fit in ("a first fit, which packs the data", "each later fit"):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
            loaded = {file for file in SOURCES if str(file) in done.stderr.splitlines()} | {ROOT / "scripts/train.py"}
            core = {file for file in loaded if str(file.relative_to(ROOT)) in CORE or room_of(file) in CORE_ROOMS}
            print(f"{lines(loaded):7,}  loaded by {fit} ({len(loaded)} files)")
            print(f"{lines(core):7,}  of these the core ({len(core)} files)")


if __name__ == "__main__":
    main()
