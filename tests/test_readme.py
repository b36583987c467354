"""What README.md and docs/ show: its network and data set are dropped into a copy with nothing else edited."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from datamodules.decoding import image_file
from scripts.export import main as export
from scripts.inference.image_classifier import load_classifier
from scripts.inference.predictions import predict_split, probabilities_of
from scripts.inference.trained_network import TrainedNetwork
from scripts.predict import main as predict
from tests.conftest import Run
from tests.discovery import ROOT, imported
from tests.odd_images import write_odd_images

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = "\n".join(page.read_text() for page in PAGES)
FOLDERS = ("callbacks", "configs", "core", "datamodules", "models", "scripts", "tests")


def shown(path: str, language: str) -> str:
    """The code block that follows the first mention of its file."""
    found = re.search(rf"`{re.escape(path)}`.*?```{language}\n(.*?)```", SHOWN, re.DOTALL)
    assert found, f"no page shows {path}"
    return found[1]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for path, language in (
        ("models/patches.py", "python"),
        ("configs/digits/patches.yaml", "yaml"),
        ("datamodules/scans.py", "python"),
        ("configs/scans/convnet.yaml", "yaml"),
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(shown(path, language))
    return tmp_path


def python(copy: Path, *args: str, given: str | None = None) -> str:
    """Run in the copy, whose packages come before those that are installed; what it says."""
    done = subprocess.run(
        [sys.executable, *args],
        input=given,
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_examples_are_short() -> None:
    for path in ("models/patches.py", "datamodules/scans.py"):
        assert len(shown(path, "python").splitlines()) < 20


@pytest.mark.slow
def test_examples_train(copy: Path) -> None:
    digits = load_digits()
    (copy / "data").mkdir()
    images = (digits.images[:, None] * 15).astype(np.uint8)
    np.savez(copy / "data" / "scans.npz", images=images, labels=digits.target)
    for config in ("digits/patches", "scans/convnet"):
        python(copy, "scripts/train.py", "fit", "--config", f"configs/{config}.yaml", "--trainer.max_epochs", "2")
        assert list(copy.glob(f"runs/{config}/*/results.json"))


@pytest.mark.slow
def test_examples_keep_the_contracts(copy: Path) -> None:
    options = ("-p", "no:cacheprovider", "--numprocesses=0")
    python(copy, "-m", "pytest", *options, "tests/test_contracts.py", "-k", "patches or Patches or scans or Scans")


@pytest.mark.slow
def test_examples_pass_lint_and_types(copy: Path) -> None:
    """Types are checked in place of a network and a data set that are here, for which there may be a cache."""
    files = {"models/patches.py": "models/mlp.py", "datamodules/scans.py": "datamodules/digits.py"}
    for arguments in (("check",), ("format", "--check")):
        python(copy, "-m", "ruff", *arguments, "--no-cache", *files)
    shadows = [part for shown, here in files.items() for part in ("--shadow-file", here, str(copy / shown))]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", *shadows, *files.values()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lines_that_classify_run(
    tmp_path: Path, train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    (lines,) = re.findall(r"```python\n(from scripts\.inference\.image_classifier .*?)```", SHOWN, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(train("--trainer.max_epochs=1").best, "best.ckpt")
    for name, scan in zip(("cat.jpg", "dog.jpg"), load_digits().images, strict=False):
        Image.fromarray((scan * 15).astype(np.uint8)).save(name)
    found: dict[str, Any] = {}
    exec(lines, found)
    assert found["cat"].probability == max(found["cat"].probabilities.values())
    assert found["cat"].class_name in found["classify"].class_names
    assert len(found["several"]) == 2


@pytest.mark.slow
def test_flags_shown_exist() -> None:
    known = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), "fit", "--help", "all"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for flag in set(re.findall(r"--(?:trainer\.\w+|checkpoint|early_stopping)", SHOWN)):
        assert flag in known


def test_files_mentioned_exist() -> None:
    for path in re.findall(r"`((?:configs|datamodules|models|scripts|callbacks)/[\w/.]+)`", SHOWN):
        is_shown = re.search(rf"`{re.escape(path)}`[^`]*:\n\n```", SHOWN)
        assert is_shown or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_every_page_is_linked(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", page.read_text())
    for path in (path for link in links for path in link if path):
        assert (page.parent / path).exists(), path
    assert page.name == "README.md" or f"(docs/{page.name})" in PAGES[0].read_text()


PHOTOS = ("--data=datamodules.image_folder.ImageFolder", "--data.folder=photos", "--data.image_size=16")


def write_photos(root: Path) -> list[Path]:
    """Two classes of parts of photographs, and the photographs themselves."""
    from sklearn.datasets import load_sample_images

    photographs = []
    for name, levels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        image = Image.fromarray(levels)
        (root / "photos" / name).mkdir(parents=True)
        for number in range(24):
            left, top = 60 * (number % 8), 80 * (number // 8)
            image.crop((left, top, left + 200, top + 150)).save(root / "photos" / name / f"{number}.png")
        photographs.append(root / f"{name}.jpg")
        image.save(photographs[-1])
    return photographs


def write_scans(root: Path) -> list[Path]:
    """Handwritten digits in the middle of wide images, as large as photographs."""
    files = []
    for number in range(4):
        scan = Image.fromarray((load_digits().images[number] * 15).astype(np.uint8)).resize((240, 240))
        wide = Image.new("L", (400, 240), "white")
        wide.paste(scan, (80, 0))
        files.append(root / f"{number}.png")
        wide.save(files[-1])
    return files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "flags"),
    [(write_scans, ()), (write_photos, (*PHOTOS, "--data.resize=squash"))],
    ids=["digits", "photographs"],
)
def test_exported_model_names_the_class_that_the_checkpoint_does(
    write: Callable[[Path], list[Path]], flags: tuple[str, ...], train: Callable[..., Run], tmp_path: Path
) -> None:
    script = tmp_path / "classify.py"
    script.write_text(shown("classify.py", "python"))
    assert imported(script) == {"json", "sys", "numpy", "onnxruntime", "PIL"}
    files = write(tmp_path)
    run = train(*flags, *(("--data.root", str(tmp_path)) if flags else ()), "--trainer.max_epochs=8")
    export([str(run.folder)])
    trained = TrainedNetwork(run.best)
    named = []
    for file in files:
        label = int(trained.logits(trained.read(file)[None]).argmax())
        command = [sys.executable, str(script), str(run.folder / "best.onnx"), str(file)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{trained.class_names[label]}\n"
        named.append(done.stdout)
    assert len(set(named)) > 1


def statements(source: str) -> dict[str, list[str]]:
    """What each function of a program does, without what it says of itself."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {
        function.name: [ast.dump(node) for node in function.body[ast.get_docstring(function) is not None :]]
        for function in functions
    }


def test_the_program_for_exported_models_makes_pixels_word_for_word_as_training_does() -> None:
    shown_there = statements(shown("classify.py", "python"))
    ours = statements(Path(image_file.__file__).read_text())
    assert shown_there == {name: ours[name] for name in ("pixels_of", "resized", "as_shown")}


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "resize"), [(1, "squash"), (3, "crop")])
def test_an_odd_image_has_one_probability_in_every_command_in_python_and_in_the_exported_model(
    channels: int, resize: str, train: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("train/one", "train/other", "val/one", "test/one"):
        files = write_odd_images(tmp_path / "odd" / folder)
    flags = ("--data=ImageFolder", "--data.folder=odd", "--data.root", str(tmp_path), "--data.bit_depth=8")
    shape = ("--data.image_size=24", f"--data.channels={channels}", f"--data.resize={resize}")
    short = ("--model.network=models.mlp.MLP", "--trainer.max_epochs=1", "--trainer.precision=32-true")
    run = train(*flags, *shape, *short)
    trained = TrainedNetwork(run.best)
    found = predict_split(trained, trained.data(), "test")
    assert found.names == [str(file.relative_to(tmp_path / "odd")) for file in files]
    evaluated = found.probabilities
    assert run.results["metrics"]["test/loss"] == pytest.approx(-np.log(evaluated[:, 0]).mean(), abs=1e-5)

    predictions = tmp_path / "predicted.jsonl"
    with pytest.raises(SystemExit, match="0"):
        predict([str(run.best), str(tmp_path / "odd" / "test"), "--probabilities", "--output", str(predictions)])
    predicted = [json.loads(line)["probability of one"] for line in predictions.read_text().splitlines()]
    export([str(run.folder)])
    script = tmp_path / "classify.py"
    script.write_text(shown("classify.py", "python"))
    classify = load_classifier(run.folder)
    in_python, exported = [], []
    for file in files:
        with Image.open(file) as opened:
            array = np.asarray(image_file.as_shown(opened).convert("RGB"))
        with Image.open(file) as opened:
            answers = classify([file, opened, array])
        in_python.append([answer.probabilities["one"] for answer in answers])  # type: ignore[union-attr]
        monkeypatch.setattr(sys, "argv", [str(script), str(run.folder / "best.onnx"), str(file)])
        exported.append(probabilities_of(runpy.run_path(str(script))["logits"])[0, 0])
    assert np.std(exported) > 0.1, "what is compared tells images apart"
    for probabilities in (predicted, exported, *np.transpose(in_python)):
        assert probabilities == pytest.approx(evaluated[:, 0], abs=1e-5)
