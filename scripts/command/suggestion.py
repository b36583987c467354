"""Suggest a class, or a flag, for one that does not exist."""

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

# Modules of libraries whose classes a configuration often names.
LIBRARIES = (
    *("torch.nn", "torch.optim", "torch.optim.lr_scheduler"),
    *("lightning.pytorch.callbacks", "lightning.pytorch.loggers"),
)

# Flags by their names in other programs, where the name most like them is of another thing.
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

LEAST_ALIKE = 0.7  # difflib's ratio, from which on a name may have been meant

# What is filled in from the data, or the seed.
FILLED_IN = re.compile(r"model\.(network\.)?(num_classes|in_channels|image_size|in_features)|data\.seed")

# Messages of jsonargparse: names of classes; that one does not exist; that a flag or an argument does not exist.
NAMED = re.compile(r"(?:path string: |path format: |class_path[ =]')([\w.]*\w)")
NO_CLASS = r"path string: |path format: |module '[\w.]+' has no attribute '|No module named '{}'"
NO_FLAG = re.compile(r"(?:^unrecognized arguments: -*|(?:accept option|Option) ')([A-Za-z](?:[\w.-]*\w)?)")


def suggest_class(message: str) -> str | None:
    """Turn such a message into a sentence with a suggestion; None for other messages."""
    path = (NAMED.findall(message) or [""])[-1]  # the innermost
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
    classes |= {name.lower(): found[0] for name, found in own_classes().items()}
    near = get_close_matches(name.lower(), classes, n=1)
    hint = (
        f"did you mean {classes[near[0]]}?" if near else "give its module and its name, as in models.convnet.ConvNet."
    )
    return f"{key} names {path}, and there is no such class; {hint}"


def suggest_flag(message: str, parser: ArgumentParser, configs: Iterable[str]) -> str | None:
    """Answer an unknown flag or key with the one most like it, of those in the first YAML text that can be parsed."""
    if not (found := NO_FLAG.search(message)):
        return None
    key = ".".join(re.findall(r"(?:Parser key \"|^Group ')([\w.]+)", message))
    name = f"{key}.{found[1]}".lstrip(".")
    keys = {"resume", "like", "seeds", "folds", "fold", "trust"}
    for class_ in filter(None, map(find_class, NAMED.findall(message))):
        keys |= {f"{key}.{argument}" for argument in signature(class_).parameters}
    parser.exit_on_error = False  # it raises
    for config in configs:
        with suppress(ArgumentError, UserError):
            keys |= {re.sub(r"\.init_args|\.class_path", "", key) for key, _ in parser.parse_string(config).items()}
            break
    beginning, known = name.rpartition(".")[0], {key for key in keys if key != name and not FILLED_IN.fullmatch(key)}
    by_end = {
        _end(key): key for key in sorted(known, key=lambda key: (key.startswith(beginning), -key.count("."), key))
    }
    near = get_close_matches(_end(found[1]), by_end, n=1, cutoff=LEAST_ALIKE)
    meant = ELSEWHERE.get(_end(found[1])) or (by_end[near[0]] if near else None)
    return f"There is no --{name}; did you mean --{meant}?" if meant else None


def _end(flag: str) -> str:
    # What a flag is about, by its last part, however its words are joined.
    return re.sub("[-_]", "", flag.lower().rpartition(".")[2])
