"""Any images that a table lists."""

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
from datamodules.decoding.table import encode_texts, read_table, rows_of
from datamodules.image_folder import ImageFileModule
from datamodules.packing.columns import RESERVED
from datamodules.packing.pack import Rows, Source

# What columns are called that nobody names, in small letters alone; the first that is there is taken.
GUESSES = {
    "path": ("path", "filepath", "imagepath", "file", "filename", "image", "imagefile", "imagename", "imageid", "id"),
    "label": ("label", "labels", "class", "classname", "category", "target"),
}

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


class ImageTable(ImageFileModule):
    """Images that a table lists: a row for each, with its path, its label, and whatever else is known of it.

    The table is a CSV file in UTF-8, with `,`, `;` or tabs, or Parquet. A path may lack its ending, as ids of Kaggle
    do. Columns that no argument names are carried along to the predictions of `scripts/evaluate.py`.

    Args:
        table: The table; a relative path begins in `root`.
        folder: The folder that the paths in the table begin in; by default that of the table.
        path: The column of the paths; by default one that is called so, or `file`, `image`, `id` and the like.
        label: The column of the class names, or several columns of 0 and 1, one for each class; by default one that is
            called `label`, `class`, `target` and the like. The classes are those of training, sorted.
        split: The column that says `train`, `val` or `test`; by default splits are drawn.
        group: The column of what must not be in two splits, such as the patient.
        fold_column: The column of the number of the fold that an image is in, from 0 on.
        weight: The column of a positive number, which an image's share of each epoch of training is in proportion to.
        class_names: A text file with the name of a class on each line, for labels that are 0, 1 and so on.
        multi_label: Whether an image may have several labels or none, with `separator` between them.
        separator: What stands between the labels of an image.
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
        self._table_name, self._folder, self._class_file = Path(table), folder, class_names
        self._given = {"path": path, "label": label, "split": split, "group": group}
        self._given |= {"fold_column": fold_column, "weight": weight}
        self._separator, self.is_multi_label = separator, multi_label
        self.known_files = [glob.escape(each.name) for each in (self._table_name, Path(class_names or ""))]
        super().__init__(**arguments)

    @property
    def _file(self) -> Path:
        return self.root / self._table_name

    @property
    def source_folder(self) -> Path:
        """The folder that paths begin in."""
        return self._file.parent if self._folder is None else self.root / self._folder

    @cached_property
    def _table(self) -> Any:
        return self.from_source(lambda: read_table(self._file))

    @cached_property
    def _columns(self) -> dict[str, list[str]]:
        """The columns that each argument means."""
        there, columns = self._table.column_names, {}
        for argument, given in self._given.items():
            names = [given] if isinstance(given, str) else list(given or ())
            if given is None and argument in GUESSES:
                alike = {re.sub("[^a-z]", "", name.lower()): name for name in reversed(there)}
                names = [alike[guess] for guess in GUESSES[argument] if guess in alike][:1]
                if not names:
                    raise UserError(
                        f"{self._file} has no column called {argument} or the like, but {some_of(there)}; name it with "
                        f"--data.{argument}, or put commas between columns."
                    )
            for name in set(names).difference(there):
                raise UserError(
                    f"data.{argument} is {name}, but {self._file} has no such column; "
                    f"{near_names(name, there, otherwise=f'name one of {some_of(there)}.')}"
                )
            columns[argument] = names
        return columns

    @cached_property
    def _others(self) -> list[str]:
        """The columns that no argument means."""
        used = {name for names in self._columns.values() for name in names}
        return [name for name in self._table.column_names if name and name not in used]

    @rank_zero_only
    def print_summary(self) -> None:
        super().print_summary()
        said = [f"{argument} from {some_of(names)}" for argument, names in self._columns.items() if names]
        said += [f"carried along, deciding nothing: {some_of(self._others)}"] if self._others else []
        print(f"{self._file.name}: {'; '.join(said)}")

    def _check(self, name: str, wrong: Any, remedy: str) -> None:
        """Refuse the rows where something is wrong in a column."""
        if len(rows := np.flatnonzero(wrong)):
            value = self._table[name][int(rows[0])].as_py() or "nothing"
            where = f"{self._file} has {value} in the column {name}, in {rows_of(rows)}"
            raise UserError(f"{where}: {remedy}.")

    def _text(self, argument: str) -> Any:
        (name,) = self._columns[argument]
        self._check(name, pc.equal(self._table[name], ""), "give one in every row, or remove the row")
        return self._table[name].combine_chunks()

    def _numbers(self, argument: str) -> NDArray[np.float64]:
        column = self._text(argument)
        self._check(self._columns[argument][0], pc.invert(pc.match_substring_regex(column, NUMBER)), "give a number")
        return np.asarray(pc.cast(column, pa.float64()))

    @cached_property
    def _split_rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each split."""
        if not self._columns["split"]:
            return {"train": np.arange(len(self._table))}
        numbers, words = encode_texts(self._text("split"))
        named = [split_named(word) or ("", "") for word in words]
        splits = np.array([split if not rest else "" for split, rest in named])[numbers]
        self._check(self._columns["split"][0], ~np.isin(splits, SPLITS), "write train, val or test")
        return {split: rows for split in SPLITS if len(rows := np.flatnonzero(splits == split)) or split == "train"}

    @cached_property
    def class_names(self) -> Sequence[str]:  # type: ignore[override]  # others declare theirs, these are in the table
        """The names of the classes of training, sorted, or as the file of names has them."""
        return self._labels[0]

    @cached_property
    def _labels(self) -> tuple[list[str], NDArray[np.integer[Any]]]:
        """Names, `K`, and labels: int64 `[N]`, or uint8 `[N, K]` of 0 and 1."""
        columns, rows = self._columns["label"], np.arange(len(self._table))
        if len(columns) > 1:
            marks = np.stack([self._marks(name) for name in columns], axis=1)
            one = "mark one class in every row, or give --data.multi_label true"
            self._check(columns[0], (marks.sum(axis=1) != 1) & (not self.is_multi_label), one)
            return columns, marks if self.is_multi_label else marks.argmax(axis=1)
        if self.is_multi_label:
            parts = pc.split_pattern(self._table[columns[0]].combine_chunks(), self._separator)
            names_of, of = pc.utf8_trim_whitespace(pc.list_flatten(parts)), np.asarray(pc.list_parent_indices(parts))
            is_some = pc.not_equal(names_of, "")
            (numbers, texts), rows = encode_texts(names_of.filter(is_some)), of[np.asarray(is_some)]
        else:
            several = "if these are several labels, give --data.multi_label true; if not, call the class otherwise"
            self._check(columns[0], pc.match_substring(self._text("label"), ";"), several)
            numbers, texts = encode_texts(self._text("label"))
        if self._class_file is not None:
            file = self.root / self._class_file
            try:
                lines = self.from_source(lambda: file.read_text("utf-8-sig")).splitlines()
            except UnicodeDecodeError:
                raise UserError(f"{file} is not UTF-8; save it so, with a class name on each line.") from None
            names = [line.strip() for line in lines if line.strip()]
            remedy = f"{self._class_file} has names for 0 to {len(names) - 1}: add others"
            label_of = {str(label): label for label in range(len(names))}
        else:
            are_numbers = all(re.fullmatch(r"-?\d+", text) for text in texts)
            of_training = np.unique(numbers[np.isin(rows, self._split_rows["train"])])
            names = sorted((texts[place] for place in of_training), key=int if are_numbers else str)
            remedy = "training has no such label: add some"
            label_of = {name: label for label, name in enumerate(names)}
        labels = np.array([label_of.get(text, -1) for text in texts], np.int64)[numbers]
        self._check(columns[0], np.isin(np.arange(len(self._table)), rows[labels < 0]), f"{remedy}, or remove the row")
        if not self.is_multi_label:
            return names, labels
        marks = np.zeros((len(self._table), len(names)), np.uint8)
        marks[rows, labels] = 1
        return names, marks

    def _marks(self, name: str) -> NDArray[np.uint8]:
        words = pc.utf8_lower(self._table[name])
        is_one, is_zero = (pc.is_in(words, pa.array(each)) for each in (["1", "1.0", "true"], ["0", "0.0", "false"]))
        self._check(name, pc.invert(pc.or_(is_one, is_zero)), "write 0 or 1")
        return np.asarray(is_one).astype(np.uint8)

    @cached_property
    def _paths(self) -> pa.Array:
        """The paths as the table has them, but relative to the folder."""
        paths = pc.replace_substring(self._text("path"), "\\", "/")
        start = f"^([.]|{re.escape(str(self.source_folder.absolute()))})/+"
        paths = pc.replace_substring_regex(paths, start, "")
        is_outside = pc.match_substring_regex(paths, r"^/|(^|/)\.\.(/|$)")
        self._check(self._columns["path"][0], is_outside, "give in --data.folder a folder that all images are in")
        return paths

    @cached_property
    def _folders(self) -> tuple[str, ...]:
        """The folders that the paths lead to, as far as they are there."""
        self.source_folder.stat()
        folders = pc.unique(pc.replace_substring_regex(self._paths, "[^/]*$", "")).to_pylist()
        return tuple(sorted(folder for folder in folders if (self.source_folder / folder).is_dir()))

    def _files(self) -> list[str]:
        """All files in those folders."""
        there = ((folder, files_in(self.source_folder / folder)) for folder in self._folders)
        return [f"{folder}{entry.name}" for folder, entries in there for entry in entries]

    def _found(self) -> list[str]:
        """The file of each row, whose ending the table may lack."""
        (column,), files, paths = self._columns["path"], self._files(), self._paths.to_pylist()
        there, folder = {file: [file] for file in files}, self.source_folder
        if not there.keys() >= {*paths}:
            stems = defaultdict[str, list[str]](list)
            for file in files:
                if is_image(f"{folder}/{file}") or holds_numbers(f"{folder}/{file}"):
                    stems[re.sub(r"\.[^./]*$", "", file)].append(file)
            there = stems | there
        found = [there.get(path, []) for path in paths]
        several = f"several images in {folder} are called so; write the ending as well"
        self._check(column, [len(each) > 1 for each in found], several)
        missing = f"{folder} has no such file; correct the paths, or give another --data.folder"
        self._check(column, [not each for each in found], missing)
        files = [file for (file,) in found]
        twice = [file for file, count in Counter(files).items() if count > 1]
        remedy = f"{len(twice):,} images have several rows; keep one of each"
        self._check(column, [file in twice[:1] for file in files], remedy)
        return files

    @cached_property
    def described_by(self) -> dict[str, str]:  # type: ignore[override]  # others have none
        """The table and the file of names, with a digest of each."""
        files = [self._file, *([self.root / self._class_file] if self._class_file else [])]
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    def fingerprint(self) -> str:
        """The content of the table and of the file of names, and sizes and times of the files in their folders."""
        return " ".join((*self.described_by.values(), fingerprint_files(self.source_folder, self._folders)))

    def files_left_out(self, known: Collection[str]) -> list[str]:
        """The files beside those in the table that it does not name, sorted."""
        return sorted({*self._files()}.difference(known))

    def read(self) -> Source:
        """The images of every split, in the order of their rows."""
        paths, (_, labels) = np.array(self._found(), object), self._labels
        columns = {
            f"{name} (table)" if name in RESERVED else name: np.asarray(self._table[name]) for name in self._others
        }
        if self._columns["group"]:
            columns["group"] = np.asarray(self._text("group"))
        for argument, name in (("fold_column", "fold"), ("weight", "weight")):
            if self._columns[argument]:
                columns[name] = self._numbers(argument)
        files = self.listed({split: [(path, 0) for path in paths[rows]] for split, rows in self._split_rows.items()})
        return {
            split: Rows(files[split][0], labels[rows], {name: each[rows] for name, each in columns.items()})
            for split, rows in self._split_rows.items()
        }
