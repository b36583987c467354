"""The classes that a configuration may name, and the arguments of their constructors."""

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

# There is no public way to undo "*", to ask for a verdict, nor to say which class goes by a name.
from jsonargparse._common import denying_import_path_entry, parsing_settings
from torch import nn

from core.own_classes import PACKAGES, own_classes
from core.user_error import UserError

# The packages whose classes a checkpoint may name.
KNOWN = (
    *(*PACKAGES, "torch", "torchvision", "torchmetrics", "kornia", "timm"),
    *("lightning.pytorch.callbacks", "lightning.pytorch.cli"),
)

# The parts of them that run, load or write code, files or processes.
CLOSED = (
    *("torch.distributed", "torch.fx", "torch.jit", "torch.package", "torch.testing", "torch.utils"),
    *(f"torchmetrics.{part}" for part in ("audio", "detection", "functional", "image", "multimodal", "text", "video")),
)

DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")  # jsonargparse's message for a denied name

NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")

# An argument of any type builds no class; jsonargparse's own list of denied names is replaced by the one below.
set_parsing_settings(instantiate_subclass_spec_in_any=False, import_path_denylist=[])

_path_by_name = _typehints.resolve_class_path_by_name
_typehints.resolve_class_path_by_name = lambda cls, name: _path_by_name(cls, full_path(name))

# Makes a context to parse a configuration and build its classes in.
Scope = Callable[[], AbstractContextManager[None]]


def full_path(name: Any) -> Any:
    """The path of the project's class of this name, imported or not; any other name stays as it is."""
    paths = own_classes().get(str(name), [name])
    if len(paths) > 1:
        raise UserError(f"{name} is the name of several classes; give one of {', '.join(paths)}.")
    return paths[0]


def trust(package: str) -> str:
    """Let checkpoints name classes of one more package in this process."""
    set_parsing_settings(import_path_allowlist=[package])
    return package


@contextmanager
def known_classes(whose: str, own: Any = None) -> Iterator[None]:
    """Inside the block, import and build only classes of packages that are `KNOWN`, trusted, or named in `own`."""
    named = {name.rpartition(".")[0] for name in _names(own)}
    named = {name for name in named if name.partition(".")[0] not in {*sys.stdlib_module_names, "jsonargparse"}}
    before = parsing_settings["import_path_verdicts"]
    closed = [part for part in CLOSED if part not in before]  # the others are trusted
    set_parsing_settings(import_path_denylist=["*", *closed], import_path_allowlist=[*KNOWN, *named])
    try:
        yield
    except Exception as error:
        if denied := DENIED.search(str(error)):
            raise UserError(not_known(whose, denied[1])) from error
        raise
    finally:
        parsing_settings["import_path_verdicts"] = before


def not_known(whose: str, name: str) -> str:
    """The sentence for a configuration that names a class of another package."""
    if name.startswith("__main__."):
        return f"{whose} names {name} of a notebook or script; put that class in a file, and train with it from there."
    return (
        f"{whose} names {name}, whose code is not run unasked; expected a class of the project's packages or of torch, "
        f"torchvision, kornia or timm. If you trust it, give --trust {name.rpartition('.')[0] or name}."
    )


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _names(value)
    elif isinstance(node, str) and NAME.fullmatch(node):
        yield node


def find_class(path: object) -> type | None:
    """The class that a parsed configuration names; None if it is not imported, so that nothing is built of it."""
    class_ = _imported(path) if isinstance(path, str) else None
    return class_ if isinstance(class_, type) else None


def _imported(path: str) -> object:
    module, _, name = path.rpartition(".")
    outer, _, inner = module.rpartition(".")
    owner = sys.modules.get(module) or getattr(sys.modules.get(outer), inner, None)
    return getattr(owner, name, None)


def check_classes(config: Any, whose: str, key: str = "") -> None:
    """See that a configuration names only classes, of packages that it may name.

    jsonargparse checks that a class is of the kind that its place expects, but calls any function with the arguments
    beside it: `torch.hub.load` would fetch code and run it.
    """
    if isinstance(config, Namespace):
        config = vars(config)
    function = None
    if isinstance(config, Mapping):
        if isinstance(path := config.get("class_path"), str):
            if NAME.fullmatch(path) and denying_import_path_entry(path):
                place = f"{whose}, {key},"
                raise UserError(not_known(place, path))
            function = None if isinstance(_imported(path), type | None) else path
        for name, value in config.items():
            check_classes(value, whose, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            check_classes(value, whose, f"{key}.{number}")
    elif isinstance(config, FunctionType | BuiltinFunctionType | MethodType | partial):
        function = f"{getattr(config, '__module__', '')}.{getattr(config, '__qualname__', config)}"
    if function:
        raise UserError(
            f"{whose} names {function} as {key}, which is a function; name a class, whose constructor is called."
        )


def parameter(class_: type, name: str) -> inspect.Parameter | None:
    """An argument of a constructor, or of a base class's constructor; None if it is not known."""
    for base in class_.__mro__[:-1]:
        with suppress(TypeError, ValueError):  # from a class that is not written in Python
            # The signature of the class itself would be that of its metaclass, which may take anything.
            parameters = inspect.signature(vars(base).get("__init__", object.__init__)).parameters
            if name in parameters:
                return parameters[name]
    return None


def is_default(value: Any, default: Any) -> bool:
    """Whether a configured value is an argument's default: `null`, `false`, `0` and `[]` are four different values."""
    if isinstance(default, type):  # a configuration holds its path
        return find_class(value) is default
    return json.dumps(value, default=repr) == json.dumps(default, default=repr)


def keep_rebuildable(arguments: MutableMapping[str, Any], network: nn.Module) -> None:
    """Of a classifier's arguments, keep those that a checkpoint can hold, and that build its network again."""
    if isinstance(arguments["loss"], nn.Module):
        del arguments["loss"]
    if isinstance(saved := arguments["network"], nn.Module):  # built in Python: saved as weights alone
        for name in ("network", "optimizer", "scheduler", "finetune"):
            del arguments[name]
    elif "init_args" in saved:
        # The command line offers every network all that the data know; keep the arguments of this one.
        own = ArgumentParser().add_class_arguments(type(network), fail_untyped=False)
        saved["init_args"] = {name: value for name, value in saved["init_args"].items() if name in own}
        saved["init_args"] |= getattr(network, "rebuilt_with", {})
