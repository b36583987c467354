"""The folder of a run before training begins."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from callbacks.checkpoint import check_checkpoint_fits
from callbacks.curves import cut_curves
from callbacks.run.run_folder import (
    CHECKPOINTS,
    CONFIG,
    agree_on_run_folder,
    check_links,
    hold,
    put_back,
    read_records,
)
from core.durable_file import remove_leftovers
from models.serialization.checkpoint import newest_checkpoint, read_checkpoint

# Flags that say where a run reads and writes, not what it does.
PLACES = {"config", "experiment", "runs", "ckpt_path", "root", "packs", "download", "repack", "trust"}
FOLD = ("folds", "fold")  # flags by which the runs of a cross-validation are told apart
LONGEST_LABEL = 60  # letters; if settings take more, each is shortened


class RunPlace:
    """Holds the folder of a new run, or of one that goes on, and puts it back as it was if the run is refused.

    A new folder lies in that of the experiment, and is named after its time and the flags.
    """

    def __init__(self, experiment: Path, resumed: Path | None, flags: Sequence[str] = ()) -> None:
        self.folder = agree_on_run_folder(experiment, resumed, label(flags))
        self.is_new = not (self.folder / CONFIG).is_file()
        self.step = 0  # of the checkpoint that the run goes on from
        self.cut: set[tuple[str, str]] = set()  # figure and step of the points that were logged after it
        self._records: dict[Path, bytes] | None = None
        self._is_first: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # which Lightning sets
        if self._is_first:
            check_links(self.folder)
            hold(self.folder)
            self._records = read_records(self.folder)

    def go_on(self) -> Path | None:
        """Cut the curves to the newest checkpoint in the folder, and return it; None if there is none."""
        checkpoints = self.folder / CHECKPOINTS
        if self._is_first:
            for place in (self.folder, checkpoints):
                remove_leftovers(place)
        checkpoint = newest_checkpoint(checkpoints)
        if self._records is not None and not self.is_new:
            size = checkpoint.stat().st_size if checkpoint else 0
            # Before anything is changed, and with room to put the records back.
            check_checkpoint_fits(checkpoints, size + sum(map(len, self._records.values())))
            reached: Mapping[str, Any] = read_checkpoint(checkpoint) if checkpoint else {}
            self.step = reached.get("global_step", 0)
            self.cut = cut_curves(self.folder, reached.get("curves", {}))
            print(f"going on in {self.folder} after step {self.step:,}")
        return checkpoint

    def put_back(self) -> bool:
        """Remove the folder if it is new, else restore its records; True if this process holds it."""
        if self._records is None:
            return False
        if self.is_new:
            rmtree(self.folder, ignore_errors=True)
        else:
            put_back(self.folder, self._records)
        return True


def label(flags: Sequence[str]) -> str:
    """The settings that flags with values of one word give, as in `_lr=0.01_network=MLP`; a fold comes first.

    If they are many, names shrink to the first letters of their words: `_bs=64` for batch_size.
    """
    given = re.findall(r"--(?:\w+\.)*(\w+)[= ](\S+)(?= --|$)", " ".join(flags))
    given.sort(key=lambda setting: setting[0] not in FOLD)
    settings = [(n, re.sub(r".*/(?=\w)|.*\.(?=[A-Z])|[^\w.,=+-]", "", value)) for n, value in given if n not in PLACES]
    if len("".join(map("_{0[0]}={0[1]}".format, settings))) > LONGEST_LABEL:
        settings = [
            (name if name in FOLD else "".join(n[:1] for n in name.split("_")) if "_" in name else name[:3], value[:20])
            for name, value in settings
        ]
    # A file's name has at most 255 bytes, and the time stands before this.
    return "".join(map("_{0[0]}={0[1]}".format, settings)).encode()[:200].decode(errors="ignore")
