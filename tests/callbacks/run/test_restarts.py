import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from callbacks.run.restarts import difference_lines, differences, flat, read_origin
from tests.conftest import Run

ONE = ("--trainer.max_epochs=1", "--data.batch_size=256")


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_its_origin_and_notes_what_differs(
    train: Callable[..., Run],
    resume: Callable[..., Run],
    capsys: pytest.CaptureFixture[str],
    other_digits: Callable[[], None],
) -> None:
    run = train(*ONE)
    before = {name: (run.folder / name).read_bytes() for name in ("origin.json", "constraints.txt")}
    resume(run)
    assert not (run.folder / "restarts.json").exists()

    lines = (run.folder / "constraints.txt").read_text()
    old = lines.replace(f"numpy=={version('numpy')}", "numpy==1.0")
    (run.folder / "constraints.txt").write_text(old)
    capsys.readouterr()
    other_digits()
    resume(run, "--trainer.max_epochs=2")
    said = capsys.readouterr().out
    assert "not as when the run began: data: other images, file names or labels than before; " in said
    assert f"package numpy: {version('numpy')}, was 1.0; config trainer.max_epochs: 2, was 1\n" in said
    (restart,) = json.loads((run.folder / "restarts.json").read_text())
    assert restart["step"] == 6
    assert restart["differs"]["config trainer.max_epochs"] == {"was": 1, "is": 2}
    assert "--resume" in restart["command"]
    assert (run.folder / "origin.json").read_bytes() == before["origin.json"]
    assert (run.folder / "constraints.txt").read_text() == old


def test_a_folder_without_a_record_has_none(tmp_path: Path) -> None:
    assert read_origin(tmp_path) is None
    (tmp_path / "origin.json").write_text("[")
    assert read_origin(tmp_path) is None


def test_what_older_runs_know_of_their_files_says_nothing_of_images() -> None:
    here, there, older = ({"data_fingerprint": text} for text in ("content 1", "content 2", "5f0c"))
    assert differences(here, there) == {"data_fingerprint": ("content 1", "content 2")}
    assert differences(older, here) == differences({}, here) == {}


def test_facts_are_flat_and_differences_are_sentences() -> None:
    assert flat({"data": {"root": "data", "classes": None}}) == {"data.root": "data", "data.classes": None}
    assert differences({"os": "Linux", "started": 1}, {"os": "Darwin", "started": 2}) == {"os": ("Linux", "Darwin")}
    changed = {"package torch": ("2.14.0", "2.15.0"), "changes": (None, "5f0c")}
    assert difference_lines(changed) == ["package torch: 2.15.0, was 2.14.0", "code: other changes since the commit"]
