"""Expand `~` and `${NAME}` in arguments and configurations."""

import os
import re
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from core.user_error import UserError


def expand(text: str) -> str:
    """Replace a leading `~` by the home folder, and each `${NAME}` by the value of that environment variable."""
    name = text.rstrip("/")
    if bare := re.match(r"\$(\w+)/", text):
        raise UserError(
            f"{name} begins with an environment variable; write it as ${{{bare[1]}}}, or ./ before a folder so called."
        )

    def value_of(match: re.Match[str]) -> str:
        if not (value := os.environ.get(match[1])):
            raise UserError(
                f"{name} names the environment variable {match[1]}, which is not set; set it, or write its value."
            )
        return value

    return os.path.expanduser(re.sub(r"\$\{([^}]*)\}", value_of, text))  # noqa: PTH111 - the text may be no path


def to_path(text: str) -> Path:
    """Expand a text and return it as a path."""
    return Path(expand(os.path.join(text, "")))  # noqa: PTH118 - `expand` finds `$NAME` by the slash


def expand_all(config: Any) -> Any:
    """Expand every text and path in a parsed configuration; a Namespace is changed in place."""
    if isinstance(config, Namespace):
        vars(config).update({key: expand_all(value) for key, value in vars(config).items()})
    elif isinstance(config, dict):
        return {key: expand_all(value) for key, value in config.items()}
    elif isinstance(config, list | tuple):
        return type(config)(map(expand_all, config))
    elif isinstance(config, Path):
        if str(config).lower() == "none":
            raise UserError(f"A folder or file is {config}; write null to leave it out.")
        return to_path(str(config))
    elif isinstance(config, str):
        return expand(config)
    return config
