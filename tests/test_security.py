"""What SECURITY.md promises of data from strangers, with real files."""

import csv
import io
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse._common import parsing_settings
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets.utils import extract_archive

from callbacks.curves import cut_curves
from callbacks.run.run_folder import check_links
from callbacks.tensorboard.preview import class_table
from core.names import escape_name
from core.user_error import UserError
from datamodules.decoding.image_file import UnreadableImageError
from datamodules.decoding.pixel_format import EIGHT_BITS
from datamodules.image_folder import ImageFolder
from models.classifier import Classifier
from scripts.command.data_flags import build_data
from scripts.train import main
from tests.conftest import Done, Run
from tests.datamodules.test_tiny_imagenet import write_source
from tests.discovery import ROOT

NAMES = ('<script>alert("a")<\\script>', "two\nlines, \x1b[31mred\x07", "=1+1|[bold]\u202e")
SCANS = (load_digits().images * 15).astype(np.uint8)


def write_photos(folder: Path, per_class: int = 12) -> Path:
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for row in range(per_class):
            Image.fromarray(SCANS[3 * row + label]).save(folder / name / f"{row}{name}.png")
    Image.fromarray(SCANS[0]).save(folder / NAMES[1] / "twin.png")  # for a pair under two labels
    return folder


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)


def assert_harmless(text: str) -> None:
    """For a terminal."""
    assert all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.mark.slow
def test_names_break_no_table_and_no_terminal(
    train: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_photos(tmp_path / "photos")
    (folder / NAMES[1] / f"broken{NAMES[1]}.png").write_bytes(b"no image")
    data = ("--data=datamodules.image_folder.ImageFolder", f"--data.folder={folder}", "--data.image_size=8")
    run = train(*data, "--data.on_corrupt=skip", "--trainer.max_epochs=1", "--data.root", str(tmp_path))
    pytest.importorskip("scripts.evaluate").main([str(run.folder)])
    assert_harmless(capsys.readouterr().out)
    assert_harmless((run.folder / "skipped_files.txt").read_text().replace("\t", " "))
    assert len((run.folder / "skipped_files.txt").read_text().splitlines()) == 1
    (predictions,) = tmp_path.glob("runs/**/predictions.csv")
    for file, columns in ((run.folder / "classes.csv", 4), (predictions, 5 + len(NAMES))):
        with file.open(newline="") as opened:
            rows = list(csv.reader(opened))
        assert all(len(row) == columns for row in rows)
    with (run.folder / "classes.csv").open(newline="") as opened:
        assert {row["class"] for row in csv.DictReader(opened)} == set(map(escape_name, NAMES))

    with pytest.raises(SystemExit) as exit_:
        main(["fit", *data, "--runs", str(tmp_path / "runs"), "--data.root", str(tmp_path)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "broken" in error
    assert_harmless(error)


def test_names_break_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_photos(tmp_path / "photos")
    data = ("--data=datamodules.image_folder.ImageFolder", f"--data.folder={folder}", "--data.image_size=8")
    with pytest.raises(SystemExit):
        pytest.importorskip("scripts.audit").main(
            [*data, "--data.root", str(tmp_path), "--html", str(tmp_path / "page.html")]
        )
    assert_harmless(capsys.readouterr().out)
    page = (tmp_path / "page.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert "img" in tags.found
    assert "script" not in tags.found
    assert "\x1b" not in page


def test_a_list_of_files_names_none_elsewhere(tmp_path: Path) -> None:
    from datamodules.tiny_imagenet import TinyImageNet

    write_source(tmp_path)
    annotations = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    wnid = annotations.read_text().split("\t")[1]
    with annotations.open("a") as file:
        file.write(f"../../../../secret.JPEG\t{wnid}\t0\t0\t1\t1\n")
    with pytest.raises(UserError, match=r"val/images/\.\./\.\./.* which is outside"):
        TinyImageNet(root=tmp_path).read()


def test_an_archive_of_another_checksum_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.tiny_imagenet import TinyImageNet

    def retrieve(url: str, filename: str, *_: object, **__: object) -> None:
        with zipfile.ZipFile(filename, "w") as archive:
            archive.writestr("tiny-imagenet-200/wnids.txt", "n01443537")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", retrieve)
    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, **_: url)
    with pytest.raises(UserError, match=r"could not be downloaded .*corrupted"):
        TinyImageNet(root=tmp_path, download=True).prepare_data()
    assert not (tmp_path / "tiny-imagenet-200").exists()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize("member", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "link/outside.txt"])
def test_members_of_archives_stay_in_their_folder(
    tmp_path: Path, member: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datamodules.tiny_imagenet import TinyImageNet

    monkeypatch.setattr(tarfile.TarFile, "extraction_filter", None)
    path, inside = tmp_path / f"a{suffix}", tmp_path / "deep" / "inside"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, "text")
    else:
        link, info = tarfile.TarInfo("link"), tarfile.TarInfo(member)
        link.type, link.linkname, info.size = tarfile.SYMTYPE, "..", 4
        with tarfile.open(path, "w:gz") as archive:
            if member.startswith("link"):
                archive.addfile(link)
            archive.addfile(info, io.BytesIO(b"text"))
    monkeypatch.setattr(TinyImageNet, "fetch", lambda data: extract_archive(str(path), str(data.root)))
    with pytest.raises(UserError, match=r"outside|cannot be read"):
        TinyImageNet(root=inside, download=True).prepare_data()
    files = [Path(folder) / name for folder, _, names in os.walk(tmp_path) for name in names]
    assert all(file.is_relative_to(inside) for file in files if file.name == "outside.txt")
    assert not Path("/outside.txt").exists()


def test_a_decompression_bomb_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", per_class=4)
    bomb = folder / NAMES[0] / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    data = ImageFolder(root=tmp_path, folder=folder, image_size=8)
    data.prepare_data()
    with pytest.raises(UserError, match=r"1 of 14 files give no image: .*bomb\.png \(.*exceeds limit"):
        data.setup("fit")


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of somebody else's: a network that notes that it was imported, and a class that notes being built."""
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\n"
        "from models.mlp import MLP\n"
        f"Path({str(tmp_path / 'imported')!r}).touch()\n"
        "class Network(MLP):\n"
        "    pass\n"
        "class Device:\n"
        "    def __init__(self) -> None:\n"
        f"        Path({str(tmp_path / 'built')!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    monkeypatch.setitem(parsing_settings, "import_path_verdicts", parsing_settings["import_path_verdicts"])
    return tmp_path


def in_linear(spec: dict[str, Any]) -> dict[str, Any]:
    """A class in the place of an argument without a type, within one that is known."""
    return {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1, "device": spec}}


def test_a_configuration_builds_nothing_where_any_value_will_do(stranger: Path, refused: Callable[..., str]) -> None:
    for spec in (
        {"class_path": "subprocess.Popen", "init_args": {"args": f"touch {stranger / 'built'}", "shell": True}},
        {"class_path": "stranger.Device"},
    ):
        (stranger / "a.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"augmentation": [in_linear(spec)]}}}))
        flags = ("--config", str(stranger / "a.yaml"), "--data.root", str(stranger))
        refused("fit", *flags, "--runs", str(stranger / "runs"))
        with pytest.raises(UserError):
            build_data(flags)
        assert not (stranger / "built").exists()


@pytest.mark.slow
def test_a_checkpoint_runs_no_code_that_was_not_asked_for(
    stranger: Path, train: Callable[..., Run], script: Callable[..., Callable[..., Done]]
) -> None:
    flags = ("--config", str(ROOT / "configs/digits/mlp.yaml"), "--trainer.max_epochs=1")
    checkpoint = train(*flags, "--trainer.limit_train_batches=1").checkpoint
    file, command = stranger / "strange.ckpt", {"class_path": "subprocess.Popen", "init_args": {"args": "touch built"}}
    network = checkpoint["hyper_parameters"]["network"]
    renamed = network | {"class_path": "stranger.Network"}
    for spec in (command, {"class_path": "stranger.Device"}, in_linear({"class_path": "stranger.Device"}), renamed):
        arguments_there = checkpoint["hyper_parameters"] | {"network": spec}
        torch.save(checkpoint | {"module_arguments": arguments_there}, file)  # as Lightning once called them
        assert type(Classifier.load_from_checkpoint(file).network).__name__ == "MLP"
        torch.save(checkpoint | {"hyper_parameters": arguments_there}, file)
        with pytest.raises(UserError):
            Classifier.load_from_checkpoint(file)
    arguments: dict[str, list[Any]] = {
        "predict": [ROOT / "docs/pictures"],
        "evaluate": [],
        "export": [],
        "visualize": ["filters"],
    }
    for name in filter(lambda name: find_spec(f"scripts.{name}"), arguments):  # a clone may have removed some
        status, _, error = script(import_module(f"scripts.{name}").main)(file, *arguments[name])
        assert status == 2
        assert error.count("\n") == 1
    changed = checkpoint["config"]["model"] | {"network": renamed}
    torch.save(checkpoint | {"config": checkpoint["config"] | {"model": changed}}, file)
    status, _, error = script(main)("test", "--ckpt_path", str(file))
    assert status == 2
    assert "names stranger.Network" in error
    changed = checkpoint["config"]["data"] | {"class_path": "stranger.Device"}
    torch.save(checkpoint | {"config": checkpoint["config"] | {"data": changed}}, file)
    with pytest.raises(UserError, match=r"names stranger\.Device.* give --trust stranger"):
        build_data(["--ckpt_path", str(file)])
    assert not (stranger / "imported").exists()


@pytest.mark.slow
def test_a_package_that_the_user_names_is_trusted(
    stranger: Path, train: Callable[..., Run], script: Callable[..., Callable[..., Done]]
) -> None:
    run = train("--model.network=stranger.Network", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    main(["test", "--ckpt_path", str(run.best), "--model.network=stranger.Network"])
    with pytest.raises(UserError, match="--trust stranger"):
        Classifier.load_from_checkpoint(run.best)
    predict, pictures = import_module("scripts.predict").main, ROOT / "docs/pictures"
    assert script(predict)(run.best, pictures)[0] == 2
    assert script(predict)(run.best, pictures, "--trust", "stranger")[0] == 0
    main(["test", "--ckpt_path", str(run.best), "--trust", "stranger"])
    assert type(Classifier.load_from_checkpoint(run.best).network).__name__ == "Network"


def test_no_file_is_handed_to_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def refuse(*args: object) -> None:
        raise AssertionError("it was")

    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", refuse)
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(UnreadableImageError, match="it is no image"):
        EIGHT_BITS.read(tmp_path / "a.jpg", 3, (8, 8))
    for folder in ("core", "models", "datamodules", "callbacks", "scripts"):
        for source in (ROOT / folder).rglob("*.py"):
            for call in re.findall(r"Image\.open\(.*", source.read_text()):
                assert "formats=" in call, source


def test_a_run_that_goes_on_writes_nowhere_else(tmp_path: Path) -> None:
    run, mine = tmp_path / "run", tmp_path / "mine"
    run.mkdir()
    mine.write_bytes(bytes(100))
    (run / "events.out.tfevents.1").hardlink_to(mine)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").symlink_to("best.ckpt")
    (run / "wandb" / "logs").mkdir(parents=True)
    (run / "wandb" / "logs" / "debug-core.log").symlink_to(mine)  # as W&B does, in a folder where it alone writes
    check_links(run)
    cut_curves(run, {"events.out.tfevents.1": 10})
    assert (run / "events.out.tfevents.1").stat().st_size == 10
    assert mine.stat().st_size == 100
    for link in (run / "checkpoints" / "best.ckpt", run / "wandb.txt"):
        link.symlink_to(mine)
        with pytest.raises(UserError, match=rf"{link.name} is a link that leads out of the run's folder"):
            check_links(run)
        link.unlink()


@pytest.mark.slow
def test_a_run_with_a_link_out_of_it_does_not_go_on(
    train: Callable[..., Run], refused: Callable[..., str], tmp_path: Path
) -> None:
    run = train("--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    (tmp_path / "mine").write_bytes(bytes(100_000))
    events = max(run.folder.glob("*tfevents*"))
    events.unlink()
    events.symlink_to(tmp_path / "mine")
    assert "is a link that leads out" in refused("fit", "--resume", str(run.folder))
    assert (tmp_path / "mine").stat().st_size == 100_000


@pytest.mark.parametrize(
    "part",
    [
        {"class_names": "abc"},
        {"class_names": [["a"], 1]},
        {"preprocessing": []},
        {"config": {"trainer": []}},
        {"progress": {"images": 10**400}},
        {"curves": [1]},
    ],
    ids=str,
)
def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path, part: dict[str, Any]) -> None:
    whole = {"state_dict": {}, "class_names": ["a"], "preprocessing": {}, "hyper_parameters": {}}
    torch.save(whole | part, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"is no checkpoint that Kindling .* reads: it"):
        Classifier.load_from_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore:html5lib")
def test_names_are_text_in_tensorboard() -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    names = [
        *(*NAMES, '<img src="http://x/y.png">', "<a href=http://x>y</a>", "![i](http://x/y.png)", "[a](http://x)"),
        *("<http://x>", "`c`|**d**", "\\[e](http://x)", "&lt;img src=x&gt;"),
    ]
    tags = Tags()
    tags.feed(markdown_to_safe_html(class_table(names, [1] * len(names), [1] * len(names))))
    assert tags.found <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert len(tags.found) == 6


def test_each_promise_names_the_tests_that_hold_it() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    promised = text.partition("## What is promised")[2].partition("## What is not")[0]
    promises = re.split(r"^- ", promised, flags=re.MULTILINE)[1:]
    assert len(promises) > 5
    for promise in promises:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", promise)
        assert tests, promise
        for file, name in tests:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
