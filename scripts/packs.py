"""List packs and feature caches with size and last use, and remove those that are named or that no run needs.

    python scripts/packs.py [FOLDER] [--runs FOLDER] [--remove NAME ... | --remove-unneeded]

FOLDER holds the packs: data/packs, or the folder of --data.packs or --feature_cache.folder. A run needs the newest pack
of the images that it was trained on, and the features of these images. What is removed is made again when it is wanted.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from callbacks.run.restarts import read_origin, read_restarts
from callbacks.run.run_folder import CONFIG
from core.names import escape_name, some_of
from core.plain_data import read_json
from datamodules.packing import features, pack
from datamodules.packing.checked_arrays import FACTS
from scripts.command.boundary import CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.report.table import Table, show

NAME = re.compile(r"(\.?)\w+-[0-9a-f]{12}(\.part)?")  # of packs and feature caches, also of unfinished ones


class Stored(NamedTuple):
    """A pack, a feature cache, or the rest of one."""

    folder: Path
    size: int  # in bytes
    used: float  # the time of its last use, in seconds
    what: str  # what it holds
    images: str  # their fingerprint; empty if it is damaged, unfinished or of another version
    is_pack: bool


def find_stored(folder: Path) -> list[Stored]:
    """The packs and feature caches in a folder, the last used first."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give the one that packs lie in, such as data/packs.")
    stored = []
    for path in folder.iterdir():
        if not NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        files = list(path.iterdir())
        if any(file.suffix not in (".npy", ".parquet") and file.name != FACTS for file in files):  # somebody's own
            continue
        is_pack = not path.name.startswith(features.PREFIX)
        what, images = "nothing whole", ""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            facts = read_json(path / FACTS)
            if path.suffix != ".part" and facts["version"] == (pack if is_pack else features).FORMAT_VERSION:
                what, images = escape_name(_description(facts)) if is_pack else "features", str(facts["fingerprint"])
        size = sum(file.stat().st_size for file in files)
        stored.append(Stored(path, size, path.stat().st_mtime, what, images, is_pack))
    return sorted(stored, key=lambda each: -each.used)


def _description(facts: Mapping[str, Any]) -> str:
    images, shape = max(stop for _, stop in facts["splits"].values()), "x".join(map(str, facts["shape"]))
    return f"{images:,} images of {shape}" + (f" from {facts['source']}" if facts.get("source") else "")


def runs_in_need(stored: Sequence[Stored], runs: Path) -> dict[Path, int]:
    """How many runs were trained on the images of each pack and feature cache; of several packs, of the newest."""
    trained_on: Counter[str] = Counter()
    for config in runs.rglob(CONFIG):
        later = [restart["differs"].get("data_fingerprint", {}).get("is") for restart in read_restarts(config.parent)]
        trained_on.update({str(each) for each in [(read_origin(config.parent) or {}).get("data_fingerprint"), *later]})
    newest = {each.images: each for each in reversed(stored) if each.is_pack}.values()
    needed = {each.folder: trained_on[each.images] for each in stored if not each.is_pack or each in newest}
    return {folder: count for folder, count in needed.items() if count}


def remove(stored: Stored) -> None:
    """Remove a pack or a feature cache, whole or not at all."""
    name = stored.folder.name.removeprefix(".").removesuffix(".part")
    try:
        with FileLock(stored.folder.with_name(f"{name}.lock"), blocking=False):
            part = stored.folder.with_name(f".{name}.part")
            if part != stored.folder:
                shutil.rmtree(part, ignore_errors=True)
                stored.folder.rename(part)  # so that half of it never counts as a whole
            shutil.rmtree(part)
    except Timeout:
        raise UserError(f"{stored.folder} is being written by a process; wait for its end, or stop it.") from None
    except OSError as error:
        raise UserError(
            f"{stored.folder} cannot be removed: {error.strerror}; make {stored.folder.parent} writable."
        ) from error
    print(f"removed {stored.folder} ({megabytes([stored])})")


def megabytes(stored: Sequence[Stored]) -> str:
    """Their size."""
    return f"{sum(each.size for each in stored) / 1e6:,.1f} MB"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/packs.py", description=__doc__)
    parser.add_argument("folder", nargs="?", type=to_path, default=Path("data/packs"), metavar="FOLDER")
    parser.add_argument("--runs", type=to_path, default=Path("runs"), metavar="FOLDER", help="all experiments")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--remove", nargs="+", metavar="NAME", default=[], help="names as they are listed")
    which.add_argument("--remove-unneeded", action="store_true", help="those that no run needs")
    with mistakes_in_one_sentence():
        options = parser.parse_args(args)
        by_name = {each.folder.name: each for each in find_stored(options.folder)}
        if unknown := sorted({*options.remove} - by_name.keys()):
            raise UserError(
                f"There is no pack or feature cache {unknown[0]}; give one of {some_of(sorted(by_name)) or 'none'}."
            )
        if options.remove_unneeded and not options.runs.is_dir():
            raise UserError(
                f"There is no folder {options.runs}, so that nothing says what runs need; give it with --runs."
            )
        stored = [*by_name.values()]
        needed = runs_in_need(stored, options.runs)
        unneeded = [each for each in stored if each.folder not in needed]
        for each in unneeded if options.remove_unneeded else [by_name[name] for name in dict.fromkeys(options.remove)]:
            remove(each)
        if not (options.remove or options.remove_unneeded):
            rows = []
            for each in stored:
                used, count = f"{datetime.fromtimestamp(each.used):%Y-%m-%d %H:%M}", needed.get(each.folder, 0)
                rows.append([each.folder.name, each.what, megabytes([each]), used, str(count)])
            show(Table(["name", "holds", "size", "last used", "runs that\nneed it"], rows))
            print(f"{megabytes(stored)} in all, {megabytes(unneeded)} of it needed by no run in {options.runs}")


if __name__ == "__main__":
    main()
