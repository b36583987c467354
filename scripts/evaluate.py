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
from scripts.inference.predictions import Predictions, predict_split
from scripts.inference.run_checkpoint import checkpoint_of
from scripts.inference.trained_network import TrainedNetwork

MOST_COLUMNS = 20  # classes up to which the table has the probability of each

TOP = 5  # most probable classes in the table where there are more

ROWS_AT_A_TIME = 4096  # rows in memory


def evaluate(
    paths: Sequence[Path], flags: Sequence[str], split: str | None, output: Path | None, images: int, audit: Path | None
) -> None:
    """Predict, and write page, figures and table."""
    from scripts.evaluation.evaluation import Evaluation
    from scripts.evaluation.evaluation_page import page_values
    from scripts.evaluation.fold_runs import FoldRun, find_folds, open_folds, predict_folds
    from scripts.evaluation.leakage import leaked_images
    from scripts.report.page import write_page
    from scripts.uncertainty.mean import caption

    path, *others = paths
    is_one = not others and (not path.is_dir() or (path / CONFIG).is_file() or checkpoint_of(path))
    found = {} if is_one else find_folds(paths)
    if found and split:
        raise UserError(f"--split is {split}, but folds are evaluated on the images of all; leave --split out.")
    opened = open_folds(found, flags) if found else []
    trained = opened[0][0] if opened else TrainedNetwork(path)
    data = opened[0][1] if opened else trained.data(flags)
    folder = output or (trained.folder.parent if found else trained.folder) / "evaluation"
    folds = list[FoldRun]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if found:
            folds, tested, validated = predict_folds(found, opened)
            first = [run for run in folds if run.seed == folds[0].seed]
            seen = [leaked_images(run.trained, run.data, run.tested.places, audit) for run in first]
            leaked: NDArray[np.bool_] | None = np.concatenate(seen)
        else:
            split = split or "test"
            leaked = leaked_images(trained, data, data.splits[split].numpy(), audit) if split != "train" else None
            tested = predict_split(trained, data, split)
            validated = tested if split == "val" else predict_split(trained, data, "val")
        kind, page = Evaluation, "evaluation"
        if trained.is_multi_label:
            from scripts.evaluation.multi_label import MultiLabelEvaluation

            kind, page = MultiLabelEvaluation, "multi_label"
        evaluation = kind(trained, data, split or "out-of-fold", tested, validated, leaked, folds)
        write_predictions(folder / "predictions.csv", tested, evaluation.thresholds)
        replace_file(folder / "evaluation.json", json.dumps(evaluation.as_json(), indent=1) + "\n")
        write_page(folder / "evaluation.html", f"evaluation/{page}.html", **page_values(evaluation, images))
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
    print(f"page         {folder / 'evaluation.html'}")
    print(f"figures      {folder / 'evaluation.json'}")
    print(f"predictions  {folder / 'predictions.csv'}")


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
        evaluate(options.checkpoints, flags, options.split, options.output, options.images, options.audit)


if __name__ == "__main__":
    main()
