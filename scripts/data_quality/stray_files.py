"""Files among a data set's images that are not images of the data set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from datamodules.base import ImageDataModule
from datamodules.packing.left_out import summary
from datamodules.packing.pack import Source


def stray_files(data: ImageDataModule, source: Source) -> tuple[list[str], list[str]]:
    """The stray files below the source's folder, hidden ones too, and a summary with a line for each stray folder."""
    known = data.known_names(source)
    stray = data.files_left_out(known)
    reasons = summary(stray, data.source_folder)
    return stray, [*([reasons] if reasons else []), *_grouped(stray, known)]


def _grouped(stray: Sequence[str], known: set[str]) -> list[str]:
    folders = {PurePosixPath(name).parent for name in known}
    used = {PurePosixPath(), *folders, *(parent for folder in folders for parent in folder.parents)}
    counts: Counter[str] = Counter()
    for name in stray:
        unused = [folder for folder in PurePosixPath(name).parents if folder not in used]
        counts[f"{unused[-1]}/" if unused else name] += 1  # the outermost
    return [f"{name} ({number:,} files)" if name.endswith("/") else name for name, number in counts.most_common()]
