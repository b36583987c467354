"""Compare a repeated run with its original: are the results bit-identical, and if not, what differed?

python scripts/train.py fit --like runs/EXPERIMENT/DATE-TIME
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.checkpoint import LAST
from callbacks.run.restarts import differences, flat, read_origin, read_restarts, sentences
from callbacks.run.run_folder import CHECKPOINTS, CONFIG, RESULTS, check_is_run, is_tested, read_results
from core.names import escape_name
from core.user_error import UserError
from models.serialization.checkpoint import read_checkpoint
from models.serialization.pretrained import misfit
from scripts.command.configuration import read_config

NAMED = 20  # differences of a kind that are listed

# Weights of a checkpoint: those that predict and, if these are an average, those that are trained.
STATES = ("state_dict", "raw_state_dict")


def check_complete(original: Path) -> None:
    """Check that a run is complete, so that another can be compared with it."""
    check_is_run(original)
    if not is_tested(read_results(original)):
        raise UserError(
            f"{original} is not complete: it has no {RESULTS} with the figures of a test, so that nothing can be "
            f"compared with it; finish it with --resume {original}, or train its configuration with --config "
            f"{original / CONFIG}."
        )
    if not (last := original / CHECKPOINTS / LAST).is_file():
        raise UserError(
            f"{original} is not complete: it has no {CHECKPOINTS}/{LAST}, whose weights are compared; train its "
            f"configuration with --config {original / CONFIG}."
        )
    read_checkpoint(last)


def compare_runs(original: Path, run: Path) -> tuple[bool, list[str]]:
    """Compare the results of two runs, and their origins: whether they are bit-identical, and the report."""
    checkpoints = [read_checkpoint(folder / CHECKPOINTS / LAST) for folder in (original, run)]
    results: list[str] = []
    tensors = 0
    for state in STATES:
        ours, theirs = (_tensors(checkpoint.get(state, {})) for checkpoint in reversed(checkpoints))
        tensors += len(ours)
        results += _weights_that_differ(theirs, ours, state)
    figures = [read_results(folder).get("metrics", {}) for folder in (original, run)]
    results += sentences(differences(figures[0], figures[1]))
    report = [f"identical to {original}, bit for bit: {tensors} tensors of {LAST}, {len(figures[1])} figures"]
    if results:
        report = [f"not identical to {original}:", *_some(results)]
    if causes := list(_causes(original, run)):
        report += ["what differed:", *_some(causes)]
    elif results:
        report.append(
            "configuration, data, code, packages and machine are the same; the cause may be a computation in no fixed "
            "order, which --trainer.deterministic true forbids"
        )
    return not results, report


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _weights_that_differ(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], state: str) -> Iterator[str]:
    where = f"{LAST}, {state}"
    if misfits := misfit(theirs, ours):
        yield escape_name(f"{where}: {misfits}")
    both = [(name, theirs[name], own) for name, own in ours.items() if name in theirs]
    alike = [(name, other, own) for name, other, own in both if other.shape == own.shape]
    unequal = [name for name, other, own in alike if other.dtype != own.dtype or not torch.equal(other, own)]
    if unequal:
        apart = {name: float((theirs[name].double() - ours[name].double()).abs().max()) for name in unequal}
        most = max(unequal, key=lambda name: apart[name])
        yield escape_name(f"{where}: {len(unequal)} of {len(ours)} tensors differ, by up to {apart[most]:.2g} ({most})")


def _causes(original: Path, run: Path) -> Iterator[str]:
    configs = [flat(read_config(folder / CONFIG)) for folder in (original, run)]
    for line in sentences(differences(configs[0], configs[1])):
        yield f"config {line}"
    theirs, ours = (read_origin(folder) for folder in (original, run))
    if theirs is None:
        yield "the origin of the other run: it has no record of it"
    elif ours is not None:
        yield from sentences(differences(theirs, ours))
    for name, folder in (("the other run", original), ("this run", run)):
        for restart in read_restarts(folder):
            changed = sentences({key: (value["was"], value["is"]) for key, value in restart["differs"].items()})
            yield f"{name} went on from step {restart['step']} with {'; '.join(changed)}"


def _some(lines: list[str]) -> Iterator[str]:
    yield from (f"  {line}" for line in lines[:NAMED])
    if len(lines) > NAMED:
        yield f"  and {len(lines) - NAMED} more"
