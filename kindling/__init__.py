"""Kindling as one package, for code outside the clone."""

import sys
from importlib import import_module
from typing import Any

from kindling.aliases import CLONE, PACKAGES, Aliases, check_name

PUBLIC = {
    "UserError": "core.user_error",
    "fit": "scripts.training.fit",
    "load_classifier": "scripts.inference.image_classifier",
}

for name in PACKAGES:
    check_name(CLONE / name)
sys.meta_path.insert(0, Aliases())


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)  # imported on first use, which takes seconds
    raise AttributeError(f"kindling has no {name}")
