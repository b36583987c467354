"""Other names for the clone's packages: `kindling.models.convnet` is the very module `models.convnet`.

Configurations and checkpoints name classes by `models`, `callbacks` and so on. Where such a name means something else,
or would hide something else from now on, `import kindling` is refused.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

CLONE = Path(__file__).resolve().parents[1]
PACKAGES = ("core", "models", "datamodules", "callbacks", "scripts")


def install() -> None:
    """Let the aliases be imported.

    Raises:
        ImportError: If a name of the clone's packages is taken.
    """
    for name in PACKAGES:
        if other := _other(name):
            raise ImportError(
                f"{other} and Kindling's package {name} have the same name, so that one would hide the other; rename "
                "it or move it into a package of your own, or use Kindling where sys.path does not lead to it."
            )
    sys.meta_path.insert(0, _Aliases())


def _other(name: str) -> str | None:
    """What a name stands for instead of the clone's package, or what that package would hide; None if nothing."""
    first = find_spec(name)
    if first and first.origin != str(CLONE / name / "__init__.py"):
        return first.origin or str(first.submodule_search_locations)
    hidden = PathFinder.find_spec(name, [place for place in sys.path if Path(place).resolve() != CLONE])
    if hidden is None:
        return None
    if hidden.origin:
        return hidden.origin
    # Of a folder that is no package, only modules that the clone has too would be hidden without an error.
    for folder in map(Path, hidden.submodule_search_locations or ()):
        for file in folder.rglob("*.py"):
            if (CLONE / name / file.relative_to(folder)).exists():
                return str(file)
    return None


class _Aliases(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        top, _, name = fullname.partition(".")
        is_alias = top == "kindling" and name.partition(".")[0] in PACKAGES
        return spec_from_loader(fullname, self) if is_alias else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(spec.name.removeprefix("kindling."))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own specification back, in place of which it has that of the alias."""
        assert module.__spec__ is not None, "the import system sets it"
        module.__spec__ = module.__spec__.loader_state
