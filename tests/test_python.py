"""What docs/python.md and docs/notebook.ipynb show, in a folder that is not the clone."""

import base64
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image
from sklearn.datasets import load_digits

from kindling import UserError, load_classifier
from scripts.predict import main as predict
from tests.discovery import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"

MORE = {
    "own": """
        from torch import nn

        class InCell(nn.Module):
            def __init__(self, in_features, num_classes):
                super().__init__()
                self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_features, num_classes))

            def forward(self, images):
                return self.layers(images)

        load_classifier(fit(network=InCell, trainer__max_epochs=1).folder)(drawn)""",
    "mistake": """
        fit(network="ConvNt")""",
}
"""Cells that a reader might add: a class of the notebook's own, and a mistake."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def cells(folder: Path) -> dict[str, Any]:
    """The cells of the notebook with their outputs, by name."""
    for room in ("scripts.evaluation", "scripts.interpretation"):
        pytest.importorskip(room, reason="a clone may have removed it")
    notebook = nbformat.read(NOTEBOOK, 4)  # type: ignore[no-untyped-call]
    for name, source in MORE.items():
        lines = re.sub(r"^ {8}", "", source, flags=re.MULTILINE)
        notebook.cells.append(nbformat.v4.new_code_cell(lines, id=name))  # type: ignore[no-untyped-call]
    notebook.cells[-1].metadata["tags"] = ["raises-exception"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(ROOT))
        environment.setenv("IPYTHONDIR", str(folder / ".ipython"))
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def shown(cell: Any, kind: str) -> Any:
    """What a cell shows last, as text or as a picture."""
    data = cell.outputs[-1].data
    return Image.open(io.BytesIO(base64.b64decode(data[kind]))) if kind == "image/png" else data[kind]


def test_it_is_committed_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:  # type: ignore[no-untyped-call]
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_progress_is_plain_lines_and_figures_are_a_table(cells: dict[str, Any]) -> None:
    outputs = cells["train"].outputs
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert [line.split("  ")[0] for line in said.splitlines() if line.startswith("epoch")] == [
        *("epoch 0/2", "epoch 1/2", "epoch 2/2")
    ]
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    assert not set("\r\x1b") & set(said)
    assert any("test/accuracy" in output.data["text/html"] for output in outputs if output.output_type != "stream")


def test_curves_mistakes_and_grad_cam_are_pictures_and_a_prediction_is_a_table(cells: dict[str, Any]) -> None:
    for name in ("curves", "mistakes", "gradcam"):
        picture = shown(cells[name], "image/png")
        assert picture.width > picture.height > 100
        assert len(picture.convert("RGB").getcolors(2**20)) > 10
    assert shown(cells["prediction"], "text/html").startswith("<table><tr><td>0<td>9")


def test_runs_and_data_are_in_the_notebooks_folder(cells: dict[str, Any], folder: Path) -> None:
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {"runs", "data"}
    assert len(list(folder.glob("runs/digits-convnet/*/checkpoints/best.ckpt"))) == 1


def test_a_class_of_the_notebook_works_there_and_elsewhere_is_told_to_be_put_in_a_file(
    cells: dict[str, Any], folder: Path
) -> None:
    assert shown(cells["own"], "text/html").startswith("<table>")
    (run,) = folder.glob("runs/digits-incell/*")
    with pytest.raises(UserError, match=r"__main__\.InCell of a notebook or script; put that class in a file"):
        load_classifier(run)(np.zeros((8, 8), np.uint8))


def test_a_mistake_is_a_sentence(cells: dict[str, Any]) -> None:
    (error,) = cells["mistake"].outputs
    assert error.ename == "UserError"
    (sentence,) = error.traceback
    assert sentence.startswith("error: model.network names ConvNt, and there is no such class")


@pytest.mark.slow
def test_the_page_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_root: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data_root)
    Image.fromarray((load_digits().images[0] * 15).astype(np.uint8)).save("photo.png")
    found: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    assert len(blocks[0].splitlines()) <= 10
    for lines in blocks:
        exec(lines.replace("Trainer(", "Trainer(logger=False, enable_progress_bar=False, "), found)
    assert found["run"].metrics["test/accuracy"] > 0.9
    assert found["run"].folder.parent == tmp_path / "runs" / "digits-convnet"
    assert found["accuracy"].keys() == {0.001, 0.01}

    (checkpoint,) = tmp_path.glob("checkpoints/*.ckpt")
    parts = {"network": found["ConvNet"](1, (8, 8), 10), "optimizer": torch.optim.AdamW}
    again = found["Classifier"].load_from_checkpoint(str(checkpoint), **parts)
    assert again.class_names == list(found["data"].class_names)
    with pytest.raises(UserError, match=r"give the network again, Classifier.*, or train with kindling\.fit"):
        load_classifier(str(checkpoint))
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit, match="0"):
        predict([str(found["run"].folder), "photo.png"])
    assert "photo.png" in said.getvalue()
