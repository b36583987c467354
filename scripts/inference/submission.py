"""Predictions in the format of a competition's sample submission."""

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
    """Writes predictions with the rows and columns of a sample submission.

    The first column of the sample names the images, with or without folder and suffix. The other columns decide what is
    predicted:

    - One column per class, named after the class: the probability of that class.
    - One column: the predicted class.
    - One column, two classes, and decimal numbers in the sample or `probability`: the probability of the second class.

    Raises UserError if the sample does not match the images or the classes.
    """

    def __init__(self, sample: Path, images: Sequence[str], classes: Sequence[str], probability: bool = False) -> None:
        try:
            table = read_table(sample)
        except OSError as error:
            raise UserError(f"{sample} cannot be read: {error.strerror}; give the competition's sample.") from error
        self.header, self.ids = table.column_names, table[0].to_pylist()
        self.paths = self._paths(sample, images)
        """The image of each row."""
        columns, non_classes = self.header[1:], {*table[-1].unique().to_pylist()} - {*classes}
        are_numbers = bool(non_classes) and all(text.replace(".", "", 1).isdigit() for text in non_classes)
        probability |= are_numbers and any("." in text for text in non_classes)
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
                "the images and either a column named after each class, or one column of classes. For two classes, "
                "--probabilities writes the probability of the second class into one column."
            )

    def _paths(self, sample: Path, images: Sequence[str]) -> list[str]:
        paths_of_name = defaultdict[str, set[str]](set)
        for path in images:
            name = os.path.basename(path)  # noqa: PTH119
            paths_of_name[name].add(path)
            paths_of_name[os.path.splitext(name)[0]].add(path)  # noqa: PTH122
        matches = [paths_of_name.get(os.path.basename(name), ()) for name in self.ids]  # noqa: PTH119
        if rows := [row for row, paths in enumerate(matches) if len(paths) != 1]:
            number = len(matches[rows[0]]) or "none"
            raise UserError(
                f"{sample} names in {rows_of(rows)} images such as {self.ids[rows[0]]}, but {number} of the given "
                "images have this name; give exactly one image for each name."
            )
        return [path for paths in matches for path in paths]

    def text(self, rows: Iterable[Row]) -> str:
        """Return the submission as CSV, from rows with the probability of each class, in the order of `paths`."""
        text = StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        for name, row in zip(self.ids, rows, strict=True):
            if row["error"]:
                raise UserError(
                    f"{row['path']}, which the sample names, cannot be predicted ({row['error']}), so nothing was "
                    "written; replace it. Without --submission, the command lists all such images."
                )
            writer.writerow([name, *(row[cell] for cell in self.cells)])
        return text.getvalue()
