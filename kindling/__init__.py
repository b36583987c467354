"""Kindling as one package, for code outside the clone."""

import sys
from importlib import import_module
from typing import Any

from kindling.aliases import Aliases, check_names

check_names()
sys.meta_path.insert(0, Aliases())

PUBLIC = {
    "UserError": "core.user_error",
    "fit": "scripts.training.fit",
    "load_classifier": "scripts.inference.image_classifier",
}


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"kindling has no {name}; it has {', '.join(PUBLIC)}")
    return getattr(import_module(PUBLIC[name]), name)  # not before, because that takes seconds
