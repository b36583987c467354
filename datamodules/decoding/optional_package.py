"""Packages that only some files need."""

from importlib import import_module
from typing import Any

from core.user_error import UserError


def optional_package(name: str, extra: str, what: str) -> Any:
    """Import a package of an extra of `pyproject.toml`; a UserError says which if it is not there."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"To read {what} takes {name}, which is not installed; run pip install -e '.[{extra}]'."
        ) from error
