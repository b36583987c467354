"""Suggest a class for a name that cannot be imported."""

import re
import sys
from difflib import get_close_matches

from callbacks.run.origin import PROJECT
from models.serialization.class_path import PACKAGES

# Modules of libraries whose classes a configuration often names.
LIBRARIES = ("torch.nn", "torch.optim", "torch.optim.lr_scheduler", "lightning.pytorch.callbacks")

# Messages of jsonargparse about a class that does not exist.
NOT_THERE = tuple(
    re.compile(pattern)
    for pattern in (
        r"Expected a dot import path string: ([\w.]*\w)",
        r"given class_path '([\w.]+)': module '[\w.]+' has no attribute '\w+'",
        r"module '[\w.]+' has no attribute '\w+'. Got value: Namespace\(class_path='([\w.]+)'",
        r"given class_path '((\w+)\.[\w.]+)': No module named '\2'",
    )
)


def suggest_class(message: str) -> str | None:
    """Turn such a message into a sentence with a suggestion; None for other messages.

    Example:
        >>> suggest_class('Parser key "model.network": Expected a dot import path string: ConvNt')
        'model.network names ConvNt, and there is no such class; did you mean models.convnet.ConvNet?'
    """
    if no_class := re.search(r'Parser key "([\w.]+)": Not a valid subclass of (\w+)', message):
        return f"{no_class[1]} is no {no_class[2]}; name a class, or write null to leave it out."
    named = [match for pattern in NOT_THERE for match in pattern.finditer(message)]
    if not named:
        return None
    path = max(named, key=lambda match: match.start())[1]  # the innermost
    key = ".".join(re.findall(r'Parser key "([\w.]+)"', message))
    if path.lower() in ("none", "false"):
        return f"{key} is {path}; write null to leave it out."
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
    for package in PACKAGES:
        for file in (PROJECT / package).rglob("*.py"):
            module = ".".join(file.relative_to(PROJECT).with_suffix("").parts)
            names = re.findall(r"^class (\w+)", file.read_text(), re.MULTILINE)
            paths |= {name.lower(): f"{module}.{name}" for name in names}
    return paths
