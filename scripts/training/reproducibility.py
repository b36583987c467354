"""Compare a repeated run with its original: are the results bit-identical, and if not, what differed?

python scripts/train.py fit --like runs/EXPERIMENT/DATE-TIME
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from callbacks.checkpoint import LAST
from callbacks.run.restarts import difference_lines, differences, flat, read_origin, read_restarts
from callbacks.run.run_folder import CHECKPOINTS, CONFIG, RESULTS, check_is_run, is_tested, read_results
from core.names import escape_name
from core.user_error import UserError
from models.serialization.checkpoint import read_checkpoint
from scripts.command.configuration import read_config


def check_complete(original: Path) -> None:
    """Raise UserError unless a run is finished and has the files to compare another run with."""
    check_is_run(original)
    last = original / CHECKPOINTS / LAST
    missing = None
    if not is_tested(read_results(original)):
        missing = RESULTS
    elif not last.is_file():
        missing = f"{CHECKPOINTS}/{LAST}"
    if missing:
        raise UserError(
            f"{original} is not complete: it has no {missing} to compare with; finish it with --resume {original}, "
            f"or train its configuration with --config {original / CONFIG}."
        )
    read_checkpoint(last)


def compare_runs(original: Path, run: Path) -> tuple[bool, list[str]]:
    """Return True if the weights and metrics of two runs are bit-identical, and the lines of a report."""
    expected, weights = _weights(original), _weights(run)
    expected_metrics, metrics = read_results(original).get("metrics", {}), read_results(run).get("metrics", {})
    changes = [*_weight_differences(expected, weights), *difference_lines(differences(expected_metrics, metrics))]
    report = [f"identical to {original}, bit for bit: {len(weights)} tensors of {LAST}, {len(metrics)} metrics"]
    if changes:
        report = [f"not identical to {original}:", *(f"  {line}" for line in changes)]
    if causes := list(_causes(original, run)):
        report += ["what differed:", *(f"  {line}" for line in causes)]
    elif changes:
        report.append(
            "configuration, data, code, packages and machine are the same; the cause may be a nondeterministic "
            "operation, which --trainer.deterministic true forbids"
        )
    return not changes, report


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of the last checkpoint; if they are an average, also the trained ones."""
    checkpoint = read_checkpoint(folder / CHECKPOINTS / LAST)
    raw = {f"raw {name}": value for name, value in checkpoint.get("raw_state_dict", {}).items()}
    return {name: value for name, value in (checkpoint["state_dict"] | raw).items() if isinstance(value, Tensor)}


def _weight_differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> Iterator[str]:
    from models.serialization.pretrained import misfit  # a fit does not need it

    if misfits := misfit(expected, weights):
        yield escape_name(f"{LAST}: {misfits}")
        return
    sizes = {
        name: float((expected[name].double() - value.double()).abs().max())
        for name, value in weights.items()
        if expected[name].dtype != value.dtype or not torch.equal(expected[name], value)
    }
    if sizes:
        name = max(sizes, key=lambda name: sizes[name])
        line = f"{LAST}: {len(sizes)} of {len(weights)} tensors differ, by up to {sizes[name]:.2g} ({name})"
        yield escape_name(line)


def _causes(original: Path, run: Path) -> Iterator[str]:
    """Yield a line for each difference in configuration, origin and later starts."""
    configs = flat(read_config(original / CONFIG)), flat(read_config(run / CONFIG))
    yield from (f"config {line}" for line in difference_lines(differences(*configs)))
    expected, origin = read_origin(original), read_origin(run)
    if expected is None:
        yield "the origin of the other run: it has no record of it"
    elif origin is not None:
        yield from difference_lines(differences(expected, origin))
    for name, folder in (("the other run", original), ("this run", run)):
        for restart in read_restarts(folder):
            changes = difference_lines({key: (value["was"], value["is"]) for key, value in restart["differs"].items()})
            yield f"{name} was resumed after step {restart['step']} with {'; '.join(changes)}"
