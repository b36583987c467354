from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.decoding.image_file import UnreadableImageError, holds_numbers
from datamodules.decoding.stored_numbers import stored_numbers

pydicom = pytest.importorskip("pydicom")

STORED = np.array(
    [[0, 1000, 1024, 1064, 1104, 4095]], np.uint16
)  # with the intercept -1024: -1024, -24, 0, 40, 80, 3071


def write(file: Path, pixels: NDArray[Any] | None = STORED, **tags: Any) -> Path:
    """A file as a CT has it, but for some tags."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = pydicom.uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[-2:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.PixelData = pixels.tobytes()
    for name, value in ({"RescaleSlope": 1, "RescaleIntercept": -1024} | tags).items():
        setattr(dataset, name, value)
    dataset.save_as(file, enforce_file_format=True)
    return file


def numbers(file: Path, value_range: tuple[float, float] | None = None) -> NDArray[Any]:
    return stored_numbers(file, 1, is_shown=True, value_range=value_range)


def test_the_window_of_the_file_is_spread_over_sixteen_bits(tmp_path: Path) -> None:
    found = numbers(write(tmp_path / "a.dcm", WindowCenter=40.5, WindowWidth=81))
    assert found.dtype == np.uint16
    assert found[0, 0].tolist() == [0, 0, 0, 32768, 65535, 65535]
    several = numbers(write(tmp_path / "b.dcm", WindowCenter=[40.5, 600], WindowWidth=[81, 2000]))
    assert np.array_equal(several, found), "the first of several windows"


def test_without_a_window_all_bits_of_the_file_are_kept(tmp_path: Path) -> None:
    found = numbers(write(tmp_path / "a.dcm"))[0, 0]
    assert np.array_equal(found, np.rint(STORED[0] / 4095 * 65535))


def test_a_range_is_a_window_in_rescaled_units(tmp_path: Path) -> None:
    found = numbers(write(tmp_path / "a.dcm", WindowCenter=40.5, WindowWidth=81), (-1000, 0))
    assert found[0, 0].tolist() == [-1024, -24, 0, 40, 80, 3071]


@pytest.mark.parametrize("value_range", [None, (-1024, 3071)])
def test_where_black_is_the_highest_number_levels_are_inverted(
    tmp_path: Path, value_range: tuple[float, float] | None
) -> None:
    plain = numbers(write(tmp_path / "a.dcm"), value_range)
    inverted = numbers(write(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1"), value_range)
    assert np.unique(plain.astype(float) + inverted).tolist() == [65535 if value_range is None else 2047]


def test_eight_bits_and_colours_stay_eight_bits(tmp_path: Path) -> None:
    levels = np.array([[0, 7, 255]], np.uint8)
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleIntercept": 0}
    found = numbers(write(tmp_path / "a.dcm", levels, **bits))
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], levels)
    colours = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    shape = {"Rows": 2, "Columns": 4, "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    file = write(tmp_path / "b.dcm", colours, **bits, **shape, PhotometricInterpretation="RGB")
    assert np.array_equal(numbers(file), colours.transpose(2, 0, 1))


def test_what_is_no_single_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="Pixel Data"):
        numbers(write(tmp_path / "a.dcm", None))
    with pytest.raises(UnreadableImageError, match="of 2 frames; save each as a file of its own"):
        numbers(write(tmp_path / "a.dcm", np.stack([STORED, STORED]), NumberOfFrames=2))
    (tmp_path / "a.dcm").write_bytes(write(tmp_path / "b.dcm").read_bytes()[:-4])
    with pytest.raises(UnreadableImageError, match="pixel data"):
        numbers(tmp_path / "a.dcm")


def test_is_known_by_its_content(tmp_path: Path) -> None:
    write(tmp_path / "IM0001")
    (tmp_path / "b.dcm").write_text("text")
    assert holds_numbers(tmp_path / "IM0001")
    assert not holds_numbers(tmp_path / "b.dcm")
