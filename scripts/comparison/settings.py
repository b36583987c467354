"""Read the settings of runs, named as on the command line, and find those that differ."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from callbacks.run.restarts import read_restarts
from core.names import escape_name

Settings = Mapping[str, str]

KEY = re.compile(r"\w[\w.+/ -]*")
MODULE = re.compile(r"(?:^|(?<=[\[(= ]))(?:[a-z_]\w*\.)+(?=[A-Z]\w*(?:[(,)\]]|$))")  # the module before a class name
MISSING = "-"  # shown for an unknown value
NULL = "null"
OFF = {NULL, "false", "[]", "{}", "0", "0.0"}  # values that turn an argument off

# Keys that affect neither what is learnt nor the data; they cover all keys below them.
IGNORED = (
    *("seed_everything", "experiment", "runs", "progress_bar", "preview", "learning_rate_monitor", "test"),
    *("data.root", "data.packs", "data.repack", "data.download", "data.storage", "data.num_workers", "data.seed"),
    *("checkpoint.dirpath", "checkpoint.every_minutes", "trainer.logger", "trainer.default_root_dir"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.enable_checkpointing"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.num_sanity_val_steps", "model.metrics"),
)


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a configuration that affect what is learnt or the data, as on the command line.

    Raises ValueError if a key has unusual characters: in a table for a spreadsheet, it could be a formula.

    Example:
        >>> settings_of({"model": {"network": {"class_path": "a.B", "init_args": {"x": [1]}}}, "ema": None})
        {'model.network': 'a.B', 'model.network.x': '[1]'}
    """
    settings = dict(_flatten(config, ""))
    for key in settings:
        if not KEY.fullmatch(key):
            raise ValueError(f"the configuration has the key {key[:50]!r}")
    return {key: value for key, value in settings.items() if not _is_ignored(key)}


def _is_ignored(key: str) -> bool:
    return any(key == ignored or key.startswith(f"{ignored}.") for ignored in IGNORED)


def _flatten(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield flags with their values; skip a top-level null, which is equal to a missing key."""
    if not isinstance(value, dict) or (key and not value):
        yield key, _text(value)
        return
    if "class_path" in value:
        yield key, str(value["class_path"])
        value = value.get("init_args") or {}
    for name, inner in value.items():
        if key or inner is not None:
            yield from _flatten(inner, f"{key}.{name}" if key else str(name))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict) and "class_path" in value:
        arguments = [f"{name}={_text(inner)}" for name, inner in (value.get("init_args") or {}).items()]
        return f"{value['class_path']}({', '.join(arguments)})"
    return json.dumps(value, default=str)


def changed_settings(run: Path) -> dict[str, str]:
    """Return the settings that changed when a run was resumed, as in `0.1, from step 63 on 0.01`."""
    changed: dict[str, str] = {}
    for restart in read_restarts(run):
        for fact, values in restart["differs"].items():
            key = fact.removeprefix("config ").replace(".init_args", "").removesuffix(".class_path")
            if fact.startswith("config ") and not _is_ignored(key):
                earlier = changed.get(key, str(values["was"]))
                changed[key] = f"{earlier}, from step {restart['step']} on {values['is']}"
    return changed


def differing_keys(settings: Sequence[Settings]) -> list[str]:
    """Return the keys whose values differ; an argument that only one class has is left out where it is off."""
    values = {key: {group.get(key) for group in settings} for key in dict.fromkeys(chain(*settings))}
    differing = []
    for key, options in values.items():
        is_argument_of_one_class = None in options and len(values.get(key.rpartition(".")[0], ())) > 1
        no_difference = {None, *OFF} if is_argument_of_one_class else {None, NULL}
        if len(options) > 1 and not options <= no_difference:
            differing.append(key)
    return differing


def shown_values(settings: Sequence[Settings], key: str) -> list[str]:
    """Return the values of a key for display; class names lose their modules if they stay distinct."""
    values = [group.get(key, MISSING) for group in settings]
    short = [MODULE.sub("", value) for value in values]
    return list(map(escape_name, short if len(set(short)) == len(set(values)) else values))


def names_by_difference(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Name groups by the first settings that distinguish them, as in `ConvNet lr=0.1`.

    `columns` has the value in each group by key. Values of the key "" appear without it.
    """
    used: dict[str, Sequence[str]] = {}
    count = 1  # distinct groups by the settings in use
    for key, values in columns.items():
        finer = len({*zip(*used.values(), values, strict=True)})
        if finer > count:
            used[key], count = values, finer
    keys = [key.rpartition(".")[2] for key in used]
    if len({*keys}) < len(keys):
        keys = list(used)
    names = []
    for values in zip(*used.values(), strict=True):
        parts = [
            value if not key or (value.isidentifier() and value[0].isupper()) else f"{key}={value}"
            for key, value in zip(keys, values, strict=True)
        ]
        names.append(" ".join(parts))
    return names
