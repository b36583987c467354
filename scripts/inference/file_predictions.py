"""The predictions of image files, written as they come."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from core.names import escape_name
from datamodules.loading.progress import progress
from models.serialization.checksums import content_digest
from scripts.inference.image_classifier import ImageClassifier
from scripts.inference.prediction_output import Identity, PredictionFile, Terminal, finished_rows, part_of, refusal
from scripts.inference.prediction_table import PredictionTable, Row
from scripts.inference.predictions import probabilities_of

if TYPE_CHECKING:  # pyarrow takes time to import
    from scripts.inference.submission import Submission

# How far two probabilities of one image may be apart: bfloat16 rounds to so much, and machines do so differently.
ROUNDING = 0.01


class FilePredictions:
    """Predicts files in batches that are always the same, so that a prediction that goes on ends with the same rows."""

    def __init__(
        self,
        classifier: ImageClassifier,
        paths: Sequence[str],
        table: PredictionTable,
        batch_size: int | None = None,
        num_workers: int | None = None,
    ) -> None:
        self.classifier = classifier
        self.paths = paths
        self.table = table
        self.batch_size = batch_size or classifier.batch_size
        self.num_workers = num_workers

    def identity(self) -> Identity:
        """What decides the rows."""
        names = blake2b("\0".join(map(escape_name, self.paths)).encode(), digest_size=16).hexdigest()
        return {
            "checkpoint": content_digest(self.classifier.trained.path),
            "images": names,
            "batch_size": self.batch_size,
            "columns": [column.name for column in self.table.columns],
        }

    def write(self, output: "PredictionFile | Terminal | Submission", kept: int = 0) -> int:
        """Predict the files after the first ones, which have rows already; the number of new rows with an error."""
        failed = 0
        for rows in self._batches(kept):
            failed += sum(row["error"] is not None for row in rows)
            output.append(rows)
        return failed

    def write_file(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> int:
        """Write a CSV, JSON Lines or Parquet file, or go on with it; the number of rows that have an error."""
        if resume and path.is_file() and not part_of(path).exists():
            return self.check_finished(path)
        columns = self.table.columns
        with closing(PredictionFile(path, columns, self.identity(), resume=resume, overwrite=overwrite)) as output:
            failed = output.failed + self.write(output, output.kept)
            output.finish()
        return failed

    def check_finished(self, path: Path) -> int:
        """Check that a file holds these predictions, by its last batch; return the number of errors in it."""
        try:
            rows = finished_rows(path, self.table.columns)
        except (OSError, ValueError, csv.Error):
            raise refusal(path) from None
        if [row["path"] for row in rows] != list(map(escape_name, self.paths)):
            raise refusal(path)
        first = (len(rows) - 1) // self.batch_size * self.batch_size
        again = [row for batch in self._batches(first) for row in batch]
        if not all(map(is_same, rows[first:], again)):
            raise refusal(path)
        return sum(bool(row["error"]) for row in rows)

    def _batches(self, kept: int) -> Iterator[list[Row]]:
        if kept == len(self.paths):
            return
        first = kept // self.batch_size * self.batch_size
        predicted = self.classifier.logits_of_files(
            self.paths[first:], batch_size=self.batch_size, num_workers=self.num_workers
        )
        with closing(predicted), progress("Predicting", len(self.paths) - first, aside=True) as advance:
            for logits, errors in predicted:
                paths = self.paths[first : first + len(logits)]
                rows = self.table.rows(
                    paths, logits, probabilities_of(logits, self.classifier.trained.is_multi_label), errors
                )
                yield rows[max(0, kept - first) :]
                first += len(rows)
                advance(len(rows))


def is_same(old: Row, new: Row) -> bool:
    """Whether two rows have one probability, but for rounding; a file that could not be read may have changed."""
    if old["error"] or new["error"]:
        return True
    return abs(float(old["probability"] or 0) - float(new["probability"] or 0)) <= ROUNDING
