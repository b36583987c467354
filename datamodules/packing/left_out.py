"""Files below a folder of images that are not read, and why."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from core.names import escape_name
from datamodules.decoding.find_files import JUNK, is_junk
from datamodules.decoding.image_file import is_image


def files_besides(known: Collection[str], top: Path, without: Iterable[Path] = ()) -> Iterator[str]:
    """The files below a folder, hidden ones too, that are not known."""

    def fail(error: OSError) -> None:
        if not any(map(is_junk, Path(error.filename).relative_to(top).parts)):
            raise error

    seen = set(without)
    skip = len(os.path.join(top, ""))  # noqa: PTH118 - a string to measure
    for folder, folders, names in os.walk(top, onerror=fail, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:  # such as a link upwards
            folders.clear()
            continue
        seen.add(real)
        paths = (os.path.join(folder, name)[skip:] for name in names)  # noqa: PTH118 - a hundred thousand of them
        yield from (path for path in paths if path not in known)


def summary(names: Iterable[str], top: Path) -> str:
    """How many files are left out for which reason, with an example of each; nothing of what systems leave behind."""
    counts: dict[str, list[str]] = {}
    for name in sorted(names):
        parts = name.split("/")
        if not JUNK.isdisjoint(parts) or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
            continue
        if any(part.startswith(".") for part in parts):
            kind = "hidden"
        else:
            kind = "not in a class" if is_image(os.path.join(top, name)) else "no image"  # noqa: PTH118
        counts.setdefault(kind, []).append(name)
    return ", ".join(
        f"{len(some):,} {kind} ({escape_name(some[0])}{', ...' if len(some) > 1 else ''})"
        for kind, some in counts.items()
    )
