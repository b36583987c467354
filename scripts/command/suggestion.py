"""Suggest a class, or a flag, for one that does not exist."""

import re
import sys
from collections.abc import Collection, Iterator
from difflib import SequenceMatcher, get_close_matches
from itertools import islice
from typing import Any

from jsonargparse import ArgumentParser

from core.own_classes import own_classes
from models.serialization.class_path import find_class, full_path, not_known

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

# Messages of jsonargparse about a flag or an argument that does not exist.
NO_FLAG = re.compile(
    r"(?:^unrecognized arguments: -*|(?:Group '\w+' does not accept option|Option) ')([A-Za-z](?:[\w.-]*\w)?)"
)

# Messages of jsonargparse about a class that does not exist.
NOT_THERE = tuple(
    re.compile(pattern)
    for pattern in (
        r"Expected a dot import path string: ([\w.]*\w)",
        r"Unexpected import path format: ([\w.]*\w)",
        r"given class_path '([\w.]+)': module '[\w.]+' has no attribute '\w+'",
        r"module '[\w.]+' has no attribute '\w+'. Got value: Namespace\(class_path='([\w.]+)'",
        r"given class_path '((\w+)\.[\w.]+)': No module named '\2'",
    )
)


def suggest_class(message: str) -> str | None:
    """Turn such a message into a sentence with a suggestion; None for other messages."""
    if no_class := re.search(r'Parser key "([\w.]+)": Not a valid subclass of (\w+)', message):
        return f"{no_class[1]} is no {no_class[2]}; name a class, or write null to leave it out."
    named = [match for pattern in NOT_THERE for match in pattern.finditer(message)]
    if not named:
        return None
    path = max(named, key=lambda match: match.start())[1]  # the innermost
    key = ".".join(re.findall(r'Parser key "([\w.]+)"', message)) or message.partition(":")[0]
    if path.startswith("__main__."):
        return not_known("The configuration", path)
    if path.lower() in ("none", "false"):
        return f"{key} is {path}; write null to leave it out."
    if path[0].isdigit() or path.lower() in ("true", "yes"):
        return f"{key} is {path}; give a class or arguments, which scripts/train.py fit --{key}.help [CLASS] lists."
    module, _, name = path.rpartition(".")
    classes = _classes(module)
    near = get_close_matches(name.lower(), classes, n=1)
    hint = (
        f"did you mean {classes[near[0]]}?" if near else "give its module and its name, as in models.convnet.ConvNet."
    )
    return f"{key} names {path}, and there is no such class; {hint}"


def _classes(module: str) -> dict[str, str]:
    """Map lower-case names of classes to their paths; the project's classes win, then those of the module."""
    paths: dict[str, str] = {}
    for place in (*LIBRARIES, module):
        members = vars(sys.modules[place]) if place in sys.modules else {}
        paths |= {name.lower(): f"{place}.{name}" for name, value in members.items() if isinstance(value, type)}
    return paths | {name.lower(): found[0] for name, found in own_classes().items()}


def suggest_flag(message: str, flags: Collection[str], config: Any) -> str | None:
    """Answer an unknown flag or key with the most like of a parser's flags and of the arguments of a configuration."""
    if not (found := NO_FLAG.search(message)):
        return None
    key = ".".join(re.findall(r"(?:Parser key \"|^Group ')([\w.]+)", message))
    name, end = f"{key}.{found[1]}".lstrip("."), _end(found[1])
    known = {flag[2:] for flag in flags if flag.startswith("--") and not flag.endswith((".help", "+"))}
    known |= {"resume", "like", "seeds", "folds", "fold", "trust", *_arguments(config)}
    for path in re.findall(r"given class_path '([\w.]+)'", message):
        known |= {*_arguments({"class_path": path}, key)}
    known = {flag for flag in known if flag != name and not FILLED_IN.fullmatch(flag)}

    def likeness(flag: str) -> tuple[float, bool, int]:
        beginning = name.rpartition(".")[0]
        return SequenceMatcher(None, end, _end(flag)).ratio(), flag.startswith(beginning), -flag.count(".")

    if (near := ELSEWHERE.get(end, "")) not in known:
        near = max(sorted(known), key=likeness)
        if likeness(near)[0] < LEAST_ALIKE:
            return None
    return f"There is no --{name}; did you mean --{near}?"


def _end(flag: str) -> str:
    # What a flag is about, by its last part, however its words are joined.
    return re.sub("[-_]", "", flag.lower().rpartition(".")[2])


def _arguments(node: Any, key: str = "") -> Iterator[str]:
    """The arguments of every class that a configuration names."""
    if isinstance(node, dict):
        path = full_path(node.get("class_path"))
        classes = filter(None, map(find_class, (path, *(f"{library}.{path}" for library in LIBRARIES))))
        for class_ in islice(classes, 1):
            names = ArgumentParser().add_class_arguments(class_, fail_untyped=False)
            yield from (f"{key}.{name}" for name in names)
        for name, value in node.items():
            yield from _arguments(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
