"""Suggestions for a misspelt name."""

from collections.abc import Collection
from difflib import get_close_matches

SHOWN = 3  # names suggested at most


def near_names(name: str, names: Collection[str], otherwise: str = "") -> str:
    """End a sentence about an unknown name.

    Example:
        >>> near_names("resnet8", ["resnet18", "vgg16"])
        'did you mean resnet18?'
        >>> near_names("?", ["resnet18", "vgg16"])
        'there is resnet18, vgg16'
    """
    near = get_close_matches(name, names, n=SHOWN)
    return f"did you mean {', '.join(near)}?" if near else otherwise or f"there is {', '.join(names)}"
