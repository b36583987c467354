"""Average the weights of several checkpoints, or reduce one checkpoint to its weights.

    python scripts/average.py CHECKPOINT CHECKPOINT... --output FILE [--greedy] [--overwrite] [--data...]
    python scripts/average.py CHECKPOINT --output FILE [--overwrite]

Each CHECKPOINT is a file or a run's folder; all must have the same network, classes and preprocessing. The output is a
weights-only checkpoint, from which training cannot continue. The average (a uniform soup, Wortsman et al., 2022) gets
new batch norm statistics from the training images, and is evaluated together with the checkpoints on the data of the
first one, changed by data flags of scripts/train.py. Average only networks that were trained from the same initial
weights; the average of others predicts badly. --greedy starts with the checkpoint of the highest validation accuracy,
and adds the others in the order of theirs; a checkpoint is kept unless it lowers the average's validation accuracy.
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
from scripts.command.boundary import TRUST, CommandParser, report_errors
from scripts.command.expansion import to_path
from scripts.command.output_file import check_output
from scripts.inference.predictions import predict_split
from scripts.inference.trained_network import TrainedNetwork
from scripts.report.table import Table, show
from scripts.uncertainty.calibration import cross_entropy

if TYPE_CHECKING:  # Lightning takes seconds to import
    from datamodules.base import ImageDataModule

# The keys that a weights-only checkpoint keeps: weights, what is needed to predict, and the origin.
KEPT = (
    *("format_version", "state_dict", "hyper_parameters", "hparams_name", "class_names", "preprocessing", "config"),
    *("epoch", "global_step", "data_fingerprint", "data_images", "git_commit", "versions", "pytorch-lightning_version"),
    "thresholds",
)

Metrics = dict[str, float]  # accuracy and loss of each split, such as `val/accuracy`

State = Mapping[str, Tensor]


def average(
    checkpoints: Sequence[Path], flags: Sequence[str], output: Path, greedy: bool, overwrite: bool
) -> dict[str, Metrics]:
    """Write the average of checkpoints; print and return the metrics of the checkpoints and of their average."""
    check_output(output, overwrite)
    parts = [TrainedNetwork(checkpoint) for checkpoint in checkpoints]
    for part in parts[1:]:
        check_same_kind(parts[0], part)
    metrics, averaged = dict[str, Metrics](), dict[str, Any]()
    if len(parts) > 1:
        metrics, averaged = average_parts(parts, parts[0].data(flags), greedy)
    elif flags:
        raise UserError(f"One checkpoint is not evaluated, so {flags[0]} has no effect; leave it out.")
    write_checkpoint(weights_only(parts[0].checkpoint) | averaged, output)
    if metrics:
        rows = [[title, *(f"{value:.4f}" for value in values.values())] for title, values in metrics.items()]
        show(Table(["", *metrics["1"]], rows, frozenset({len(parts)})))
    megabytes = output.stat().st_size / 1e6
    input_megabytes = sum(part.path.stat().st_size for part in parts) / 1e6
    print(f"checkpoint  {output} ({megabytes:,.1f} MB instead of {input_megabytes:,.1f})")
    return metrics


def average_parts(
    parts: Sequence[TrainedNetwork], data: "ImageDataModule", greedy: bool
) -> tuple[dict[str, Metrics], dict[str, Any]]:
    """Return the metrics of the parts and of their average, and the keys that the average replaces in a checkpoint."""
    first, metrics = parts[0], dict[str, Metrics]()
    for number, part in enumerate(parts, 1):
        print(f"{number:<10}  {escape_name(str(part.path))}")
        if part is not first and (changes := part.changes_of(data)):
            print(f"note: {changes}")
        metrics[str(number)] = evaluate(part, data)
        if part is not first:
            del part.network  # free its memory
    states: list[State] = [part.checkpoint["state_dict"] for part in parts]
    selected = greedy_choice(first, states, list(metrics.values()), data) if greedy else list(range(len(parts)))
    averaged = load_average(first, [states[index] for index in selected], data)
    metrics[f"average of {', '.join(str(index + 1) for index in sorted(selected))}"] = evaluate(first, data)
    sources = [
        {"checkpoint": str(parts[index].path)}
        | {key: parts[index].checkpoint.get(key) for key in ("global_step", "git_commit")}
        for index in selected
    ]
    return metrics, {"state_dict": averaged, "averaged": sources}


def greedy_choice(
    network: TrainedNetwork, states: Sequence[State], metrics: Sequence[Metrics], data: "ImageDataModule"
) -> list[int]:
    """Choose states whose average has a high validation accuracy (a greedy soup, Wortsman et al., 2022)."""
    best, *candidates = sorted(
        range(len(states)), key=lambda index: (-metrics[index]["val/accuracy"], metrics[index]["val/loss"])
    )
    selected, highest = [best], metrics[best]["val/accuracy"]
    for candidate in candidates:
        load_average(network, [states[index] for index in (*selected, candidate)], data)
        accuracy = evaluate(network, data, ("val",))["val/accuracy"]
        if accuracy >= highest:
            selected, highest = [*selected, candidate], accuracy
    return selected


def weights_only(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a checkpoint without the state of training: optimizers, schedules, loops and callbacks."""
    content = {key: checkpoint[key] for key in KEPT if key in checkpoint}
    for key, value in checkpoint.items():
        if isinstance(value, dict) and {"mean", "std"} <= value.keys() and key != "preprocessing":
            content[key] = {name: value[name] for name in ("mean", "std")}  # the data module's state
    return content


def check_same_kind(first: TrainedNetwork, second: TrainedNetwork) -> None:
    """Raise UserError unless two checkpoints have the same network, classes and preprocessing."""
    for name, (second_value, first_value) in differences(_facts(second), _facts(first)).items():
        raise UserError(
            f"{first.path} and {second.path} cannot be averaged: {name} is {escape_name(f'{first_value!s:.60}')} in "
            f"the first and {escape_name(f'{second_value!s:.60}')} in the second; give checkpoints with equal network, "
            "classes and preprocessing."
        )


def _facts(part: TrainedNetwork) -> dict[str, Any]:
    facts = {"network": part.checkpoint["hyper_parameters"]["network"], "multi_label": part.is_multi_label}
    facts |= {f"class {place}": name for place, name in enumerate(part.class_names)}
    return flat(json.loads(json.dumps(facts | {"preprocessing": part.preprocessing})))


def average_states(states: Sequence[State]) -> dict[str, Tensor]:
    """Average the floating-point tensors in float64; other values are copied from the first state."""
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        if isinstance(tensor, Tensor) and tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


def load_average(trained: TrainedNetwork, states: Sequence[State], data: "ImageDataModule") -> dict[str, Tensor]:
    """Load the average of states into a network, and recompute its batch norm statistics on the training images.

    Running statistics that are equal in all states are kept, because training has frozen them. Returns the averaged
    state dict of the checkpoint, on the CPU.
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
            if not all(torch.equal(mean, means[0]) for mean in means):
                layers.append(layer.train())
    if layers:
        images = (trained.to_memory_format(batch) for batch, _ in data.training_batches(0, trained.device))
        with trained.autocast_context():
            compute_statistics(network, layers, images)
    network.eval()
    state = {f"{NETWORK}{name}": value for name, value in network.state_dict().items()}
    return averaged | {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state.items()}


def evaluate(trained: TrainedNetwork, data: "ImageDataModule", splits: Sequence[str] = ("val", "test")) -> Metrics:
    """Return accuracy and loss; a multi-label network also gets new thresholds from the validation images."""
    metrics: Metrics = {}
    for split in splits:
        if split == "test" and data.tests_on_validation:
            continue
        predictions = predict_split(trained, data, split)
        metrics[f"{split}/accuracy"] = predictions.accuracy
        metrics[f"{split}/loss"] = cross_entropy(*predictions.answers)
        if split == "val" and trained.is_multi_label:
            from models.training.extra_metrics import best_thresholds

            probabilities, labels = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels)
            trained.checkpoint["thresholds"] = best_thresholds(probabilities, labels)
    return metrics


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error prints one line and exits with status 2."""
    parser = CommandParser(prog="scripts/average.py", description=__doc__, parents=[TRUST])
    parser.add_argument(
        "checkpoints", type=to_path, nargs="+", metavar="CHECKPOINT", help="a checkpoint, or the folder of a run"
    )
    parser.add_argument("--output", type=to_path, metavar="FILE", required=True, help="the checkpoint to write")
    parser.add_argument("--greedy", action="store_true", help="leave out checkpoints that make the average worse")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    with report_errors():
        options, flags = parser.parse_known_args(args)
        average(options.checkpoints, flags, options.output, options.greedy, options.overwrite)


if __name__ == "__main__":
    main()
