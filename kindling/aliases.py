"""Other names for the clone's packages: `kindling.models.convnet` is the very module `models.convnet`.

Configurations and checkpoints name classes by `models`, `callbacks` and so on, so that these names must be the clone's.
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


def check_name(own: Path) -> None:
    """Raise an ImportError if something else has the name of a package of the clone."""
    elsewhere = [place for place in sys.path if Path(place).resolve() != CLONE]
    for spec in filter(None, (find_spec(own.name), PathFinder.find_spec(own.name, elsewhere))):
        files = [Path(spec.origin)] if spec.origin else []
        for folder in () if files else spec.submodule_search_locations or ():  # no package: it hides like modules alone
            files += [Path(folder, file.relative_to(own)) for file in own.rglob("*.py")]
        for other in files:
            if other.exists() and other != own / "__init__.py":
                raise ImportError(
                    f"{other} and Kindling's package {own.name} have the same name, so that one would hide the other; "
                    "rename it, move it into a package of your own, or use Kindling where sys.path does not lead to it."
                )


class Aliases(Loader):
    """Finds an alias, and loads its module, which keeps its own specification."""

    def find_spec(self, alias: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:  # noqa: D102
        top, _, name = alias.partition(".")
        return spec_from_loader(alias, self) if top == "kindling" and name.partition(".")[0] in PACKAGES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: D102
        module = import_module(spec.name.removeprefix("kindling."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:  # noqa: D102
        module.__spec__ = module.__spec__ and module.__spec__.loader_state
