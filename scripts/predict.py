"""Predict the classes of image files with a checkpoint.

    python scripts/predict.py CHECKPOINT PATH... [--output FILE] [--top 5] [--probabilities] [--logits]
    python scripts/predict.py CHECKPOINT PATH... --submission SAMPLE --output FILE

CHECKPOINT is a file or a run's folder. A PATH is an image, a folder (with its subfolders), a glob, or - for a list of
files from standard input; --list FILE reads such a list from a file. --output ends in .csv, .jsonl or .parquet and is
written atomically; without it, a table is printed. An unreadable image becomes a row with an error message. SAMPLE is a
competition's sample submission: FILE is a CSV with its rows and columns, and is written only if all its images can be
predicted. Exit status: 0 if all images are predicted, 1 if some have errors, 2 for a user error.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from hashlib import blake2b
from itertools import chain

from core.durable_file import replace_file
from core.names import escape_name, some_of
from core.user_error import UserError
from datamodules.loading.loader import WorkerError
from models.serialization.checksums import content_digest
from scripts.command.boundary import CHECKPOINT, CommandParser, whole_number
from scripts.command.expansion import expand, to_path
from scripts.command.output_file import check_output
from scripts.command.process import training_process
from scripts.inference.file_predictions import predict_files, print_rows, write_predictions
from scripts.inference.input_images import input_images
from scripts.inference.prediction_table import PredictionTable
from scripts.inference.trained_network import TrainedNetwork


def predict(options: argparse.Namespace) -> int:
    """Predict the images; return the number of images with an error."""
    output = options.output
    if options.resume and not output:
        raise UserError("--resume needs --output, the file of the interrupted prediction; give it.")
    if options.submission and (options.top or options.logits or options.resume or not output):
        raise UserError("--submission decides the columns; give --output, and leave out --top, --logits and --resume.")
    paths = input_images(options.paths, options.list)
    trained = TrainedNetwork(options.checkpoint)
    names = trained.class_names
    if options.top > len(names):
        raise UserError(f"--top is {options.top}, but {trained.path} has {len(names)} classes; give at most that.")
    if options.submission:
        return submit(options, trained, paths)
    columns = {"top": options.top, "probabilities": options.probabilities, "logits": options.logits}
    table = PredictionTable(names, **columns, thresholds=trained.thresholds)
    rows = partial(predict_files, trained, paths, table, options.batch_size, options.num_workers)
    if output:
        identity = {
            "checkpoint": content_digest(trained.path),
            "images": blake2b("\0".join(map(escape_name, paths)).encode(), digest_size=16).hexdigest(),
            "images_per_line": options.batch_size or trained.batch_size,
            "columns": table.columns,
        }
        existing = {"resume": options.resume, "overwrite": options.overwrite}
        failed = write_predictions(output, table.columns, identity, rows, **existing)
        print(f"predictions  {output}")
    else:
        with closing(rows()) as batches:
            failed = print_rows(batches, table.columns, paths, names)
    if failed:
        print(f"warning: {failed:,} of {len(paths):,} images have an error in place of a prediction", file=sys.stderr)
    return failed


def submit(options: argparse.Namespace, trained: TrainedNetwork, paths: Sequence[str]) -> int:
    """Predict the images of a sample submission, and write them in its format."""
    from scripts.inference.submission import Submission

    output, names = options.output, trained.class_names
    if output.suffix.lower() != ".csv":
        raise UserError(f"--output is {output}, but a submission is a CSV file; give a name that ends in .csv.")
    check_output(output, options.overwrite)
    submission = Submission(options.submission, paths, names, options.probabilities)
    if trained.is_multi_label and len(submission.header) <= len(names):
        raise UserError(
            f"{options.submission} has too few columns for a multi-label network; give a sample with a column for each "
            "class."
        )
    table = PredictionTable(names, probabilities=True)
    with closing(predict_files(trained, submission.paths, table, options.batch_size, options.num_workers)) as batches:
        replace_file(output, submission.text(chain.from_iterable(batches)))
    print(f"submission   {output}: {some_of(submission.cells)} of {len(submission.paths):,} images")
    return 0


def command_line() -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser(prog="scripts/predict.py", description=__doc__, parents=[CHECKPOINT])
    add = parser.add_argument
    add("paths", type=expand, nargs="*", metavar="PATH", help="an image, a folder, a glob, or - for standard input")
    add("--list", type=expand, action="append", default=[], metavar="FILE", help="a text file with one path per line")
    add("--output", type=to_path, metavar="FILE", help=".csv, .jsonl or .parquet; by default a table is printed")
    add("--top", type=whole_number, default=0, metavar="K", help="add columns for the K most probable classes")
    add("--probabilities", action="store_true", help="add the probability of each class")
    add("--logits", action="store_true", help="add the logit of each class")
    add("--submission", type=to_path, metavar="SAMPLE", help="write the rows and columns of this sample submission")
    add("--batch_size", type=whole_number, metavar="B", help="images per batch; by default the run's batch size")
    workers = partial(whole_number, least=0)
    add("--num_workers", type=workers, metavar="N", help="processes that decode; by default one per core")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue an interrupted prediction")
    existing.add_argument("--overwrite", action="store_true", help="replace an existing output")
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error prints one line and exits with status 2."""
    with training_process():
        try:
            failed = predict(command_line().parse_args(args))
        except WorkerError as error:  # its message names a flag of scripts/train.py
            raise WorkerError(str(error).replace("--data.", "--")) from error
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
