from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from core.user_error import UserError
from scripts.command.expansion import expand, expand_all, to_path


def namespace(**values: Any) -> Namespace:
    return Namespace(**values)  # type: ignore[no-untyped-call]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("DISK", "/mnt/disk")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOT_SET", raising=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("~/runs", "/home/someone/runs"),
        ("~", "/home/someone"),
        ("${DISK}/cats", "/mnt/disk/cats"),
        ("${HOME}${DISK}", "/home/someone/mnt/disk"),
        ("a~/b", "a~/b"),
        ("~$lock.png", "~$lock.png"),
        ("cash$DISK/$x", "cash$DISK/$x"),
        ("./$DISK/x", "./$DISK/x"),
        ("", ""),
    ],
)
def test_home_and_variables_are_replaced_and_nothing_else(text: str, expected: str) -> None:
    assert expand(text) == expected
    assert to_path(text) == Path(expected)


@pytest.mark.parametrize("text", ["${NOT_SET}/x", "a/${EMPTY}", "${DISK:-/tmp}/x", "${}", "~/${NOT_SET}"])
def test_a_variable_that_is_not_set_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"names the environment variable .*, which is not set; set it"):
        expand(text)


def test_a_variable_without_braces_is_no_folder() -> None:
    for refused in (expand, to_path):
        with pytest.raises(UserError, match=r"\$DISK/x begins with .*; write it as \$\{DISK\}"):
            refused("$DISK/x")
    with pytest.raises(UserError, match=r"write it as \$\{DISK\}"):
        to_path("$DISK")
    assert expand("$DISK") == "$DISK", "which may be a class"


def test_every_value_of_a_configuration_is_expanded() -> None:
    nested = [{"save_dir": "~/logs"}, ("${DISK}", 3, None)]
    config = namespace(runs=Path("~/runs"), data=namespace(packs=Path("${DISK}/p"), limit=0.5), loggers=nested)
    expand_all(config)
    assert config.runs == Path("/home/someone/runs")
    assert config.data == namespace(packs=Path("/mnt/disk/p"), limit=0.5)
    assert config.loggers == [{"save_dir": "/home/someone/logs"}, ("/mnt/disk", 3, None)]


def test_none_is_no_folder() -> None:
    with pytest.raises(UserError, match="write null"):
        expand_all(namespace(packs=Path("None")))
