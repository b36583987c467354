import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.discovery import ROOT


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code of another project, which lies in a folder and has the clone on PYTHONPATH."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def write(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def test_an_alias_is_the_very_module(tmp_path: Path) -> None:
    code = """
import kindling.core.user_error, kindling.models, core.user_error, models
from kindling.core.user_error import UserError as alias
from kindling import UserError
from core.user_error import UserError as own
assert kindling.core.user_error is core.user_error and kindling.models is models
assert own is alias is UserError and own.__module__ == core.user_error.__spec__.name == "core.user_error"
"""
    done = python(tmp_path, code)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_needs_neither_torch_nor_lightning_before_something_is_asked_for(tmp_path: Path) -> None:
    done = python(tmp_path, "import kindling, sys; assert not {'torch', 'lightning'} & sys.modules.keys()")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "file"), [("models", "models/__init__.py"), ("callbacks", "callbacks/__init__.py"), ("core", "core.py")]
)
@pytest.mark.parametrize("first", ["", "import {}; "], ids=["before it", "after it"])
def test_another_projects_package_of_the_same_name_is_no_kindling_and_is_not_hidden(
    name: str, file: str, first: str, tmp_path: Path
) -> None:
    write(tmp_path / file)
    error = python(tmp_path, f"{first.format(name)}import kindling").stderr.splitlines()[-1]
    assert error.startswith(f"ImportError: {tmp_path / file} and Kindling's package {name} have the same name")


def test_a_package_that_comes_later_on_the_path_would_be_hidden(tmp_path: Path) -> None:
    write(tmp_path / "lab/models/__init__.py")
    done = python(tmp_path, "import sys; sys.path.append('lab'); import kindling")
    assert (
        f"ImportError: {tmp_path}/lab/models/__init__.py and Kindling's package models have the same name"
        in done.stderr
    )


def test_a_folder_of_modules_without_init_is_hidden_only_where_the_clone_has_the_same_module(tmp_path: Path) -> None:
    write(tmp_path / "models/weights.pt")
    write(tmp_path / "models/ours.py")
    assert python(tmp_path, "import kindling").returncode == 0
    assert "No module named 'models.ours'" in python(tmp_path, "import kindling, models.ours").stderr
    write(tmp_path / "models/convnet.py")
    assert f"ImportError: {tmp_path}/models/convnet.py and Kindling's" in python(tmp_path, "import kindling").stderr


def test_a_project_with_a_package_of_its_own_uses_both(tmp_path: Path) -> None:
    write(tmp_path / "lab/models/__init__.py")
    (tmp_path / "lab/models/names.py").write_text("from kindling.core.names import escape_name\nOWN = 'the lab'\n")
    code = (
        "from lab.models.names import escape_name, OWN; assert escape_name.__module__ == 'core.names'; import kindling"
    )
    done = python(tmp_path, code)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_it_does_not_have_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.py")
    assert "cannot import name 'train'" in python(tmp_path, "from kindling import train").stderr
    assert "kindling has no train" in python(ROOT, "import kindling; kindling.train").stderr
