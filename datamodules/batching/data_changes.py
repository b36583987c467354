"""Compare the images that a network was trained on with the current images.

Images are compared by 32 bits of a hash of their pixels, 4 bytes each: at a million images, one new image in some 4,000
is mistaken for a known one.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

KnownImages = Mapping[str, Tensor]  # for each split, int32 `[N]`; a plain type that a checkpoint can hold


def trained_on_both(earlier: KnownImages, current: KnownImages) -> dict[str, Tensor]:
    """Merge a resumed run's earlier and current training images, and take the earlier ones out of the other splits."""
    merged = {"train": torch.unique(torch.cat([earlier["train"], current["train"]]))}
    for split, images in current.items():
        if split != "train":
            merged[split] = images[~torch.isin(images, earlier["train"])]
    return merged


def data_changes(earlier: KnownImages | None, current: KnownImages) -> str:
    """Describe how data and splits differ from those of training; empty if they do not, or if those are unknown."""
    if not earlier:
        return ""
    earlier_images = torch.unique(torch.cat(list(earlier.values())))
    current_images = torch.unique(torch.cat(list(current.values())))
    added = int((~torch.isin(current_images, earlier_images)).sum())
    removed = int((~torch.isin(earlier_images, current_images)).sum())
    # An image that already was in two splits during training does not count here: `audit.py` reports it.
    trained_on = {
        split: int((torch.isin(current[split], earlier["train"]) & ~torch.isin(current[split], earlier[split])).sum())
        for split in ("val", "test")
    }
    if not (added or removed or any(trained_on.values())):
        return ""
    counts = " and ".join(f"{count:,} of {len(current[split]):,} {split}" for split, count in trained_on.items())
    return (
        f"the data or their splits are not those of training: {added:,} new, {removed:,} gone; trained on: {counts} "
        "images"
    )
