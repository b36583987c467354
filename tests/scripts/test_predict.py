import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from models.serialization.checkpoint import FORMAT_VERSION, VERSION
from scripts.predict import main
from scripts.train import main as train_main
from tests.conftest import Done
from tests.discovery import ROOT

SCANS = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
ODD_NAMES = ("two\nlines.png", '=1,"b".png', os.fsdecode(b"caf\xe9.png"), "\x1b[31mred.png", "[bold].png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real scans in class folders, of 8x8 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for place in range(160):
        part = "test" if place % 2 else "train"
        file = folder / part / ("low", "high")[int(load_digits().target[place]) // 5] / f"{place:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SCANS[place]).save(file)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on them."""
    runs = tmp_path_factory.mktemp("runs")
    data = ("--data=datamodules.image_folder.ImageFolder", f"--data.folder={photos}", "--data.image_size=8")
    rest = ("--trainer.max_epochs=2", "--trainer.precision=32-true", "--data.batch_size=16")
    train_main(["fit", *data, *rest, "--runs", str(runs), "--data.root", str(runs)])
    (config,) = runs.rglob("config.yaml")
    return config.parent


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    """The file alone."""
    file = tmp_path / "alone" / "best.ckpt"
    file.parent.mkdir()
    file.write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    return file


@pytest.fixture
def predict(script: Callable[..., Callable[..., Done]]) -> Callable[..., Done]:
    return script(main)


def part(file: Path) -> Path:
    """Where its rows are until it is whole."""
    return file.with_name(f"{file.name}.part")


def predict_until_its_end(predict: Callable[..., Done], *args: object) -> None:
    """Stop when all rows are there, and the file is not."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("scripts.inference.file_predictions._convert", lambda *_: sys.exit(130))
        assert predict(*args)[0] == 130


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


@pytest.mark.slow
def test_a_folder_gets_the_probabilities_of_the_evaluation(
    run: Path,
    photos: Path,
    checkpoint: Path,
    predict: Callable[..., Done],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("scripts.evaluate").main([str(run), "--output", str(tmp_path / "evaluation")])
    capfd.readouterr()
    expected = rows_of(tmp_path / "evaluation" / "predictions.csv")
    file = tmp_path / "out.csv"
    assert predict(checkpoint, photos / "test", "--output", file, "--probabilities") == (
        0,
        f"predictions  {file}\n",
        "",
    )
    found = rows_of(file)
    assert len(found) == len(expected) == 80
    for row, other in zip(found, expected, strict=True):
        assert row.pop("path") == str(photos / other.pop("path"))
        assert row["error"] == ""
        del other["label"]
        assert row == other


@pytest.mark.slow
def test_json_lines_and_parquet_hold_the_same_exactly(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    wanted = ("--top=2", "--probabilities", "--logits")
    for ending in ("csv", "jsonl", "parquet"):
        assert predict(checkpoint, photos / "test", "--output", tmp_path / f"out.{ending}", *wanted)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == lines
    for row, line in zip(rows_of(tmp_path / "out.csv"), lines, strict=True):
        assert list(row) == list(line)
        assert line["prediction"] == line["class 1"] == max(("high", "low"), key=lambda name: line[f"logit of {name}"])
        assert line["probability"] == line["probability 1"] == line[f"probability of {line['prediction']}"]
        logits = np.array([line["logit of high"], line["logit of low"]])
        assert line["probability of high"] == pytest.approx(1 / (1 + np.exp(logits[1] - logits[0])))
        assert float(row["probability 2"]) == line["probability 2"]
        assert float(row["logit of low"]) == line["logit of low"]


def test_without_an_output_there_is_a_table(photos: Path, checkpoint: Path, predict: Callable[..., Done]) -> None:
    status, out, error = predict(checkpoint, photos / "test" / "low", photos / "train" / "high", "--top", 1)
    assert (status, error) == (0, "")
    heading, *lines = out.splitlines()
    assert heading.split() == ["path", "prediction", "probability", "class", "1", "probability", "1"]
    files = [*sorted((photos / "test" / "low").iterdir()), *sorted((photos / "train" / "high").iterdir())]
    assert [line.split()[0] for line in lines] == [str(file) for file in files]
    assert all(line.split()[1] in ("low", "high") for line in lines)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Whatever a folder may hold: name to what is wrong with it, in the order of the names."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("RGB", (1, 1), "red").save(folder / "a-1x1.png")
    Image.new("1", (20_000, 20_000)).save(folder / "b-bomb.png")
    frames = [Image.fromarray(scan) for scan in SCANS[:3]]
    frames[0].save(folder / "c-animated.gif", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (30, 20), (0, 0, 0, 99)).save(folder / "d-alpha.png")
    (folder / "e-empty.jpg").touch()
    (folder / "f-text.jpg").write_text("not a photograph")
    content = io.BytesIO()
    Image.fromarray(np.tile(SCANS[0], (40, 40))).save(content, "JPEG")
    (folder / "g-truncated.jpg").write_bytes(content.getvalue()[: content.tell() // 2])
    os.mkfifo(folder / "h-pipe.jpg")
    (folder / "i-nowhere.jpg").symlink_to(folder / "none")
    for name in ODD_NAMES:
        frames[0].save(folder / f"j{name}")
    return folder


ERRORS = {
    "b-bomb.png": "exceeds limit",
    "e-empty.jpg": "the file is empty",
    "f-text.jpg": "it is no image",
    "g-truncated.jpg": "truncated",
    "h-pipe.jpg": "a pipe",
    "i-nowhere.jpg": "not there",
}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_what_gives_no_image_is_a_row_with_its_error(
    mixed: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path, workers: int
) -> None:
    names = sorted(file.name for file in mixed.iterdir())
    for ending in ("csv", "jsonl", "parquet", "table"):
        file = tmp_path / f"out.{ending}"
        output = ("--output", file) if ending != "table" else ()
        status, out, error = predict(checkpoint, mixed, *output, "--num_workers", workers, "--batch_size=5")
        assert status == 1
        assert error == f"warning: {len(ERRORS)} of {len(names)} images have an error in place of a prediction\n"
        if ending == "table":
            assert all(letter.isprintable() or letter == "\n" for letter in out)
            assert len(out.splitlines()) == 1 + len(names)
            assert out.count("  error: ") == len(ERRORS)
            continue
        found = (
            rows_of(file)
            if ending == "csv"
            else [json.loads(line) for line in file.read_text().splitlines()]
            if ending == "jsonl"
            else pq.read_table(file).to_pylist()
        )
        assert len(found) == len(names)
        for row, name in zip(found, names, strict=True):
            if name in ERRORS:
                assert ERRORS[name] in row["error"]
                assert not row["prediction"]
            else:
                assert row["prediction"] in ("low", "high")
                assert not row["error"]
        written = [Path(row["path"]).name for row in found]
        assert {r"jtwo\nlines.png", '=1,"b".png'.join(("j", "")), r"jcaf\xe9.png", r"j\x1b[31mred.png"} <= set(written)


def test_lists_keep_what_leads_nowhere_and_no_image_at_all_is_survived(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    good = next((photos / "test" / "low").iterdir())
    (tmp_path / "list.txt").write_text(f"none.png\n{good}\n{photos}\n")
    assert predict(checkpoint, "--list", tmp_path / "list.txt", "--output", tmp_path / "out.csv")[0] == 1
    errors = [row["error"] for row in rows_of(tmp_path / "out.csv")]
    assert errors == ["the file is not there", "", "Is a directory"]
    (tmp_path / "list.txt").write_text("none.png\n")
    status, out, _ = predict(checkpoint, "--list", tmp_path / "list.txt")
    assert status == 1
    assert out.splitlines()[1:] == ["none.png  error: the file is not there"]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_prediction_that_stopped_anywhere_goes_on_to_the_same_file(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path, ending: str
) -> None:
    whole, file = tmp_path / f"whole.{ending}", tmp_path / f"out.{ending}"
    wanted = (checkpoint, photos, "--logits", "--output")
    assert predict(*wanted, whole)[0] == 0
    begun = part(file)
    predict_until_its_end(predict, *wanted, file)
    content = begun.read_bytes()
    for share in (0.0, 0.001, 0.1, 0.5, 0.777, 1.0):
        begun.write_bytes(content[: int(share * len(content))])
        assert predict(*wanted, file)[0] == 2
        assert predict(*wanted, file, "--resume") == (0, f"predictions  {file}\n", "")
        assert file.read_bytes() == whole.read_bytes()
        assert not begun.exists()
        file.unlink()


@pytest.mark.slow
def test_is_gone_on_with_after_a_kill(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    whole, file = tmp_path / "whole.csv", tmp_path / "out.csv"
    paths = tmp_path / "list.txt"
    paths.write_text("\n".join(map(str, sorted(photos.rglob("*.png")) * 20)))
    wanted = (str(checkpoint), "--list", str(paths), "--output")
    command = [sys.executable, str(ROOT / "scripts" / "predict.py"), *wanted, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not part(file).exists() or part(file).stat().st_size < 5_000:
        assert process.poll() is None, "the prediction was over before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 < part(file).read_bytes().count(b"\n") < 200
    assert not file.exists()
    assert predict(*wanted, file, "--resume")[0] == 0
    assert predict(*wanted, whole)[0] == 0
    assert file.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_is_not_gone_on_with_by_another_network_or_for_other_images(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    file = tmp_path / "out.csv"
    predict_until_its_end(predict, checkpoint, photos / "test", "--output", file)
    begun = part(file).read_bytes()
    other = torch.load(checkpoint, weights_only=True)
    other["state_dict"] = {
        name: -value if name.startswith("network") and value.is_floating_point() and "running" not in name else value
        for name, value in other["state_dict"].items()
    }
    torch.save(other, tmp_path / "other.ckpt")
    for args in (
        (tmp_path / "other.ckpt", photos / "test"),
        (checkpoint, photos / "train"),
        (checkpoint, photos / "test", "--top=1"),
        (checkpoint, photos / "test" / "low"),
    ):
        status, _, error = predict(*args, "--output", file, "--resume")
        assert status == 2
        assert "cannot be resumed" in error
        assert error.count("\n") == 1
        assert part(file).read_bytes() == begun


def test_on_a_full_disk_what_was_written_is_whole(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    whole, file = tmp_path / "whole.csv", tmp_path / "out.csv"
    wanted = (checkpoint, photos, "--num_workers=0", "--output")
    assert predict(*wanted, whole)[0] == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limits[1]))
    try:
        status, _, error = predict(*wanted, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    assert error.startswith(f"error: {part(file)} could not be written: File too large; free space there.")
    assert error.count("\n") == 1
    assert not file.exists()
    assert 1 < part(file).read_bytes().count(b"\n") < 10
    assert predict(*wanted, file, "--resume")[0] == 0
    assert file.read_bytes() == whole.read_bytes()


def test_checkpoints_that_cannot_be_used_are_refused(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    torch.save({"model": saved["state_dict"]}, tmp_path / "other.ckpt")
    torch.save(saved | {"hook": print}, tmp_path / "code.ckpt")
    newer = {"format_version": FORMAT_VERSION + 1, "versions": saved["versions"] | {"kindling": "999.1"}}
    torch.save(saved | newer, tmp_path / "newer.ckpt")
    (tmp_path / "half.ckpt").write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    for name, expected in (
        ("other.ckpt", "is no checkpoint that Kindling"),
        ("code.ckpt", "it holds code or an object (print)"),
        (
            "newer.ckpt",
            f"{VERSION} reads: it was written by Kindling 999.1 in format {FORMAT_VERSION + 1}; give another",
        ),
        ("half.ckpt", "it is truncated or damaged"),
        ("none.ckpt", "There is no checkpoint"),
        ("", "is no folder of a run"),
    ):
        status, out, error = predict(tmp_path / name, photos, "--output", tmp_path / "out.csv")
        assert (status, out) == (2, "")
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert expected in error
    assert not (tmp_path / "out.csv").exists()


def test_mistakes_are_told_in_one_sentence(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.csv").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    for args, expected in (
        ((), "No images are given"),
        ((tmp_path / "none.png",), "There is no"),
        ((tmp_path / "empty",), "has no images"),
        ((photos, "--output", tmp_path / "out.xlsx"), "which does not end in any of"),
        ((photos, "--output", tmp_path / "none" / "out.csv"), "cannot be written: No such file"),
        ((photos, "--output", tmp_path / "there.csv"), "exists already"),
        ((photos, "--output", tmp_path / "there.csv", "--resume"), "is complete, so there is nothing to resume"),
        ((photos, "--resume"), "--resume needs --output"),
        ((photos, "--top=3"), "--top is 3, but"),
    ):
        status, out, error = predict(checkpoint, *args)
        assert (status, out) == (2, ""), args
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert expected in error
    for flags in (["--top=0"], ["--batch_size=0"], ["--num_workers=-1"], ["--resume", "--overwrite"], ["--tpo=1"]):
        status, _, error = predict(checkpoint, photos, *flags)
        assert status == 2
        assert error.startswith("error: ")
        assert error.endswith("; see scripts/predict.py --help.\n")
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.csv").read_text() == "precious"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_network_that_gives_no_numbers_has_errors_in_its_rows(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path, value: str
) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    name = max(name for name, value in saved["state_dict"].items() if value.shape == (2,))
    saved["state_dict"][name] += float(value)
    torch.save(saved, tmp_path / "nan.ckpt")
    status, _, error = predict(tmp_path / "nan.ckpt", photos / "test", "--output", tmp_path / "out.jsonl", "--logits")
    assert status == 1
    assert error.startswith("warning: 80 of 80 images")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert all("not finite" in row["error"] and row["logit of low"] is None for row in rows)


@pytest.mark.slow
def test_the_rows_go_where_they_are_piped_and_progress_does_not(photos: Path, checkpoint: Path) -> None:
    command = f"{sys.executable} {ROOT / 'scripts' / 'predict.py'} {checkpoint} {photos / 'test'}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -n 1"], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["path", "prediction", "probability"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_classes_of_one_name_have_a_column_each(
    photos: Path, checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    """Whatever a checkpoint holds: `caf\\xe9` and a byte that is no text are written alike."""
    torch.save(torch.load(checkpoint, weights_only=True) | {"class_names": ["caf\udce9", "caf\\xe9"]}, checkpoint)
    for ending in ("csv", "jsonl", "parquet"):
        file = tmp_path / f"out.{ending}"
        assert predict(checkpoint, photos / "test", "--output", file, "--probabilities", "--logits")[0] == 0
    (line, *_) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    expected = [f"{what} of caf\\xe9{number}" for what in ("probability", "logit") for number in ("", " (2)")]
    for names in (line, rows_of(tmp_path / "out.csv")[0], pq.read_table(tmp_path / "out.parquet").schema.names):
        assert list(names)[4:] == expected
    assert line[expected[0]] + line[expected[1]] == pytest.approx(1)


def test_a_folder_has_a_row_for_each_picture_and_a_line_for_the_rest(
    checkpoint: Path, predict: Callable[..., Done], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    pictures = ("$a.png", "@b/c.png", "_d.png", "dev/e", "f.txt", "g.avif", "h.png")
    for number, name in enumerate((*pictures, ".hidden.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(SCANS[number]).save(folder / name, "AVIF" if name == "g.avif" else "PNG")
    (folder / "i.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (folder / "notes.txt").write_text("text")
    status, _, error = predict(checkpoint, folder, "--output", tmp_path / "out.csv")
    assert status == 1
    assert error.splitlines()[0] == f"left out of {folder}: 1 hidden (.hidden.png), 1 no image (notes.txt)"
    rows = {row["path"]: row["error"] for row in rows_of(tmp_path / "out.csv")}
    assert rows.keys() == {str(folder / name) for name in (*pictures, "i.heic")}
    assert {Path(path).name for path, reason in rows.items() if reason} == {"i.heic"}
    assert "save it as JPEG" in rows[str(folder / "i.heic")]
