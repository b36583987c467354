"""The weights of several checkpoints averaged into one, or one checkpoint without its training state.

    python scripts/average.py CHECKPOINT CHECKPOINT... --output FILE [--greedy] [--overwrite] [--data...]
    python scripts/average.py CHECKPOINT --output FILE [--overwrite]

Each CHECKPOINT is a file or a run's folder; all of the same network, classes and preprocessing. The output is a
checkpoint like any other, but weights alone, from which no training goes on. The average (a uniform soup, Wortsman et
al., 2022) takes batch norm's statistics anew from the training images, and is evaluated beside its parts on the data of
the first, unless flags of scripts/train.py about data say otherwise. It is good where the parts began from the same
weights; networks that began from others have nothing in common. --greedy begins with the part of the highest validation
accuracy and, in the order of theirs, adds the others by which that of the average does not fall.
"""

from core.user_error import UserError  # isort: skip - first, for a Ctrl-C during the other imports
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from callbacks.run.restarts import differences, flat
from core.names import escape_name
from models.serialization.checkpoint import write_checkpoint
from models.serialization.saved_network import NETWORK
from models.training.batch_norm import BatchNorm, compute_statistics
from scripts.command.boundary import TRUST, CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from scripts.report.table import Table, show
from scripts.uncertainty.calibration import cross_entropy

if TYPE_CHECKING:  # Lightning takes seconds to import
    from datamodules.base import ImageDataModule

# The parts of a checkpoint that predict, and say where it comes from.
KEPT = (
    *("format_version", "state_dict", "hyper_parameters", "hparams_name", "class_names", "preprocessing", "config"),
    *("epoch", "global_step", "data_fingerprint", "data_images", "git_commit", "versions", "pytorch-lightning_version"),
    "thresholds",
)

Figures = dict[str, float]  # accuracy and loss of each split, as `val/accuracy`

State = Mapping[str, Tensor]


def average(
    checkpoints: Sequence[Path], flags: Sequence[str], output: Path, greedy: bool, overwrite: bool
) -> dict[str, Figures]:
    """Average checkpoints, print the figures of the average and its parts, and write the average."""
    check_output(output, overwrite)
    first, *others = parts = [TrainedNetwork(checkpoint) for checkpoint in checkpoints]
    for part in others:
        check_same_kind(first, part)
    if flags and not others:
        raise UserError(f"One checkpoint is not evaluated, so {flags[0]} has no meaning here; leave it out.")
    figures, averaged = average_parts(parts, first.data(flags), greedy) if others else ({}, {})
    write_checkpoint(weights_only(first.checkpoint) | averaged, output)
    if figures:
        rows = [[title, *(f"{value:.4f}" for value in values.values())] for title, values in figures.items()]
        show(Table(["", *figures["1"]], rows, frozenset({len(parts)})))
    size, before = (sum(file.stat().st_size for file in files) / 1e6 for files in ([output], [p.path for p in parts]))
    print(f"checkpoint  {output} ({size:,.1f} MB instead of {before:,.1f})")
    return figures


def average_parts(
    parts: Sequence[TrainedNetwork], data: "ImageDataModule", greedy: bool
) -> tuple[dict[str, Figures], dict[str, Any]]:
    """The figures of the parts and of their average, and what the average has in place of the first part."""
    first, figures = parts[0], dict[str, Figures]()
    for number, part in enumerate(parts, 1):
        print(f"{number:<10}  {escape_name(str(part.path))}")
        if number > 1 and (changes := part.changes_of(data)):
            print(f"note: {changes}")
        figures[str(number)] = evaluated(part, data)
        if part is not first:
            del part.network  # its memory is free
    states: list[State] = [part.checkpoint["state_dict"] for part in parts]
    chosen = list(range(len(parts)))
    if greedy:
        each = list(figures.values())
        best, *order = sorted(chosen, key=lambda number: (-each[number]["val/accuracy"], each[number]["val/loss"]))
        chosen, highest = [best], each[best]["val/accuracy"]
        for number in order:
            load_average(first, [states[place] for place in (*chosen, number)], data)
            accuracy = evaluated(first, data, ("val",))["val/accuracy"]
            if accuracy >= highest:
                chosen, highest = [*chosen, number], accuracy
    averaged = load_average(first, [states[number] for number in chosen], data)
    figures[f"average of {', '.join(str(number + 1) for number in sorted(chosen))}"] = evaluated(first, data)
    sources = [
        {"checkpoint": str(part.path), **{key: part.checkpoint.get(key) for key in ("global_step", "git_commit")}}
        for part in (parts[number] for number in chosen)
    ]
    return figures, {"state_dict": averaged, "averaged": sources}


def weights_only(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that predicts: no optimizer, schedule, loops, callbacks or further weights."""
    kept = {key: checkpoint[key] for key in KEPT if key in checkpoint}
    for key, value in checkpoint.items():
        if isinstance(value, dict) and {"mean", "std"} <= value.keys() and key != "preprocessing":
            kept[key] = {fact: value[fact] for fact in ("mean", "std")}  # the data module's state
    return kept


def check_same_kind(one: TrainedNetwork, other: TrainedNetwork) -> None:
    """See that two checkpoints are of the same network, classes and preprocessing."""
    for name, (there, here) in differences(_facts(other), _facts(one)).items():
        raise UserError(
            f"{one.path} and {other.path} cannot be averaged: {name} is {escape_name(f'{here!s:.60}')} in the one and "
            f"{escape_name(f'{there!s:.60}')} in the other; give checkpoints of the same network, classes and "
            "preprocessing."
        )


def _facts(part: TrainedNetwork) -> dict[str, Any]:
    facts = {"network": part.checkpoint["hyper_parameters"]["network"], "multi_label": part.is_multi_label}
    facts |= {f"class {place}": name for place, name in enumerate(part.class_names)}
    return flat(json.loads(json.dumps(facts | {"preprocessing": part.preprocessing})))


def average_states(states: Sequence[State]) -> dict[str, Tensor]:
    """The equal average of weights, summed in float64; integers and other values are those of the first."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def load_average(trained: TrainedNetwork, states: Sequence[State], data: "ImageDataModule") -> dict[str, Tensor]:
    """Give a network the average of weights, with batch norm's statistics from an epoch of training images.

    Statistics that are the same in all parts are kept: they were frozen. All averaged weights of the checkpoints are
    returned, on the CPU.
    """
    averaged = average_states(states)
    network = trained.network.eval()
    network.load_state_dict(
        {name.removeprefix(NETWORK): value for name, value in averaged.items() if name.startswith(NETWORK)}
    )
    layers = []
    for name, layer in network.named_modules():
        if isinstance(layer, BatchNorm) and layer.track_running_stats:
            means = [state[f"{NETWORK}{name}.running_mean"] for state in states]
            layers += [] if all(torch.equal(mean, means[0]) for mean in means) else [layer.train()]
    if layers:
        images = (trained.to_memory_format(batch) for batch, _ in data.training_batches(0, trained.device))
        with trained.autocast_context():
            compute_statistics(network, layers, images)
    network.eval()
    state = {f"{NETWORK}{name}": value for name, value in network.state_dict().items()}
    return averaged | {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state.items()}


def evaluated(trained: TrainedNetwork, data: "ImageDataModule", splits: Sequence[str] = ("val", "test")) -> Figures:
    """Accuracy and loss."""
    figures: Figures = {}
    for split in splits:
        if split == "test" and data.tests_on_validation:
            continue
        predictions = predict_split(trained, data, split)
        figures[f"{split}/accuracy"] = predictions.accuracy
        if split == "val" and trained.is_multi_label:
            shares, labels = map(torch.from_numpy, (predictions.probabilities, predictions.labels))
            from models.training.extra_metrics import best_thresholds

            trained.checkpoint["thresholds"] = best_thresholds(shares, labels)
        figures[f"{split}/loss"] = cross_entropy(*predictions.answers)
    return figures


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/average.py", description=__doc__, parents=[TRUST])
    parser.add_argument(
        "checkpoints", type=to_path, nargs="+", metavar="CHECKPOINT", help="a checkpoint, or the folder of a run"
    )
    parser.add_argument("--output", type=to_path, metavar="FILE", required=True, help="the checkpoint to write")
    parser.add_argument("--greedy", action="store_true", help="leave out parts that make the average worse")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        average(options.checkpoints, flags, options.output, options.greedy, options.overwrite)


if __name__ == "__main__":
    main()
