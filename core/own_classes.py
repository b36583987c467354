"""Find the project's classes by name, without importing their files."""

import re
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[1]
PACKAGES = ("models", "datamodules", "callbacks")  # a configuration may name a class of these by its bare name


@cache
def own_classes() -> dict[str, list[str]]:
    """Map the name of each class to its full paths, such as `models.convnet.ConvNet`."""
    paths: dict[str, list[str]] = {}
    for file in sorted(file for package in PACKAGES for file in (PROJECT / package).rglob("*.py")):
        module = file.relative_to(PROJECT).with_suffix("").parts
        if all(map(str.isidentifier, module)) and file.is_file():  # skip backup copies of editors and notebooks
            for name in re.findall(r"^class (\w+)", file.read_text(errors="replace"), re.MULTILINE):
                paths.setdefault(name, []).append(".".join((*module, name)))
    return paths
