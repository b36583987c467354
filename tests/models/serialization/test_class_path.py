import inspect
import math
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from jsonargparse._common import parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.digits import Digits
from models.classifier import Classifier
from models.serialization.class_path import KNOWN, check_classes, find_class, is_default, known_classes, parameter
from scripts.command.data_flags import build_data
from tests import discovery
from tests.conftest import Run

FETCH = "{class_path: torch.hub.load, init_args: {repo_or_dir: %s, source: local, model: network}}"
FUNCTION_IN_DATA = (  # one of the kind that kornia's annotation asks for
    "data: {init_args: {augmentation: [{class_path: kornia.contrib.Lambda, "
    "init_args: {func: torch.nn.functional.relu}}]}}"
)


@pytest.mark.parametrize("value", [math.sqrt, partial(print, 1), [1].append, {"class_path": "torch.hub.load"}])
def test_refuses_functions_anywhere(value: Any) -> None:
    with pytest.raises(UserError, match=r"A file names .* as network\.layers\.1, which is a function"):
        check_classes({"network": {"layers": [1, value]}}, "A file")


def test_takes_classes_and_values() -> None:
    check_classes({"a": {"class_path": "torch.nn.ReLU"}, "b": [1, "torch.hub.load", None], "c": torch.nn.ReLU}, "")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What `torch.hub.load` would run."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "hubconf.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    return folder


@pytest.mark.parametrize(
    "setting",
    [
        "model: {optimizer: %s}",
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LambdaCallback, "
        "init_args: {on_fit_start: torch.hub.load}}]}",
        FUNCTION_IN_DATA,
    ],
)
def test_a_configuration_runs_no_function(
    refused: Callable[..., str], tmp_path: Path, repository: Path, setting: str
) -> None:
    (tmp_path / "a.yaml").write_text(setting.replace("%s", FETCH % repository))
    sentence = refused("fit", "--config", tmp_path / "a.yaml", "--runs", tmp_path / "runs")
    assert "which is a function" in sentence
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "runs").exists()


def test_nor_does_one_about_data_alone(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(FUNCTION_IN_DATA)
    with pytest.raises(UserError, match="which is a function"):
        build_data(["--config", str(tmp_path / "a.yaml")])


@pytest.mark.slow
def test_nor_does_a_checkpoint(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path, repository: Path
) -> None:
    checkpoint = train("--trainer.max_epochs=1", "--trainer.limit_train_batches=1").checkpoint
    hub = {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": str(repository), "source": "local"}}
    checkpoint["hyper_parameters"]["optimizer"] = hub
    checkpoint["config"]["model"]["optimizer"] = hub
    torch.save(checkpoint, tmp_path / "strange.ckpt")
    with pytest.raises(UserError, match=r"strange\.ckpt names torch\.hub\.load as optimizer"):
        Classifier.load_from_checkpoint(tmp_path / "strange.ckpt")
    assert "torch.hub.load" in refused("test", "--ckpt_path", tmp_path / "strange.ckpt")
    assert not (tmp_path / "ran").exists()
    checkpoint["hyper_parameters"]["network"] = {"class_path": "fractions.Fraction", "init_args": {}}
    torch.save(checkpoint, tmp_path / "strange.ckpt")
    with pytest.raises(UserError, match=r"strange\.ckpt names fractions\.Fraction, whose code is not run"):
        Classifier.load_from_checkpoint(tmp_path / "strange.ckpt")


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A class whose module notes that it is imported, and that it is built."""
    (tmp_path / "planted.py").write_text(
        "from pathlib import Path\n"
        f"HERE = Path({str(tmp_path)!r})\n"
        "(HERE / 'imported').touch()\n"
        "class Planted:\n"
        "    def __init__(self, *args: object, **kwargs: object) -> None:\n"
        "        (HERE / 'built').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(parsing_settings, "import_path_verdicts", parsing_settings["import_path_verdicts"])
    yield
    sys.modules.pop("planted", None)


def specs(folder: Path) -> Iterator[Any]:
    """What a stranger would write to have them called: a command, the class by name, alone and within other things."""
    yield {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(folder / "built")]}}
    planted = {"class_path": "planted.Planted", "init_args": {"args": 1}}
    yield from ("planted.Planted", planted, [planted], {"key": planted})
    yield {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1, "device": planted}}


OURS = (*KNOWN, "lightning")
INTERNAL = ("torch._", "torch.ao", "torch.distributed", "torch.fx", "torch.jit", "torch.testing", "torchvision.models")

PLAIN = {int, float, bool, type(None)}
"""What takes no class and no name of one."""


def subclasses(base: type) -> set[type]:
    found = {base}
    below: list[type] = type.__subclasses__(base)
    for each in below:
        found |= subclasses(each)
    return found


def leaves(hint: Any) -> set[Any]:
    """The types that a type is put together from."""
    if typing.get_origin(hint) is typing.Literal:
        return set()
    parts = [part for arg in typing.get_args(hint) for part in (arg if isinstance(arg, list) else [arg])]
    return set().union(*map(leaves, parts)) if parts else {hint}


def reachable_arguments() -> dict[str, tuple[ArgumentParser, str]]:
    """For each type of argument in any class that a configuration can reach, one such argument and its parser."""
    import kornia.augmentation.auto  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    discovery.networks(), discovery.data_modules(), discovery.callback_classes()
    todo = {Classifier, Trainer, *subclasses(ImageDataModule), *subclasses(Callback)}
    seen: set[type] = set()
    constructors: set[int] = set()
    found: dict[str, tuple[ArgumentParser, str]] = {}
    while todo:
        seen.add(class_ := todo.pop())
        if (constructor := id(inspect.getattr_static(class_, "__init__"))) in constructors:
            continue
        constructors.add(constructor)
        parser = ArgumentParser(exit_on_error=False)
        with suppress(Exception):  # of classes that no configuration could give its arguments to
            parser.add_class_arguments(class_, fail_untyped=False)
        for action in parser._actions:
            hint = getattr(action, "_typehint", None)
            if hint is not None and not action.dest.endswith(".help") and not leaves(hint) <= PLAIN:
                found.setdefault(repr(hint), (parser, action.dest))
                bases: set[type] = {
                    base for base in leaves(hint) if inspect.isclass(base) and base.__module__.startswith(OURS)
                }
                todo |= {
                    each
                    for base in bases
                    for each in subclasses(base) - seen
                    if not each.__module__.startswith(INTERNAL)
                }
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("planted")
@pytest.mark.filterwarnings("ignore")  # else a warning might be what stops it
def test_no_argument_of_any_class_builds_what_is_planted(tmp_path: Path) -> None:
    arguments = reachable_arguments()
    assert len(arguments) > 200
    for scope in (partial(known_classes, "A checkpoint"), nullcontext):
        for spec in specs(tmp_path):
            for parser, name in arguments.values():
                with suppress(Exception), scope():
                    parser.instantiate_classes(parser.parse_object({name: spec}, _skip_required=True))
                assert not (tmp_path / "built").exists(), f"{spec} at {name}"
        assert (tmp_path / "imported").exists() == (scope is nullcontext)


def test_values_that_are_off_are_all_different() -> None:
    values: list[object] = [None, False, 0, 0.0, [], {}, ""]
    assert all(is_default(value, value) for value in values)
    assert not [pair for pair in permutations(values, 2) if is_default(*pair)]


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ([1, 2.0], (1, 2.0), True),
        ([1, False], (1, 0), False),
        ([1], (1, 2), False),
        ("torch.nn.ReLU", nn.ReLU, True),
        ("elsewhere.ReLU", nn.ReLU, False),
        (None, nn.ReLU, False),
    ],
)
def test_a_configured_value_is_compared_as_the_configuration_writes_it(
    value: object, default: object, expected: bool
) -> None:
    assert is_default(value, default) is expected


def test_arguments_are_found_where_they_are_handed_on_to() -> None:
    found = parameter(Digits, "batch_size")
    assert found is not None
    assert found.default == 64
    assert parameter(Digits, "nonsense") is None
    assert parameter(int, "nonsense") is None


def test_only_what_is_imported_is_found() -> None:
    assert find_class("torch.nn.ReLU") is nn.ReLU
    paths: list[object] = ["antigravity.Cache", "torch.nn", "torch.save", "", None, {}]
    assert not any(map(find_class, paths))
