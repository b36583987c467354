"""Which images a network has in some form been trained on: themselves, a copy, a near duplicate, or their group.

Shapes: `M` images of a pack.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.names import escape_name
from core.plain_data import read_json
from core.user_error import UserError
from datamodules.base import ImageDataModule
from scripts.inference.trained_network import TrainedNetwork


def leaked_images(
    trained: TrainedNetwork, data: ImageDataModule, places: NDArray[np.int64], audit: Path | None
) -> NDArray[np.bool_]:
    """Which of the images at these places of the pack, `[M]`; the last two kinds by what `scripts/audit.py` found."""
    assert data.pack is not None, "setup comes before"
    contents, known = data.pack.contents, trained.checkpoint.get("data_images")
    seen = np.isin(contents, contents[data.splits["train"].numpy()])
    if known and trained.changes_of(data):
        seen = np.isin(contents.astype(np.uint32), known["train"].numpy().view(np.uint32))
    if audit is None:
        return seen[places]
    try:
        found: dict[str, Any] = read_json(audit)
        about = found["data"], found["folder"], found["class_names"], found["images"] - len(found["unreadable"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{audit} cannot be read; write it with scripts/audit.py --json {audit}.") from error
    used = int((data.pack.labels >= 0).sum()) if data.pack.labels.ndim == 1 else len(data.pack)
    if about != (type(data).__name__, escape_name(str(data.source_folder)), list(data.class_names), used):
        raise UserError(f"{audit} is the audit of other data; write it with scripts/audit.py and the same data flags.")
    names = [escape_name(data.pack.name(place)) for place in range(len(contents))]
    related = related_to({names[place] for place in np.flatnonzero(seen)}, found)
    return np.array([seen[place] or names[place] in related for place in places], np.bool_)


def related_to(names: set[str], audit: Mapping[str, Any]) -> set[str]:
    """The images that are copies or near duplicates of some images, or of one of their groups."""
    copies, near = (
        [[image["name"] for image in pair["images"]] for pair in audit[key]]
        for key in ("exact_duplicates", "near_duplicates")
    )
    first_of = {copy: first for first, copy in copies}  # which stands for its copies in pairs of near duplicates
    there = {first_of.get(name, name) for name in names}
    alike = there.union(*(pair for pair in near if not there.isdisjoint(pair)))
    mates = (images for images in audit["images_of_groups"].values() if not names.isdisjoint(images))
    return alike.union((copy for copy, first in first_of.items() if first in alike), *mates)
