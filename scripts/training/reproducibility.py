"""Compare a repeated run with its original: are the results bit-identical, and if not, what differed?

python scripts/train.py fit --like runs/EXPERIMENT/DATE-TIME
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

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


def check_complete(original: Path) -> None:
    """Check that a run is complete, so that another can be compared with it."""
    check_is_run(original)
    last = original / CHECKPOINTS / LAST
    for lacks, file in (not is_tested(read_results(original)), RESULTS), (not last.is_file(), f"{CHECKPOINTS}/{LAST}"):
        if lacks:
            raise UserError(
                f"{original} is not complete: it has no {file} to compare with; finish it with --resume {original}, "
                f"or train its configuration with --config {original / CONFIG}."
            )
    read_checkpoint(last)


def compare_runs(original: Path, run: Path) -> tuple[bool, list[str]]:
    """Compare the results of two runs, and their origins: whether they are bit-identical, and the report."""
    theirs, ours = (_weights(folder) for folder in (original, run))
    their_figures, our_figures = (read_results(folder).get("metrics", {}) for folder in (original, run))
    results = [*_weights_that_differ(theirs, ours), *sentences(differences(their_figures, our_figures))]
    report = [f"identical to {original}, bit for bit: {len(ours)} tensors of {LAST}, {len(our_figures)} figures"]
    if results:
        report = [f"not identical to {original}:", *(f"  {line}" for line in results)]
    if causes := list(_causes(original, run)):
        report += ["what differed:", *(f"  {line}" for line in causes)]
    elif results:
        report.append(
            "configuration, data, code, packages and machine are the same; the cause may be a computation in no fixed "
            "order, which --trainer.deterministic true forbids"
        )
    return not results, report


def _weights(folder: Path) -> dict[str, Tensor]:
    """The weights that predict and, if these are an average, those that are trained."""
    checkpoint = read_checkpoint(folder / CHECKPOINTS / LAST)
    trained = {f"raw {name}": value for name, value in checkpoint.get("raw_state_dict", {}).items()}
    both = {**checkpoint["state_dict"], **trained}
    return {name: value for name, value in both.items() if isinstance(value, Tensor)}


def _weights_that_differ(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Iterator[str]:
    if misfits := misfit(theirs, ours):
        yield escape_name(f"{LAST}: {misfits}")
        return
    pairs = ((theirs[name], own, name) for name, own in ours.items())
    unequal = [pair for pair in pairs if pair[0].dtype != pair[1].dtype or not torch.equal(*pair[:2])]
    if unequal:
        most, name = max((float((other.double() - own.double()).abs().max()), name) for other, own, name in unequal)
        yield escape_name(f"{LAST}: {len(unequal)} of {len(ours)} tensors differ, by up to {most:.2g} ({name})")


def _causes(original: Path, run: Path) -> Iterator[str]:
    their_config, our_config = (flat(read_config(folder / CONFIG)) for folder in (original, run))
    yield from (f"config {line}" for line in sentences(differences(their_config, our_config)))
    theirs, ours = (read_origin(folder) for folder in (original, run))
    if theirs is None:
        yield "the origin of the other run: it has no record of it"
    elif ours is not None:
        yield from sentences(differences(theirs, ours))
    for name, folder in (("the other run", original), ("this run", run)):
        for restart in read_restarts(folder):
            changed = sentences({key: (value["was"], value["is"]) for key, value in restart["differs"].items()})
            yield f"{name} went on from step {restart['step']} with {'; '.join(changed)}"
