"""Find images that a network was trained on, directly or as a copy, a near duplicate, or an image of the same group.

Shapes: a pack of `P` images; `N` evaluated images.
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
    """Return True for each image, at `places` `[N]` of the pack, that leaked into training, bool `[N]`.

    A file of `scripts/audit.py --json` about the same data finds near duplicates and images of one group as well.
    """
    assert data.pack is not None, "setup comes before"
    contents, trained_on = data.pack.contents, trained.checkpoint.get("data_images")
    in_training = np.isin(contents, contents[data.splits["train"].numpy()])  # by content, `[P]`: finds copies as well
    if trained_on and trained.changes_of(data):
        in_training = np.isin(contents.astype(np.uint32), trained_on["train"].numpy().view(np.uint32))
    if audit is None:
        return in_training[places]
    try:
        results: dict[str, Any] = read_json(audit)
        images = results["images"] - len(results["unreadable"])
        audited = results["data"], results["folder"], results["class_names"], images
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{audit} cannot be read; write it with scripts/audit.py --json {audit}.") from error
    images = int((data.pack.labels >= 0).sum()) if data.pack.labels.ndim == 1 else len(data.pack)
    if audited != (type(data).__name__, escape_name(str(data.source_folder)), list(data.class_names), images):
        raise UserError(f"{audit} is the audit of other data; write it with scripts/audit.py and the same data flags.")
    names = [escape_name(data.pack.name(place)) for place in range(len(contents))]
    related = related_to({names[place] for place in np.flatnonzero(in_training)}, results)
    return np.array([in_training[place] or names[place] in related for place in places], np.bool_)


def related_to(names: set[str], audit: Mapping[str, Any]) -> set[str]:
    """Return the names of the images that are copies or near duplicates of some images, or share a group with one."""
    exact_pairs = [[image["name"] for image in pair["images"]] for pair in audit["exact_duplicates"]]
    near_pairs = [[image["name"] for image in pair["images"]] for pair in audit["near_duplicates"]]
    original_of = {copy: original for original, copy in exact_pairs}  # pairs of near duplicates name only originals
    originals = {original_of.get(name, name) for name in names}
    similar = originals.union(*(pair for pair in near_pairs if not originals.isdisjoint(pair)))
    copies = {copy for copy, original in original_of.items() if original in similar}
    groups = [images for images in audit["images_of_groups"].values() if not names.isdisjoint(images)]
    return similar.union(copies, *groups)
