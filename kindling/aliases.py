"""Other names for the clone's packages: `kindling.models.convnet` is the very module `models.convnet`.

Configurations and checkpoints name classes by `models`, `callbacks` and so on, so that these names must be the clone's.
"""

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

CLONE = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "models", "datamodules", "callbacks", "scripts")


def check_names() -> None:
    """Raise an ImportError if something else has the name of one of the clone's packages."""
    for name in PACKAGES:
        for other in _others(name):
            raise ImportError(
                f"{other} and Kindling's package {name} have the same name, so that one would hide the other; rename "
                "it or move it into a package of your own, or use Kindling where sys.path does not lead to it."
            )


def _others(name: str) -> Iterator[str]:
    elsewhere = [place for place in sys.path if Path(place).resolve() != CLONE]
    for spec in filter(None, (find_spec(name), PathFinder.find_spec(name, elsewhere))):
        if spec.origin:
            yield from {spec.origin} - {str(CLONE / name / "__init__.py")}
        else:  # a folder without __init__.py, of which no more is hidden than modules of the same name
            folders = map(Path, spec.submodule_search_locations or ())
            files = ((file, file.relative_to(folder)) for folder in folders for file in folder.rglob("*.py"))
            yield from (str(file) for file, place in files if (CLONE / name / place).exists())


class Aliases(Loader):
    """Finds an alias, and loads its module, which keeps its own specification."""

    def find_spec(self, alias: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:  # noqa: D102
        is_alias = alias.startswith("kindling.") and alias.split(".")[1] in PACKAGES
        return spec_from_loader(alias, self) if is_alias else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: D102
        module = import_module(spec.name.removeprefix("kindling."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:  # noqa: D102
        module.__spec__ = module.__spec__ and module.__spec__.loader_state
