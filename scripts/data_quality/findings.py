"""Audit a data set, and list all findings for the terminal, the page and JSON."""

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

EXAMPLES = 3  # lines of each finding in the summary


@dataclass(frozen=True)
class Finding:
    """All findings of one kind, such as exact duplicates."""

    title: str
    key: str  # in JSON
    value: Any  # all findings in plain types, for JSON
    lines: Sequence[str]  # all findings as text
    pairs: Sequence[Pair] = ()  # all findings, if they are pairs of images
    is_problem: bool = True  # False for facts such as image sizes, which do not affect the exit status

    @property
    def count(self) -> int:
        """The number of findings."""
        return 1 if isinstance(self.value, str) else len(self.value)

    @property
    def examples(self) -> list[str]:
        """The first lines, and the number of further ones."""
        remaining = len(self.lines) - EXAMPLES
        return [*self.lines[:EXAMPLES], *([f"and {remaining:,} more"] if remaining > 0 else [])]


class Audit:
    """Read and fingerprint all images of a data set, and find its problems."""

    def __init__(self, data: ImageDataModule) -> None:
        perceptual_hash()  # raises UserError before the work if a package is missing
        self.data = data
        name, read = type(data).__name__, data.from_source(data.read)
        source = checked(name, read, data.source_class_names, data.image_shape, data.is_multi_label)
        self.listing = Listing(data, source)
        self.title = f"{len(self.listing.names):,} images of {name}"
        if not self.listing.names:
            raise UserError(f"{name} has no images in {data.source_folder}; correct data.root or data.classes.")
        self._stray_files: list[str] = data.from_source(lambda: data.files_left_out(data.known_names(source)))
        self._group_images: dict[str, list[int]] = defaultdict(list)  # the indices of each group's images
        for index, group in enumerate(self.listing.columns.get("group", ())):
            self._group_images[escape_name(group)].append(index)
        chunks = []
        with progress("Looking at images", len(self.listing.names)) as advance:
            for images in self.listing.parts.values():
                for chunk in fingerprint_all(images):
                    chunks.append(chunk)
                    advance(len(chunk.modes))
        self._prints = concatenate(chunks)
        self._readable = np.flatnonzero(self._prints.errors == "")
        self._splits, self.splits_problem = self._draw_splits()
        # The number of each image's split; an image that is in no split has the number after the last.
        self._split_of = np.full(len(self.listing.names), len(self._splits))
        for number, indices in enumerate(self._splits.values()):
            self._split_of[indices] = number

    def _draw_splits(self) -> tuple[dict[str, NDArray[np.int64]], str | None]:
        """Return the splits that training would draw; if it cannot, those of the source, and the reason."""
        # Unreadable images are left out before splits are drawn, as in training.
        ends = np.cumsum([0, *map(len, self.listing.parts.values())])
        readable_ends = np.searchsorted(self._readable, ends).tolist()
        ranges = zip(self.listing.parts, pairwise(readable_ends), strict=True)
        source_splits = {name: torch.arange(start, end) for name, (start, end) in ranges}
        labels = torch.from_numpy(self.listing.labels[self._readable])
        digests = identities(self.listing.parts.values())[self._readable]
        columns = {name: values[self._readable] for name, values in self.listing.columns.items()}
        problem = None
        try:
            splits = self.data.split_plan.draw(source_splits, labels, digests, columns)
        except UserError as error:
            splits, problem = source_splits, str(error)
        names = [name for name in SPLITS if name in splits and not (name == "test" and self.data.tests_on_validation)]
        return {name: self._readable[splits[name].numpy()] for name in names}, problem

    @property
    def images(self) -> dict[str, int]:
        """The number of images in each split."""
        return {name: len(indices) for name, indices in self._splits.items()}

    @cached_property
    def images_per_class(self) -> dict[str, list[int]]:
        """For each split, the number of images of each class."""
        labels, classes = torch.from_numpy(self.listing.labels), len(self.listing.class_names)
        return {name: class_counts(labels[indices], classes).tolist() for name, indices in self._splits.items()}

    def image(self, index: int) -> dict[str, str]:
        """Return an image's name, split (or `unused`), class, and group if it has one."""
        split = [*self._splits, "unused"][int(self._split_of[index])]
        class_name = label_name(self.listing.labels[index], self.listing.class_names) or "no label"
        group = {"group": escape_name(self.listing.columns["group"][index])} if self._group_images else {}
        return {"name": self.listing.names[index], "split": split, "class": class_name, **group}

    @cached_property
    def findings(self) -> list[Finding]:
        """All findings, problems first."""
        split_of, labels, unused = self._split_of, self.listing.labels, len(self._splits)
        errors = enumerate(self._prints.errors)
        unreadable = [self.image(index) | {"reason": reason} for index, reason in errors if reason]
        unreadable_lines = [f"{image['name']}: {image['reason']}" for image in unreadable]
        stray_files = list(map(escape_name, self._stray_files))
        reasons = summary(self._stray_files, self.data.source_folder)
        by_split = self._readable[np.argsort(split_of[self._readable], kind="stable")]
        exact, distinct = exact_pairs(self._prints, by_split)
        near = near_pairs(self._prints, distinct)
        pairs = exact + near
        leaks = [pair for pair in pairs if split_of[pair.first] != split_of[pair.second] != unused]
        conflicts = [pair for pair in pairs if np.any(labels[pair.first] != labels[pair.second])]
        findings = [
            Finding("unreadable files", "unreadable", unreadable, unreadable_lines),
            Finding("stray files", "stray_files", stray_files, [reasons, *stray_files] if reasons else stray_files),
            self._pair_finding("leakage between splits", "leakage", leaks),
        ]
        if self._group_images:
            findings += self._group_findings(pairs)
        findings += [
            self._pair_finding("one image under two labels", "label_conflicts", conflicts),
            self._pair_finding("exact duplicates", "exact_duplicates", exact),
            self._pair_finding("near duplicates", "near_duplicates", near),
        ]
        if problem := self.splits_problem:
            findings.append(Finding("splits that cannot be drawn", "splits_problem", problem, [problem]))
        sizes = [f"{width}x{height}" for width, height in self._prints.sizes[self._readable].tolist()]
        for key, values in (("sizes", sizes), ("modes", self._prints.modes[self._readable])):
            counts = Counter(values)
            lines = [f"{value}: {count:,}" for value, count in counts.most_common()]
            findings.append(Finding(key, key, counts, lines, is_problem=False))
        return findings

    def _group_findings(self, pairs: Sequence[Pair]) -> list[Finding]:
        """Return the groups that are in more than one split, and the pairs of images in two groups."""
        crossing, lines = {}, []
        for group, indices in self._group_images.items():
            counts = Counter(self.image(index)["split"] for index in indices)
            if len(counts.keys() - {"unused"}) > 1:
                crossing[group] = dict(counts)
                lines.append(f"{group}: {', '.join(f'{count:,} {split}' for split, count in counts.items())}")
        groups = self.listing.columns["group"]
        conflicts = [pair for pair in pairs if groups[pair.first] != groups[pair.second]]
        return [
            Finding("groups in several splits", "groups_across_splits", crossing, lines),
            self._pair_finding("one image in two groups", "group_conflicts", conflicts),
        ]

    def _pair_finding(self, title: str, key: str, pairs: Sequence[Pair]) -> Finding:
        value, lines = [], []
        for pair in pairs:
            images = [self.image(pair.first), self.image(pair.second)]
            likeness = round(pair.likeness, 4)
            facts = {"exact": pair.exact, "hash_distance": pair.hash_distance, "likeness": likeness}
            value.append({"images": images, **facts})
            lines.append(" = ".join(f"{image['name']} ({image['split']}, {image['class']})" for image in images))
        return Finding(title, key, value, lines, pairs)

    def split_rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield path, class, group and split of each image that is in a split."""
        for indices in self._splits.values():
            for image in map(self.image, indices.tolist()):
                yield image["name"], image["class"], image.get("group", ""), image["split"]

    @property
    def is_clean(self) -> bool:
        """True if there is no problem."""
        return not any(finding.count for finding in self.findings if finding.is_problem)

    def as_json(self) -> dict[str, Any]:
        """Return all findings in plain types."""
        names = self.listing.names
        return {
            "data": type(self.data).__name__,
            "folder": escape_name(str(self.data.source_folder)),
            "clean": self.is_clean,
            "images": len(names),
            "splits_problem": None,
            **{finding.key: finding.value for finding in self.findings},
            "images_of_groups": {
                group: [names[index] for index in indices] for group, indices in self._group_images.items()
            },
            "class_names": self.listing.class_names,
            "images_per_class": self.images_per_class,
        }


def write_page_of(audit: Audit, path: Path) -> None:
    """Write an HTML page with the findings, and with the images of each pair side by side."""
    from scripts.report.page import embedded, write_page

    picture = cache(lambda index: embedded(audit.listing.picture(index)))  # an image may be in several pairs
    write_page(path, "data_quality/audit.html", title=audit.title, audit=audit, picture=picture)
