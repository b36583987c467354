import json
import re
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from callbacks.run import origin
from callbacks.run.origin import code, packages
from tests.conftest import Run

ONE = ("--trainer.max_epochs=1", "--data.batch_size=256")


def git(folder: Path, *args: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with one commit, in place of the project's."""
    folder = tmp_path / "project"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "net.py").write_text("width = 1\n")
    git(tmp_path, "init", "-q", "project")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(origin, "PROJECT", folder)
    code.cache_clear()
    yield folder
    code.cache_clear()


def test_of_sources_as_committed_the_commit_is_enough(project: Path) -> None:
    assert code() == (git(project, "rev-parse", "HEAD").strip(), None)
    assert code().name == code().commit


def test_another_users_checkout_gives_its_commit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(project, "rev-parse", "HEAD").strip()
    (project / "models" / "net.py").write_text("width = 20\n")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(subprocess.CalledProcessError):
        git(project, "rev-parse", "HEAD")
    assert code().name == f"{commit}-dirty"
    assert b"width = 2" in (code().changes or b"")


def test_the_patch_makes_the_sources_that_ran(project: Path, tmp_path: Path) -> None:
    git(project.parent, "clone", "-q", str(project), "clone")
    (project / "models" / "net.py").write_text("width = 20\n")
    (project / "models" / "new net.py").write_text("width = 3")
    (project / "configs" / "new").mkdir(parents=True)
    (project / "configs" / "new" / "new.yaml").write_text("model: {}\n")
    (project / "models" / "weights.bin").write_bytes(b"\0")
    (project / "notes.txt").touch()
    (project / "more" / "deep").mkdir(parents=True)
    (project / "more" / "deep" / "a.py").touch()

    before = {file: file.read_bytes() for file in (project / ".git").rglob("*") if file.is_file()}
    assert code().name == f"{git(project, 'rev-parse', 'HEAD').strip()}-dirty"
    assert {file: file.read_bytes() for file in (project / ".git").rglob("*") if file.is_file()} == before
    patch, clone = tmp_path / "changes.patch", project.parent / "clone"
    patch.write_bytes(code().changes or b"")
    git(clone, "apply", str(patch))
    for name in ("models/net.py", "models/new net.py", "configs/new/new.yaml"):
        assert (clone / name).read_bytes() == (project / name).read_bytes()


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code.cache_clear()
    assert code() == (None, None)
    assert code().name is None
    code.cache_clear()


def test_packages_are_those_that_are_installed() -> None:
    found = packages()
    assert len(found) > 50
    for name in ("torch", "lightning", "numpy", "pyyaml", "lightning-utilities"):
        assert found[name] == version(name)


def test_a_run_says_what_it_comes_from(train: Callable[..., Run]) -> None:
    run = train(*ONE, "--seed_everything=3")
    start = json.loads((run.folder / "origin.json").read_text())
    assert start["command"].startswith("scripts/train.py fit --trainer.max_epochs=1 --data.batch_size=256")
    assert start["seed"] == 3
    assert start["data_fingerprint"] == run.checkpoint["data_fingerprint"]
    assert start["hardware"]["threads"] == torch.get_num_threads()
    assert start["hardware"]["cores"] >= 1
    assert start["torch"]["version"] == torch.__version__
    assert start["python"].startswith("CPython 3.")
    lines = (run.folder / "constraints.txt").read_text().splitlines()
    assert lines == sorted(lines)
    assert f"torch=={version('torch')}" in lines
    assert all(re.fullmatch(r"[\w.-]+==\S+", line) for line in lines)
    assert (run.folder / "changes.patch").exists() == (code().changes is not None)
    assert not list(run.folder.glob(".*.part"))
