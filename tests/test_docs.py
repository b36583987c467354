"""What the pages say can be done: their links lead somewhere, their commands are understood, their answers run."""

import json
import re
import shlex
import shutil
import tomllib
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tests.discovery import ROOT
from tests.test_readme import python

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
ANSWERS = (ROOT / "docs" / "how-do-i.md").read_text()
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHOWN_FILES = re.compile(r"`((?:models|datamodules|callbacks|configs)/[\w/.-]+)`[^`]*:\n\n```\w+\n(.*?)```", re.DOTALL)
FOLDERS = ("callbacks", "configs", "core", "datamodules", "models", "scripts")
OTHER_RUN = ("--resume", "--like", "--seeds", "--folds", "--fold", "--ckpt_path", "--trust")
"""Flags of scripts/train.py whose values are of a run that is not here."""

UNDERSTAND = """
import contextlib, io, json, sys
from scripts.train import main
for command in json.load(sys.stdin):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main(command)
    except SystemExit as end:
        if end.code:
            print(*command, said.getvalue(), sep=" ", end="")
"""


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return BLOCKS.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub and the site spell them in a link."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, anchor in re.findall(r"(?:\]\(|src=\")([^)\"#:]*)(?:#([^)\"]*))?[)\"]", prose(page)):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_list_follows_an_empty_line_without_which_the_site_has_no_list(page: Path) -> None:
    assert not re.findall(r"^(?!- |\d+\. |  ).+\n(?:- |\d+\. ).*", prose(page), re.MULTILINE)


def test_every_page_is_on_the_site() -> None:
    navigation = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    there = {path for entry in navigation for path in entry.values()}
    assert there == {page.name for page in PAGES if page.name != "README.md"} | {"index.md"}


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Each script that a block of code runs, with its arguments up to a pipe or the next command."""
    found = []
    for block in (block for language, block in BLOCKS.findall(text) if language in ("", "bash")):
        for line in re.sub(r" *\\\n *", " ", block).splitlines():
            for script, rest in re.findall(r"(?:python|nproc_per_node.*|rdzv.*) scripts/(\w+)\.py\b(.*)", line):
                lexer = shlex.shlex(re.sub(r"\$\w+", "1", rest), posix=True, punctuation_chars="|&;<>()")
                lexer.whitespace_split = True
                words = list(lexer)
                end = next((n for n, word in enumerate(words) if set(word) <= set("|&;<>()")), len(words))
                found.append((script, words[:end]))
    return found


COMMANDS = [(page_name(page), *command) for page in PAGES for command in commands(page.read_text())]


def without(words: list[str], flags: set[str] | tuple[str, ...]) -> list[str]:
    """Arguments less some flags and their values."""
    kept, leave_out = [], False
    for word in words:
        if word.startswith("--"):
            leave_out = word.partition("=")[0] in flags
        if not leave_out:
            kept.append(word)
    return kept


@cache
def flags_of(script: str) -> set[str]:
    said = StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit, match="0"):
        import_module(f"scripts.{script}").main(["--help"])
    return set(re.findall(r"--[a-z][\w-]*", said.getvalue()))


def configuration_of(script: str, words: list[str]) -> list[str]:
    """What a command says about a training, as `fit` would be told it."""
    if script == "train":
        return without(words, OTHER_RUN)
    flags = without(words, flags_of(script) - {"--config"})
    first = next((n for n, word in enumerate(flags) if word.startswith("--")), len(flags))
    return ["fit", *flags[first:]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project with every file that a page shows."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for page in PAGES:
        for path, text in SHOWN_FILES.findall(page.read_text()):
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_text(text)
    return tmp_path


def run(copy: Path, each: list[list[str]]) -> str:
    """Give `scripts/train.py` of the copy these commands, one after the other; what it says of those it refuses."""
    return python(copy, "-c", UNDERSTAND, given=json.dumps(each))


@pytest.mark.slow
def test_scripts_that_are_shown_exist_and_understand_the_flags_that_they_are_given(copy: Path) -> None:
    assert len(COMMANDS) > 50
    for page, script, _ in COMMANDS:
        assert (ROOT / "scripts" / f"{script}.py").exists(), f"{page} names scripts/{script}.py"
    others = [(script, words) for _, script, words in COMMANDS if not any(word.endswith("help") for word in words)]
    told = [configuration_of(script, words) for script, words in others]
    assert run(copy, [[*words, "--print_config"] for words in told if len(words) > 1]) == ""


@pytest.mark.slow
def test_losses_callbacks_metrics_and_data_sets_that_are_shown_train(copy: Path) -> None:
    classes = {path.removesuffix(".py").replace("/", ".") for path, _ in SHOWN_FILES.findall(ANSWERS)}
    told = [words for _, words in commands(ANSWERS) if {word.rpartition(".")[0] for word in words} & classes]
    assert len(told) == len(classes)
    assert run(copy, [[*words, "--trainer.max_epochs=1", "--experiment=shown"] for words in told]) == ""
    results = [path.read_text() for path in copy.glob("runs/*/*/results.json")]
    assert len(results) == len(told)
    assert any('"monitor": "val/worst_recall"' in text for text in results)


def test_a_datamodule_of_lightning_trains_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MyDataModule(LightningDataModule):
        def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
            return DataLoader(TensorDataset(torch.randn(16, 1, 28, 28), torch.arange(16) % 2), batch_size=8)

        val_dataloader = train_dataloader

    (lines,) = re.findall(r"```python\n([^`]*MyDataModule\(\).*?)```", ANSWERS, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    quiet = "max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False"
    found: dict[str, Any] = {"MyDataModule": MyDataModule}
    exec(lines.replace("max_epochs=5", quiet), found)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["class_names"] == ["cat", "dog"]


def test_workflow_and_container_make_what_there_is() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    wanted = {row["command"] for row in workflow["jobs"]["test"]["strategy"]["matrix"]["include"]}
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {command.removeprefix("make ") for command in wanted} <= targets
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\S+)", dockerfile)) <= set(extras)
