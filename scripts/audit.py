"""Look at a data set before training: what is unreadable, stray, there twice, or in two splits or classes at once.

python scripts/audit.py [--config FILE] [--data.root FOLDER ...] [--json FILE] [--html FILE]

Exit status: 0 clean, 1 findings, 2 the data cannot be read.
"""

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich import box, get_console
from rich.markup import escape
from rich.table import Table

from core.durable_file import replace_file
from core.names import escape_name
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.batching.split import SPLITS
from datamodules.decoding.image_files import ImageFiles
from datamodules.loading.progress import progress
from datamodules.packing.identity import identities
from datamodules.packing.pack import Images, Source
from datamodules.packing.source_check import checked
from scripts.command.data_flags import run_on_data
from scripts.command.expansion import to_path
from scripts.data_quality.audit_page import Shown, ShownPair, write_audit_page
from scripts.data_quality.duplicates import Fingerprints, concatenate, fingerprint_all, near_pairs, view
from scripts.data_quality.stray_files import stray_files

EXAMPLES = 3  # findings of each kind that the table shows

MOST_CLASSES = 20  # classes up to which the table has a row for each


class Listing:
    """The images of the classes asked for, in the order of the source.

    Args:
        data: The data module.
        source: What it reads.
    """

    def __init__(self, data: ImageDataModule, source: Source) -> None:
        self.class_names = list(data.class_names)
        self.parts: dict[str, Images] = {}
        rows, labels = [], []
        for split, (images, given) in source.items():
            if split == "test" and data.tests_on_validation:
                continue
            mapped = given if data.label_map is None else data.label_map.numpy()[given]
            rows.append(np.flatnonzero(mapped >= 0))
            labels.append(mapped[rows[-1]])
            self.parts[split] = images if len(rows[-1]) == len(images) else _selected(images, rows[-1])
        self.rows = np.concatenate(rows)
        """The place of each image in its part of the source, int64 `[N]`."""
        self.labels = np.concatenate(labels)
        """int64 `[N]`."""
        self.ends = np.cumsum([len(images) for images in self.parts.values()])

    def __len__(self) -> int:
        return len(self.labels)

    def find(self, place: int) -> tuple[str, Images, int]:
        """The source's split, its images, and the place there of the image at a place in all."""
        number = int(np.searchsorted(self.ends, place, side="right"))
        split, images = list(self.parts.items())[number]
        return split, images, place - int(self.ends[number]) + len(images)

    def name(self, place: int) -> str:
        """The path of an image in the source's folder, or its split and place there, as in `train[123]`."""
        split, images, index = self.find(place)
        if isinstance(images, ImageFiles):
            return escape_name(os.fsdecode(images.names[index]))
        return f"{split}[{self.rows[place]}]"

    def picture(self, place: int) -> Image.Image:
        """The image as a viewer shows it."""
        _, images, index = self.find(place)
        return view(images, index)[0]


def _selected(images: Images, rows: NDArray[np.int64]) -> Images:
    if isinstance(images, ImageFiles):
        return ImageFiles(images.folder, images.names[rows], images.shape[1:], images.resize)
    return images[rows]


@dataclass(frozen=True)
class Pair:
    """Two images that are one picture.

    Args:
        first: The place of one image; it is in training if one of the two is.
        second: The place of the other.
        note: How alike they are.
        facts: The same in figures.
    """

    first: int
    second: int
    note: str
    facts: dict[str, Any]


class Audit:
    """Everything that is to be found out about a data set.

    Args:
        data: The data module.

    Raises:
        UserError: If the data set cannot be read.
    """

    def __init__(self, data: ImageDataModule) -> None:
        self.data = data
        read = data.from_source(data.read)
        source = checked(type(data).__name__, read, data.source_class_names, data.image_shape)
        self.listing = Listing(data, source)
        if not len(self.listing):
            raise UserError(
                f"{type(data).__name__} has no images in {data.source_folder}; correct data.root or data.classes."
            )
        self.stray, self.stray_lines = data.from_source(lambda: stray_files(data, source))
        with progress("Looking at images", len(self.listing)) as advance:
            chunks = []
            for images in self.listing.parts.values():
                for chunk in fingerprint_all(images):
                    chunks.append(chunk)
                    advance(len(chunk.modes))
        self.prints: Fingerprints = concatenate(chunks)
        self.readable = np.setdiff1d(np.arange(len(self.listing)), list(self.prints.errors))
        self.splits, self.problem = self._drawn()
        self.split_of = np.full(len(self.listing), len(self.splits))
        for number, places in enumerate(self.splits.values()):
            self.split_of[places] = number
        self.exact, representatives = self._exact()
        near = near_pairs(self.prints, representatives)
        self.near = [
            self._ordered(
                first, second, f"hash {bits} of 64 bits apart, details {alike:.3f} alike", bits, round(alike, 4)
            )
            for (first, second), bits, alike in zip(
                near.places.tolist(), near.distances.tolist(), near.likenesses.tolist(), strict=True
            )
        ]
        pairs = self.exact + self.near
        unused = len(self.splits)
        splits, labels = self.split_of, self.listing.labels
        self.leaks = [
            pair for pair in pairs if splits[pair.first] != splits[pair.second] and splits[pair.second] != unused
        ]
        self.conflicts = [pair for pair in pairs if labels[pair.first] != labels[pair.second]]

    def _drawn(self) -> tuple[dict[str, NDArray[np.int64]], str | None]:
        """The splits that training uses, or else those of the source and why training has none."""
        ends = [0, *self.listing.ends.tolist()]
        # As in training, images are left out before splits are drawn from the others.
        ranges = [np.searchsorted(self.readable, [start, end]) for start, end in pairwise(ends)]
        whole = {name: torch.arange(*place) for name, place in zip(self.listing.parts, ranges, strict=True)}
        problem = None
        try:
            labels = torch.from_numpy(self.listing.labels[self.readable])
            known_by = identities(self.listing.parts.values())[self.readable]
            drawn = self.data.draw_splits(dict(whole), labels, known_by)
        except UserError as error:
            drawn, problem = whole, str(error)
        known = [name for name in SPLITS if name in drawn and not (name == "test" and self.data.tests_on_validation)]
        return {name: self.readable[drawn[name].numpy()] for name in known}, problem

    def _exact(self) -> tuple[list[Pair], NDArray[np.int64]]:
        """Each copy with the first of its images, and one place for every picture."""
        order = self.readable[np.lexsort((self.split_of[self.readable], self.prints.digests[self.readable]))]
        digests = self.prints.digests[order]
        new = np.r_[True, digests[1:] != digests[:-1]] if len(order) else np.zeros(0, np.bool_)
        first_of = order[new][np.cumsum(new) - 1]
        pairs = zip(first_of[~new].tolist(), order[~new].tolist(), strict=True)
        return [self._ordered(*pair, "the same pixels", 0, 1.0) for pair in sorted(pairs)], np.sort(order[new])

    def _ordered(self, first: int, second: int, note: str, bits: int, alike: float) -> Pair:
        if self.split_of[second] < self.split_of[first]:
            first, second = second, first
        return Pair(first, second, note, {"exact": note == "the same pixels", "hash_distance": bits, "likeness": alike})

    @property
    def pairs(self) -> dict[str, list[Pair]]:
        """The pairs found, by kind."""
        return {
            "leakage between splits": self.leaks,
            "one image under two labels": self.conflicts,
            "exact duplicates": self.exact,
            "near duplicates": self.near,
        }

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to look into."""
        return not (self.stray or self.prints.errors or self.exact or self.near or self.problem)

    @property
    def sizes(self) -> Counter[str]:
        """Images by width and height."""
        sizes, counts = np.unique(self.prints.sizes[self.readable], axis=0, return_counts=True)
        return Counter({f"{w}x{h}": number for (w, h), number in zip(sizes.tolist(), counts.tolist(), strict=True)})

    @property
    def modes(self) -> Counter[str]:
        """Images by the kind of their pixels."""
        return Counter(mode for mode in self.prints.modes if mode)

    @property
    def counts(self) -> dict[str, list[int]]:
        """Images of each class, `K` numbers for each split."""
        labels, classes = self.listing.labels, len(self.listing.class_names)
        return {name: np.bincount(labels[places], minlength=classes).tolist() for name, places in self.splits.items()}

    def split(self, place: int) -> str:
        """The split that an image is used in; `unused` if the configuration leaves it out."""
        return [*self.splits, "unused"][int(self.split_of[place])]

    def class_name(self, place: int) -> str:
        """The class of an image."""
        return str(self.listing.class_names[self.listing.labels[place]])

    def as_json(self) -> dict[str, Any]:
        """Everything found, in plain types."""

        def image(place: int) -> dict[str, str]:
            return {"name": self.listing.name(place), "split": self.split(place), "class": self.class_name(place)}

        kinds = ("leakage", "label_conflicts", "exact_duplicates", "near_duplicates")
        return {
            "data": type(self.data).__name__,
            "folder": escape_name(str(self.data.source_folder)),
            "clean": self.is_clean,
            "images": len(self.listing),
            "splits_problem": self.problem,
            "unreadable": [image(place) | {"reason": reason} for place, reason in self.prints.errors.items()],
            "stray_files": list(map(escape_name, self.stray)),
            **{
                kind: [{"images": [image(pair.first), image(pair.second)], **pair.facts} for pair in pairs]
                for kind, pairs in zip(kinds, self.pairs.values(), strict=True)
            },
            "sizes": self.sizes,
            "modes": self.modes,
            "class_names": self.listing.class_names,
            "images_per_class": self.counts,
        }

    def rows(self) -> Iterator[tuple[str, int, list[str]]]:
        """What was looked for, how many were found, and some of them."""
        name, errors = self.listing.name, self.prints.errors
        yield "unreadable files", len(errors), _some([f"{name(place)}: {reason}" for place, reason in errors.items()])
        yield "stray files", len(self.stray), _some(self.stray_lines)
        for kind, pairs in self.pairs.items():
            ends = [(self._described(pair.first), self._described(pair.second)) for pair in pairs]
            yield kind, len(pairs), _some([f"{first} = {second}" for first, second in ends])
        if self.problem:
            yield "splits that cannot be drawn", 1, [self.problem]
        for what, found in (("sizes", self.sizes), ("modes", self.modes)):
            yield what, len(found), _some([f"{kind}: {number:,}" for kind, number in found.most_common()])

    def tables(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        """What is too long for the summary: headings and rows by title."""
        name, class_name, errors = self.listing.name, self.class_name, self.prints.errors
        unreadable = [[name(place), self.split(place), class_name(place), reason] for place, reason in errors.items()]
        classes = zip(self.listing.class_names, *self.counts.values(), strict=True)
        return {
            "Unreadable files": (["file", "split", "class", "reason"], unreadable),
            "Images of each class": (
                ["class", *self.counts],
                [[str(label), *(f"{number:,}" for number in numbers)] for label, *numbers in classes],
            ),
        }

    def _described(self, place: int) -> str:
        return f"{self.listing.name(place)} ({self.split(place)}, {self.class_name(place)})"


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:EXAMPLES], *([f"and {len(lines) - EXAMPLES:,} more"] if len(lines) > EXAMPLES else [])]


def class_table(audit: Audit) -> Table:
    """Images per class and split: a row for each class, or what is typical where there are many."""
    counts, names = audit.counts, audit.listing.class_names
    table = Table(box=box.SIMPLE_HEAD)
    if len(names) <= MOST_CLASSES:
        table.add_column("class")
        for split in counts:
            table.add_column(split, justify="right")
        for name, *numbers in zip(names, *counts.values(), strict=True):
            table.add_row(escape(name), *(f"{number:,}" for number in numbers))
        table.add_section()
        table.add_row("all", *(f"{sum(numbers):,}" for numbers in counts.values()))
        return table
    for heading in ("split", "images", "classes", "fewest", "median", "most"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for heading in ("smallest", "largest"):
        table.add_column(heading)
    for split, numbers in counts.items():
        least, most = int(np.argmin(numbers)), int(np.argmax(numbers))
        figures = (sum(numbers), np.count_nonzero(numbers), min(numbers), int(np.median(numbers)), max(numbers))
        equal = numbers[least] == numbers[most]
        table.add_row(
            split, *(f"{number:,}" for number in figures), *("" if equal else escape(names[n]) for n in (least, most))
        )
    return table


def show(audit: Audit) -> None:
    """Print the tables."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{len(audit.listing):,} images of {type(audit.data).__name__}")
    table.add_column("what", no_wrap=True)
    table.add_column("found", justify="right", no_wrap=True)
    table.add_column("such as", overflow="fold")
    for what, found, examples in audit.rows():
        table.add_row(what, f"{found:,}", escape("\n".join(map(escape_name, examples))))
    get_console().print(table)
    get_console().print(class_table(audit))
    if audit.data.tests_on_validation:
        print("test is val: labels of others are not public")


def refuse_unwritable(path: Path) -> None:
    """See that a file can be written, before the work that it is to hold."""
    was_there = path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror}; give a file in a folder that is there and yours."
        ) from error
    if not was_there:
        path.unlink()


def audit(options: argparse.Namespace, data: ImageDataModule) -> int:
    """Look at a data set, and say and write what was found."""
    outputs = [path for path in (options.json, options.html) if path is not None]
    for path in outputs:
        refuse_unwritable(path)
    found = Audit(data)
    show(found)
    try:
        if options.json is not None:
            replace_file(options.json, json.dumps(found.as_json(), indent=2) + "\n")
        if options.html is not None:
            rows = [(what, f"{number:,}{': ' if some else ''}{'; '.join(some)}") for what, number, some in found.rows()]
            kinds = {kind: [_shown(found, pair) for pair in pairs] for kind, pairs in found.pairs.items()}
            title = f"{len(found.listing):,} images of {type(data).__name__}"
            write_audit_page(options.html, title, rows, kinds, found.listing.picture, found.tables())
    except OSError as error:
        raise UserError(
            f"{error.filename or outputs[-1]} cannot be written: {error.strerror or error}; choose another file."
        ) from error
    for path in outputs:
        print(path)
    return 0 if found.is_clean else 1


def _shown(found: Audit, pair: Pair) -> ShownPair:
    left, right = (
        Shown(place, found.listing.name(place), found.split(place), found.class_name(place))
        for place in (pair.first, pair.second)
    )
    return ShownPair(left, right, pair.note)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description="Look at a data set before training. Other flags are those of scripts/train.py about data.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", type=to_path, metavar="FILE", help="write everything found")
    parser.add_argument("--html", type=to_path, metavar="FILE", help="write a page of the pairs found")
    run_on_data(parser, audit, args)


if __name__ == "__main__":
    main()
