"""What a network says of photographs, from its checkpoint alone.

    python scripts/predict.py CHECKPOINT PATH... [--output FILE] [--top 5] [--probabilities] [--logits]

CHECKPOINT is a file or a run's folder. A PATH is an image, a folder (with those in it), a glob, or - for a list of
files from standard input; --list FILE reads such a list from a file. --output ends in .csv, .jsonl or .parquet; without
it there is a table on standard output. An image that cannot be read is a row with its error. Exit status: 0 if all are
predicted, 1 if some have errors, 2 for a mistake in the command.
"""

import argparse
import sys
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NoReturn

import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray

from datamodules.decoding.names import readable
from datamodules.loading.loader import WorkerError
from datamodules.loading.progress import progress
from scripts.command.configuration import TRUST
from scripts.command.expansion import expand, to_path
from scripts.command.process import training_process
from scripts.inference.image_classifier import ImageClassifier, load_classifier
from scripts.inference.input_images import input_images
from scripts.inference.prediction_output import (
    ERROR,
    PATH,
    PROBABILITY,
    Output,
    OutputError,
    Row,
    Terminal,
    columns_for,
    output_file,
)
from scripts.inference.predictions import probabilities_of

NO_FINITE_LOGITS = "the network gives numbers that are not finite"

SAME = 0.01
"""How far apart the probabilities of one image may be, in a prediction and in one that goes on with it: bfloat16 rounds
to so much, and machines do so differently."""


def predict(options: argparse.Namespace) -> int:
    """Predict what is asked for.

    Args:
        options: The command line's.

    Returns:
        How many images have errors.

    Raises:
        MisconfigurationException: If checkpoint, images or output cannot be had or do not fit each other.
        OutputError: If the output cannot be written any longer.
    """
    if options.resume and not options.output:
        raise MisconfigurationException("--resume goes on with a file; say with --output which.")
    paths = input_images(options.paths, options.list)
    classifier = load_classifier(options.checkpoint)
    classifier.refuse_files_of_other_channels()
    names = classifier.class_names
    if options.top > len(names):
        raise MisconfigurationException(
            f"--top is {options.top}, but {classifier.checkpoint} knows {len(names)} classes."
        )
    columns = columns_for(names, options.top, probabilities=options.probabilities, logits=options.logits)
    output = (
        output_file(options.output, columns, resume=options.resume, overwrite=options.overwrite)
        if options.output
        else Terminal(columns, paths, names)
    )
    with closing(output):
        failed = write_rows(classifier, paths, output, options)
    if options.output:
        print(f"predictions  {options.output}")
    if failed:
        print(f"warning: {failed:,} of {len(paths):,} images have an error in place of a prediction", file=sys.stderr)
    return failed


def write_rows(classifier: ImageClassifier, paths: Sequence[str], output: Output, options: argparse.Namespace) -> int:
    """Predict the images that an output has no row for, and finish it.

    Args:
        classifier: The network.
        paths: All images.
        output: Where the rows go.
        options: The command line's.

    Returns:
        How many rows have errors, those that were there included.

    Raises:
        MisconfigurationException: If the output is not the beginning of such a prediction.
        OutputError: If it cannot be written any longer.
    """
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

    Args:
        classifier: The network.
        paths: All images.
        output: Where the rows go.
        options: The command line's.

    Returns:
        The rows of each batch.

    Raises:
        MisconfigurationException: If the output is not the beginning of such a prediction.
    """
    kept = output.kept
    for number, (row, path) in enumerate(
        zip(kept, [*map(readable, paths), *[None] * len(kept)], strict=False), start=1
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
        row: Row = [readable(path), names[label], float(probabilities[number, label]), None]
        for place in order[number]:
            row += [names[place], float(probabilities[number, place])]
        row += probabilities[number].tolist() if options.probabilities else []
        row += map(float, exact[number])
        if number in errors:
            row = [row[PATH], *[None] * (len(row) - 1)]
            row[ERROR] = readable(errors[number])
        rows.append(row)
    return rows


def same(old: Row, new: Row) -> bool:
    """Whether two rows say the same of an image, but for rounding; one that could not be read may have changed."""
    before, now = old[PROBABILITY], new[PROBABILITY]
    if old[ERROR] is not None or new[ERROR] is not None:
        return True
    return isinstance(before, float) and isinstance(now, float) and abs(before - now) <= SAME


def whole_number(text: str, least: int = 1) -> int:
    """The number that the text says, for argparse.

    Raises:
        ValueError: If it is none, or less than the least.
    """
    if int(text) < least:
        raise ValueError(text)
    return int(text)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise MisconfigurationException(f"{message}; see scripts/predict.py --help.")


def command_line() -> Parser:
    """What may be asked for."""
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[TRUST],
    )
    parser.add_argument("checkpoint", type=to_path, metavar="CHECKPOINT", help="a checkpoint, or the folder of a run")
    parser.add_argument(
        "paths", type=expand, nargs="*", metavar="PATH", help="an image, a folder, a glob, or - for standard input"
    )
    parser.add_argument(
        "--list", type=expand, action="append", default=[], metavar="FILE", help="a text file, a path on each line"
    )
    parser.add_argument("--output", type=to_path, metavar="FILE", help=".csv, .jsonl or .parquet; a table if absent")
    parser.add_argument("--top", type=whole_number, default=0, metavar="K", help="the K most probable classes as well")
    parser.add_argument("--probabilities", action="store_true", help="the probability of each class as well")
    parser.add_argument("--logits", action="store_true", help="the logit of each class as well")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="keep the rows of an output that is there, and go on")
    there.add_argument("--overwrite", action="store_true", help="replace an output that is there")
    parser.add_argument(
        "--batch_size", type=whole_number, metavar="B", help="images per batch; that of the run if absent"
    )
    parser.add_argument(
        "--num_workers",
        type=lambda text: whole_number(text, 0),
        metavar="N",
        help="processes that decode; one per core",
    )
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    with training_process():
        try:
            failed = predict(command_line().parse_args(args))
        except OutputError as error:
            print(f"error: {readable(str(error))}", file=sys.stderr)
            sys.exit(1)
        except WorkerError as error:
            raise WorkerError(str(error).replace("--data.", "--")) from error
        except BrokenPipeError:  # as when the table goes to `head`: nobody wants the rest
            failed = 0
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
