"""Files among a data set's images that are no images of it."""

from collections import Counter
from collections.abc import Sequence

from datamodules.base import ImageDataModule
from datamodules.packing.left_out import summary
from datamodules.packing.pack import Source


def stray_files(data: ImageDataModule, source: Source) -> tuple[list[str], list[str]]:
    """Find the files below the source's folder, hidden ones too, that are no image of it nor known to belong there."""
    known = data.known_names(source)
    stray = data.files_left_out(known)
    reasons = summary(stray, data.source_folder)
    return stray, [*([reasons] if reasons else []), *_grouped(stray, known)]


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
