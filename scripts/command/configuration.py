"""The layers of a configuration: each file overrides the one before, and flags override all files.

A new class starts from its own defaults: it takes no argument of the class that it replaces.
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
from models.serialization.class_path import DENIED, Scope, full_path, known_classes, not_known
from models.training.monitor import Mode, direction
from scripts.command.boundary import TRUST, CommandParser
from scripts.command.expansion import expand, expand_all

CONFIGS = Path(__file__).parents[2] / "configs"

# Keys by which runs of one training with several seeds may differ.
ELSEWHERE = ("seed_everything", "experiment", "runs")

Config = dict[str, Any]

CLASS = {"class_path", "init_args", "dict_kwargs"}  # the keys of a class and its arguments


def read_config(path: str | Path) -> Config:
    """Read a YAML file."""
    try:
        config = read_yaml(Path(path))
        if not isinstance(config, dict | None):
            raise ValueError(f"it holds a {type(config).__name__}")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"The configuration file {path} cannot be read: {reason}; give keys and values such as `trainer: "
            "{max_epochs: 3}`, or a file in configs/."
        ) from error
    return migrate_config(config or {})


def merge(base: Config, over: Config) -> Config:
    """Lay one configuration over another."""
    merged = dict(base)
    if over.get("monitor", monitor := base.get("monitor")) != monitor:
        merged.pop("mode", None)  # the direction is that of the metric
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, dict) and "class_path" in below and isinstance(value, dict) and not CLASS & value.keys():
            value = {"init_args": value}
        if isinstance(below, dict) and isinstance(value, dict):
            path = below.get("class_path")
            same_class = full_path(value.get("class_path", path)) == full_path(path)
            merged[key] = merge(below, value) if same_class else value
        elif key.endswith("+") and isinstance(below, list) and isinstance(value, list):
            merged[key] = below + value
        else:
            merged[key] = value
    return merged


def read_layers(
    args: Sequence[str], run: Path | None = None, checkpoint: tuple[str, Config] | None = None
) -> tuple[Config, list[str], list[str], Scope]:
    """Merge, in this order, the default configuration, that of a checkpoint's file, each --config, and a run's file.

    Returned are the configuration, the flags to parse over it, the files of --config, and a maker of the context in
    which it is parsed and its classes are built.
    """
    files = CommandParser(prog="scripts/train.py", add_help=False, parents=[TRUST])
    files.add_argument("-c", "--config", type=expand, action="append", default=[])
    files.add_argument("--ckpt_path", type=expand)
    given, flags = files.parse_known_args(args)
    layers = [read_config(CONFIGS / "default.yaml"), *map(read_config, given.config)]
    if run:
        layers.append(read_config(run))
    scope: Scope = nullcontext
    if given.ckpt_path:
        checkpoint = given.ckpt_path, read_checkpoint(given.ckpt_path).get("config", {})
        flags += ["--ckpt_path", given.ckpt_path]
    if checkpoint:
        path, saved = checkpoint
        written = [*layers, *(_value(part) for flag in flags for part in (flag, flag.partition("=")[2]))]
        scope = partial(known_classes, f"The configuration in {path}", written)
        layers.insert(1, migrate_config(saved))
    config = switch_classes(reduce(merge, layers), flags)
    if not checkpoint and config.get("ckpt_path"):
        read_checkpoint(expand(config["ckpt_path"]))
    return config, flags, given.config, scope


def _value(flag: str) -> Any:
    try:
        return parse_yaml(flag)
    except ValueError:
        return None


def switch_classes(config: Config, flags: Sequence[str]) -> Config:
    """Drop the arguments of a class, or the mode of a metric, that a flag replaces by another class or metric."""
    for flag, following in zip_longest(flags, flags[1:], fillvalue=""):
        name, _, value = flag.partition("=")
        value = value or following
        key = re.sub(r"\.class_path$|(\.init_args)?\.monitor$", "", name[2:])
        replaced: Any = {"class_path": value}
        if name.endswith(".monitor"):
            replaced = {"monitor": value}
        elif value.startswith("{"):
            replaced = _value(value)
        elif value == "null" or not re.fullmatch(r"[A-Za-z_][\w.]*", value):
            continue
        node: Any = config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if name.startswith("--") and isinstance(node, dict) and "class_path" in node and isinstance(replaced, dict):
            config = merge(config, reduce(lambda inner, part: {part: inner}, reversed(key.split(".")), replaced))
    return config


def fill_modes(config: Any, given: Any, known: Mapping[str, Mode], key: str = "") -> None:
    """Set the `mode` of everything that monitors a metric, as known or by its name, unless the user has given it.

    Classes of libraries have a constant default instead, with which the worst model would be kept.
    """
    if isinstance(config, list):
        for number, item in enumerate(config):
            fill_modes(item, given[number] if given else None, known, f"{key}[{number}]")
    elif isinstance(config, Namespace):
        parts = vars(given) if isinstance(given, Namespace) else {}
        if "mode" in config and isinstance(monitor := config.get("monitor"), str):
            mode = known.get(monitor)
            if "mode" not in parts:
                config.mode = mode or direction(monitor, None, key)
            elif mode and config.mode not in (None, mode):
                raise UserError(f"{key}.mode is {config.mode}, but the class of {monitor} says {mode}; give that.")
        for name, value in vars(config).items():
            fill_modes(value, parts.get(name), known, key if name == "init_args" else f"{key}.{name}".lstrip("."))


class Parser(LightningArgumentParser):
    """Raises one sentence for a wrong configuration."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]  # as jsonargparse's
        """Parse the flags, and expand the values of flags and files."""
        config: Namespace = expand_all(super().parse_args(*args, **kwargs))
        return config

    def format_help(self, *args: Any) -> str:
        """The help, without the lists of all classes that libraries have."""
        return re.sub(r",\s+known\s+subclasses:[^)]*", "", super().format_help(*args))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the sentence."""
        if not self.exit_on_error:
            super().error(message, ex)  # a parser within another, which adds the key
        from scripts.command.suggestion import suggest_class, suggest_flag

        sentence = one_sentence(message)
        configs = [*self.args[self.args.index("--config") + 1 :][:1], (CONFIGS / "default.yaml").read_text()]
        key = re.match(r'Parser key "([\w.]+)"', sentence)
        is_no_class = r"'class_path' is not|class_path '(lightning.Callback|torch.nn.Module)': O|Not a valid subclass"
        if denied := DENIED.search(sentence):
            sentence = not_known("The configuration", denied[1])
        elif meant := suggest_class(sentence) or suggest_flag(sentence, self, configs):
            sentence = meant
        elif key and re.search(is_no_class, sentence):
            sentence = (
                f"{key[1]} needs a class, and its arguments under init_args; write {key[1]}: "
                "{class_path: CLASS, init_args: {NAME: VALUE}}."
            )
        else:
            if re.search(r"Expected a <class 'str'>( Expected a <class 'int'>)?\.$", sentence):
                sentence += " YAML reads yes, no, 007 and 12:30 as other than text: put them in quotes."
            of_class = f"--{key[1]}.help CLASS" if key and "Option '" in sentence else "--help"
            sentence += f" See: scripts/train.py fit {of_class}."
        raise UserError(sentence) from ex


def one_sentence(message: str) -> str:
    """Make one sentence of a parser's message, without the alternatives that it lists."""
    noise = ("Does not validate against", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")
    lines = (line.strip(" -\t") for line in message.splitlines())
    sentence = " ".join(line for line in lines if line.strip(". ") and not line.startswith(noise)).rstrip(". ")
    return sentence if sentence.endswith(("!", "?")) else f"{sentence}."
