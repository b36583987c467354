"""Class paths: names of our classes, what an untrusted configuration may name, and constructor parameters."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from jsonargparse import ArgumentParser, Namespace, _typehints, set_parsing_settings

# jsonargparse has no public way to undo the denial of "*", to ask for a verdict, or to resolve a name to a class.
from jsonargparse._common import denying_import_path_entry, parsing_settings
from torch import nn

from core.own_classes import PACKAGES, own_classes
from core.user_error import UserError

# Names of Kindling's own classes

_path_by_name = _typehints.resolve_class_path_by_name
_typehints.resolve_class_path_by_name = lambda cls, name: _path_by_name(cls, full_path(name))


def full_path(name: Any) -> Any:
    """Return the class path of the project's class of this name, imported or not; return any other name unchanged."""
    paths = own_classes().get(str(name), [name])
    if len(paths) > 1:
        raise UserError(f"{name} is the name of several classes; give one of {', '.join(paths)}.")
    return paths[0]


def find_class(path: object) -> type | None:
    """Return the class at a class path if its module is already imported, else None; nothing is imported."""
    class_ = _imported_object(path) if isinstance(path, str) else None
    return class_ if isinstance(class_, type) else None


def _imported_object(path: str) -> object:
    module, _, name = path.rpartition(".")
    outer, _, inner = module.rpartition(".")
    owner = sys.modules.get(module) or getattr(sys.modules.get(outer), inner, None)  # `inner` may be a class
    return getattr(owner, name, None)


# What an untrusted configuration or checkpoint may name

# Packages whose classes it may name.
KNOWN = (
    *(*PACKAGES, "torch", "torchvision", "torchmetrics", "kornia", "timm"),
    *("lightning.pytorch.callbacks", "lightning.pytorch.cli"),
)

# Modules of these packages that it may not name, because they run or load code or use files or processes.
CLOSED = (
    *("torch.distributed", "torch.fx", "torch.jit", "torch.package", "torch.testing", "torch.utils"),
    *(f"torchmetrics.{part}" for part in ("audio", "detection", "functional", "image", "multimodal", "text", "video")),
)

DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")  # jsonargparse's message for a denied name

DOTTED_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")

# Arguments of type Any build no classes. The empty list replaces jsonargparse's list of denied names, because
# `known_classes` denies all names but the known ones.
set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])

# Makes a context to parse a configuration and build its classes in.
Scope = Callable[[], AbstractContextManager[None]]


def trust(package: str) -> str:
    """Let checkpoints name classes of one more package in this process."""
    set_parsing_settings(import_path_allowlist=[package])
    return package


@contextmanager
def known_classes(source: str, own: Any = None) -> Iterator[None]:
    """Inside the block, import and build only classes of packages that are `KNOWN`, trusted, or named in `own`.

    A message names the configuration by `source`. `own` is the part of the configuration that the user wrote.
    """
    unsafe = {*sys.stdlib_module_names, "jsonargparse"}
    own_modules = [name.rpartition(".")[0] for name in _dotted_names(own) if name.partition(".")[0] not in unsafe]
    verdicts_before = parsing_settings["import_path_verdicts"]
    closed = [module for module in CLOSED if module not in verdicts_before]  # the others are trusted
    set_parsing_settings(import_path_denylist=["*", *closed], import_path_allowlist=[*KNOWN, *own_modules])
    try:
        yield
    except Exception as error:
        if denied := DENIED.search(str(error)):
            raise UserError(not_known(source, denied[1])) from error
        raise
    finally:
        parsing_settings["import_path_verdicts"] = verdicts_before


def not_known(source: str, name: str) -> str:
    """Return the message for a configuration that names a class of an unknown package."""
    if name.startswith("__main__."):
        return f"{source} names {name} of a notebook or script; put that class in a file, and train with it from there."
    return (
        f"{source} names {name}, whose code is not run unasked; expected a class of the project's packages or of "
        f"torch, torchvision, kornia or timm. If you trust it, give --trust {name.rpartition('.')[0] or name}."
    )


def _dotted_names(node: Any) -> Iterator[str]:
    if isinstance(node, str) and DOTTED_NAME.fullmatch(node):
        yield node
    values = list(node.values()) if isinstance(node, Mapping) else node
    if isinstance(values, list | tuple):
        for value in values:
            yield from _dotted_names(value)


def check_classes(config: Any, source: str, key: str = "") -> None:
    """Raise UserError if a configuration names a function, or a class of an unknown package.

    jsonargparse checks that a class fits its place, but calls any function with the arguments beside it:
    `torch.hub.load` would download code and run it.
    """
    if isinstance(config, Namespace):
        config = vars(config)
    function = None
    if isinstance(config, Mapping):
        path = config.get("class_path")
        if isinstance(path, str):
            if DOTTED_NAME.fullmatch(path) and denying_import_path_entry(path):
                place = f"{source}, {key},"
                raise UserError(not_known(place, path))
            if not isinstance(_imported_object(path), type | None):
                function = path
        for name, value in config.items():
            check_classes(value, source, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            check_classes(value, source, f"{key}.{number}")
    elif isinstance(config, FunctionType | BuiltinFunctionType | MethodType | partial):
        function = f"{getattr(config, '__module__', '')}.{getattr(config, '__qualname__', config)}"
    if function:
        raise UserError(
            f"{source} names {function} as {key}, which is a function; name a class, whose constructor is called."
        )


# Parameters of constructors


def parameter(class_: type, name: str) -> inspect.Parameter | None:
    """Return a parameter of the class's constructor, or of a base class's constructor; None if none has the name."""
    for base in class_.__mro__[:-1]:
        with suppress(TypeError, ValueError):  # from a class that is not written in Python
            # The signature of the class itself would be its metaclass's, which may take anything.
            parameters = inspect.signature(vars(base).get("__init__", object.__init__)).parameters
            if name in parameters:
                return parameters[name]
    return None


def is_default(value: Any, default: Any) -> bool:
    """Return True if a configured value equals a default; `null`, `false`, `0` and `[]` are four different values."""
    if isinstance(default, type):  # a configuration holds the class path
        return find_class(value) is default
    return json.dumps(value, default=repr) == json.dumps(default, default=repr)


def keep_rebuildable(arguments: MutableMapping[str, Any], network: nn.Module) -> None:
    """Remove the classifier's arguments that a checkpoint cannot hold or that the network does not take."""
    if isinstance(arguments["loss"], nn.Module):
        del arguments["loss"]
    configured = arguments["network"]
    if isinstance(configured, nn.Module):  # built in Python, so that a checkpoint holds only its weights
        for name in ("network", "optimizer", "scheduler", "finetune"):
            del arguments[name]
    elif "init_args" in configured:
        # The command line offers every network all facts about the data; keep those that this network takes.
        accepted = ArgumentParser().add_class_arguments(type(network), fail_untyped=False)
        kept = {name: value for name, value in configured["init_args"].items() if name in accepted}
        configured["init_args"] = kept | getattr(network, "rebuilt_with", {})
