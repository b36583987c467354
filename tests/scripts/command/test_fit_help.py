import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from scripts.command.fit_help import page
from scripts.train import main
from scripts.training.several_runs import ConfigReader
from tests.discovery import ROOT, data_modules, networks

FLAG = re.compile(r"^  --(\S+)(?: (\S+))?", re.MULTILINE)

EXAMPLES = ("data", "weight_average", "feature_cache", "seed_everything")
"""Flags that the page shows with something else than their default, or beside it."""


def test_it_fits_on_a_few_screens() -> None:
    lines = page().splitlines()
    assert len(lines) - len(networks() + data_modules()) <= 136  # 150 with those that come with the project
    assert max(map(len, lines)) <= 80


def test_it_has_what_people_look_for() -> None:
    flags = {flag for flag, _ in FLAG.findall(page())}
    assert {"config", "resume", "like", "seeds", "runs", "experiment", "trust", "ckpt_path"} <= flags
    assert {"data", "data.root", "data.batch_size", "data.folder", "model.optimizer.lr", "trainer.max_epochs"} <= flags


def test_every_flag_says_what_it_does() -> None:
    for line in page().splitlines():
        assert not line.startswith("  --") or re.fullmatch(r"  --\S+ \S+ +\S.*", line), line


@pytest.mark.parametrize(("title", "classes"), [("Networks", networks()), ("Data sets", data_modules())])
def test_it_lists_every_class_by_its_name(title: str, classes: list[type]) -> None:
    listed = page().partition(f"\n{title}\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == sorted(
        (class_.__name__ for class_ in classes if class_.__module__.count(".") == 1),
        key={class_.__name__: class_.__module__ for class_ in classes}.__getitem__,
    )


def test_the_values_it_shows_are_the_defaults() -> None:
    shown = {
        flag: value for flag, value in FLAG.findall(page()) if value == "null" or not re.match(r"\[?[A-Z]+\b", value)
    }
    flags = [
        f"--{flag}={value}"
        for flag, value in shown.items()
        if flag not in EXAMPLES and not re.match(r"data\.(folder|image_size|channels|resize)", flag)
    ]
    assert len(flags) > 35
    given, plain = (yaml.safe_load(ConfigReader(["fit", *args]).config_text) for args in (flags, []))
    assert given == plain


def test_new_classes_appear_and_a_broken_file_does_no_harm(tmp_path: Path) -> None:
    for folder in ("callbacks", "core", "datamodules", "models", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models" / "tiny.py").write_text(
        "from models.resnet import ResNet\nimport nothing\n\n\n"
        'class Tiny(ResNet):\n    """Of few weights; and more."""\n\n\nclass _Part(ResNet): ...\n'
    )
    (tmp_path / "models" / "broken.py").write_text("class Broken(nn.Module:\n")
    (tmp_path / "datamodules" / "moths.py").write_text(
        'from datamodules.cifar100 import CIFAR100\n\n\nclass Moths(CIFAR100):\n    """Moths of a wood."""\n'
    )
    command = [sys.executable, str(tmp_path / "scripts" / "train.py"), "fit", "--help"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^  Tiny +Of few weights$", said, re.MULTILINE)
    assert re.search(r"^  Moths +Moths of a wood\.?$", said, re.MULTILINE)
    assert "Broken" not in said
    assert "_Part" not in said


def help_of(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with suppress(SystemExit):
        main([*args])
    said = capsys.readouterr()
    assert not said.err
    return said.out


@pytest.mark.parametrize(
    "args", [("fit", "--help"), ("fit", "-h"), ("--help",), ("test", "--help"), ("fit", "--seeds", "3", "--help")]
)
def test_it_is_the_answer_whatever_stands_beside_it(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    assert help_of(capsys, *args).startswith("usage: scripts/train.py fit [--config FILE]")


def test_a_reader_that_ends_early_and_a_plain_terminal_are_no_error() -> None:
    command = f"{sys.executable} {ROOT}/scripts/train.py fit --help | head -n 1"
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage")
    assert done.stderr == ""


@pytest.mark.parametrize("args", [("fit", "--help", "all"), ("fit", "--help=all")])
def test_all_flags_are_told_when_asked_for(capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    said = help_of(capsys, *args)
    assert "--trainer.barebones" in said
    assert len(said.splitlines()) > 500


@pytest.mark.parametrize(("flag", "name", "words"), [("model.network", "ResNet", "blocks"), ("data", "MNIST", "root")])
def test_the_arguments_of_a_class_are_told(
    capsys: pytest.CaptureFixture[str], flag: str, name: str, words: str
) -> None:
    assert f"--{flag}.{words}" in help_of(capsys, "fit", f"--{flag}.help", name)
