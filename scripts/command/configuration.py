"""Merge the layers of a configuration: each file overrides the one before it, and flags override all files.

A class that replaces another starts from its own defaults, without the arguments of the other.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial, reduce
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from callbacks.run.migration import migrate_config
from core.plain_data import parse_yaml, read_yaml
from core.user_error import UserError
from models.serialization.checkpoint import read_checkpoint
from models.serialization.class_path import Scope, full_path, known_classes
from models.training.monitor import Mode, direction
from scripts.command.boundary import TRUST, CommandParser
from scripts.command.expansion import expand, expand_all

CONFIGS = Path(__file__).parents[2] / "configs"

# Keys that may differ between the runs of one experiment: they say which run it is and where it is written.
ELSEWHERE = ("seed_everything", "experiment", "runs")

Config = dict[str, Any]

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}  # how a configuration writes a class and its arguments


def read_config(path: str | Path) -> Config:
    """Read a YAML file of settings; raises UserError if it is unreadable or not a mapping."""
    try:
        config = read_yaml(Path(path))
        if not isinstance(config, dict | None):
            raise ValueError(f"it holds a {type(config).__name__}")
        if config and not isinstance(config.get("trainer", {}), dict):  # such as a section whose keys are comments
            raise ValueError("its section trainer has no keys")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"The configuration file {path} cannot be read: {reason}; give keys and values such as `trainer: "
            "{max_epochs: 3}`, or a file in configs/."
        ) from error
    return migrate_config(config or {})


def merge(base: Config, over: Config) -> Config:
    """Return `base` overridden by `over`, key by key; both stay unchanged.

    A list replaces a list, but is appended to it under a key that ends in `+`. The arguments of a class stay only if
    `over` names the same class or none, and the `mode` of a metric only with the same `monitor`.
    """
    merged = dict(base)
    if over.get("monitor", base.get("monitor")) != base.get("monitor"):
        merged.pop("mode", None)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            if "class_path" in below and not CLASS_KEYS & value.keys():
                value = {"init_args": value}
            path = below.get("class_path")
            is_same_class = full_path(value.get("class_path", path)) == full_path(path)
            merged[key] = merge(below, value) if is_same_class else value
        elif key.endswith("+") and isinstance(below, list) and isinstance(value, list):
            merged[key] = below + value
        else:
            merged[key] = value
    return merged


def read_layers(
    args: Sequence[str], run: Path | None = None, checkpoint: tuple[str, Config] | None = None
) -> tuple[Config, list[str], list[str], Scope]:
    """Merge the default configuration, a checkpoint's, each --config, and a run's file, in this order.

    Args:
        args: Flags. A --ckpt_path among them takes the place of `checkpoint`.
        run: The configuration file of a run.
        checkpoint: The path of a checkpoint, for messages, and its configuration.

    Returns:
        The configuration, the flags to parse over it, the files of --config, and a maker of the context in which the
        configuration is parsed and its classes are built: it limits the classes that a checkpoint may name.
    """
    files = CommandParser(prog="scripts/train.py", add_help=False, parents=[TRUST])
    files.add_argument("-c", "--config", type=expand, action="append", default=[])
    files.add_argument("--ckpt_path", type=expand)
    options, flags = files.parse_known_args(args)
    layers = [read_config(CONFIGS / "default.yaml"), *map(read_config, options.config)]
    if run:
        layers.append(read_config(run))
    scope: Scope = nullcontext
    if options.ckpt_path:
        checkpoint = options.ckpt_path, read_checkpoint(options.ckpt_path).get("config", {})
        flags += ["--ckpt_path", options.ckpt_path]
    if checkpoint:
        path, saved_config = checkpoint
        values = [_parse_value(text) for flag in flags for text in (flag, flag.partition("=")[2])]
        scope = partial(known_classes, f"The configuration in {path}", [*layers, *values])
        layers.insert(1, migrate_config(saved_config))
    config = switch_classes(reduce(merge, layers), flags)
    if not checkpoint and config.get("ckpt_path"):  # from a --config; raises UserError if it is missing or unreadable
        read_checkpoint(expand(config["ckpt_path"]))
    return config, flags, options.config, scope


def _parse_value(text: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError:
        return None


def switch_classes(config: Config, flags: Sequence[str]) -> Config:
    """Drop the arguments of each class that a flag replaces, and the `mode` of each metric that a flag replaces."""
    for flag, following in zip_longest(flags, flags[1:], fillvalue=""):
        name, _, value = flag.partition("=")
        value = value or following
        key = re.sub(r"\.class_path$|(\.init_args)?\.monitor$", "", name[2:])
        replacement: Any = None
        if name.endswith(".monitor"):
            replacement = {"monitor": value}
        elif value.startswith("{"):
            replacement = _parse_value(value)
        elif value != "null" and re.fullmatch(r"[A-Za-z_][\w.]*", value):
            replacement = {"class_path": value}
        node: Any = config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if name.startswith("--") and isinstance(node, dict) and "class_path" in node and isinstance(replacement, dict):
            for part in reversed(key.split(".")):
                replacement = {part: replacement}
            config = merge(config, replacement)
    return config


def fill_modes(config: Any, explicit: Any, metric_modes: Mapping[str, Mode], key: str = "") -> None:
    """Set `mode` to `min` or `max` wherever a metric is monitored, unless it is `explicit`, set by the user.

    The mode is that of the metric's class in `metric_modes`, or follows from the metric's name. Classes of libraries
    have a constant default instead, which would keep the worst model for half of the metrics.
    """
    if isinstance(config, list):
        for number, item in enumerate(config):
            fill_modes(item, explicit[number] if explicit else None, metric_modes, f"{key}[{number}]")
    elif isinstance(config, Namespace):
        settings = vars(explicit) if isinstance(explicit, Namespace) else {}
        if "mode" in config and isinstance(monitor := config.get("monitor"), str):
            mode = metric_modes.get(monitor)
            if "mode" not in settings:
                config.mode = mode or direction(monitor, None, key)
            elif mode and config.mode not in (None, mode):
                raise UserError(f"{key}.mode is {config.mode}, but the class of {monitor} says {mode}; give {mode}.")
        for name, value in vars(config).items():
            inner_key = key if name == "init_args" else f"{key}.{name}".lstrip(".")
            fill_modes(value, settings.get(name), metric_modes, inner_key)


class Parser(LightningArgumentParser):
    """Expands `~` and `${NAME}` in values, and raises UserError for a wrong flag or key."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]  # as jsonargparse's
        """Parse flags and files, and expand their values."""
        config: Namespace = expand_all(super().parse_args(*args, **kwargs))
        return config

    def format_help(self, *args: Any) -> str:
        """Return the help text, without jsonargparse's lists of all classes in all libraries."""
        return re.sub(r",\s+known\s+subclasses:[^)]*", "", super().format_help(*args))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise UserError."""
        if not self.exit_on_error:
            super().error(message, ex)  # a nested parser, whose caller adds the key
        from scripts.command.error_message import parser_message

        configs = [*self.args[self.args.index("--config") + 1 :][:1], (CONFIGS / "default.yaml").read_text()]
        raise UserError(parser_message(message, self, configs)) from ex
