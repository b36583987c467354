"""Everything that an audit of a data set finds, as one list for the terminal, the page and JSON."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.names import escape_name, label_name
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.batching.split import SPLITS, class_counts
from datamodules.loading.progress import progress
from datamodules.packing.left_out import summary
from datamodules.packing.pack_writer import identities
from datamodules.packing.source_check import checked
from scripts.data_quality.duplicates import Pair, concatenate, exact_pairs, fingerprint_all, near_pairs, perceptual_hash
from scripts.data_quality.listing import Listing

EXAMPLES = 3  # findings of each kind that a summary shows


@dataclass(frozen=True)
class Finding:
    """One kind of finding."""

    title: str
    key: str  # in JSON
    value: Any  # everything found, in plain types
    lines: Sequence[str]  # the same as text
    pairs: Sequence[Pair] = ()  # if the findings are pairs
    is_problem: bool = True  # True if a data set with one of them is not clean

    @property
    def count(self) -> int:
        """How much was found."""
        return 1 if isinstance(self.value, str) else len(self.value)

    @property
    def examples(self) -> list[str]:
        """The first lines, and how many follow."""
        more = len(self.lines) - EXAMPLES
        return [*self.lines[:EXAMPLES], *([f"and {more:,} more"] if more > 0 else [])]


class Audit:
    """The findings about a data set."""

    def __init__(self, data: ImageDataModule) -> None:
        perceptual_hash()  # fails before the work if a package is missing
        self.data = data
        read, names = data.from_source(data.read), data.source_class_names
        source = checked(type(data).__name__, read, names, data.image_shape, data.is_multi_label)
        self.listing = Listing(data, source)
        self.title = f"{len(self.listing.names):,} images of {type(data).__name__}"
        if not self.listing.names:
            raise UserError(
                f"{type(data).__name__} has no images in {data.source_folder}; correct data.root or data.classes."
            )
        self._groups: dict[str, list[int]] = defaultdict(list)
        for place, group in enumerate(self.listing.columns.get("group", ())):
            self._groups[escape_name(group)].append(place)
        self._stray: list[str] = data.from_source(lambda: data.files_left_out(data.known_names(source)))
        parts = []
        with progress("Looking at images", len(self.listing.names)) as advance:
            for images in self.listing.parts.values():
                for part in fingerprint_all(images):
                    parts.append(part)
                    advance(len(part.modes))
        self._prints = concatenate(parts)
        self._readable = np.flatnonzero(self._prints.errors == "")
        self._splits, self.splits_problem = self._draw_splits()
        self._split_of = np.full(len(self.listing.names), len(self._splits))  # for an image that is in none
        for number, places in enumerate(self._splits.values()):
            self._split_of[places] = number

    def _draw_splits(self) -> tuple[dict[str, NDArray[np.int64]], str | None]:
        """The splits of a training, or those of the source and why a training has none."""
        ends = np.cumsum([0, *map(len, self.listing.parts.values())])
        # As in training, images are left out before splits are drawn from the others.
        ranges = pairwise(np.searchsorted(self._readable, ends).tolist())
        drawn = whole = {name: torch.arange(*ends) for name, ends in zip(self.listing.parts, ranges, strict=True)}
        problem = None
        try:
            labels = torch.from_numpy(self.listing.labels[self._readable])
            known_by = identities(self.listing.parts.values())[self._readable]
            columns = {name: values[self._readable] for name, values in self.listing.columns.items()}
            drawn = self.data.split_plan.draw(whole, labels, known_by, columns)
        except UserError as error:
            problem = str(error)
        known = [name for name in SPLITS if name in drawn and not (name == "test" and self.data.tests_on_validation)]
        return {name: self._readable[drawn[name].numpy()] for name in known}, problem

    @property
    def images(self) -> dict[str, int]:
        """The images of each split, each counted once."""
        return {name: len(places) for name, places in self._splits.items()}

    @cached_property
    def images_per_class(self) -> dict[str, list[int]]:
        """Images of each class, `K` numbers for each split."""
        labels, classes = torch.from_numpy(self.listing.labels), len(self.listing.class_names)
        return {name: class_counts(labels[places], classes).tolist() for name, places in self._splits.items()}

    def image(self, place: int) -> dict[str, str]:
        """An image's name, the split that uses it, its class, and its group if it has one."""
        split = [*self._splits, "unused"][int(self._split_of[place])]
        class_name = label_name(self.listing.labels[place], self.listing.class_names) or "no label"
        group = {"group": escape_name(self.listing.columns["group"][place])} if self._groups else {}
        return {"name": self.listing.names[place], "split": split, "class": class_name, **group}

    @cached_property
    def findings(self) -> list[Finding]:
        """What was found, problems first."""
        prints, splits, labels, unused = self._prints, self._split_of, self.listing.labels, len(self._splits)
        errors = [(self.image(place), reason) for place, reason in enumerate(prints.errors) if reason]
        by_split = self._readable[np.argsort(splits[self._readable], kind="stable")]
        exact, representatives = exact_pairs(prints, by_split)
        near = near_pairs(prints, representatives)
        pairs = exact + near
        leaks = [pair for pair in pairs if splits[pair.first] != splits[pair.second] != unused]
        conflicts = [pair for pair in pairs if np.any(labels[pair.first] != labels[pair.second])]
        reasons = summary(self._stray, self.data.source_folder)
        stray, problem = list(map(escape_name, self._stray)), self.splits_problem
        sizes = [f"{width}x{height}" for width, height in prints.sizes[self._readable].tolist()]
        return [
            Finding(
                "unreadable files",
                "unreadable",
                [image | {"reason": reason} for image, reason in errors],
                [f"{image['name']}: {reason}" for image, reason in errors],
            ),
            Finding("stray files", "stray_files", stray, [reasons, *stray] if reasons else stray),
            self._of_pairs("leakage between splits", "leakage", leaks),
            *self._of_groups(pairs),
            self._of_pairs("one image under two labels", "label_conflicts", conflicts),
            self._of_pairs("exact duplicates", "exact_duplicates", exact),
            self._of_pairs("near duplicates", "near_duplicates", near),
            *([Finding("splits that cannot be drawn", "splits_problem", problem, [problem])] if problem else []),
            _of_counts("sizes", Counter(sizes)),
            _of_counts("modes", Counter(prints.modes[self._readable])),
        ]

    def _of_groups(self, pairs: Sequence[Pair]) -> list[Finding]:
        """Groups that are in several splits, and pairs that are in two groups."""
        if not self._groups:
            return []
        images = {name: Counter(self.image(place)["split"] for place in of) for name, of in self._groups.items()}
        several = {name: dict(of) for name, of in images.items() if len(of.keys() - {"unused"}) > 1}
        lines = [f"{name}: {', '.join(f'{n:,} {split}' for split, n in of.items())}" for name, of in several.items()]
        groups = self.listing.columns["group"]
        across = [pair for pair in pairs if groups[pair.first] != groups[pair.second]]
        return [
            Finding("groups in several splits", "groups_across_splits", several, lines),
            self._of_pairs("one image in two groups", "group_conflicts", across),
        ]

    def split_rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Path, class, group and split of each image that a training uses."""
        for places in self._splits.values():
            for image in map(self.image, places.tolist()):
                yield image["name"], image["class"], image.get("group", ""), image["split"]

    def _of_pairs(self, title: str, key: str, pairs: Sequence[Pair]) -> Finding:
        value, lines = [], []
        for pair in pairs:
            images = [self.image(place) for place in pair[:2]]
            likeness = round(pair.likeness, 4)
            facts = {"exact": pair.exact, "hash_distance": pair.hash_distance, "likeness": likeness}
            value.append({"images": images, **facts})
            lines.append(" = ".join(f"{image['name']} ({image['split']}, {image['class']})" for image in images))
        return Finding(title, key, value, lines, pairs)

    @property
    def is_clean(self) -> bool:
        """True if there is no problem."""
        return not any(finding.count for finding in self.findings if finding.is_problem)

    def as_json(self) -> dict[str, Any]:
        """Everything found, in plain types."""
        names = self.listing.names
        return {
            "data": type(self.data).__name__,
            "folder": escape_name(str(self.data.source_folder)),
            "clean": self.is_clean,
            "images": len(names),
            "splits_problem": None,
            **{finding.key: finding.value for finding in self.findings},
            "images_of_groups": {group: [names[place] for place in of] for group, of in self._groups.items()},
            "class_names": self.listing.class_names,
            "images_per_class": self.images_per_class,
        }


def write_page_of(audit: Audit, path: Path) -> None:
    """Write a page with the findings, and the pictures of pairs side by side."""
    from scripts.report.page import embedded, write_page

    picture = cache(lambda place: embedded(audit.listing.picture(place)))  # an image may be in several pairs
    write_page(path, "data_quality/audit.html", title=audit.title, audit=audit, picture=picture)


def _of_counts(name: str, counts: Counter[str]) -> Finding:
    lines = [f"{kind}: {number:,}" for kind, number in counts.most_common()]
    return Finding(name, name, counts, lines, is_problem=False)
