from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from core import own_classes as module
from core.own_classes import own_classes


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    own_classes.cache_clear()
    (tmp_path / "models").mkdir()
    yield tmp_path
    own_classes.cache_clear()


def test_every_path_leads_to_its_class() -> None:
    paths = [path for found in own_classes().values() for path in found]
    assert {"models.resnet.ResNet", "datamodules.mixing.MixUp", "callbacks.tensorboard.filters.Filters"} <= {*paths}
    for path in paths:
        place, _, name = path.rpartition(".")
        assert isinstance(getattr(import_module(place), name), type)


def test_a_new_file_is_found_and_what_cannot_be_imported_is_not(project: Path) -> None:
    (project / "models" / "net.py").write_text("import nothing.like.it\n\nclass Net:\n    class Inner: ...\n")
    for folder in (".ipynb_checkpoints", "my nets"):
        (project / "models" / folder).mkdir()
        (project / "models" / folder / "net.py").write_text("class Net: ...\n")
    (project / "models" / "net-copy.py").write_text("class Net: ...\n")
    (project / "models" / ".#net.py").symlink_to("somebody@elsewhere")
    (project / "models" / "gone.py").symlink_to("nothing")
    (project / "models" / "bytes.py").write_bytes(b"\xff\nclass Odd: ...\n")
    assert own_classes() == {"Net": ["models.net.Net"], "Odd": ["models.bytes.Odd"]}


def test_classes_of_one_name_are_all_found(project: Path) -> None:
    for name in ("one", "two"):
        (project / "models" / f"{name}.py").write_text("class Net: ...\n")
    assert own_classes() == {"Net": ["models.one.Net", "models.two.Net"]}
