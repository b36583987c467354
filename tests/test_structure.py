"""The rules of the house: who may know whom, and what must have a test."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.discovery import ROOT, configs, imported

ALLOWED = {
    "models": {"models"},
    "datamodules": {"datamodules"},
    "callbacks": {"callbacks", "models", "datamodules"},
    "scripts": {"callbacks", "models", "datamodules", "scripts"},
}
SOURCES = [file for package in ALLOWED for file in sorted((ROOT / package).glob("*.py"))]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_imports_only_what_it_may_know(file: Path) -> None:
    ours = imported(file) & {*ALLOWED, "tests"}
    assert ours <= ALLOWED[file.parent.name]


@pytest.mark.parametrize("file", SOURCES, ids=name)
def test_has_a_test_of_the_same_stem_or_is_found_by_a_contract(file: Path) -> None:
    from tests.discovery import data_modules, networks

    contracts = {f"{class_.__module__.replace('.', '/')}.py" for class_ in networks() + data_modules()}
    test = ROOT / "tests" / file.parent.name / f"test_{file.name}"
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
        assert ">=" in requirement, f"{requirement} has no lower bound for make test-oldest to install"
        package = re.split(r"[\[<>=]", requirement)[0].lower()
        assert package in pins, f"{package} is not in constraints.txt; run make constraints"
