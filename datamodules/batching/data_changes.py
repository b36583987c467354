"""Whether the images that a network was trained and chosen on are those at hand.

Images are known by 32 bits of a digest of their pixels, 4 bytes each: at a million images, one new image in some 4,000
is taken for one of them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

KnownImages = Mapping[str, Tensor]  # for each split, int32 `[N]`; plain, so that a checkpoint can hold it


def trained_on_both(earlier: KnownImages, now: KnownImages) -> dict[str, Tensor]:
    """The images of a run that goes on with other data: no image that it was ever trained on can test it."""
    seen = earlier["train"]
    apart = {split: images[~torch.isin(images, seen)] for split, images in now.items() if split != "train"}
    return {"train": torch.unique(torch.cat([seen, now["train"]])), **apart}


def data_changes(then: KnownImages | None, now: KnownImages) -> str:
    """Say how data and splits differ from those of training, where these are known; empty if they do not."""
    if not then:
        return ""
    before, here = (torch.unique(torch.cat(list(images.values()))) for images in (then, now))
    new, gone = (int((~torch.isin(one, other)).sum()) for one, other in ((here, before), (before, here)))
    # An image that was in two splits during training already does not count here: the audit reports it.
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
