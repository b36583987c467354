"""A network that has been trained, and the data that it was trained on, from a checkpoint or a run's folder alone."""

import os
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from callbacks.run.run_folder import CONFIG
from core.names import distinct_names
from core.plain_data import read_json
from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from models.training.precision import choose_precision
from scripts.command.data_flags import build_data

NAMED = 5  # classes that are named where two sets of them differ

# What networks compute in at each of the Trainer's precisions that is not one number format alone.
AUTOCAST = {
    **dict.fromkeys(("bf16-mixed", "bf16"), torch.bfloat16),
    **dict.fromkeys(("16-mixed", "16"), torch.float16),
}


def find_checkpoint(path: Path) -> Path:
    """Find a checkpoint: the file itself, or a run's best checkpoint, or its last if it has no best."""
    if not path.is_dir():
        return path  # reading it says if it is not there
    if (found := checkpoint_of(path)) is None:
        raise UserError(
            f"{path} is no folder of a run with a checkpoint: it has no checkpoints/best.ckpt; give one such as "
            "runs/EXPERIMENT/DATE-TIME, or a checkpoint."
        )
    return found


def checkpoint_of(run: Path) -> Path | None:
    """The best checkpoint of a run, else the last, if it has any."""
    try:
        named = run / read_json(run / "results.json")["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError):
        named = run
    if not Path(os.path.normpath(named)).is_relative_to(os.path.normpath(run)):
        raise UserError(
            f"{run / 'results.json'} names the checkpoint {named}, which is not in the run's folder; if that is what "
            "you want, give the file itself."
        )
    files = (named, run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt")
    return next((file for file in files if file.is_file()), None)


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that has written a checkpoint, if it lies in one."""
    folder = checkpoint.absolute().parent.parent
    return folder if (folder / CONFIG).is_file() else None


def load_trained(checkpoint: Path, device: torch.device | None = None) -> Classifier:
    """The network with its weights, in their number format, in evaluation mode, not compiled."""
    device = device or torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    compiled = {"compile": False} if "compile" in read_checkpoint(checkpoint).get("hyper_parameters", {}) else {}
    try:
        classifier = Classifier.load_from_checkpoint(checkpoint, device, **compiled).eval()
    except (ArgumentError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"The network in {checkpoint} cannot be built again: {' '.join(str(error).split()).rstrip('. ')}; use the "
            "sources that it was trained with."
        ) from error
    classifier.class_names = distinct_names(classifier.class_names)
    return classifier


def data_of(checkpoint: Path, classifier: Classifier, flags: Sequence[str]) -> ImageDataModule:
    """The data of the run, or what flags make of it, read, and normalised as the network is used to.

    Prints in how far these are not the data that it was trained on.
    """
    trained = read_checkpoint(checkpoint)
    if "data" not in trained.get("config", {}) and not any(
        flag.partition("=")[0] in ("--data", "--config", "-c") for flag in flags
    ):
        raise UserError(
            f"{checkpoint} does not say what data it was trained on; give them with --data datamodules.mnist.MNIST or "
            "another."
        )
    data = build_data(["--ckpt_path", str(checkpoint), *flags])
    refuse_other_classes(classifier.class_names, list(data.class_names), str(checkpoint), type(data).__name__)
    preprocessing = classifier.preprocessing
    shape = (preprocessing["channels"], *preprocessing["image_size"])
    if tuple(data.image_shape) != shape:
        here, there = ("x".join(map(str, numbers)) for numbers in (data.image_shape, shape))
        raise UserError(
            f"{type(data).__name__} gives images of {here}, {checkpoint} was trained on {there}; give data of that "
            "shape, as with --data.image_size where a data set has it."
        )
    data.mean, data.std = list(preprocessing["mean"]), list(preprocessing["std"])
    data.prepare_data()
    data.setup("test")
    if changed := data.changes_since(trained.get("data_images")):
        print(f"note: {changed}")
    return data


def refuse_other_classes(mine: Sequence[str], others: Sequence[str], one: str, other: str) -> None:
    """See that two have the same classes in the same order."""
    if list(mine) == list(others):
        return
    sides = ((one, sorted({*mine} - {*others})), (other, sorted({*others} - {*mine})))
    told = "; ".join(f"only {name} has {_some(names)}" for name, names in sides if names)
    told = told or f"their order differs, from {_first_difference(mine, others)} on"
    raise UserError(
        f"The classes of {one} and {other} are not the same: {told}; choose with --data.classes, or give other data."
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _first_difference(mine: Sequence[str], others: Sequence[str]) -> str:
    return next(f"{one} and {other}" for one, other in zip(mine, others, strict=True) if one != other)


def autocast_context(classifier: Classifier, checkpoint: Path) -> AbstractContextManager[object]:
    """A context in which the network computes in the precision that `scripts/train.py test` would choose for it."""
    return computing_in(classifier, autocast_dtype(classifier, checkpoint))


@contextmanager
def computing_in(classifier: Classifier, dtype: torch.dtype | None) -> Iterator[None]:
    """A context in which the network computes as it does within the Trainer."""
    if dtype is not None:
        with torch.autocast(classifier.device.type, dtype):
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(next(classifier.parameters()).dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def autocast_dtype(classifier: Classifier, checkpoint: Path) -> torch.dtype | None:
    """What the network computes in where that is not the format of its weights."""
    precision = read_checkpoint(checkpoint).get("config", {}).get("trainer", {}).get("precision")
    if precision is None:
        preprocessing, device = classifier.preprocessing, classifier.device
        height, width = preprocessing["image_size"]
        # Counted on the CPU, as there.
        network = classifier.network.cpu()
        precision, _ = choose_precision(network, (preprocessing["channels"], height, width), device)
        network.to(device)
    return AUTOCAST.get(str(precision))
