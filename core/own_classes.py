"""The project's classes, found in its files without importing them."""

import re
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGES = ("models", "datamodules", "callbacks")  # whose classes a configuration names


@cache
def own_classes() -> dict[str, list[str]]:
    """The full paths of the classes of each name."""
    paths: dict[str, list[str]] = {}
    for file in sorted(file for package in PACKAGES for file in (PROJECT / package).rglob("*.py")):
        module = file.relative_to(PROJECT).with_suffix("").parts
        if all(map(str.isidentifier, module)) and file.is_file():  # editors and notebooks keep copies beside it
            for name in re.findall(r"^class (\w+)", file.read_text(errors="replace"), re.MULTILINE):
                paths.setdefault(name, []).append(".".join((*module, name)))
    return paths
