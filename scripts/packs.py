"""List packs and feature caches with size and last use, and remove those that are named or that no run needs.

    python scripts/packs.py [FOLDER] [--runs FOLDER] [--remove NAME ... | --remove-unneeded]

FOLDER holds the packs: data/packs, or the folder of --data.packs or --feature_cache.folder. A run needs the newest pack
of the images that it was trained on, and their feature cache if it was trained with --feature_cache. What is removed is
made again when it is wanted. Exit status 2 if something cannot be done.
"""

import re
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.names import escape_name, some_of
from core.plain_data import read_yaml
from core.user_error import UserError
from scripts.command.boundary import CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.report.table import Table, show

NAME = re.compile(r"(\.?)\w+-[0-9a-f]{12}(\.part)?")  # of packs and feature caches, also of unfinished ones
FEATURES = "features"  # what a feature cache holds


@dataclass(frozen=True)
class Stored:
    """A pack, a feature cache, or the rest of one."""

    folder: Path
    size: int  # in bytes
    used: float  # the time of its last use, in seconds
    what: str  # what it holds, or why it cannot be used
    data: str = ""  # the fingerprint of its images; empty if it cannot be used


def find_stored(folder: Path) -> list[Stored]:
    """The packs and feature caches in a folder, the last used first."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give the one that packs lie in, such as data/packs.")
    stored = []
    for path in folder.iterdir():
        if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            files = list(path.iterdir())
            if all(file.suffix == ".npy" or file.name == "facts.json" for file in files):  # else it is somebody's own
                size = sum(file.stat().st_size for file in files)
                stored.append(Stored(path, size, path.stat().st_mtime, *_described(path)))
    return sorted(stored, key=lambda each: -each.used)


def _described(path: Path) -> tuple[str, str]:
    from datamodules.packing import features, pack
    from datamodules.packing.facts import read_facts

    if path.suffix == ".part":
        return "unfinished", ""
    try:
        facts = read_facts(path)
        is_pack = not path.name.startswith(features.PREFIX)
        if facts["version"] != (pack if is_pack else features).FORMAT_VERSION:
            return "of another version", ""
        return escape_name(pack.content(facts)) if is_pack else FEATURES, str(facts["fingerprint"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "damaged", ""


def trained_on(runs: Path) -> tuple[Counter[str], set[str]]:
    """How many runs were trained on images of a fingerprint, and the fingerprints that feature caches are needed of."""
    from callbacks.run.restarts import read_origin, read_restarts
    from callbacks.run.run_folder import CONFIG

    counts: Counter[str] = Counter()
    cached: set[str] = set()
    for config in runs.rglob(CONFIG):
        changes = [restart["differs"].get("data_fingerprint", {}) for restart in read_restarts(config.parent)]
        known = {(read_origin(config.parent) or {}).get("data_fingerprint"), *(change.get("is") for change in changes)}
        fingerprints = set(map(str, known - {None}))
        counts.update(fingerprints)
        try:
            has_features = bool(read_yaml(config).get("feature_cache"))
        except (OSError, ValueError, AttributeError):
            has_features = True  # nothing says that it has none
        cached |= fingerprints if has_features else set()
    return counts, cached


def needs(stored: Sequence[Stored], runs: Path) -> dict[Path, str]:
    """Who needs each pack and feature cache; one that nobody needs is left out."""
    counts, cached = trained_on(runs)
    needed: dict[Path, str] = {}
    latest: set[tuple[str, str]] = set()
    for each in stored:
        images = (each.data, each.what.partition(" from ")[0])
        is_newest = each.data in counts and images not in latest
        if each.data in cached if each.what == FEATURES else is_newest:
            needed[each.folder] = f"{counts[each.data]} run{'s' if counts[each.data] > 1 else ''}"
        latest.add(images)
    return needed


def remove(stored: Stored) -> None:
    """Remove a pack or a feature cache, whole or not at all."""
    from filelock import FileLock, Timeout

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


def named(stored: Sequence[Stored], names: Collection[str]) -> list[Stored]:
    """The packs and feature caches of some names."""
    there = {each.folder.name: each for each in stored}
    if unknown := sorted(set(names) - there.keys()):
        raise UserError(
            f"There is no pack or feature cache {unknown[0]}; choose from {some_of(sorted(there))}."
            if there
            else f"There is no pack or feature cache {unknown[0]}, nor any other; leave it out."
        )
    return [there[name] for name in dict.fromkeys(names)]


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
        stored = find_stored(options.folder)
        if options.remove_unneeded and not options.runs.is_dir():
            raise UserError(
                f"There is no folder {options.runs}, so that nothing says what runs need; give it with --runs."
            )
        needed = needs(stored, options.runs)
        unneeded = [each for each in stored if each.folder not in needed]
        for each in (gone := unneeded if options.remove_unneeded else named(stored, options.remove)):
            remove(each)
            print(f"removed {each.folder} ({megabytes([each])})")
        if not (gone or options.remove_unneeded):
            rows = []
            for each in stored:
                used = f"{datetime.fromtimestamp(each.used):%Y-%m-%d %H:%M}"
                rows.append([each.folder.name, each.what, megabytes([each]), used, needed.get(each.folder, "no run")])
            show(Table(["name", "holds", "size", "last used", "needed by"], rows))
            print(f"{megabytes(stored)} in all, {megabytes(unneeded)} of it needed by no run in {options.runs}")


if __name__ == "__main__":
    main()
