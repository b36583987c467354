"""List packs and feature caches with their size and last use, and remove those that are named or that no run needs.

    python scripts/packs.py [FOLDER] [--runs FOLDER] [--remove NAME ... | --remove-unneeded]

FOLDER is where packs lie: data/packs, or what --data.packs or --feature_cache.folder says. A pack is needed if a run
was trained on its images and no other pack of them was used later; a feature cache, if a run with --feature_cache was
trained on its images. What is removed is made again when it is wanted. Exit status 2 if something cannot be done.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich import box, get_console
from rich.table import Table
from rich.text import Text

from callbacks.run.origin import read_origin, read_restarts
from callbacks.run.run_folder import CONFIG
from core.names import escape_name, some_of
from core.plain_data import read_json, read_yaml
from core.user_error import UserError
from datamodules.packing import features, pack
from scripts.command.boundary import mistakes_in_one_sentence
from scripts.command.expansion import to_path

# Names that packs and feature caches are given, and those that are being written.
NAME = re.compile(r"(\.?)\w+-[0-9a-f]{12}(\.part)?")


@dataclass(frozen=True)
class Stored:
    """A pack, a feature cache, or what is left of one.

    Args:
        folder: Where it is.
        size: Its bytes.
        used: The time of its last use, in seconds.
        what: What it holds, or why it cannot be used.
        data: The fingerprint of its images; empty if it cannot be used.
    """

    folder: Path
    size: int
    used: float
    what: str
    data: str = ""

    @property
    def is_features(self) -> bool:
        """Whether it is a feature cache."""
        return self.folder.name.startswith(features.PREFIX)


def find_stored(folder: Path) -> list[Stored]:
    """The packs and feature caches in a folder, the one that was used last first."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}; give the one that packs lie in, such as data/packs.")
    found = []
    for path in folder.iterdir():
        if NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            files = list(path.iterdir())
            if all(file.suffix == ".npy" or file.name == "facts.json" for file in files):  # else it is somebody's own
                size = sum(file.stat().st_size for file in files)
                found.append(Stored(path, size, path.stat().st_mtime, *_described(path)))
    return sorted(found, key=lambda stored: -stored.used)


def _described(path: Path) -> tuple[str, str]:
    if path.suffix == ".part":
        return "unfinished", ""
    try:
        facts: dict[str, Any] = read_json(path / "facts.json")
        if path.name.startswith(features.PREFIX):
            version = features.FORMAT_VERSION
            what, data = "features", re.search(r"^data: (.*)$", facts["made_from"], re.MULTILINE)[1]  # type: ignore[index]
        else:
            version, data = pack.FORMAT_VERSION, str(facts["fingerprint"])
            images, shape = max(end for _, end in facts["splits"].values()), "x".join(map(str, facts["shape"]))
            what = f"{images:,} images of {shape}" + (f" from {facts['source']}" if facts.get("source") else "")
        return (escape_name(what), data) if facts["version"] == version else ("of another version", "")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "damaged", ""


def trained_on(runs: Path) -> tuple[dict[str, int], set[str]]:
    """The fingerprints of the images that runs were trained on."""
    counts: dict[str, int] = {}
    cached: set[str] = set()
    for config in runs.rglob(CONFIG):
        changes = [restart["differs"].get("data_fingerprint", {}) for restart in read_restarts(config.parent)]
        known = {(read_origin(config.parent) or {}).get("data_fingerprint"), *(change.get("is") for change in changes)}
        for data in map(str, known - {None}):
            counts[data] = counts.get(data, 0) + 1
        try:
            has_features = bool(read_yaml(config).get("feature_cache"))
        except (OSError, ValueError, AttributeError):
            has_features = True  # nothing says that it has none
        cached |= set(map(str, known)) if has_features else set()
    return counts, cached


def needs(stored: Sequence[Stored], runs: Path) -> dict[Path, str]:
    """Why each pack and feature cache is needed; nothing of one that is not."""
    counts, cached = trained_on(runs)
    needed: dict[Path, str] = {}
    latest: set[tuple[str, str]] = set()
    for each in stored:
        of = (each.data, each.what.partition(" from ")[0])
        if each.data in (cached if each.is_features else counts) and (each.is_features or of not in latest):
            number = counts[each.data]
            needed[each.folder] = f"{number} run{'s' if number > 1 else ''}"
        latest.add(of)
    return needed


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


def chosen(stored: Sequence[Stored], names: Collection[str]) -> list[Stored]:
    """Those of some names."""
    there = {each.folder.name: each for each in stored}
    if unknown := sorted(set(names) - there.keys()):
        raise UserError(
            f"There is no pack or feature cache {unknown[0]}; choose from {some_of(sorted(there))}."
            if there
            else f"There is no pack or feature cache {unknown[0]}, nor any other; leave it out."
        )
    return [there[name] for name in dict.fromkeys(names)]


def table_of(stored: Sequence[Stored], needed: dict[Path, str]) -> Table:
    """A row for each."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("name", "holds", "size", "last used", "needed by"):
        table.add_column(name, no_wrap=name != "holds", overflow="fold", justify="right" if name == "size" else "left")
    for each in stored:
        used = f"{datetime.fromtimestamp(each.used):%Y-%m-%d %H:%M}"
        cells = (each.folder.name, each.what, megabytes([each]), used, needed.get(each.folder, "no run"))
        table.add_row(*map(Text, cells))
    return table


def megabytes(stored: Sequence[Stored]) -> str:
    """Their size."""
    return f"{sum(each.size for each in stored) / 1e6:,.1f} MB"


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
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
        for each in (gone := unneeded if options.remove_unneeded else chosen(stored, options.remove)):
            remove(each)
            print(f"removed {each.folder} ({megabytes([each])})")
        if not (gone or options.remove_unneeded):
            get_console().print(table_of(stored, needed))
            print(f"{megabytes(stored)} in all, {megabytes(unneeded)} of it needed by no run in {options.runs}")
    sys.exit(0)


if __name__ == "__main__":
    main()
