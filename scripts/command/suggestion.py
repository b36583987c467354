"""Suggest a similar class or flag for one that does not exist."""

import re
import sys
from argparse import ArgumentError
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from inspect import signature

from jsonargparse import ArgumentParser

from core.own_classes import own_classes
from core.user_error import UserError
from models.serialization.class_path import find_class, not_known

# Modules of libraries whose classes are suggested, besides the project's.
LIBRARIES = (
    *("torch.nn", "torch.optim", "torch.optim.lr_scheduler"),
    *("lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
)

# Flags of other programs whose most similar name here means something else, and what they are called here.
ELSEWHERE = {
    "amp": "trainer.precision",
    "arch": "model.network",
    "device": "trainer.accelerator",
    "epochs": "trainer.max_epochs",
    "gpus": "trainer.devices",
    "learningrate": "model.optimizer.lr",
    "pretrained": "model.network.weights",
    "seed": "seed_everything",
    "wd": "model.optimizer.weight_decay",
}

MIN_SIMILARITY = 0.7  # difflib's ratio from which a flag is suggested

# Keys that are set from the data or the seed, and are never suggested.
FILLED_IN = re.compile(r"model\.(network\.)?(num_classes|in_channels|image_size|in_features)|data\.seed")

# Patterns in jsonargparse's messages: a class path; a missing class; a missing flag or argument.
CLASS_PATH = re.compile(r"(?:path string: |path format: |class_path[ =]')([\w.]*\w)")
NO_CLASS = r"path string: |path format: |module '[\w.]+' has no attribute '|No module named '{}'"
NO_FLAG = re.compile(r"(?:^unrecognized arguments: -*|(?:accept option|Option) ')([A-Za-z](?:[\w.-]*\w)?)")


def suggest_class(message: str) -> str | None:
    """Turn jsonargparse's message about a missing class into one with a suggestion; None for other messages."""
    path = (CLASS_PATH.findall(message) or [""])[-1]  # the innermost
    module, _, name = path.rpartition(".")
    if not path or not re.search(NO_CLASS.format(path.partition(".")[0]), message):
        return None
    key = ".".join(re.findall(r'Parser key "([\w.]+)"', message)) or message.partition(":")[0]
    if module == "__main__":
        return not_known("The configuration", path)
    if re.fullmatch(r"[\d.]+|none|true|false", path, re.IGNORECASE):
        return f"{key} is {path}; give a class or null; scripts/train.py fit --{key}.help [CLASS] lists its arguments."
    classes: dict[str, str] = {}
    for place in (*LIBRARIES, module):
        members = vars(sys.modules[place]) if place in sys.modules else {}
        classes |= {name.lower(): f"{place}.{name}" for name, value in members.items() if isinstance(value, type)}
    classes |= {name.lower(): paths[0] for name, paths in own_classes().items()}
    near = get_close_matches(name.lower(), classes, n=1)
    hint = (
        f"did you mean {classes[near[0]]}?" if near else "give its module and its name, as in models.convnet.ConvNet."
    )
    return f"{key} names {path}, and there is no such class; {hint}"


def suggest_flag(message: str, parser: ArgumentParser, configs: Iterable[str]) -> str | None:
    """Turn jsonargparse's message about an unknown flag or key into one with the most similar flag.

    The keys come from the first of the YAML texts that the parser accepts, and from the classes in the message.
    Returns None for other messages, and if no flag is similar.
    """
    if not (unknown := NO_FLAG.search(message)):
        return None
    key = ".".join(re.findall(r"(?:Parser key \"|^Group ')([\w.]+)", message))
    name = f"{key}.{unknown[1]}".lstrip(".")
    keys = {"resume", "like", "seeds", "folds", "fold", "trust"}
    for class_ in filter(None, map(find_class, CLASS_PATH.findall(message))):
        keys |= {f"{key}.{argument}" for argument in signature(class_).parameters}
    parser.exit_on_error = False  # raise ArgumentError instead
    for config in configs:
        with suppress(ArgumentError, UserError):
            keys |= {re.sub(r"\.init_args|\.class_path", "", key) for key, _ in parser.parse_string(config).items()}
            break
    group = name.rpartition(".")[0]
    candidates = {key for key in keys if key != name and not FILLED_IN.fullmatch(key)}
    # Of keys with the same last part, the last one wins: one of the same group, then the shortest.
    ordered = sorted(candidates, key=lambda key: (key.startswith(group), -key.count("."), key))
    by_last_part = {_last_part(key): key for key in ordered}
    last_part = _last_part(unknown[1])
    near = get_close_matches(last_part, by_last_part, n=1, cutoff=MIN_SIMILARITY)
    suggestion = ELSEWHERE.get(last_part) or (by_last_part[near[0]] if near else None)
    return f"There is no --{name}; did you mean --{suggestion}?" if suggestion else None


def _last_part(flag: str) -> str:
    """Return the last part of a flag, in lower case and without `-` and `_`."""
    return re.sub("[-_]", "", flag.lower().rpartition(".")[2])
