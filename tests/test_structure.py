"""The rooms of the house: what each may import, how many files it has, and what must have a test."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from itertools import combinations
from pathlib import Path

import pytest

from tests.discovery import ROOT, configs, data_modules, networks

ROOMS = (
    "core",
    "models.serialization",
    "models.training",
    "models",
    "datamodules.decoding",
    "datamodules.loading",
    "datamodules.batching",
    "datamodules.packing",
    "datamodules",
    "callbacks.run",
    "callbacks",
    "callbacks.tensorboard",
    "scripts.command",
    "scripts.report",
    "scripts.uncertainty",
    "scripts.inference",
    "scripts.training",
    "scripts.evaluation",
    "scripts.comparison",
    "scripts.interpretation",
    "scripts.data_quality",
    "scripts",
    "kindling",
)
"""From the ground up: a room imports from itself and from those before it. A clone may have removed some."""

REMOVABLE = ("scripts.evaluation", "scripts.comparison", "scripts.interpretation", "scripts.data_quality")
"""Rooms that only commands import."""

APART = (("models", "datamodules"), *combinations(ROOMS[ROOMS.index("scripts.training") : -2], 2))
"""Pairs of rooms, with the rooms within them, neither of which imports from the other."""

MOST_FILES = 12
"""Files of a room of machinery: a list that is read at a glance."""

TOP = ("core", "models", "datamodules", "callbacks", "scripts", "kindling")
SOURCES = sorted(file for top in TOP for file in (ROOT / top).rglob("*.py"))


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def room_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).parent.parts)


def rooms_imported(file: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            modules |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = [ROOT.joinpath(*module.split(".")).with_suffix(".py") for module in modules]
    assert "tests" not in {module.partition(".")[0] for module in modules}
    return {room_of(file) for file in files if file.is_file()}


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_imports_only_from_the_rooms_below(file: Path) -> None:
    room, others = room_of(file), rooms_imported(file)
    assert others <= set(ROOMS[: ROOMS.index(room) + 1])
    for pair in APART:
        for own, other in (pair, pair[::-1]):
            if f"{room}.".startswith(f"{own}."):
                assert not [each for each in others if f"{each}.".startswith(f"{other}.")]


@pytest.mark.parametrize("file", [file for file in SOURCES if room_of(file) == "scripts"], ids=name)
def test_nobody_imports_a_command(file: Path) -> None:
    assert "scripts" not in rooms_imported(file)


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room.replace(".", "/")).is_dir()])
def test_a_room_says_in_a_sentence_what_it_is_for_and_is_not_crowded(room: str) -> None:
    assert re.fullmatch(r"[^.]*\.", str(import_module(room).__doc__))
    files = [file for file in SOURCES if room_of(file) == room and file.stem != "__init__"]
    assert files
    assert "." not in room or len(files) <= MOST_FILES


def test_every_folder_of_sources_is_a_room() -> None:
    assert {room_of(file) for file in SOURCES} <= {*ROOMS}


@pytest.mark.slow
@pytest.mark.parametrize("room", REMOVABLE)
def test_a_room_of_tools_can_be_removed_with_its_commands_and_their_tests(room: str, tmp_path: Path) -> None:
    tmp_path /= "clone"
    shutil.copytree(ROOT, tmp_path, ignore=shutil.ignore_patterns(".*", "data", "runs", "__pycache__"))
    place = Path(*room.split("."))
    commands = [file for file in SOURCES if room_of(file) == "scripts" and room in rooms_imported(file)]
    shutil.rmtree(tmp_path / place)
    shutil.rmtree(tmp_path / "tests" / place)
    for command in commands:
        (tmp_path / "scripts" / command.name).unlink()
        (tmp_path / f"tests/scripts/test_{command.name}").unlink()
    assert commands
    collect = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--collect-only",
        "-q",
        "--numprocesses=0",
        "tests",
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(collect, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_has_a_test_of_the_same_stem_or_is_found_by_a_contract(file: Path) -> None:
    contracts = {f"{class_.__module__.replace('.', '/')}.py" for class_ in networks() + data_modules()}
    test = ROOT / "tests" / file.relative_to(ROOT).with_name(f"test_{file.name}")
    assert file.stem == "__init__" or name(file) in contracts or test.exists(), f"add {name(test)}"


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_is_named_after_its_idea(file: Path) -> None:
    assert file.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}


@pytest.mark.parametrize("config", configs(), ids=name)
def test_config_opens_with_what_it_is(config: Path) -> None:
    assert config.read_text().startswith("# ")


def test_dependencies_have_reasons_and_pins() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    pins = {pin.partition("==")[0].replace("_", "-") for pin in (ROOT / "constraints.txt").read_text().splitlines()}
    for requirement in sum(project["optional-dependencies"].values(), project["dependencies"]):
        (line,) = (line for line in text.splitlines() if f'"{requirement}"' in line)
        assert "#" in line, f"{requirement} has no reason beside it"
        package = re.split(r"[\[<>=]", requirement)[0].lower()
        assert package in pins, f"{package} is not in constraints.txt; run make constraints"
