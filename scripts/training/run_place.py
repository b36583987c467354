"""Which run a command is about, and its folder before training begins."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

from lightning.fabric.utilities.rank_zero import rank_zero_only

from callbacks.checkpoint import check_checkpoint_fits
from callbacks.curves import cut_curves
from callbacks.run.run_folder import (
    CHECKPOINTS,
    CONFIG,
    agree_on_run_folder,
    check_is_run,
    check_links,
    hold,
    newest_run,
)
from core.durable_file import remove_leftovers, replace_file
from core.user_error import UserError
from models.serialization.checkpoint import newest_checkpoint, read_checkpoint
from scripts.command.boundary import CommandParser
from scripts.command.expansion import to_path

# What starting a run or going on with it writes into its folder, besides checkpoints.
RECORDS = "*.yaml", "*.json", "*.csv", "*.txt", "*.patch", "events.out.tfevents.*"

# Flags that say where a run reads and writes, not what it does.
PLACES = {"config", "experiment", "runs", "ckpt_path", "root", "packs", "download", "repack", "trust"}

NEWEST = Path("NEWEST")  # stands for the newest run of the experiment


class OtherRun(NamedTuple):
    """The run that `--resume` or `--like` names."""

    flags: list[str]  # of `fit`, without these two
    resumed: Path | None = None  # the run that goes on
    original: Path | None = None  # the run that is repeated


def find_other_run(args: list[str], experiment_of: Callable[[list[str]], Path]) -> OtherRun:
    """Take `--resume` and `--like` out of the flags of `fit`; without a folder, the experiment's newest run goes on."""
    parser = CommandParser(prog="scripts/train.py fit", add_help=False)
    parser.add_argument("--resume", nargs="?", type=to_path, const=NEWEST)
    parser.add_argument("--like", type=to_path)
    given, flags = parser.parse_known_args(args)
    resumed, original = given.resume, given.like
    names = {flag.partition("=")[0] for flag in flags}
    if bool(resumed) + bool(original) + ("--ckpt_path" in names) > 1:
        raise UserError("Of --resume, --like and --ckpt_path several are given; give one of them.")
    if original:
        from scripts.training.reproducibility import check_complete

        check_complete(original)
        return OtherRun(["--config", str(original / CONFIG), *flags], None, original)
    if not resumed:
        return OtherRun(flags)
    if names & {"--data.folds", "--data.fold"}:
        raise UserError("A run that goes on keeps its fold, because it was trained on the others; give none.")
    from callbacks.run.restarts import repeated_run

    resumed = newest_run(experiment_of(flags)) if resumed == NEWEST else resumed
    check_is_run(resumed)
    return OtherRun(flags, resumed, repeated_run(resumed))


class RunPlace:
    """Holds the folder of a new run, or of one that goes on, and puts it back as it was if the run is refused.

    A new folder lies in that of the experiment, and is named after its time and the flags.
    """

    def __init__(self, experiment: Path, resumed: Path | None, flags: Sequence[str] = ()) -> None:
        self.folder = agree_on_run_folder(experiment, resumed, label(flags))
        self.is_new = not (self.folder / CONFIG).is_file()
        self.step = 0  # of the checkpoint that the run goes on from
        self.cut: set[tuple[str, str]] = set()  # figure and step of the points that were logged after it
        self._is_first: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # which Lightning sets
        if self._is_first:
            check_links(self.folder)
            hold(self.folder)
            self._records = self._read_records()

    def _read_records(self) -> dict[Path, bytes]:
        return {file: file.read_bytes() for pattern in RECORDS for file in self.folder.glob(pattern)}

    def go_on(self) -> Path | None:
        """Cut the curves to the newest checkpoint in the folder, and return it; None if there is none."""
        checkpoints = self.folder / CHECKPOINTS
        if self._is_first:
            for place in (self.folder, checkpoints):
                remove_leftovers(place)
        checkpoint = newest_checkpoint(checkpoints)
        if self._is_first and not self.is_new:
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
        if self._is_first and self.is_new:
            rmtree(self.folder, ignore_errors=True)
        elif self._is_first:
            now = self._read_records()
            for file in now.keys() - self._records.keys():
                file.unlink()
            for file, content in self._records.items():
                if now.get(file) != content:
                    replace_file(file, content)
        return self._is_first


def label(flags: Sequence[str]) -> str:
    """The settings that flags with values of one word give, as in `_lr=0.01_network=MLP`; a fold comes first."""
    given = re.findall(r"--(?:\w+\.)*(\w+)[= ](\S+)(?= --|$)", " ".join(flags))
    given.sort(key=lambda setting: setting[0] not in ("folds", "fold"))
    settings = [(name, re.sub(r".*/(?=\w)|.*\.(?=[A-Z])|[^\w.,=+-]", "", value)) for name, value in given]
    text = "".join(f"_{name}={value}" for name, value in settings if name not in PLACES)
    return text.encode()[:200].decode(errors="ignore")  # a file's name has at most 255 bytes, and the time comes first
