"""Read runs and checkpoints: settings, figures and curves."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from callbacks.run.migration import migrate_config
from callbacks.run.restarts import read_restarts
from callbacks.run.run_folder import CONFIG, RESULTS
from core.plain_data import read_json, read_yaml
from core.user_error import UserError
from models.serialization.checkpoint import CheckpointContent, read_checkpoint
from scripts.inference.run_checkpoint import checkpoint_of, run_of
from scripts.report.run_curves import Curves, read_curves

KEY = re.compile(r"\w[\w.+/ -]*")  # a key of a configuration, with those above it
COSTS = "parameters", "epochs", "seconds", "images_per_second"  # what `results.json` holds besides metrics

# Keys, with all below them, that change neither what is learnt nor the data.
NO_SETTINGS = (
    *("seed_everything", "experiment", "runs", "progress_bar", "preview", "learning_rate_monitor", "test"),
    *("data.root", "data.packs", "data.repack", "data.download", "data.storage", "data.num_workers", "data.seed"),
    *("checkpoint.dirpath", "checkpoint.every_minutes", "trainer.logger", "trainer.default_root_dir"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.enable_checkpointing"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.num_sanity_val_steps", "model.metrics"),
)


@dataclass(frozen=True)
class Run:
    """A run, or one of its checkpoints."""

    path: Path  # the run's folder, or the checkpoint
    experiment: str
    seed: int | None
    settings: dict[str, str]  # values by keys, both as on the command line
    checkpoint: Path | None = None  # the file to test
    content: CheckpointContent | None = field(default=None, compare=False, repr=False)  # of that file
    data_fingerprint: str | None = None
    figures: dict[str, float] = field(default_factory=dict)  # test/accuracy, best/val/loss of the best epoch, or a cost
    hardware: str | None = None
    curves: Curves = field(default_factory=dict)
    state: str = ""  # "unfinished", or "not tested"
    fold: int | None = None  # the fold that it was tested on


def find_runs(name: str) -> list[Path]:
    """The run folders and checkpoints that a name stands for: a run, an experiment, a glob pattern or a checkpoint."""
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
    """Read the runs that names stand for, each once, and say which cannot be read."""
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
    """Read a run's folder or a checkpoint; a run's best checkpoint stands for the run."""
    try:
        return _read(path)
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a run: its files hold what no run has written ({type(error).__name__}: "
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
        metrics, costs, changed = results.get("metrics", {}), results, _settings_changed(run)
        figures = metrics | {f"best/{results.get('monitor')}": results.get("best")}
    else:
        config, progress = migrate_config(saved.get("config", {})), saved.get("progress", {})
        figures = {name: value for name, value in progress.get("metrics", {}).items() if not name.startswith("test/")}
        costs = {"epochs": saved.get("epoch"), "seconds": progress.get("run_seconds")}
        costs, changed = costs | {"parameters": results.get("parameters")}, {"checkpoint file": path.name}
    figures |= {name: costs.get(name) for name in COSTS}
    seed, fold = config.get("seed_everything"), (config.get("data", {}).get("init_args") or {}).get("fold")
    is_tested = any(name.startswith("test/") for name in figures)
    return Run(
        path=run or path,
        experiment=str(config.get("experiment") or (run.parent.name if run else path.stem)),
        seed=seed if isinstance(seed, int) else None,
        # Runs of one cross-validation differ in their fold alone.
        settings=settings_of(config) | ({"data.fold": "each"} if isinstance(fold, int) else {}) | changed,
        checkpoint=checkpoint,
        content=content,
        data_fingerprint=saved.get("data_fingerprint"),
        figures={name: float(value) for name, value in figures.items() if isinstance(value, int | float)},
        hardware=str(results["hardware"]) if "hardware" in results else None,
        curves=read_curves(folder / "metrics.csv") if folder else {},
        state="" if is_tested or not run else "not tested" if results else "unfinished",
        fold=fold if isinstance(fold, int) else None,
    )


def _read_file(file: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    try:
        held = read(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read: {reason}; leave this run out.") from error
    if not isinstance(held, dict):
        raise UserError(f"{file} holds no keys and values; leave this run out.")
    return held


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The settings of a configuration that could matter, as on the command line.

    Example:
        >>> settings_of({"model": {"network": {"class_path": "a.B", "init_args": {"x": [1]}}}, "ema": None})
        {'model.network': 'a.B', 'model.network.x': '[1]'}
    """
    settings = dict(_flattened(config, ""))
    for key in settings:
        if not KEY.fullmatch(key):  # it might be a formula, which would stand above a column of a table
            raise ValueError(f"the configuration has the key {key[:50]!r}")
    return {key: value for key, value in settings.items() if _is_setting(key)}


def _is_setting(key: str) -> bool:
    return not any(f"{key}.".startswith(f"{other}.") for other in NO_SETTINGS)


def _flattened(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict) or (key and not value):
        yield key, _written(value)
        return
    if "class_path" in value:
        yield key, str(value["class_path"])
        value = value.get("init_args") or {}
    for name, inner in value.items():
        if key or inner is not None:  # without a class above it, null is what a configuration lacks
            yield from _flattened(inner, f"{key}.{name}" if key else str(name))


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict) and "class_path" in value:
        arguments = [f"{name}={_written(inner)}" for name, inner in (value.get("init_args") or {}).items()]
        return f"{value['class_path']}({', '.join(arguments)})"
    return json.dumps(value, default=str)


def _settings_changed(folder: Path) -> dict[str, str]:
    """Settings that changed when the run was resumed: the first value, and from which step on which other."""
    changed: dict[str, str] = {}
    for restart in read_restarts(folder):
        for key, values in restart["differs"].items():
            name = key.removeprefix("config ").replace(".init_args", "").removesuffix(".class_path")
            if key.startswith("config ") and _is_setting(name):
                before = changed.get(name, str(values["was"]))
                changed[name] = f"{before}, from step {restart['step']} on {values['is']}"
    return changed
