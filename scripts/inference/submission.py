"""Predictions in the form that a competition asks for, which its sample shows."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path

from core.names import some_of
from core.user_error import UserError
from datamodules.decoding.table import read_table, rows_of
from scripts.inference.prediction_table import Row


class Submission:
    """Predictions in the order and with the columns of a sample.

    The first column of the sample names the images, with or without folder and ending. Of several other columns, each
    has the probability of the class that it is called after. One alone has the class; of two classes it has the
    probability of the second where the sample shows decimal numbers, or if `probability` is asked for.

    A sample that does not fit the images or the classes is a UserError.
    """

    def __init__(self, sample: Path, images: Sequence[str], classes: Sequence[str], probability: bool = False) -> None:
        try:
            table = read_table(sample)
        except OSError as error:
            raise UserError(f"{sample} cannot be read: {error.strerror}; give the competition's sample.") from error
        self.header, self.ids = table.column_names, table[0].to_pylist()
        self.paths = self._paths(sample, images)  # of the image of each row
        columns, strange = self.header[1:], {*table[-1].unique().to_pylist()} - {*classes}
        are_numbers = bool(strange) and all(text.replace(".", "", 1).isdigit() for text in strange)
        probability |= are_numbers and any("." in text for text in strange)
        is_number = are_numbers and not any(map(str.isdigit, classes))
        if sorted(columns) == sorted(classes):
            self.cells = [f"probability of {name}" for name in columns]
        elif len(columns) == 1 and not probability and not is_number:
            self.cells = ["prediction"]
        elif len(columns) == 1 and len(classes) == 2 and probability:
            self.cells = [f"probability of {classes[1]}"]
        else:
            raise UserError(
                f"{sample} has the columns {some_of(self.header)}, but the classes are {some_of(classes)}; expected "
                "the images and a column that is called like each class, or one of classes. Of two classes, "
                "--probabilities gives the probability of the second."
            )

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

    def text(self, rows: Iterable[Row]) -> str:
        """The submission, of rows that have the probability of each class, in the order of `paths`."""
        written = StringIO(newline="")
        writer = csv.writer(written, lineterminator="\n")
        writer.writerow(self.header)
        for name, row in zip(self.ids, rows, strict=True):
            if row["error"]:
                raise UserError(
                    f"{row['path']}, which the sample names, cannot be predicted ({row['error']}), so that nothing was "
                    "written; replace it. Without --submission all such images are listed."
                )
            writer.writerow([name, *(row[cell] for cell in self.cells)])
        return written.getvalue()
