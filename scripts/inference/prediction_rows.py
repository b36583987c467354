"""The rows of a prediction: images in, names and probabilities out."""

import argparse
from collections.abc import Generator, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from core.names import escape_name
from datamodules.loading.progress import progress
from scripts.inference.image_classifier import ImageClassifier
from scripts.inference.prediction_output import ERROR, PATH, PROBABILITY, Output, Row
from scripts.inference.predictions import probabilities_of

NO_FINITE_LOGITS = "the network gives numbers that are not finite"


# How far apart the probabilities of one image may be, in a prediction and in one that goes on with it: bfloat16
# rounds to so much, and machines do so differently.
SAME = 0.01


def write_rows(classifier: ImageClassifier, paths: Sequence[str], output: Output, options: argparse.Namespace) -> int:
    """Predict the images that an output has no row for, and finish it."""
    failed = sum(row[ERROR] is not None for row in output.kept)
    with closing(new_rows(classifier, paths, output, options)) as batches:
        for rows in batches:
            failed += sum(row[ERROR] is not None for row in rows)
            output.append(rows)
    output.finish()
    return failed


def new_rows(
    classifier: ImageClassifier, paths: Sequence[str], output: Output, options: argparse.Namespace
) -> Generator[list[Row]]:
    """Predict the images that an output has no row for.

    Batches are those of a prediction that was never stopped, so that the rows are the same. The last batch that has
    been written is predicted again, to see that it was the same network which wrote it.
    """
    kept = output.kept
    for number, (row, path) in enumerate(
        zip(kept, [*map(escape_name, paths), *[None] * len(kept)], strict=False), start=1
    ):
        if row[PATH] != path:
            raise output.refusal(number)
    if len(kept) == len(paths):
        return
    batch_size = options.batch_size or classifier.batch_size
    first = max(0, len(kept) - 1) // batch_size * batch_size
    predicted = classifier.logits_of_files(paths, batch_size=batch_size, num_workers=options.num_workers, first=first)
    with closing(predicted), progress("Predicting", len(paths) - first, aside=True) as advance:
        for logits, errors in predicted:
            some = paths[first : first + len(logits)]
            rows = rows_of(classifier, some, logits, errors, options)
            for number, (old, new) in enumerate(zip(kept[first:], rows, strict=False), start=first + 1):
                if not same(old, new):
                    raise output.refusal(number)
            yield rows[max(0, len(kept) - first) :]
            first += len(rows)
            advance(len(rows))


def rows_of(
    classifier: ImageClassifier,
    paths: Sequence[str],
    logits: NDArray[np.float32],
    errors: dict[int, str],
    options: argparse.Namespace,
) -> list[Row]:
    """Make rows of what the network has said.

    Args:
        classifier: The network.
        paths: The images of a batch.
        logits: What it has said, float32 `[B, K]`.
        errors: For the rows without an image, the reason.
        options: The command line's.
    """
    names = classifier.class_names
    errors = errors | {
        int(row): NO_FINITE_LOGITS for row in np.flatnonzero(~np.isfinite(logits).all(axis=1)) if int(row) not in errors
    }
    with np.errstate(invalid="ignore"):  # of those that are not finite, which have an error instead
        probabilities = probabilities_of(logits)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, : options.top]
    # The shortest text that stands for each number, where the nearest double would have twice as many digits.
    exact = logits.astype(str) if options.logits else logits[:, :0]
    rows: list[Row] = []
    for number, (path, label) in enumerate(zip(paths, logits.argmax(axis=1), strict=True)):
        row: Row = [escape_name(path), names[label], float(probabilities[number, label]), None]
        for place in order[number]:
            row += [names[place], float(probabilities[number, place])]
        row += probabilities[number].tolist() if options.probabilities else []
        row += map(float, exact[number])
        if number in errors:
            row = [row[PATH], *[None] * (len(row) - 1)]
            row[ERROR] = escape_name(errors[number])
        rows.append(row)
    return rows


def same(old: Row, new: Row) -> bool:
    """Whether two rows say the same of an image, but for rounding; one that could not be read may have changed."""
    before, now = old[PROBABILITY], new[PROBABILITY]
    if old[ERROR] is not None or new[ERROR] is not None:
        return True
    return isinstance(before, float) and isinstance(now, float) and abs(before - now) <= SAME
