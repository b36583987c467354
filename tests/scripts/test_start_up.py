"""Commands that train nothing start without Lightning, which takes longer to import than torch."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.conftest import Run
from tests.discovery import ROOT

CODE = """
import sys
from importlib import import_module
main = import_module(f"scripts.{sys.argv[1]}").main
try:
    main(sys.argv[2:])
finally:
    print(sorted({"lightning", "torchmetrics", "torchvision", "kornia"} & sys.modules.keys()), file=sys.stderr)
"""


def start(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "scripts").glob("[!_]*.py")))
def test_help_needs_no_lightning(name: str) -> None:
    start(name, "--help")


def test_help_of_a_stage_needs_no_lightning() -> None:
    start("train", "fit", "--help")


@pytest.mark.slow
def test_an_image_file_needs_no_lightning(train: Callable[..., Run], tmp_path: Path) -> None:
    run, image = train("--trainer.max_epochs=1", "--trainer.limit_train_batches=4"), tmp_path / "image.png"
    Image.fromarray((load_digits().images[0] * 15).astype(np.uint8)).save(image)
    start("predict", str(run.folder), str(image), "--output", str(tmp_path / "out.csv"))
    start("export", str(run.folder), "--format", "safetensors", "--output", str(tmp_path / "out.safetensors"))
    if find_spec("scripts.visualize"):
        for command in (["activations"], ["gradcam"], ["saliency"], ["activations", "--layer", "stages.0"]):
            output = ["--output", str(tmp_path / "out.png")]
            start("visualize", str(run.folder), *command, "--image", str(image), *output)
