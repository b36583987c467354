"""What all data sets of image files of any size have in common."""

from typing import Any, Literal

from core.user_error import UserError
from datamodules.base import ImageDataModule
from datamodules.decoding.image_file import Resize
from datamodules.decoding.image_files import Listing, listed
from datamodules.packing.pack import Source


class ImageFileModule(ImageDataModule):
    """Images in files of any size, each brought to one.

    Args:
        image_size: Height and width that images are brought to, in pixels; one number is both.
        channels: 3 for colour, 1 for grey.
        resize: `crop` resizes the shorter side and cuts out the centre, `squash` resizes both sides.
        arguments: Those of `ImageDataModule`.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        channels: Literal[1, 3] = 3,
        resize: Resize = "crop",
        **arguments: Any,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1:
            raise UserError(f"data.image_size is {image_size}; give a positive number of pixels.")
        self.image_shape = (channels, height, width)
        self.resize = resize
        super().__init__(**arguments)

    def listed(self, listing: Listing) -> Source:
        """Make the source of a listing: path in the source's folder, and label, of each image of each split."""
        return listed(self.source_folder, listing, self.image_shape, self.resize)
