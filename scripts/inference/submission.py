"""Predictions in the form that a competition asks for, which its sample shows."""

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from core.names import some_of
from core.user_error import UserError
from datamodules.decoding.table import read_table, rows_of
from scripts.inference.prediction_table import Row


class Submission:
    """Takes the rows of images, and writes them in the order and with the columns of a sample.

    The first column of the sample names the images, with or without folder and ending. Of several other columns, each
    has the probability of the class that it is called after. One alone has the class, or its number from 0 on where the
    sample shows such numbers and classes have names; of two classes it has the probability of the second where the
    sample shows other numbers, or if `probability` is asked for.

    A sample that does not fit the images or the classes is a UserError.
    """

    def __init__(self, sample: Path, images: Sequence[str], classes: Sequence[str], probability: bool = False) -> None:
        try:
            table = read_table(sample)
        except OSError as error:
            raise UserError(f"{sample} cannot be read: {error.strerror}; give the competition's sample.") from error
        self.header, self.ids, self.classes = table.column_names, table[0].to_pylist(), classes
        self.paths = self._paths(sample, images)  # of the image of each row
        columns, shown = self.header[1:], set(table[-1].unique().to_pylist())
        is_class, is_number = (shown <= {*names} for names in (classes, map(str, range(len(classes)))))
        probability |= not (is_class or is_number) and all(text.replace(".", "", 1).isdigit() for text in shown)
        if sorted(columns) == sorted(classes):
            self.cells = [f"probability of {name}" for name in columns]
        elif len(columns) == 1 and not probability:
            is_place = is_number and not any(name.isdigit() for name in classes)
            self.cells = ["number" if is_place else "prediction"]
        elif len(columns) == 1 and len(classes) == 2:
            self.cells = [f"probability of {classes[1]}"]
        else:
            raise UserError(
                f"{sample} has the columns {some_of(self.header)}, but the classes are {some_of(classes)}; expected "
                "the images and a column of classes, or for probabilities a column that is called like each class."
            )
        self._rows: list[list[str]] = []

    def _paths(self, sample: Path, images: Sequence[str]) -> list[str]:
        named = defaultdict[str, set[str]](set)
        for path in images:
            name = os.path.basename(path)  # noqa: PTH119
            named[name].add(path)
            named[os.path.splitext(name)[0]].add(path)  # noqa: PTH122
        found = [named.get(os.path.basename(name), ()) for name in self.ids]  # noqa: PTH119
        if rows := [row for row, paths in enumerate(found) if len(paths) != 1]:
            number = len(found[rows[0]]) or "none"
            raise UserError(
                f"{sample} asks in {rows_of(rows)} for images such as {self.ids[rows[0]]}, but {number} of those given "
                "are called so; name the images that it asks for, and no others of their names."
            )
        return [path for paths in found for path in paths]

    def append(self, rows: Sequence[Row]) -> None:
        """Take rows, which have the probability of each class, in the order of `paths`."""
        for row in rows:
            if row["error"]:
                raise UserError(
                    f"{row['path']}, which the sample names, cannot be predicted ({row['error']}), so that nothing was "
                    "written; replace it. Without --submission all such images are listed."
                )
            if self.cells == ["number"]:
                row["number"] = str(self.classes.index(str(row["prediction"])))
            cells = (row[name] for name in self.cells)
            texts = [cell if isinstance(cell, str) else f"{cell:.9g}" for cell in cells]
            self._rows.append([self.ids[len(self._rows)], *texts])

    @property
    def text(self) -> str:
        """The submission, of all images."""
        table = StringIO(newline="")
        csv.writer(table, lineterminator="\n").writerows([self.header, *self._rows])
        return table.getvalue()
