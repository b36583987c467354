"""Write a page of what a network does well and badly, on images that it was not trained on.

    python scripts/evaluate.py CHECKPOINT [--output FOLDER] [--split test] [--images 24] [--audit FILE] [--data...]
    python scripts/evaluate.py EXPERIMENT

CHECKPOINT is a checkpoint or a run's folder. The data are the run's, unless flags of scripts/train.py about data change
them. Writes `evaluation.html`, one file that loads nothing else, `evaluation.json` and `predictions.csv`.

Images that were trained on, or whose copies were, are evaluated apart from the others. `--audit`, a file that
`scripts/audit.py --json` has written about the same data, adds images with near duplicates or images of their group in
training.

For an experiment that `fit --folds` has trained, or for its runs, each image is predicted by the network that was not
trained on it. With several seeds, its probabilities are the mean over the seeds.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports
import csv
import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from callbacks.run.run_folder import CONFIG
from core.durable_file import replace_file, replacing
from core.names import distinct_names, escape_name, label_name
from scripts.command.boundary import TRUST, CommandParser, report_errors, whole_number
from scripts.command.expansion import to_path
from scripts.inference.prediction_table import PredictionTable
from scripts.inference.predictions import Predictions
from scripts.inference.run_checkpoint import checkpoint_of

MOST_COLUMNS = 20  # with more classes, the table has only the most probable classes of each image
TOP = 5  # number of those classes
CHUNK = 4096  # rows that are formatted at a time, to bound memory


def evaluate(options: Namespace, flags: Sequence[str]) -> None:
    """Predict, write page, metrics and table, and print the main results."""
    from scripts.evaluation.evaluation import Evaluation
    from scripts.evaluation.evaluation_page import page_values
    from scripts.evaluation.fold_runs import find_folds, open_folds, predict_folds
    from scripts.evaluation.leakage import leaked_images
    from scripts.report.page import write_page
    from scripts.uncertainty.mean import caption

    paths, split = options.checkpoints, options.split or "test"
    path = paths[0]
    is_one = len(paths) == 1 and (not path.is_dir() or (path / CONFIG).is_file() or checkpoint_of(path))
    runs = {(0, 0): path} if is_one else find_folds(paths)
    if not is_one and options.split:
        raise UserError(f"--split is {split}, but folds are evaluated on the images of all; leave --split out.")
    opened = open_folds(runs, flags)
    trained, data = opened[0]
    folder = options.output or (trained.folder if is_one else trained.folder.parent) / "evaluation"
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    kind, template = Evaluation, "evaluation/evaluation.html"
    if trained.is_multi_label:
        from scripts.evaluation.multi_label import MultiLabelEvaluation

        kind, template = MultiLabelEvaluation, "evaluation/multi_label.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        first_seed = opened[: len({fold for _, fold in runs})]
        leaked = np.concatenate(
            [leaked_images(network, data, data.splits[split].numpy(), options.audit) for network, data in first_seed]
        )
        fold_runs, tested, validated = predict_folds(runs, opened, split)
        name, folds = (split, []) if is_one else ("out-of-fold", fold_runs)
        evaluation = kind(trained, data, name, tested, validated, None if split == "train" else leaked, folds)
        write_predictions(folder / "predictions.csv", tested, evaluation.thresholds)
        replace_file(folder / "evaluation.json", json.dumps(evaluation.as_json(), indent=1) + "\n")
        write_page(folder / "evaluation.html", template, **page_values(evaluation, options.images))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}; choose another folder with "
            "--output."
        ) from error
    print(evaluation.headline)
    for name, part in evaluation.leakage.items():
        low, high = part["interval"]
        print(f"  {name:<11}{part['share_right']:.4f} ({low:.4f} to {high:.4f}; {part['images']:,} images)")
    if options.audit and not evaluation.leakage:
        print("leaked       none")
    for name, value in evaluation.metrics.items():
        print(f"{name:<11}  {value:.4f}")
    if mean := evaluation.over_folds:
        print(f"one network  {mean.shown()}. {caption([mean])}")
    for name, file in (("page", "evaluation.html"), ("figures", "evaluation.json"), ("predictions", "predictions.csv")):
        print(f"{name:<11}  {folder / file}")


def write_predictions(path: Path, predictions: Predictions, thresholds: NDArray[np.float64]) -> None:
    """Write a row for each image, with the probability of each class or of the most probable ones.

    Thresholds are float64 `[N, K]` for multi-label predictions, else empty.
    """
    names, carried = distinct_names(predictions.class_names), predictions.carried
    by_class = len(names) <= MOST_COLUMNS
    table = PredictionTable(names, top=0 if by_class else TOP, probabilities=by_class)
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(distinct_names([table.columns[0], "label", *table.columns[1:], *carried]))
        for start in range(0, len(predictions), CHUNK):
            chunk = slice(start, start + CHUNK)
            table = replace(table, thresholds=thresholds[chunk])
            rows = table.rows(predictions.names[chunk], predictions.logits[chunk], predictions.probabilities[chunk])
            labels = predictions.labels[chunk].tolist()
            for number, (row, label) in enumerate(zip(rows, labels, strict=True), start):
                name, *cells = row.values()
                texts = [escape_name(column[number]) for column in carried.values()]
                writer.writerow([name, label_name(label, names), *cells, *texts])


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error prints one message and exits with status 2."""
    parser = CommandParser(prog="scripts/evaluate.py", description=__doc__, parents=[TRUST])
    parser.add_argument(
        "checkpoints", type=to_path, nargs="+", metavar="CHECKPOINT", help="a checkpoint, a run, or runs of folds"
    )
    parser.add_argument("--output", type=to_path, help="the folder for the results; by default in the run's folder")
    parser.add_argument("--split", choices=("train", "val", "test"), help="test by default")
    parser.add_argument("--images", type=whole_number, default=24, help="number of pictures in each part; default 24")
    parser.add_argument("--audit", type=to_path, metavar="FILE", help="a file written by scripts/audit.py --json")
    with report_errors():
        options, flags = parser.parse_known_args(args)
        evaluate(options, flags)


if __name__ == "__main__":
    main()
