"""Import the clone's packages under `kindling`: `kindling.models.convnet` is the same module as `models.convnet`.

The short names must stay importable, because configurations and checkpoints name classes by them.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

CLONE = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "models", "datamodules", "callbacks", "scripts")


def check_name(package: Path) -> None:
    """Raise ImportError if a module elsewhere on `sys.path` has the name of one of the clone's packages."""
    elsewhere = [place for place in sys.path if Path(place).resolve() != CLONE]
    for spec in filter(None, (find_spec(package.name), PathFinder.find_spec(package.name, elsewhere))):
        files = [Path(spec.origin)] if spec.origin else []
        if not files:  # a folder without __init__.py hides only modules of the same name
            modules = [file.relative_to(package) for file in package.rglob("*.py")]
            files = [Path(folder, module) for folder in spec.submodule_search_locations or () for module in modules]
        for file in files:
            if file.exists() and file != package / "__init__.py":
                raise ImportError(
                    f"{file} and Kindling's package {package.name} have the same name, so that one would hide the "
                    "other; rename it, move it into a package of your own, or use Kindling where sys.path does not "
                    "lead to it."
                )


class Aliases(Loader):
    """Import hook that finds `kindling.<package>` and loads the clone's module, whose spec stays as it is."""

    def find_spec(self, alias: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:  # noqa: D102
        top, _, name = alias.partition(".")
        return spec_from_loader(alias, self) if top == "kindling" and name.partition(".")[0] in PACKAGES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: D102
        module = import_module(spec.name.removeprefix("kindling."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:  # noqa: D102
        module.__spec__ = module.__spec__ and module.__spec__.loader_state
