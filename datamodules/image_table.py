"""Image files that are listed in a table: a CSV or Parquet file."""

import glob
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray

from core.any_path import AnyPath
from core.names import near_names, some_of
from core.user_error import UserError
from datamodules.batching.split import SPLITS
from datamodules.decoding.find_files import files_in
from datamodules.decoding.folder_fingerprint import fingerprint_files
from datamodules.decoding.image_file import holds_numbers, is_image
from datamodules.decoding.split_folders import split_named
from datamodules.decoding.table import Table, encode_texts
from datamodules.image_folder import ImageFileModule
from datamodules.packing.columns import RESERVED
from datamodules.packing.pack import Rows, Source

# Usual names of columns, as lower-case letters only. The first that the table has is used.
USUAL_NAMES = {
    "path": ("path", "filepath", "imagepath", "file", "filename", "image", "imagefile", "imagename", "imageid", "id"),
    "label": ("label", "labels", "class", "classname", "category", "target"),
}


class ImageTable(ImageFileModule):
    """Images that are listed in a table, which has a row for each image with its path and label.

    The table is a CSV file in UTF-8, with `,`, `;` or tabs between columns, or a Parquet file. A path may lack its
    extension, as the image ids of Kaggle do. Columns that no argument names are not used in training; they appear in
    the predictions of `scripts/evaluate.py`.

    Args:
        table: The table file, relative to `root`.
        folder: The folder that the paths in the table are relative to, itself relative to `root`; by default the
            table's folder.
        path: The column of paths; by default one that is called `path`, `file`, `image`, `id` or similar.
        label: The column of class names; by default one that is called `label`, `class`, `target` or similar. Several
            columns of 0 and 1 are one class each. The classes are those of the training images, sorted.
        split: The column that says `train`, `val` or `test`; by default splits are drawn.
        group: The column that says which images must stay in one split, such as the patient.
        fold_column: The column with the number of each image's fold, from 0 on.
        weight: The column with a positive number, to which the frequency of an image in training is proportional.
        class_names: A text file with a class name on each line, for a label column of numbers 0, 1, 2 ...
        multi_label: Whether an image may have several labels or none, with `separator` between them.
        separator: The text between the labels of an image.
        arguments: Those of `ImageFileModule`.
    """

    whereabouts = "say with --data.table and --data.folder where it is; a relative path begins in --data.root"

    def __init__(
        self,
        table: AnyPath = Path("train.csv"),
        folder: AnyPath | None = None,
        path: str | None = None,
        label: list[str] | str | None = None,
        split: str | None = None,
        group: str | None = None,
        fold_column: str | None = None,
        weight: str | None = None,
        class_names: AnyPath | None = None,
        multi_label: bool = False,
        separator: str = ";",
        **arguments: Any,
    ) -> None:
        self._table_file, self._folder, self._class_file = Path(table), folder, class_names
        self._separator, self.is_multi_label = separator, multi_label
        self._configured_columns = {"path": path, "label": label, "split": split, "group": group}
        self._configured_columns |= {"fold_column": fold_column, "weight": weight}
        self._text_files = [Path(file) for file in (table, class_names) if file is not None]
        self.known_files = [glob.escape(file.name) for file in self._text_files]
        super().__init__(**arguments)

    @property
    def source_folder(self) -> Path:
        """The folder that the paths in the table are relative to."""
        return (self.root / self._table_file).parent if self._folder is None else self.root / self._folder

    @cached_property
    def described_by(self) -> dict[str, str]:  # type: ignore[override]  # a plain attribute in the base class
        """The SHA-256 of the table and of the file of class names."""
        return {file.name: hashlib.sha256((self.root / file).read_bytes()).hexdigest() for file in self._text_files}

    def fingerprint(self) -> str:
        """Hash the table, the file of class names, and sizes and times of the files in the folders of the images."""
        return " ".join((*self.described_by.values(), fingerprint_files(self.source_folder, self._folders())))

    def read(self) -> Source:
        """Read the images of each split, in the order of their rows."""
        _, labels = self._labels
        columns = {
            f"{name} (table)" if name in RESERVED else name: np.asarray(self._table.cells(name))
            for name in self._unused_columns()
        }
        for name in self._columns["group"]:
            columns["group"] = np.asarray(self._table.texts(name))
        for name in self._columns["fold_column"]:
            columns["fold"] = self._table.numbers(name)
        for name in self._columns["weight"]:
            columns["weight"] = self._table.numbers(name)
        files, splits = self._find_files(), self._split_rows()
        # The zeros are dummies, because a listing cannot hold multi-label labels.
        images = self.listed({split: [(files[row], 0) for row in rows] for split, rows in splits.items()})
        return {
            split: Rows(images[split][0], labels[rows], {name: values[rows] for name, values in columns.items()})
            for split, rows in splits.items()
        }

    @rank_zero_only
    def print_summary(self) -> None:
        super().print_summary()
        uses = [f"{argument} from {some_of(names)}" for argument, names in self._columns.items() if names]
        if unused := self._unused_columns():
            uses.append(f"carried along, deciding nothing: {some_of(unused)}")
        print(f"{self._table_file.name}: {'; '.join(uses)}")

    # Find the table's columns.

    @cached_property
    def _table(self) -> Table:
        return self.from_source(lambda: Table(self.root / self._table_file))

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        """The columns of each argument; none for an argument that is left out and has no usual name."""
        columns, available = {}, self._table.names
        for argument, configured in self._configured_columns.items():
            if configured is None and argument in USUAL_NAMES:
                names = [self._usual_column(argument)]
            else:
                names = [configured] if isinstance(configured, str) else list(configured or ())
            for name in names:
                if name not in available:
                    raise UserError(
                        f"data.{argument} is {name}, but {self._table.file} has no such column; "
                        f"{near_names(name, available, otherwise=f'name one of {some_of(available)}.')}"
                    )
            columns[argument] = names
        return columns

    def _usual_column(self, argument: str) -> str:
        names = self._table.names
        by_letters = {re.sub("[^a-z]", "", name.lower()): name for name in reversed(names)}
        for usual_name in USUAL_NAMES[argument]:
            if usual_name in by_letters:
                return by_letters[usual_name]
        raise UserError(
            f"{self._table.file} has no column called {argument} or the like, but {some_of(names)}; name it with "
            f"--data.{argument}, or put commas between columns."
        )

    def _unused_columns(self) -> list[str]:
        used = {name for names in self._columns.values() for name in names}
        return [name for name in self._table.names if name and name not in used]

    # Read the splits.

    def _split_rows(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each split; all rows are `train` if the table has no column of splits."""
        if not self._columns["split"]:
            return {"train": np.arange(len(self._table))}
        (column,) = self._columns["split"]
        indices, texts = encode_texts(self._table.texts(column))
        split_of = {(split, ""): split for split in SPLITS}  # with no other words in the text
        splits = np.array([split_of.get(split_named(text) or ("", ""), "") for text in texts])[indices]
        self._table.check(column, ~np.isin(splits, SPLITS), "write train, val or test")
        rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
        return {split: rows[split] for split in SPLITS if len(rows[split]) or split == "train"}

    # Read the labels.

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # a plain attribute in the base class
        """The names of the label columns or, of a single column, its training labels, sorted, or `class_names`."""
        return self._labels[0]

    @cached_property
    def _labels(self) -> tuple[list[str], NDArray[np.integer[Any]]]:
        """The class names, and labels int64 `[N]`, or uint8 `[N, K]` of 0 and 1 if multi-label."""
        columns = self._columns["label"]
        if len(columns) > 1:
            one_hot = np.stack([self._table.zeros_and_ones(name) for name in columns], axis=1)
            if self.is_multi_label:
                return columns, one_hot
            remedy = "mark one class in every row, or give --data.multi_label true"
            self._table.check(columns[0], one_hot.sum(axis=1) != 1, remedy)
            return columns, one_hot.argmax(axis=1)
        (column,) = columns
        rows, indices, texts = self._label_texts(column)
        if self._class_file is not None:
            names = self._read_class_names(self.root / self._class_file)
            label_of = {str(label): label for label in range(len(names))}
            remedy = f"{self._class_file} has names for 0 to {len(names) - 1}: add others"
        else:
            is_training = np.isin(rows, self._split_rows()["train"])
            are_numbers = all(re.fullmatch(r"-?\d+", text) for text in texts)
            training_texts = [texts[index] for index in np.unique(indices[is_training])]
            names = sorted(training_texts, key=int if are_numbers else str)
            label_of = {name: label for label, name in enumerate(names)}
            remedy = "training has no such label: add some"
        labels = np.array([label_of.get(text, -1) for text in texts], np.int64)[indices]
        is_unknown = np.isin(np.arange(len(self._table)), rows[labels < 0])
        self._table.check(column, is_unknown, f"{remedy}, or remove the row")
        if not self.is_multi_label:
            return names, labels
        one_hot = np.zeros((len(self._table), len(names)), np.uint8)
        one_hot[rows, labels] = 1
        return names, one_hot

    def _label_texts(self, column: str) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        """Return the row of each label, its index in the list of distinct texts, and this list."""
        if self.is_multi_label:
            lists = pc.split_pattern(self._table.cells(column), self._separator)
            rows, texts = pc.list_parent_indices(lists), pc.utf8_trim_whitespace(pc.list_flatten(lists))
            is_label = pc.not_equal(texts, "")
            return np.asarray(rows.filter(is_label)), *encode_texts(texts.filter(is_label))
        texts = self._table.texts(column)
        remedy = "if these are several labels, give --data.multi_label true; if not, call the class otherwise"
        self._table.check(column, pc.match_substring(texts, ";"), remedy)
        return np.arange(len(texts)), *encode_texts(texts)

    def _read_class_names(self, file: Path) -> list[str]:
        try:
            lines = self.from_source(lambda: file.read_text("utf-8-sig")).splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{file} is not UTF-8; save it so, with a class name on each line.") from None
        return [line.strip() for line in lines if line.strip()]

    # Find the files.

    @cached_property
    def _paths(self) -> pa.Array:
        """The paths in the table, relative to `source_folder`."""
        (column,) = self._columns["path"]
        paths = pc.replace_substring(self._table.texts(column), "\\", "/")
        start = f"^([.]|{re.escape(str(self.source_folder.absolute()))})/+"
        paths = pc.replace_substring_regex(paths, start, "")
        is_outside = pc.match_substring_regex(paths, r"^/|(^|/)\.\.(/|$)")
        self._table.check(column, is_outside, "give in --data.folder a folder that all images are in")
        return paths

    def _folders(self) -> tuple[str, ...]:
        """Return the existing folders that the paths name, such as `a/b/`, sorted."""
        self.source_folder.stat()  # raises FileNotFoundError, which `from_source` explains
        folders = pc.unique(pc.replace_substring_regex(self._paths, "[^/]*$", "")).to_pylist()
        return tuple(sorted(folder for folder in folders if (self.source_folder / folder).is_dir()))

    def _files(self) -> list[str]:
        """Return all files in these folders, as paths relative to `source_folder`."""
        folder_entries = ((folder, files_in(self.source_folder / folder)) for folder in self._folders())
        return [f"{folder}{entry.name}" for folder, entries in folder_entries for entry in entries]

    def _find_files(self) -> list[str]:
        """Return the file of each row; a path that is no file matches the image with this name and an extension."""
        (column,), paths, folder = self._columns["path"], self._paths.to_pylist(), self.source_folder
        files = self._files()
        matches = {file: [file] for file in files}
        if not matches.keys() >= set(paths):
            by_stem = defaultdict[str, list[str]](list)
            for file in files:
                if is_image(f"{folder}/{file}") or holds_numbers(f"{folder}/{file}"):
                    by_stem[re.sub(r"\.[^./]*$", "", file)].append(file)
            matches = by_stem | matches
        candidates = [matches.get(path, []) for path in paths]
        remedy = f"several images in {folder} are called so; write the ending as well"
        self._table.check(column, [len(files) > 1 for files in candidates], remedy)
        remedy = f"{folder} has no such file; correct the paths, or give another --data.folder"
        self._table.check(column, [not files for files in candidates], remedy)
        files = [file for (file,) in candidates]
        if repeated := [file for file, count in Counter(files).items() if count > 1]:
            remedy = f"{len(repeated):,} images have several rows; keep one of each"
            self._table.check(column, [file == repeated[0] for file in files], remedy)
        return files

    def files_left_out(self, known: Collection[str]) -> list[str]:
        """Return the files in the folders of the images that are not known, sorted."""
        return sorted(set(self._files()).difference(known))
