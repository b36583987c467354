"""Kindling as one package, for code outside the clone."""

from importlib import import_module
from typing import Any

from kindling import aliases

PUBLIC = {
    "UserError": "core.user_error",
    "fit": "scripts.training.fit",
    "load_classifier": "scripts.inference.image_classifier",
    "trust": "models.serialization.class_path",
}

aliases.install()


def __getattr__(name: str) -> Any:
    """Import what is asked for: some of it takes seconds."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'kindling' has no attribute {name!r}; it has {', '.join(PUBLIC)}")
    return getattr(import_module(PUBLIC[name]), name)
