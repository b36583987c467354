"""Which images a network was trained and chosen on, and what has become of them since.

Images are known by 32 bits of a digest of their pixels, 4 bytes each: at a million images, one in some 4,000 that are
new is taken for one of them.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

KnownImages = Mapping[str, Tensor]  # for each split, int32 `[N]`; plain, so that a checkpoint can hold it


def known_images(splits: Mapping[str, Tensor], contents: NDArray[np.uint64]) -> dict[str, Tensor]:
    """The images of each split.

    Args:
        splits: Their places in the pack, int64 `[N]`.
        contents: A digest of the pixels of each image of the pack.
    """
    return {
        split: torch.from_numpy(contents[places.numpy()].astype(np.uint32).view(np.int32))
        for split, places in splits.items()
    }


def trained_on_both(earlier: KnownImages, now: KnownImages) -> dict[str, Tensor]:
    """The images of a run that goes on with other data: what it was ever trained on is no image to test it on."""
    seen = earlier["train"]
    apart = {split: images[~torch.isin(images, seen)] for split, images in now.items() if split != "train"}
    return {"train": torch.unique(torch.cat([seen, now["train"]])), **apart}


def data_changes(then: KnownImages, now: KnownImages) -> str:
    """Say in how far data and splits are not those of training; nothing if they are."""
    before, here = (torch.unique(torch.cat(list(images.values()))) for images in (then, now))
    new, gone = (int((~torch.isin(one, other)).sum()) for one, other in ((here, before), (before, here)))
    # Of two copies that were in two splits all along, the audit tells.
    trained_on = {
        split: int((torch.isin(now[split], then["train"]) & ~torch.isin(now[split], then[split])).sum())
        for split in ("val", "test")
    }
    if not (new or gone or any(trained_on.values())):
        return ""
    counts = " and ".join(f"{count:,} of {len(now[split]):,} {split}" for split, count in trained_on.items())
    return (
        f"the data or their splits are not those of training: {new:,} new, {gone:,} gone; trained on: {counts} images"
    )
