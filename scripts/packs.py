"""List packs and feature caches with their size and last use, and remove some of them.

    python scripts/packs.py [FOLDER] [--runs FOLDER] [--remove NAME ... | --remove-unneeded]

FOLDER holds the packs: data/packs, or the folder of --data.packs or --feature_cache.folder. A run needs the newest pack
of the images that it was trained on, and their cached features. A later run makes a removed pack again if it needs it.
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
from scripts.command.boundary import CommandParser, report_errors
from scripts.command.expansion import to_path
from scripts.report.table import Table, show

NAME = re.compile(r"(\.?)\w+-[0-9a-f]{12}(\.part)?")  # the folder of a pack or feature cache, finished or unfinished


class Stored(NamedTuple):
    """A folder with a pack or a feature cache, possibly unfinished or damaged."""

    folder: Path
    size: int  # in bytes
    last_use: float  # in seconds since 1970
    content: str  # for display
    fingerprint: str  # of the images; empty if the folder is unfinished, damaged or of another version
    is_pack: bool


def find_stored(folder: Path) -> list[Stored]:
    """Return the packs and feature caches in a folder, the last used first; skip folders with files of other kinds."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give the one that packs lie in, such as data/packs.")
    stored = []
    for path in folder.iterdir():
        if not NAME.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
            continue
        files = list(path.iterdir())
        if any(file.suffix not in (".npy", ".parquet") and file.name != FACTS for file in files):
            continue
        is_pack = not path.name.startswith(features.PREFIX)
        content, fingerprint = "unusable", ""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            facts = read_json(path / FACTS)
            if path.suffix != ".part" and facts["version"] == (pack if is_pack else features).FORMAT_VERSION:
                content = escape_name(_description(facts)) if is_pack else "features"
                fingerprint = str(facts["fingerprint"])
        size = sum(file.stat().st_size for file in files)
        stored.append(Stored(path, size, path.stat().st_mtime, content, fingerprint, is_pack))
    return sorted(stored, key=lambda item: -item.last_use)


def _description(facts: Mapping[str, Any]) -> str:
    """Return, for example, `1,797 images of 1x8x8`."""
    images, shape = max(stop for _, stop in facts["splits"].values()), "x".join(map(str, facts["shape"]))
    return f"{images:,} images of {shape}" + (f" from {facts['source']}" if facts.get("source") else "")


def count_runs(stored: Sequence[Stored], runs: Path) -> dict[Path, int]:
    """Return how many runs need each folder, without folders that no run needs."""
    trained_on: Counter[str] = Counter()  # number of runs by fingerprint
    for config in runs.rglob(CONFIG):
        changes = [restart["differs"].get("data_fingerprint", {}) for restart in read_restarts(config.parent)]
        first = (read_origin(config.parent) or {}).get("data_fingerprint")
        trained_on.update({str(first), *(str(change.get("is")) for change in changes)})
    newest = {item.fingerprint: item.folder for item in reversed(stored) if item.is_pack}
    return {
        item.folder: trained_on[item.fingerprint]
        for item in stored
        if trained_on[item.fingerprint] and (not item.is_pack or newest[item.fingerprint] == item.folder)
    }


def remove(stored: Stored) -> None:
    """Remove a pack or a feature cache; rename it first, so that nobody uses a half removed folder."""
    name = stored.folder.name.removeprefix(".").removesuffix(".part")
    try:
        with FileLock(stored.folder.with_name(f"{name}.lock"), blocking=False):
            part = stored.folder.with_name(f".{name}.part")
            if part != stored.folder:
                shutil.rmtree(part, ignore_errors=True)
                stored.folder.rename(part)
            shutil.rmtree(part)
    except Timeout:
        raise UserError(f"{stored.folder} is being written by a process; wait for its end, or stop it.") from None
    except OSError as error:
        raise UserError(
            f"{stored.folder} cannot be removed: {error.strerror}; make {stored.folder.parent} writable."
        ) from error
    print(f"removed {stored.folder} ({megabytes([stored])})")


def megabytes(stored: Sequence[Stored]) -> str:
    """Return the total size for display."""
    return f"{sum(item.size for item in stored) / 1e6:,.1f} MB"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error prints one message and exits with status 2."""
    parser = CommandParser(prog="scripts/packs.py", description=__doc__)
    parser.add_argument("folder", nargs="?", type=to_path, default=Path("data/packs"), metavar="FOLDER")
    parser.add_argument("--runs", type=to_path, default=Path("runs"), metavar="FOLDER", help="all experiments")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--remove", nargs="+", metavar="NAME", default=[], help="names from the list")
    choice.add_argument("--remove-unneeded", action="store_true", help="remove all that no run needs")
    with report_errors():
        options = parser.parse_args(args)
        stored = find_stored(options.folder)
        by_name = {item.folder.name: item for item in stored}
        if unknown := sorted({*options.remove} - by_name.keys()):
            raise UserError(
                f"There is no pack or feature cache {unknown[0]}; give one of {some_of(sorted(by_name)) or 'none'}."
            )
        if options.remove_unneeded and not options.runs.is_dir():
            raise UserError(
                f"There is no folder {options.runs}, so that nothing says what runs need; give it with --runs."
            )
        needed = count_runs(stored, options.runs)
        unneeded = [item for item in stored if item.folder not in needed]
        named = [by_name[name] for name in dict.fromkeys(options.remove)]
        for item in unneeded if options.remove_unneeded else named:
            remove(item)
        if options.remove or options.remove_unneeded:
            return
        rows = []
        for item in stored:
            last_use = f"{datetime.fromtimestamp(item.last_use):%Y-%m-%d %H:%M}"
            runs = str(needed.get(item.folder, 0))
            rows.append([item.folder.name, item.content, megabytes([item]), last_use, runs])
        show(Table(["name", "holds", "size", "last used", "runs that\nneed it"], rows))
        print(f"{megabytes(stored)} in all, {megabytes(unneeded)} of it needed by no run in {options.runs}")


if __name__ == "__main__":
    main()
