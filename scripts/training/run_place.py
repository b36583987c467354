"""The folder of a run: its name, and its state before training begins."""

import re
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from lightning.fabric.utilities.rank_zero import rank_zero_only

from callbacks.run.run_folder import CONFIG, agree_on_run_folder, check_links, hold

# Flags that say where a run reads and writes, not what it does; they are not part of the folder's name.
PLACES = {"config", "experiment", "runs", "ckpt_path", "root", "packs", "download", "repack", "trust"}


class RunPlace:
    """Creates the folder of a new run, or takes that of a resumed one, and locks it for this process.

    A new folder lies in the experiment's folder, and is named after the time and the flags.
    """

    def __init__(self, experiment: Path, resumed: Path | None, flags: Sequence[str] = ()) -> None:
        self.folder = agree_on_run_folder(experiment, resumed, label(flags))
        self.is_new = not (self.folder / CONFIG).is_file()
        self.is_rank_zero: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # which Lightning sets
        self.step = 0  # the global step of the checkpoint that the run resumes from
        self.cut: set[tuple[str, str]] = set()  # metric and step of the logged points that were removed after it
        self.records: dict[Path, bytes] = {}  # files of a resumed run, to restore after a user error
        if self.is_rank_zero:
            check_links(self.folder)
            hold(self.folder)
            if not self.is_new:
                from scripts.training.resume import read_records

                self.records = read_records(self.folder)

    def undo(self) -> bool:
        """Remove a new folder, or restore the files of a resumed run; return True if this process is rank 0."""
        if self.is_rank_zero and self.is_new:
            rmtree(self.folder, ignore_errors=True)
        elif self.is_rank_zero:
            from scripts.training.resume import restore_records

            restore_records(self.folder, self.records)
        return self.is_rank_zero


def label(flags: Sequence[str]) -> str:
    """Return the settings with one-word values, such as `_lr=0.01_network=MLP`, the fold first."""
    settings = re.findall(r"--(?:\w+\.)*(\w+)[= ](\S+)(?= --|$)", " ".join(flags))
    settings.sort(key=lambda setting: setting[0] not in ("folds", "fold"))
    # Of a path keep the last part, of a class path the class name.
    short = [(name, re.sub(r".*/(?=\w)|.*\.(?=[A-Z])|[^\w.,=+-]", "", value)) for name, value in settings]
    text = "".join(f"_{name}={value}" for name, value in short if name not in PLACES)
    return text.encode()[:200].decode(errors="ignore")  # a file name has at most 255 bytes, and the time comes first
