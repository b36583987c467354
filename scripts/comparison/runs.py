"""Find runs and checkpoints, and read their settings, metrics and learning curves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from callbacks.run.migration import migrate_config
from callbacks.run.run_folder import CONFIG, RESULTS
from core.plain_data import read_json, read_yaml
from core.user_error import UserError
from models.serialization.checkpoint import CheckpointContent, read_checkpoint
from scripts.comparison.settings import changed_settings, settings_of
from scripts.inference.run_checkpoint import checkpoint_of, run_of
from scripts.report.run_curves import Curves, read_curves

COSTS = "parameters", "epochs", "seconds", "images_per_second"  # values of `results.json` besides the metrics


@dataclass(frozen=True)
class Run:
    """A run, or one checkpoint of a run."""

    path: Path  # the run's folder, or the checkpoint
    experiment: str
    seed: int | None
    settings: dict[str, str]  # values by key, as on the command line
    checkpoint: Path | None = None  # the file to test
    content: CheckpointContent | None = field(default=None, compare=False, repr=False)  # of `checkpoint`
    data_fingerprint: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)  # `test/accuracy`, `best/val/loss` of the best epoch, COSTS
    hardware: str | None = None
    curves: Curves = field(default_factory=dict)
    state: str = ""  # "unfinished", "not tested", or empty
    fold: int | None = None  # the fold of the test images


def find_runs(name: str) -> list[Path]:
    """Return run folders and checkpoints by the name of a run, an experiment or a checkpoint, or a glob pattern."""
    path = Path(name)
    matches = [path] if path.exists() else map(Path, sorted(glob(name, recursive=True)))  # noqa: PTH207  # absolute too
    runs: list[Path] = []
    for match in matches:
        if match.is_dir():
            runs += sorted(file.parent for file in match.rglob(CONFIG))
        elif match == path or match.suffix == ".ckpt":
            runs.append(match)
    if not runs:
        raise UserError(
            f"{name} is no run and holds none, for it has no {CONFIG}; give a run's folder such as "
            "runs/EXPERIMENT/DATE-TIME, an experiment's, or a checkpoint."
        )
    return list(dict.fromkeys(runs))


def read_all(names: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Read each run once; also return a message for each run that cannot be read."""
    runs: dict[Path, Run] = {}
    problems = []
    for path in [path for name in names for path in find_runs(name)]:
        try:
            run = read_run(path)
        except UserError as error:
            problems.append(str(error))
        else:
            runs.setdefault(run.path.resolve(), run)
    return list(runs.values()), problems


def read_run(path: Path) -> Run:
    """Read a run's folder or a checkpoint; the best checkpoint of a run gives the whole run."""
    try:
        return _read(path)
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a run: its files have unexpected content ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); leave it out."
        ) from error


def _read(path: Path) -> Run:
    folder = path if path.is_dir() else run_of(path)
    best = checkpoint_of(folder) if folder else None
    run = folder if path == folder or (best and best.resolve() == path.resolve()) else None
    checkpoint = best if run else path
    content = read_checkpoint(checkpoint) if checkpoint else None
    saved: Mapping[str, Any] = content or {}
    results = _read_file(folder / RESULTS, read_json) if folder else {}
    if run:
        config = migrate_config(_read_file(run / CONFIG, read_yaml))
        changed = changed_settings(run)
        metrics = results.get("metrics", {}) | {f"best/{results.get('monitor')}": results.get("best")}
        metrics |= {name: results.get(name) for name in COSTS}
    else:
        config, progress = migrate_config(saved.get("config", {})), saved.get("progress", {})
        changed = {"checkpoint file": path.name}
        metrics = {name: value for name, value in progress.get("metrics", {}).items() if not name.startswith("test/")}
        metrics |= {"epochs": saved.get("epoch"), "seconds": progress.get("run_seconds")}
        metrics["parameters"] = results.get("parameters")
    seed, fold = config.get("seed_everything"), (config.get("data", {}).get("init_args") or {}).get("fold")
    settings = settings_of(config)
    if isinstance(fold, int):
        settings["data.fold"] = "each"  # so that the runs of a cross-validation have equal settings
    is_tested = any(name.startswith("test/") for name in metrics)
    return Run(
        path=run or path,
        experiment=str(config.get("experiment") or (run.parent.name if run else path.stem)),
        seed=seed if isinstance(seed, int) else None,
        settings=settings | changed,
        checkpoint=checkpoint,
        content=content,
        data_fingerprint=saved.get("data_fingerprint"),
        metrics={name: float(value) for name, value in metrics.items() if isinstance(value, int | float)},
        hardware=str(results["hardware"]) if "hardware" in results else None,
        curves=read_curves(folder / "metrics.csv") if folder else {},
        state="" if is_tested or not run else "not tested" if results else "unfinished",
        fold=fold if isinstance(fold, int) else None,
    )


def _read_file(file: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    """Return a file's keys and values, or an empty dictionary if the file is missing."""
    try:
        content = read(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read: {reason}; leave this run out.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no keys and values; leave this run out.")
    return content
