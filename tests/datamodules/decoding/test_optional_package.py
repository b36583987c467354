import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.user_error import UserError
from datamodules.decoding.stored_numbers import stored_numbers


def test_names_the_extra_that_a_file_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    page = Image.fromarray(np.zeros((8, 6), np.uint16))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(UserError, match=r"tifffile, which is not installed; run pip install -e '\.\[tiff\]'"):
        stored_numbers(tmp_path / "a.tif", 2, is_shown=False)
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(UserError, match=r"pydicom, which is not installed; run pip install -e '\.\[dicom\]'"):
        stored_numbers(tmp_path / "a.dcm", 1, is_shown=True)
