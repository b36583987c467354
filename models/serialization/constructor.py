"""The arguments of constructors that a configuration names."""

import inspect
from typing import Any

from models.serialization.class_path import find_class


def parameter(class_: type, name: str) -> inspect.Parameter | None:
    """An argument of a constructor, or of a base class's constructor; None if it is not known."""
    for base in class_.__mro__[:-1]:
        try:
            # The signature of the class itself would be that of its metaclass, which may take anything.
            parameters = inspect.signature(vars(base).get("__init__", object.__init__)).parameters
        except (TypeError, ValueError):  # a class that is not written in Python
            continue
        if name in parameters:
            return parameters[name]
    return None


def is_default(value: Any, default: Any) -> bool:
    """Whether a configured value is an argument's default: `null`, `false`, `0` and `[]` are four different values."""
    if isinstance(default, type):  # a configuration holds its path
        return find_class(value) is default
    if isinstance(value, list | tuple) and isinstance(default, list | tuple):
        return len(value) == len(default) and all(map(is_default, value, default))
    return type(value) is type(default) and bool(value == default)
