"""A page of what a network does well and badly, on images that it was not trained on.

    python scripts/evaluate.py CHECKPOINT [--output FOLDER] [--split test] [--images 24] [--audit FILE] [--data...]
    python scripts/evaluate.py EXPERIMENT

CHECKPOINT is a file or a run's folder; data are those of the run unless flags of scripts/train.py about data say
otherwise. Writes `evaluation.html`, which is one file and loads nothing, `evaluation.json` and `predictions.csv`. If
images were trained on, or copies of them were, the others are judged apart; `--audit`, a file that `scripts/audit.py
--json` has written of the same data, adds those with near duplicates or images of their group in training. Of an
experiment that `fit --folds` has trained, or of its runs, each image is predicted by the networks that were not trained
on it, with several seeds by the mean of their probabilities.
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
from scripts.command.boundary import TRUST, CommandParser, mistakes_in_one_sentence, whole_number
from scripts.command.expansion import to_path
from scripts.inference.prediction_table import PredictionTable
from scripts.inference.predictions import Predictions
from scripts.inference.run_checkpoint import checkpoint_of

MOST_COLUMNS = 20  # classes up to which the table has the probability of each

TOP = 5  # most probable classes in the table where there are more

ROWS_AT_A_TIME = 4096  # rows in memory


def evaluate(options: Namespace, flags: Sequence[str]) -> None:
    """Predict, and write page, figures and table."""
    from scripts.evaluation.evaluation import Evaluation
    from scripts.evaluation.evaluation_page import page_values
    from scripts.evaluation.fold_runs import find_folds, open_folds, predict_folds
    from scripts.evaluation.leakage import leaked_images
    from scripts.report.page import write_page
    from scripts.uncertainty.mean import caption

    paths, split, audit = options.checkpoints, options.split, options.audit
    path, *others = paths
    is_one = not others and (not path.is_dir() or (path / CONFIG).is_file() or checkpoint_of(path))
    found = {(0, 0): path} if is_one else find_folds(paths)
    if not is_one and split:
        raise UserError(f"--split is {split}, but folds are evaluated on the images of all; leave --split out.")
    opened, tested_on = open_folds(found, flags), split or "test"
    trained, data = opened[0]
    folder = options.output or (trained.folder if is_one else trained.folder.parent) / "evaluation"
    folder = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    kind, page = Evaluation, "evaluation"
    if trained.is_multi_label:
        from scripts.evaluation.multi_label import MultiLabelEvaluation

        kind, page = MultiLabelEvaluation, "multi_label"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        of_folds = opened[: len({fold for _, fold in found})]
        seen = [leaked_images(network, of, of.splits[tested_on].numpy(), audit) for network, of in of_folds]
        leaked = None if split == "train" else np.concatenate(seen)
        runs, tested, validated = predict_folds(found, opened, tested_on)
        name, folds = (tested_on, []) if is_one else ("out-of-fold", runs)
        evaluation = kind(trained, data, name, tested, validated, leaked, folds)
        write_predictions(folder / "predictions.csv", tested, evaluation.thresholds)
        replace_file(folder / "evaluation.json", json.dumps(evaluation.as_json(), indent=1) + "\n")
        write_page(folder / "evaluation.html", f"evaluation/{page}.html", **page_values(evaluation, options.images))
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}; choose another folder with "
            "--output."
        ) from error
    print(evaluation.headline)
    for name, part in evaluation.leakage.items():
        low, high = part["interval"]
        print(f"  {name:<11}{part['share_right']:.4f} ({low:.4f} to {high:.4f}; {part['images']:,} images)")
    if audit and not evaluation.leakage:
        print("leaked       none")
    for name, value in evaluation.metrics.items():
        print(f"{name:<11}  {value:.4f}")
    if mean := evaluation.over_folds:
        print(f"one network  {mean.shown()}. {caption([mean])}")
    for name, file in (("page", "evaluation.html"), ("figures", "evaluation.json"), ("predictions", "predictions.csv")):
        print(f"{name:<11}  {folder / file}")


def write_predictions(path: Path, predictions: Predictions, thresholds: NDArray[np.float64]) -> None:
    """Write a row for each image, with the probability of each class or of the most probable ones.

    Thresholds are float64 `[N, K]`, empty if an image has one label.
    """
    names, own = distinct_names(predictions.class_names), predictions.carried.values()
    by_class = len(names) <= MOST_COLUMNS
    table = PredictionTable(names, top=0 if by_class else TOP, probabilities=by_class)
    first, *others = table.columns
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(distinct_names([first, "label", *others, *predictions.carried]))
        for start in range(0, len(predictions), ROWS_AT_A_TIME):
            some = slice(start, start + ROWS_AT_A_TIME)
            table = replace(table, thresholds=thresholds[some])
            rows = table.rows(predictions.names[some], predictions.logits[some], predictions.probabilities[some])
            labels = predictions.labels[some].tolist()
            for row, label, *values in zip(rows, labels, *(each[some] for each in own), strict=True):
                name, *cells = row.values()
                writer.writerow([name, label_name(label, names), *cells, *map(escape_name, values)])


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/evaluate.py", description=__doc__, parents=[TRUST])
    parser.add_argument(
        "checkpoints",
        type=to_path,
        nargs="+",
        metavar="CHECKPOINT",
        help="or a run's folder; or folds' experiment, or runs",
    )
    parser.add_argument("--output", type=to_path, help="the folder for the results; by default in that of the run")
    parser.add_argument("--split", choices=("train", "val", "test"), help="test if absent")
    parser.add_argument("--images", type=whole_number, default=24, help="pictures in each part; 24 if absent")
    parser.add_argument("--audit", type=to_path, metavar="FILE", help="what scripts/audit.py --json has written")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        evaluate(options, flags)


if __name__ == "__main__":
    main()
