"""The run that `--resume` goes on with, or that `--like` repeats."""

from pathlib import Path

from callbacks.run.run_folder import CONFIG, check_is_run, newest_run
from core.user_error import UserError
from scripts.command.boundary import CommandParser
from scripts.command.expansion import to_path

NEWEST = Path("NEWEST")  # stands for the newest run of the experiment


class OtherRun:
    """Takes `--resume` and `--like` out of the flags of `fit`; without a folder, the newest run goes on."""

    def __init__(self, args: list[str]) -> None:
        parser = CommandParser(prog="scripts/train.py fit", add_help=False)
        parser.add_argument("--resume", nargs="?", type=to_path, const=NEWEST)
        parser.add_argument("--like", nargs="?", type=to_path, const=Path())
        given, self.flags = parser.parse_known_args(args)
        self.resumed: Path | None = given.resume
        self.original: Path | None = given.like
        names = [name for name, value in (("--resume", given.resume), ("--like", given.like)) if value]
        names += ["--ckpt_path"] if any(flag.partition("=")[0] == "--ckpt_path" for flag in self.flags) else []
        if len(names) > 1:
            raise UserError(
                f"{' and '.join(names)} are given: --resume goes on with a run, --like does it again from its "
                "beginning, --ckpt_path begins another from its checkpoint; give one of them."
            )
        if self.resumed and any(flag.partition("=")[0] in ("--data.folds", "--data.fold") for flag in self.flags):
            raise UserError(
                "A run that goes on keeps its fold, because it was trained on the others; leave --data.folds and "
                "--data.fold out, or begin a new run."
            )
        if self.original:
            from scripts.training.reproducibility import check_complete

            check_complete(self.original)
            self.flags = ["--config", str(self.original / CONFIG), *self.flags]
        elif self.resumed and not self.is_newest:
            check_is_run(self.resumed)
            self._find_original(self.resumed)

    @property
    def is_newest(self) -> bool:
        """True until `choose_newest`, if `--resume` names no folder."""
        return self.resumed == NEWEST

    def choose_newest(self, experiment: Path) -> None:
        """Go on with the newest run of an experiment."""
        self.resumed = newest_run(experiment)
        self._find_original(self.resumed)

    def _find_original(self, run: Path) -> None:
        from callbacks.run.restarts import repeated_run

        self.original = repeated_run(run)

    @property
    def config_file(self) -> Path | None:
        """The configuration of the run that goes on."""
        return self.resumed / CONFIG if self.resumed and not self.is_newest else None
