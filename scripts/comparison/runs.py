"""What runs have left behind: their settings, figures, curves and checkpoints."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from glob import glob
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from callbacks.run.migration import migrate_config
from callbacks.run.origin import read_restarts
from callbacks.run.run_folder import CONFIG
from core.names import distinct_names
from core.plain_data import read_json
from core.user_error import UserError
from models.classifier import Classifier
from models.serialization.checkpoint import CheckpointContent, read_checkpoint
from models.serialization.class_path import PACKAGES, find_class
from models.serialization.constructor import is_default, parameter
from scripts.command.configuration import read_config
from scripts.inference.run_checkpoint import checkpoint_of, find_checkpoint, run_of
from scripts.report.run_curves import Curves, read_curves

CHECKPOINT = "checkpoint file"  # the setting that tells a checkpoint from the one that its run has ended with

# Keys, with all below them, that change neither what is learnt nor on what.
NO_SETTINGS = (
    *("seed_everything", "experiment", "runs", "progress_bar", "preview", "learning_rate_monitor"),
    *("data.root", "data.packs", "data.repack", "data.download", "data.storage", "data.num_workers", "data.seed"),
    *("checkpoint.dirpath", "checkpoint.every_minutes", "trainer.logger", "trainer.default_root_dir"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.enable_checkpointing"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.num_sanity_val_steps"),
)

KEY = re.compile(r"\w[\w.+/ -]*")  # A key of a configuration, with those above it

NAMED = 50  # characters of one that is none that are shown
# The classes that a configuration does not name, by the keys that their arguments are under.
CLASSES = {"model": Classifier, "trainer": Trainer}

# What `results.json` says of a run besides its figures, as far as runs are compared by it.
COSTS = "parameters", "epochs", "seconds", "images_per_second"


@dataclass(frozen=True)
class Run:
    """A run, or one of its checkpoints.

    Args:
        path: Its folder, or the checkpoint.
        experiment: The name under which it was run.
        seed: Its seed, if that is known.
        settings: Each setting's value by its key, both as on the command line.
        defaults: The keys of those that are their argument's default.
        checkpoint: The file to test, if there is one.
        content: The content of that file.
        class_names: The classes that it knows, in the order of their labels; none without a checkpoint.
        data_fingerprint: That of the data that it was trained on.
        figures: Loss, accuracy and top-5 accuracy by split, such as `test/accuracy`.
        costs: Numbers by the names in `COSTS`, as far as they are known.
        hardware: What it was trained on.
        curves: Loss and accuracy by epoch.
        state: Empty, or what it lacks: `unfinished after epoch 3`, `not tested`.
    """

    path: Path
    experiment: str
    seed: int | None
    settings: dict[str, str]
    checkpoint: Path | None = None
    content: CheckpointContent | None = field(default=None, compare=False, repr=False)
    class_names: tuple[str, ...] = ()
    data_fingerprint: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    hardware: str | None = None
    curves: Curves = field(default_factory=dict)
    state: str = ""
    defaults: frozenset[str] = frozenset()

    @property
    def chosen(self) -> dict[str, str]:
        """The settings without defaults, which runs of an older version may lack."""
        return {key: value for key, value in self.settings.items() if key not in self.defaults}


def find_runs(name: str) -> list[Path]:
    """The runs' folders and checkpoints that a name means."""
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _runs_in(path)
        if not found and ((path / "results.json").exists() or (path / "checkpoints").exists()):
            raise UserError(f"{path} is no whole run: it has no {CONFIG}; leave it out.")
    else:
        matches = [Path(match) for match in sorted(glob(name, recursive=True))]  # noqa: PTH207  # absolute patterns too
        nested = ([match] if match.suffix == ".ckpt" else _runs_in(match) for match in matches)
        found = list(dict.fromkeys(run for runs in nested for run in runs))
    if not found:
        raise UserError(
            f"{name} is no run and holds none; give a run's folder such as runs/EXPERIMENT/DATE-TIME, an experiment's, "
            "or a checkpoint."
        )
    return found


def _runs_in(folder: Path) -> list[Path]:
    if (folder / CONFIG).is_file():
        return [folder]
    return sorted(file.parent for file in folder.rglob(CONFIG)) if folder.is_dir() else []


def read_run(path: Path) -> Run:
    """Read what a run has left behind."""
    try:
        if path.is_dir():
            return _read_folder(path)
        folder = run_of(path)
        if folder and path.is_file() and find_checkpoint(folder).resolve() == path.resolve():
            return _read_folder(folder)
        return _read_checkpoint(path, folder)
    except (ArithmeticError, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a run: its files hold what no run has written ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); leave it out."
        ) from error


def _read_folder(folder: Path) -> Run:
    config, results = read_config(folder / CONFIG), _read_results(folder)
    checkpoint = checkpoint_of(folder)
    inside = read_checkpoint(checkpoint) if checkpoint else None
    curves = read_curves(folder / "metrics.csv")
    figures = _figures(results.get("metrics", {}))
    state = "" if any(name.startswith("test/") for name in figures) else "not tested"
    if not results:
        epochs = max(
            (int(x) + 1 for splits in curves.values() for points in splits.values() for x, _ in points), default=0
        )
        state = f"unfinished after epoch {epochs}" if epochs else "unfinished"
    return Run(
        path=folder,
        experiment=str(config.get("experiment") or folder.parent.name),
        seed=_seed(config),
        settings=settings_of(config) | _settings_changed(folder),
        defaults=frozenset(_defaults(config, "")),
        checkpoint=checkpoint,
        content=inside,
        class_names=tuple(distinct_names(inside["class_names"])) if inside else (),
        data_fingerprint=inside.get("data_fingerprint") if inside else None,
        figures=figures,
        costs={name: float(results[name]) for name in COSTS if isinstance(results.get(name), int | float)},
        hardware=str(results["hardware"]) if "hardware" in results else None,
        curves=curves,
        state=state,
    )


def _read_checkpoint(path: Path, folder: Path | None) -> Run:
    inside = read_checkpoint(path)
    config, progress = migrate_config(inside.get("config", {})), inside.get("progress", {})
    results = _read_results(folder) if folder else {}
    costs = {
        "epochs": inside.get("epoch"),
        "seconds": progress.get("run_seconds"),
        "parameters": results.get("parameters"),
    }
    if progress.get("training_seconds"):
        costs["images_per_second"] = progress["images"] / progress["training_seconds"]
    return Run(
        path=path,
        experiment=str(config.get("experiment") or path.stem),
        seed=_seed(config),
        settings=settings_of(config) | {CHECKPOINT: path.name},
        defaults=frozenset(_defaults(config, "")),
        checkpoint=path,
        content=inside,
        class_names=tuple(distinct_names(inside["class_names"])),
        data_fingerprint=inside.get("data_fingerprint"),
        figures={name: value for name, value in _figures(progress.get("metrics", {})).items() if name[:4] != "test"},
        costs={name: float(value) for name, value in costs.items() if value is not None},
        hardware=str(results["hardware"]) if "hardware" in results else None,
        curves=read_curves(folder / "metrics.csv") if folder else {},
    )


def _seed(config: dict[str, Any]) -> int | None:
    seed = config.get("seed_everything")
    return seed if isinstance(seed, int) else None


def _read_results(folder: Path) -> dict[str, Any]:
    file = folder / "results.json"
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


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    known = ("loss", "accuracy", "top5_accuracy")
    return {
        name: float(value)
        for name, value in metrics.items()
        if name.partition("/")[2] in known and isinstance(value, int | float)
    }


def settings_of(config: dict[str, Any]) -> dict[str, str]:
    """What a configuration sets that could matter.

    Args:
        config: As in `config.yaml`.

    Returns:
        Each value, as it would be written, by its key on the command line.

    Raises:
        ValueError: If a key is none that could stand there, such as a formula that a table would be headed by.

    Example:
        >>> settings_of({"seed_everything": 3, "model": {"network": {"class_path": "a.B", "init_args": {"x": [1]}}}})
        {'model.network': 'a.B', 'model.network.x': '[1]'}
    """
    settings = dict(_flattened(config, ""))
    if strange := next((key for key in settings if not KEY.fullmatch(key)), None):
        raise ValueError(f"the configuration has the key {strange[:NAMED]!r}")
    return {key: value for key, value in settings.items() if _is_setting(key)}


def _is_setting(key: str) -> bool:
    return not any(key == other or key.startswith(f"{other}.") for other in NO_SETTINGS)


def _settings_changed(folder: Path) -> dict[str, str]:
    """Settings that a run did not have from its beginning to its end, with the step from which on it had each value."""
    changed: dict[str, str] = {}
    for restart in read_restarts(folder):
        for key, values in restart["differs"].items():
            name = key.removeprefix("config ").replace(".init_args", "").removesuffix(".class_path")
            if key.startswith("config ") and _is_setting(name):
                before = changed.get(name, str(values["was"]))
                changed[name] = f"{before}, from step {restart['step']} on {values['is']}"
    return changed


def _flattened(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict) or (key and not value):
        yield key, _written(value)
        return
    if "class_path" in value:
        yield key, str(value["class_path"])
        value = value.get("init_args") or {}
    for name, inner in value.items():
        yield from _flattened(inner, f"{key}.{name}" if key else str(name))


def _defaults(value: Any, key: str) -> Iterator[str]:
    """The keys of settings that are the default of the class that they are an argument of; on top, that is null."""
    if not isinstance(value, dict):
        return
    class_ = CLASSES.get(key)
    if "class_path" in value:
        class_, value = _known_class(value["class_path"]), value.get("init_args") or {}
    for name, inner in value.items():
        below = f"{key}.{name}" if key else str(name)
        argument = parameter(class_, name) if class_ else None
        if is_default(inner, argument.default) if argument else not key and inner is None:
            yield from (setting for setting, _ in _flattened(inner, below))
        else:
            yield from _defaults(inner, below)


def _known_class(path: object) -> type | None:
    """The class of that name. A configuration may be a stranger's: no module but the project's is imported for it."""
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


def read_all(names: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Read the runs that names mean, each once, in their order."""
    runs: dict[Path, Run] = {}
    problems = []
    for name in names:
        try:
            found = find_runs(name)
        except UserError as error:
            problems.append(str(error))
            continue
        for path in found:
            try:
                run = read_run(path)
            except UserError as error:
                problems.append(str(error))
            else:
                runs.setdefault(run.path.resolve(), run)
    return list(runs.values()), problems
