"""The weights of several checkpoints averaged into one, or one checkpoint without its training state.

    python scripts/average.py CHECKPOINT CHECKPOINT... --output FILE [--greedy] [--overwrite] [--data...]
    python scripts/average.py CHECKPOINT --output FILE [--overwrite]

Each CHECKPOINT is a file or a run's folder; all of the same network, classes and preprocessing. What is written is a
checkpoint like any other, but weights alone, from which no training goes on. The average (a uniform soup, Wortsman et
al., 2022) takes batch norm's statistics anew from the training images, and is evaluated beside its parts on the data of
the first, unless flags of scripts/train.py about data say otherwise. It is good where the parts began from the same
weights; networks that began from others have nothing in common. --greedy begins with the part of the highest validation
accuracy and, in the order of theirs, takes in the others by which that of the average does not fall.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box, get_console
from rich.table import Table
from torch import Tensor

from core.names import distinct_names, escape_name
from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.loading.progress import progress
from models.classifier import Classifier
from models.serialization.checkpoint import DurableCheckpointIO, read_checkpoint
from models.training.batch_norm import compute_statistics, trained_batch_norms
from scripts.command.boundary import TRUST, mistakes_in_one_sentence
from scripts.command.expansion import to_path
from scripts.command.output_file import refuse_output
from scripts.command.silence import silence_libraries
from scripts.inference.predictions import predict_split
from scripts.inference.trained import autocast_context, data_of, find_checkpoint, load_trained
from scripts.uncertainty.calibration import cross_entropy

# What a checkpoint needs to predict, and to say where it comes from.
KEPT = (
    *("state_dict", "hyper_parameters", "hparams_name", "class_names", "preprocessing", "config"),
    *("epoch", "global_step", "data_fingerprint", "data_images", "git_commit", "versions", "pytorch-lightning_version"),
)

SHOWN = 60  # letters of a value in a message

Figures = dict[str, float]  # accuracy and loss of each split, as `val/accuracy`

State = Mapping[str, Tensor]


class NotWrittenError(Exception):
    """The checkpoint has not reached the disk."""


def average(
    checkpoints: Sequence[Path], flags: Sequence[str], output: Path, greedy: bool, overwrite: bool
) -> dict[str, Figures]:
    """Average checkpoints, say what it gives, and write the average."""
    silence_libraries()
    files = [find_checkpoint(checkpoint) for checkpoint in checkpoints]
    refuse_output(output, overwrite)
    parts = [read_checkpoint(file) for file in files]
    for file, part in zip(files[1:], parts[1:], strict=True):
        refuse_differences(files[0], parts[0], file, part)
    classifier = load_trained(files[0])
    size = sum(file.stat().st_size for file in files) / 1e6
    if len(files) == 1:
        if flags:
            raise UserError(f"One checkpoint is not evaluated, so {flags[0]} has no meaning here; leave it out.")
        _write(output, weights_only(parts[0]))
        print(f"checkpoint  {output} ({output.stat().st_size / 1e6:,.1f} MB instead of {size:,.1f})")
        return {}

    data = data_of(files[0], classifier, flags)
    figures = {}
    for number, file in enumerate(files, 1):
        print(f"{number:<10}  {escape_name(str(file))}")
        if number > 1 and (changed := data.changes_since(parts[number - 1].get("data_images"))):
            print(f"note: {changed}")
        figures[str(number)] = evaluated(load_trained(file), file, data)
    states: list[State] = [part["state_dict"] for part in parts]
    taken = list(range(len(files)))
    if greedy:
        found = list(figures.values())
        order = sorted(taken, key=lambda number: (-found[number]["val/accuracy"], found[number]["val/loss"]))
        taken, best = order[:1], found[order[0]]["val/accuracy"]
        for number in order[1:]:
            put_in(classifier, files[0], [states[each] for each in (*taken, number)], data)
            accuracy = evaluated(classifier, files[0], data, ("val",))["val/accuracy"]
            if accuracy >= best:
                taken, best = [*taken, number], accuracy
    put_in(classifier, files[0], [states[number] for number in taken], data)
    name = f"average of {', '.join(str(number + 1) for number in sorted(taken))}"
    figures[name] = evaluated(classifier, files[0], data)
    averaged = classifier.cpu().state_dict()
    sources = [{key: parts[number].get(key) for key in ("global_step", "git_commit")} for number in taken]
    for source, number in zip(sources, taken, strict=True):
        source["checkpoint"] = str(files[number])
    _write(output, weights_only(parts[0]) | {"state_dict": averaged, "averaged": sources})
    get_console().print(_table(figures))
    print(f"checkpoint  {output} ({output.stat().st_size / 1e6:,.1f} MB, its parts {size:,.1f})")
    return figures


def weights_only(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that predicts: no optimizer, schedule, loops, callbacks or further weights."""
    kept = {key: checkpoint[key] for key in KEPT if key in checkpoint}
    for key, value in checkpoint.items():
        if isinstance(value, dict) and {"mean", "std"} <= value.keys() and key != "preprocessing":
            kept[key] = {fact: value[fact] for fact in ("mean", "std")}  # the data module's state
    return kept


def refuse_differences(one: Path, first: Mapping[str, Any], other: Path, second: Mapping[str, Any]) -> None:
    """See that two checkpoints are of the same network, classes and preprocessing."""
    facts, others = _facts(first), _facts(second)
    for name in (*facts, *others):
        mine, theirs = (each.get(name, "absent") for each in (facts, others))
        if mine != theirs:
            shown = (escape_name(str(value)) for value in (mine, theirs))
            here, there = (value if len(value) <= SHOWN else f"{value[:SHOWN]}..." for value in shown)
            raise UserError(
                f"{one} and {other} cannot be averaged: {name} is {here} in the one and {there} in the other; give "
                "checkpoints of the same network, classes and preprocessing."
            )


def _facts(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    found = {"network": checkpoint.get("hyper_parameters", {}).get("network")}
    found |= {f"class {place}": name for place, name in enumerate(distinct_names(checkpoint["class_names"]))}
    found["preprocessing"] = checkpoint["preprocessing"]
    flat: dict[str, Any] = {}

    def flatten(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                flatten(f"{name}.{key}", inner)
        else:
            flat[name] = value

    for name, value in found.items():
        flatten(name, json.loads(json.dumps(value)))
    shapes = {name: list(getattr(tensor, "shape", [])) for name, tensor in checkpoint["state_dict"].items()}
    return flat | {f"the shape of {name}": shape for name, shape in shapes.items()}


def average_states(states: Sequence[State]) -> dict[str, Tensor]:
    """The equal average of weights, summed in float64; integers, and what is no tensor, are those of the first."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def put_in(classifier: Classifier, checkpoint: Path, states: Sequence[State], data: ImageDataModule) -> None:
    """Give a network the average of weights, with batch norm's statistics from an epoch of training images."""
    classifier.load_state_dict(average_states(states))
    layers = trained_batch_norms(classifier.train())
    if layers and len(states) > 1:
        with progress("Statistics of batch norm", len(data.splits["train"])) as advance:

            def images() -> Any:
                for batch, _ in data.training_batches(0, classifier.device):
                    yield batch
                    advance(len(batch))

            with autocast_context(classifier, checkpoint):
                compute_statistics(classifier, layers, images())
    classifier.eval()


def evaluated(
    classifier: Classifier, checkpoint: Path, data: ImageDataModule, splits: Sequence[str] = ("val", "test")
) -> Figures:
    """Accuracy and loss."""
    figures: Figures = {}
    for split in splits:
        if split == "test" and data.tests_on_validation:
            continue
        with autocast_context(classifier, checkpoint):
            found = predict_split(classifier, data, split)
        figures[f"{split}/accuracy"] = float((found.classes == found.labels).mean())
        figures[f"{split}/loss"] = cross_entropy(found.logits, found.labels)
    return figures


def _table(figures: Mapping[str, Figures]) -> Table:
    names = list(next(iter(figures.values())))
    table = Table("", *names, box=box.SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", True
    for place, (title, found) in enumerate(figures.items(), 1):
        if place == len(figures):
            table.add_section()
        table.add_row(title, *(f"{found[name]:.4f}" for name in names))
    return table


def _write(output: Path, checkpoint: dict[str, Any]) -> None:
    try:
        DurableCheckpointIO().save_checkpoint(checkpoint, output)
    except OSError as error:
        raise NotWrittenError(f"{output} could not be written: {error.strerror or error}; free space there.") from error


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[TRUST],
    )
    parser.add_argument(
        "checkpoints", type=to_path, nargs="+", metavar="CHECKPOINT", help="a checkpoint, or the folder of a run"
    )
    parser.add_argument("--output", type=to_path, metavar="FILE", required=True, help="the checkpoint to write")
    parser.add_argument("--greedy", action="store_true", help="leave out parts that make the average worse")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        average(options.checkpoints, flags, options.output, options.greedy, options.overwrite)
    sys.exit(0)


if __name__ == "__main__":
    main()
