import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.user_error import UserError
from datamodules.digits import Digits
from datamodules.packing.pack import Source
from tests.datamodules.test_base import prepared
from tests.discovery import ROOT


def test_the_remedy_for_a_place_that_cannot_be_written_works(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"choose another folder with --data\.packs, or"):
        Digits(root=tmp_path / "file").prepare_data()
    data = Digits(root=tmp_path / "file", packs=tmp_path / "packs")
    data.prepare_data()
    assert data.open_pack() is not None


def test_a_pack_is_made_anew_once_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(tmp_path)
    reads, whole = [], Digits.read

    def read(self: Digits) -> Source:
        reads.append(self)
        return whole(self)

    monkeypatch.setattr(Digits, "read", read)
    again = prepared(tmp_path, repack=True)
    again.prepare_data()
    assert again.pack_folder == first.pack_folder
    assert len(reads) == 1


@pytest.mark.slow
def test_two_processes_read_the_source_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from datamodules.digits import Digits; read = Digits.read\n"
        "def counted(self): print('read'); return read(self)\n"
        f"Digits.read = counted; Digits(root=Path({str(tmp_path)!r})).prepare_data()"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert b"".join(said) == b"read\n"


def test_a_full_disk_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"No space left on device; choose another folder with --data\.packs"):
        prepared(tmp_path)
    assert not [path for path in (tmp_path / "packs").iterdir() if path.suffix != ".lock"]


def test_refuses_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be packed in .*choose another folder"):
        Digits(root=tmp_path / "file").prepare_data()
