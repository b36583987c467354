"""Read runs and checkpoints: settings, figures, costs and curves."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from callbacks.run.migration import migrate_config
from callbacks.run.restarts import read_restarts
from callbacks.run.run_folder import CONFIG, RESULTS
from core.own_classes import PACKAGES
from core.plain_data import read_json
from core.user_error import UserError
from models.classifier import Classifier
from models.serialization.checkpoint import CheckpointContent, read_checkpoint
from models.serialization.class_path import find_class
from models.serialization.constructor import is_default, parameter
from scripts.command.configuration import read_config
from scripts.inference.run_checkpoint import checkpoint_of, run_of
from scripts.report.run_curves import Curves, read_curves

CHECKPOINT = "checkpoint file"  # the setting that tells a checkpoint from the run's best one
EACH = "each"  # stands for the fold, by which runs of one cross-validation differ
KEY = re.compile(r"\w[\w.+/ -]*")  # a key of a configuration, with those above it
SHOWN = 50  # characters of a wrong key that a message shows
# What is compared if nothing else is asked for, for each split.
FIGURES = "accuracy", "top5_accuracy", "exact_match", "loss"
COSTS = "parameters", "epochs", "seconds", "images_per_second"  # what `results.json` holds besides figures
CLASSES = {"model": Classifier, "trainer": Trainer}  # the classes that a configuration does not name, by their keys

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
    figures: dict[str, float] = field(default_factory=dict)  # as in test/accuracy or, of the best epoch, best/val/loss
    costs: dict[str, float] = field(default_factory=dict)
    hardware: str | None = None
    curves: Curves = field(default_factory=dict)
    state: str = ""  # what the run lacks: "unfinished after epoch 3", "not tested"
    defaults: frozenset[str] = frozenset()  # the keys of settings that have their argument's default
    fold: int | None = None  # the fold that it was tested on

    @property
    def chosen(self) -> dict[str, str]:
        """The settings without defaults, which an older run may lack."""
        return {key: value for key, value in self.settings.items() if key not in self.defaults}


def find_runs(name: str) -> list[Path]:
    """The run folders and checkpoints that a name stands for: a run, an experiment, a glob pattern or a checkpoint."""
    path = Path(name)
    matches = [path] if path.exists() else map(Path, sorted(glob(name, recursive=True)))  # noqa: PTH207  # absolute too
    runs: list[Path] = []
    for match in matches:
        if match.is_dir():
            runs += [match] if (match / CONFIG).is_file() else sorted(file.parent for file in match.rglob(CONFIG))
        elif match == path or match.suffix == ".ckpt":
            runs.append(match)
    if not runs and ((path / RESULTS).exists() or (path / "checkpoints").exists()):
        raise UserError(f"{path} is no whole run: it has no {CONFIG}; leave it out.")
    if not runs:
        raise UserError(
            f"{name} is no run and holds none; give a run's folder such as runs/EXPERIMENT/DATE-TIME, an experiment's, "
            "or a checkpoint."
        )
    return list(dict.fromkeys(runs))


def read_all(names: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Read the runs that names stand for, each once, and say which cannot be read."""
    runs: dict[Path, Run] = {}
    problems = []
    for name in names:
        try:
            paths = find_runs(name)
        except UserError as error:
            problems.append(str(error))
            continue
        for path in paths:
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
    results = _read_results(folder) if folder else {}
    curves = read_curves(folder / "metrics.csv") if folder else {}
    costs: Mapping[str, Any]
    if run:
        config, metrics, costs = read_config(run / CONFIG), results.get("metrics", {}), results
        changed = _settings_changed(run)
    else:
        config, progress = migrate_config(saved.get("config", {})), saved.get("progress", {})
        metrics = {name: value for name, value in progress.get("metrics", {}).items() if not name.startswith("test/")}
        costs = {"epochs": saved.get("epoch"), "seconds": progress.get("run_seconds")}
        costs |= {"parameters": results.get("parameters")}
        if progress.get("training_seconds"):
            costs["images_per_second"] = progress["images"] / progress["training_seconds"]
        changed = {CHECKPOINT: path.name}
    best_score = {f"best/{results.get('monitor')}": results.get("best")} if run else {}
    figures = _numbers(metrics | best_score)
    settings, defaults = settings_of(config)
    seed, fold = config.get("seed_everything"), (config.get("data", {}).get("init_args") or {}).get("fold")
    if isinstance(fold, int):
        settings["data.fold"] = EACH
    return Run(
        path=run or path,
        experiment=str(config.get("experiment") or (run.parent.name if run else path.stem)),
        seed=seed if isinstance(seed, int) else None,
        settings=settings | changed,
        checkpoint=checkpoint,
        content=content,
        data_fingerprint=saved.get("data_fingerprint"),
        figures=figures,
        costs={name: value for name, value in _numbers(costs).items() if name in COSTS},
        hardware=str(results["hardware"]) if "hardware" in results else None,
        curves=curves,
        state=_state(results, figures, curves) if run else "",
        defaults=defaults,
        fold=fold if isinstance(fold, int) else None,
    )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _state(results: Mapping[str, Any], figures: Mapping[str, float], curves: Curves) -> str:
    if results:
        return "" if any(name.startswith("test/") for name in figures) else "not tested"
    epochs = [int(epoch) for splits in curves.values() for points in splits.values() for epoch, _ in points]
    return f"unfinished after epoch {max(epochs)}" if epochs else "unfinished"


def _read_results(folder: Path) -> dict[str, Any]:
    file = folder / RESULTS
    try:
        results = read_json(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file} cannot be read: {reason}; leave this run out.") from error
    if not isinstance(results, dict) or not isinstance(results.get("metrics"), dict):
        raise UserError(f"{file} holds no figures under metrics; leave this run out.")
    return results


def settings_of(config: dict[str, Any]) -> tuple[dict[str, str], frozenset[str]]:
    """The settings of a configuration that could matter, as on the command line, and the keys of defaults.

    Example:
        >>> settings, defaults = settings_of({"model": {"network": {"class_path": "a.B", "init_args": {"x": [1]}}}})
        >>> settings, set(defaults)
        ({'model.network': 'a.B', 'model.network.x': '[1]'}, set())
    """
    settings, defaults = {}, set()
    for key, value, default in _flattened(config, "", default=False):
        if not KEY.fullmatch(key):
            # It might be a formula, which would stand above a column of a table.
            raise ValueError(f"the configuration has the key {key[:SHOWN]!r}")
        if _is_setting(key):
            settings[key] = value
            defaults |= {key} if default else set()
    return settings, frozenset(defaults)


def _is_setting(key: str) -> bool:
    return not any(key == other or key.startswith(f"{other}.") for other in NO_SETTINGS)


def _flattened(value: Any, key: str, *, default: bool) -> Iterator[tuple[str, str, bool]]:
    """Each setting's key, value, and whether it is its argument's default; above all classes, null is the default."""
    if not isinstance(value, dict) or (key and not value):
        yield key, _written(value), default
        return
    class_ = CLASSES.get(key)
    if "class_path" in value:
        yield key, str(value["class_path"]), default
        class_, value = _known_class(value["class_path"]), value.get("init_args") or {}
    for name, inner in value.items():
        argument = parameter(class_, name) if class_ else None
        is_own_default = is_default(inner, argument.default) if argument else not key and inner is None
        yield from _flattened(inner, f"{key}.{name}" if key else str(name), default=default or is_own_default)


def _known_class(path: object) -> type | None:
    """The class of that name; only the project's modules are imported, since the configuration may be a stranger's."""
    if isinstance(path, str) and path.partition(".")[0] in PACKAGES:
        with suppress(ImportError, ValueError):
            import_module(path.rpartition(".")[0])
    return find_class(path)


def _written(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        arguments = ", ".join(f"{name}={_written(inner)}" for name, inner in (value.get("init_args") or {}).items())
        return f"{value['class_path']}({arguments})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_written(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(float(f"{value:.12g}") if isinstance(value, float) else value)  # 0.1 + 0.2 is meant as 0.3


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
