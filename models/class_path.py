"""What a configuration may name to be called."""

from collections.abc import Iterator, Mapping
from functools import partial
from pkgutil import resolve_name
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException


def refuse_functions(config: Any, whose: str) -> None:
    """Let a configuration name classes alone.

    Each of them is checked by jsonargparse to be of the kind that is expected in its place. A function would be called
    with what stands beside it, and is not: of `torch.hub.load`, that is code to fetch and run.

    Args:
        config: The parsed configuration: mappings, lists and values.
        whose: Where it comes from, for the sentence.

    Raises:
        MisconfigurationException: If it names a function.
    """
    for key, name in _functions(config, ""):
        raise MisconfigurationException(
            f"{whose} names {name} as {key}, which is a function; name a class, whose constructor is called."
        )


def _functions(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Namespace):
        node = vars(node)
    if isinstance(node, Mapping):
        path = node.get("class_path")
        if isinstance(path, str) and not isinstance(resolve_name(path), type):
            yield key, path
        for name, value in node.items():
            yield from _functions(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from _functions(value, f"{key}.{place}")
    elif isinstance(node, FunctionType | BuiltinFunctionType | MethodType | partial):
        yield key, f"{getattr(node, '__module__', '')}.{getattr(node, '__qualname__', node)}"
