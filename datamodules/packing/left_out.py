"""Find files in a folder of images that are not read, and summarize why."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from core.names import escape_name
from datamodules.decoding.find_files import JUNK, is_junk
from datamodules.decoding.image_file import is_image


def files_besides(known: Collection[str], top: Path, excluded: Iterable[Path] = ()) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, hidden ones too, that are not `known` or `excluded`."""

    def fail(error: OSError) -> None:
        if not any(map(is_junk, Path(error.filename).relative_to(top).parts)):
            raise error

    visited = set(excluded)
    prefix_length = len(os.path.join(top, ""))  # noqa: PTH118 - a string to measure
    for folder, subfolders, names in os.walk(top, onerror=fail, followlinks=True):
        real_folder = Path(folder).resolve()
        if real_folder in visited:  # such as a link to a parent folder
            subfolders.clear()
            continue
        visited.add(real_folder)
        paths = (os.path.join(folder, name)[prefix_length:] for name in names)  # noqa: PTH118 - may be 100,000 of them
        yield from (path for path in paths if path not in known)


def summary(names: Iterable[str], top: Path) -> str:
    """Count the files by the reason that they are left out, with an example of each; ignore files of the system."""
    names_by_reason: dict[str, list[str]] = {}
    for name in sorted(names):
        parts = name.split("/")
        if not JUNK.isdisjoint(parts) or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
            continue
        if any(part.startswith(".") for part in parts):
            reason = "hidden"
        else:
            reason = "not in a class" if is_image(os.path.join(top, name)) else "no image"  # noqa: PTH118
        names_by_reason.setdefault(reason, []).append(name)
    return ", ".join(
        f"{len(examples):,} {reason} ({escape_name(examples[0])}{', ...' if len(examples) > 1 else ''})"
        for reason, examples in names_by_reason.items()
    )
