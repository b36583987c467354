"""DICOM files (the images of medicine) as a radiologist's viewer shows them.

Shapes: an image of `C` channels, `H` rows and `W` columns.
"""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding.stored_numbers import optional_package


def dicom_numbers(content: bytes, value_range: tuple[float, float] | None) -> NDArray[Any]:
    """Read the one frame of a file, `[C, H, W]`; a ValueError says why there is none.

    Grey pixels are rescaled (slope and intercept, or the modality table). Then the file's window or table (VOI), or
    else the whole range of its bits, is spread over uint8 or, of more than 8 bits, uint16; with `value_range`, which is
    a window in rescaled units (Hounsfield units in CT), they are given as they are. MONOCHROME1 is inverted.
    """
    pydicom = optional_package("pydicom", "dicom", "a DICOM file")
    processing, dataset = pydicom.pixels, pydicom.dcmread(BytesIO(content))
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise ValueError(f"it is a DICOM file of {frames} frames; save each as a file of its own")
    numbers: NDArray[Any] = dataset.pixel_array
    photometric = dataset.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        numbers = processing.apply_color_lut(numbers, dataset)
    if numbers.ndim == 3:
        return np.moveaxis(numbers, 2, 0)
    numbers = processing.apply_modality_lut(numbers, dataset)
    has_window = "WindowWidth" in dataset or "VOILUTSequence" in dataset
    if value_range is None and (has_window or dataset.get("BitsStored", 32) <= 16):
        (low, high), shown = _ends(dataset, processing), processing.apply_voi_lut(numbers, dataset)
        value_range = (0, 255 if dataset.BitsStored <= 8 else 65535)
        shares = (shown - low) / (high - low)
        numbers = np.rint(shares * value_range[1]).astype(np.uint8 if dataset.BitsStored <= 8 else np.uint16)
    if photometric == "MONOCHROME1":
        numbers = sum(value_range or (0, 0)) - numbers
    return numbers[None]


def _ends(dataset: Any, processing: Any) -> tuple[float, float]:
    """The lowest and the highest number that the window, the table or, without either, the rescaling can give."""
    if table := dataset.get("VOILUTSequence") or dataset.get("ModalityLUTSequence"):
        return 0, 2 ** table[0].LUTDescriptor[2] - 1
    bits, sign = dataset.BitsStored, dataset.PixelRepresentation
    low, high = processing.apply_modality_lut(np.array([-sign * 2 ** (bits - 1), 2 ** (bits - sign) - 1]), dataset)
    return low, high
