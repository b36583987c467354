"""What all data sets of image files of any size have in common."""

from typing import Any, Literal

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.image_file import Resize
from datamodules.decoding.image_files import Listing, listed
from datamodules.decoding.pixel_format import PixelFormat
from datamodules.packing.pack import Source


class ImageFileModule(ImageDataModule):
    """Images in files of any size, each brought to one.

    Args:
        image_size: Height and width that images are brought to, in pixels; one number is both.
        channels: 3 for colour, 1 for grey; any other number for the channels that each file has, or pages of a TIFF; a
            list of them, numbered from 1, takes these in this order.
        resize: `crop` resizes the shorter side and cuts out the centre, `squash` resizes both sides.
        bit_depth: Bits that all images are brought to, 8 or 16; by default those of the first, which all must have.
        value_range: The values that become the lowest and the highest level, as floating-point numbers need it; in
            DICOM files a window in place of their own. Values beyond become the nearer of the two.
        arguments: Those of `ImageDataModule`.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        channels: int | list[int] = 3,
        resize: Resize = "crop",
        bit_depth: Literal[8, 16] | None = None,
        value_range: tuple[float, float] | None = None,
        **arguments: Any,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1:
            raise UserError(f"data.image_size is {image_size}; give a positive number of pixels.")
        planes = None if isinstance(channels, int) else tuple(channels)
        if min([channels] if isinstance(channels, int) else channels, default=0) < 1:
            raise UserError(f"data.channels is {channels}; give their number, or a list of them, numbered from 1.")
        if value_range is not None and not value_range[0] < value_range[1]:
            raise UserError(f"data.value_range is {list(value_range)}; give two numbers, the lower first.")
        self.pixel_format = PixelFormat(bit_depth, planes, value_range)
        self.image_shape = (channels if isinstance(channels, int) else len(channels), height, width)
        self.resize = resize
        super().__init__(**arguments)

    def listed(self, listing: Listing) -> Source:
        """Make the source of a listing: path in the source's folder, and label, of each image of each split."""
        return listed(self.source_folder, listing, self.image_shape, self.resize, self.pixel_format)
