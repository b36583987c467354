"""Find and open the runs of a cross-validation, and predict each image with the networks not trained on it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from callbacks.run.restarts import differences, flat, read_origin
from callbacks.run.run_folder import CONFIG, is_tested, order_of_start, read_results
from core.user_error import UserError
from models.training.test_time_augmentation import mean_logits
from scripts.command.configuration import ELSEWHERE, read_config
from scripts.inference.predictions import Predictions, predict_split
from scripts.inference.trained_network import TrainedNetwork

if TYPE_CHECKING:  # Lightning takes seconds to import
    from datamodules.base import ImageDataModule


class FoldRun(NamedTuple):
    """A network with its predictions for the images of its fold."""

    seed: int
    fold: int
    trained: TrainedNetwork
    tested: Predictions
    validated: Predictions  # for its validation images


def find_folds(paths: Sequence[Path]) -> dict[tuple[int, int], Path]:
    """Return the runs of one cross-validation by seed and fold, sorted; paths are folders of runs or experiments.

    Of several runs with the same seed and fold, the newest finished run counts. Raises UserError if a fold is missing
    or unfinished, or if settings or data differ.
    """
    runs: dict[tuple[int, int], Path] = {}
    settings = {}
    folders = {file.parent for path in paths for file in path.rglob(CONFIG)}
    for folder in sorted(folders, key=lambda folder: (is_tested(read_results(folder)), order_of_start(folder))):
        config = read_config(folder / CONFIG)
        fold = (config.get("data", {}).get("init_args") or {}).pop("fold", None)
        if isinstance(fold, int):
            runs[config["seed_everything"], fold] = folder
            settings[folder] = flat({key: value for key, value in config.items() if key not in ELSEWHERE})
            settings[folder]["data_fingerprint"] = (read_origin(folder) or {}).get("data_fingerprint")
    if not runs:
        raise UserError(
            f"{paths[0]} is no folder of a run and holds none of folds; give a run such as runs/EXPERIMENT/DATE-TIME, "
            "or an experiment that fit --folds has trained."
        )
    first = next(iter(runs.values()))
    for folder in runs.values():
        for key, (first_value, value) in differences(settings[first], settings[folder]).items():
            raise UserError(
                f"{first} and {folder} are not of one cross-validation: {key} is {first_value} and {value}; give the "
                "runs of one."
            )
    folds = settings[first].get("data.init_args.folds") or max(fold for _, fold in runs) + 1
    for seed in {seed for seed, _ in runs}:
        for fold in range(folds):
            run = runs.get((seed, fold))
            if run is None or not is_tested(read_results(run)):
                state = "not finished" if run else "missing"
                from_scratch = f"--config {first / CONFIG} --data.fold {fold} --seed_everything {seed}"
                raise UserError(
                    f"Fold {fold} of {folds} with seed {seed} is {state}; train it with scripts/train.py fit "
                    f"{f'--resume {run}' if run else from_scratch}"
                )
    return dict(sorted(runs.items()))


def open_folds(
    runs: Mapping[tuple[int, int], Path], flags: Sequence[str] = ()
) -> list[tuple[TrainedNetwork, "ImageDataModule"]]:
    """Open network and data of each run; raise UserError unless flags about data leave each image in one fold."""
    networks = [TrainedNetwork(folder) for folder in runs.values()]
    opened = [(network, network.data(flags)) for network in networks]
    if len(runs) > 1:
        places = torch.cat([data.splits["test"] for _, data in opened[: len({fold for _, fold in runs})]])
        is_distinct = len(torch.unique(places)) == len(places)
        if not is_distinct or not torch.isin(opened[0][1].splits["train"], places).all():
            raise UserError("With these flags not every image is in one fold; leave those out that concern splits.")
    return opened


def predict_folds(
    runs: Mapping[tuple[int, int], Path],
    opened: Sequence[tuple[TrainedNetwork, "ImageDataModule"]],
    split: str = "test",
) -> tuple[list[FoldRun], Predictions, Predictions]:
    """Predict the split and the validation split of each run, and join the predictions of all folds.

    With several seeds, the joined predictions are the mean of the probabilities over the seeds.
    """
    fold_runs = []
    for (seed, fold), (network, data) in zip(runs, opened, strict=True):
        # Build a temporary copy of each network, so that only one of them is on the device.
        temporary = network if len(runs) == 1 else TrainedNetwork(network.path, content=network.checkpoint)
        tested = predict_split(temporary, data, split)
        validated = tested if split == "val" else predict_split(temporary, data, "val")
        fold_runs.append(FoldRun(seed, fold, network, tested, validated))
    folds = len({fold for _, fold in runs})
    all_tested = _joined([run.tested for run in fold_runs], folds)
    return fold_runs, all_tested, _joined([run.validated for run in fold_runs], folds)


def _joined(parts: Sequence[Predictions], folds: int) -> Predictions:
    """Join predictions that are sorted by seed and fold: average over the seeds, then concatenate the folds."""
    if len(parts) == 1:
        return parts[0]
    first = parts[:folds]
    logits_by_fold = [[torch.from_numpy(part.logits) for part in parts[fold::folds]] for fold in range(folds)]
    carried = {name: [text for part in first for text in part.carried[name]] for name in first[0].carried}
    carried["fold"] = [str(fold) for fold, part in enumerate(first) for _ in range(len(part))]
    return replace(
        first[0],
        names=[name for part in first for name in part.names],
        places=np.concatenate([part.places for part in first]),
        labels=np.concatenate([part.labels for part in first]),
        logits=torch.cat([mean_logits(logits) for logits in logits_by_fold]).numpy(),
        carried=carried,
    )
