"""The runs of a cross-validation, and what they predict for the images that they were not trained on."""

from collections.abc import Sequence
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
    """A network that was tested on a fold."""

    seed: int
    fold: int
    trained: TrainedNetwork
    data: "ImageDataModule"
    tested: Predictions  # of its fold
    validated: Predictions


def find_folds(paths: Sequence[Path]) -> dict[tuple[int, int], Path]:
    """The runs of one cross-validation in folders of runs or experiments, by seed and fold, in order.

    Of several runs of a seed and fold the newest counts, or the newest that is finished.
    """
    found, settings = dict[tuple[int, int], Path](), {}
    runs = {file.parent for path in paths for file in path.rglob(CONFIG)}
    for run in sorted(runs, key=lambda run: (is_tested(read_results(run)), order_of_start(run))):
        config = read_config(run / CONFIG)
        fold = (config.get("data", {}).get("init_args") or {}).pop("fold", None)
        if isinstance(fold, int):
            found[config["seed_everything"], fold] = run
            settings[run] = flat({key: value for key, value in config.items() if key not in ELSEWHERE})
            settings[run]["data_fingerprint"] = (read_origin(run) or {}).get("data_fingerprint")
    if not found:
        raise UserError(
            f"{paths[0]} is no folder of a run and holds none of folds; give a run such as runs/EXPERIMENT/DATE-TIME, "
            "or an experiment that fit --folds has trained."
        )
    first = next(iter(found.values()))
    for run in found.values():
        for key, (one, other) in differences(settings[first], settings[run]).items():
            raise UserError(
                f"{first} and {run} are not of one cross-validation: {key} is {one} and {other}; give the runs of one."
            )
    folds = settings[first].get("data.init_args.folds") or max(fold for _, fold in found) + 1
    for seed in {seed for seed, _ in found}:
        for fold in range(folds):
            known = found.get((seed, fold))
            if known is None or not is_tested(read_results(known)):
                anew = f"--config {first / CONFIG} --data.fold {fold} --seed_everything {seed}"
                raise UserError(
                    f"Fold {fold} of {folds} with seed {seed} is {'not finished' if known else 'missing'}; train it "
                    f"with scripts/train.py fit {f'--resume {known}' if known else anew}"
                )
    return dict(sorted(found.items()))


def open_folds(
    found: dict[tuple[int, int], Path], flags: Sequence[str] = ()
) -> list[tuple[TrainedNetwork, "ImageDataModule"]]:
    """The network of each run, and the data of the run or, by flags of `scripts/train.py`, others."""
    trained = [TrainedNetwork(folder) for folder in found.values()]
    opened = [(network, network.data(flags)) for network in trained]
    places = torch.cat([data.splits["test"] for _, data in opened[: len({fold for _, fold in found})]])
    is_whole = len(torch.unique(places)) == len(places) and torch.isin(opened[0][1].splits["train"], places).all()
    if len(found) > 1 and not is_whole:
        raise UserError("With these flags not every image is in one fold; leave those out that concern splits.")
    return opened


def predict_folds(
    found: dict[tuple[int, int], Path], opened: Sequence[tuple[TrainedNetwork, "ImageDataModule"]], split: str = "test"
) -> tuple[list[FoldRun], Predictions, Predictions]:
    """Let each network predict its fold, or a single one a split.

    The predictions are of each image once, fold by fold, and of the validation images of each fold. With several seeds
    they are of the mean of the probabilities.
    """
    folds = len({fold for _, fold in found})
    runs = []
    for (seed, fold), (network, data) in zip(found, opened, strict=True):
        # Of several, one at a time is on the device.
        passing = network if len(found) == 1 else TrainedNetwork(network.path, content=network.checkpoint)
        tested = predict_split(passing, data, split)
        validated = tested if split == "val" else predict_split(passing, data, "val")
        runs.append(FoldRun(seed, fold, network, data, tested, validated))
    return runs, _together([run.tested for run in runs], folds), _together([run.validated for run in runs], folds)


def _together(parts: Sequence[Predictions], folds: int) -> Predictions:
    if len(parts) == 1:
        return parts[0]
    # The parts are by seed, and of each seed by fold.
    first = parts[:folds]
    of_seeds = ([torch.from_numpy(part.logits) for part in parts[fold::folds]] for fold in range(folds))
    carried = {name: [text for part in first for text in part.carried[name]] for name in first[0].carried}
    carried["fold"] = [str(fold) for fold, part in enumerate(first) for _ in range(len(part))]
    return replace(
        first[0],
        names=[name for part in first for name in part.names],
        places=np.concatenate([part.places for part in first]),
        labels=np.concatenate([part.labels for part in first]),
        logits=torch.cat([mean_logits(logits) for logits in of_seeds]).numpy(),
        carried=carried,
    )
