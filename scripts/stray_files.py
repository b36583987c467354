"""Files among a data set's images that are no images of it."""

import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.base import ImageDataModule
from datamodules.image_files import ImageFiles
from datamodules.pack import Source


def stray_files(data: ImageDataModule, source: Source) -> tuple[list[str], list[str]]:
    """Find the files below the source's folder, hidden ones too, that are no image of it nor known to belong there.

    Args:
        data: The data module.
        source: What it reads; of one that is not read from image files nothing is said.

    Returns:
        Their paths relative to the source's folder, sorted, and lines that name them, one for all files of a folder
        that holds nothing else.

    Raises:
        OSError: If a folder cannot be read.
    """
    files = [images for images, _ in source.values() if isinstance(images, ImageFiles)]
    if not files:
        return [], []
    top = data.source_folder
    known = {os.fsdecode(name) for images in files for name in images.names}
    known.update(*(glob.iglob(pattern, root_dir=top) for pattern in data.known_files))  # noqa: PTH207 - names, not paths
    stray = sorted(name for name in _names_below(top, {data.packs.resolve()}) if name not in known)
    return stray, _grouped(stray, known)


def _names_below(top: Path, leave_out: set[Path]) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    seen = set(leave_out)
    skip = len(os.path.join(top, ""))  # noqa: PTH118 - a string to measure
    for folder, folders, names in os.walk(top, onerror=fail, followlinks=True):
        real = Path(folder).resolve()
        if real in seen:  # such as a link upwards
            folders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name)[skip:] for name in names)  # noqa: PTH118 - a hundred thousand of them


def _grouped(stray: Sequence[str], known: set[str]) -> list[str]:
    used = {""}
    for folder in {name.rpartition("/")[0] for name in known}:
        within = folder
        while within not in used:
            used.add(within)
            within = within.rpartition("/")[0]
    counts: Counter[str] = Counter()
    for name in stray:
        parts = name.split("/")
        folders = ("/".join(parts[:depth]) + "/" for depth in range(1, len(parts)))
        counts[next((folder for folder in folders if folder[:-1] not in used), name)] += 1
    return [f"{name} ({number:,} files)" if name.endswith("/") else name for name, number in counts.most_common()]
