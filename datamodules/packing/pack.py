"""Read a pack: a data set's images in one array on disk, which is mapped into memory.

Shapes: `N` images of `C` channels, `H` rows and `W` columns; `K` classes.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from core.durable_file import note_use
from core.names import escape_name
from core.user_error import UserError
from datamodules.packing import checked_arrays as arrays

if TYPE_CHECKING:
    from datamodules.decoding.image_files import ImageFiles
    from datamodules.decoding.pixel_format import Levels

FORMAT_VERSION = 6  # raised when the files below change their meaning; packs of another version are written again

LARGE = ("images",)  # arrays with a checksum for each row

MAX_BYTES_ON_DEVICE = 2**31  # a larger pack is not copied to a GPU: training would start only after reading all of it
MAX_FRACTION_OF_DEVICE = 1 / 8  # of a GPU's free memory

CHUNK_BYTES = 2**22  # bytes of images that are decoded or copied at a time

# How fingerprints of images begin; older ones are hashes of files, which cannot be compared with them.
FINGERPRINT = "content "

# Images as an array uint8 or uint16 `[N, C, H, W]`, or as files that are decoded to one.
Images: TypeAlias = "Levels | ImageFiles"


class Rows(NamedTuple):
    """The images, labels and columns of one split of a source.

    Labels are int64 `[N]`, or uint8 `[N, K]` of 0 and 1 for multi-label data. A column has text or numbers, `[N]`, and
    three names have a meaning: images of one `group` (text) stay in the same split; `fold` (0, 1, ...) is the
    cross-validation fold; an image is drawn in proportion to its `weight` (above 0). Others are only carried along.
    """

    images: Images
    labels: NDArray[np.integer[Any]]
    columns: Mapping[str, NDArray[Any]] = MappingProxyType({})


# What `ImageSource.read` returns: the rows of each split; a pair has no columns.
Source = Mapping[str, Rows | tuple[Images, NDArray[np.integer[Any]]]]


class Pack(Dataset[tuple[Tensor, Tensor]]):
    """The images and labels of a data set, as `write_pack` wrote them.

    The folder holds these files:

    - `images.npy`: uint8 or uint16 `[N, C, H, W]`; missing if images are decoded from their files for each batch.
    - `labels.npy`: int64 `[N]` or uint8 `[N, K]`.
    - `sums.npy`: int64 `[N, 2, C]`, the sum and the sum of squares of each image's pixels.
    - `digests.npy`: uint64 `[N, 2]`, the hash that decides an image's split, and the hash of its pixels.
    - `checksums.npy`: uint32 `[N]`, the CRC-32 of each image's pixels.
    - `names.npy`: bytes `[N]`, paths relative to the source's folder, if the source has files.
    - `columns.parquet`: further columns, if the source has any.
    - `facts.json`: everything else, and a hash of all of the above but the pixels.

    With `files`, the source's folder, images are decoded from their files. `label_map`, int64 `[K]`, has the label of
    each class of the source, -1 for an unused one. ValueError is raised if the pack is incomplete or of another format.
    """

    def __init__(self, folder: Path, files: Path | None = None, label_map: Tensor | None = None) -> None:
        self.folder = folder
        self.label_map = label_map
        try:
            facts = arrays.read_checked_facts(folder, FORMAT_VERSION, LARGE)
            names = ["labels", "sums", "digests", "checksums"]
            names += ["images"] * facts["packed"] + ["names"] * facts["files"]
            mapped = {name: arrays.map_array(folder / f"{name}.npy") for name in names}
            self._first_reads = arrays.FirstReads(mapped["checksums"])
            if facts["packed"] and self._first_reads.are_some_changed(mapped["images"]):
                raise ValueError("its images are not those that were written")
            if files and not facts["files"]:
                raise ValueError("it was not read from image files")
            self.files = _image_files(files, mapped["names"], facts) if files else None
        except Exception as error:  # a damaged file can raise anything
            raise ValueError(f"{folder} is no whole pack: {error}") from error
        self.images: Tensor | None = torch.from_numpy(mapped["images"]) if facts["packed"] else None
        self._source_labels: Tensor = torch.from_numpy(mapped["labels"])
        self.sums: Tensor = torch.from_numpy(mapped["sums"])
        self.names: NDArray[np.bytes_] | None = mapped.get("names")
        # A hash of each image's path or, without files, of its pixels.
        self.identities: NDArray[np.uint64] = mapped["digests"][:, 0]
        self.contents: NDArray[np.uint64] = mapped["digests"][:, 1]  # a hash of the pixels
        # A hash of all images, paths and labels, which does not depend on the folder or on how images are stored.
        self.fingerprint: str = facts["fingerprint"]
        self.shape: tuple[int, int, int] = tuple(facts["shape"])
        self.pixel_facts: dict[str, Any] = facts["pixel_format"]  # `PixelFormat.facts` of the images
        self.highest = 65535 if self.pixel_facts.get("bit_depth") == 16 else 255  # the highest possible pixel value
        self.splits: dict[str, range] = {name: range(*bounds) for name, bounds in facts["splits"].items()}
        # The path of each unreadable image, which is not in the pack, and the reason.
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in facts["skipped"]]
        self.left_out: str = facts["left_out"]  # a summary of the source's other files, which are no images of it
        self._has_columns: bool = facts["columns"]
        note_use(folder)

    def __len__(self) -> int:
        return len(self._source_labels)

    @cached_property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The columns of the source besides the label, `[N]` each: text (as objects), int64 or float64."""
        if not self._has_columns:
            return {}
        from datamodules.packing.columns import read_columns

        return read_columns(self.folder)

    @property
    def labels(self) -> Tensor:
        """All labels, int64 `[N]` or uint8 `[N, K]`."""
        labels = self._source_labels
        return labels if self.label_map is None else selected_labels(labels, self.label_map)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch: images `[B, C, H, W]` as stored, and labels `[B]` or `[B, K]`, at indices int64 `[B]`."""
        labels = self._source_labels.index_select(0, indices)
        if self.label_map is not None:
            labels = selected_labels(labels, self.label_map)
        if self.files is None:
            assert self.images is not None, "a pack without images is opened with `files`"
            images = select_images(self.images, indices)
        else:
            images = torch.from_numpy(self.files[indices.numpy()])
        changed = self._first_reads.changed(indices.numpy(), images.numpy())
        if changed is not None:
            folder = self.folder if self.files is None else self.files.folder
            raise UserError(
                f"{escape_name(str(folder))} holds other pixels of {escape_name(self.name(int(indices[changed])))} "
                "than were read before; read the data set again with --data.repack true. A run resumes with --resume."
            )
        return images, labels

    def fits_on(self, device: torch.device) -> bool:
        """Return True if the images are packed, and `device` is a GPU with ample free memory for them."""
        if device.type != "cuda" or self.files is not None or self.images is None:
            return False
        free_bytes = torch.cuda.mem_get_info(device)[0]
        return self.images.nbytes <= min(MAX_BYTES_ON_DEVICE, free_bytes * MAX_FRACTION_OF_DEVICE)

    def __reduce__(self) -> tuple[type["Pack"], tuple[Path, Path | None, Tensor | None]]:
        """Pickle the path alone; a worker process maps the files again."""
        return Pack, (self.folder, self.files.folder if self.files else None, self.label_map)

    def name(self, index: int) -> str:
        """Return an image's path in the source's folder or, without files, its split and index: `train[123]`."""
        if self.names is not None:
            return os.fsdecode(self.names[index])
        return next(f"{split}[{index - indices.start}]" for split, indices in self.splits.items() if index in indices)

    def mean_and_std(self, indices: Tensor) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel over some images, in [0, 1] and exact up to rounding."""
        pixels = len(indices) * self.shape[1] * self.shape[2]
        means, stds = [], []
        # Add in Python integers: the squares of billions of pixels exceed int64.
        partial_sums = [part.sum(dim=0).numpy().astype(object) for part in torch.split(self.sums[indices], 256)]
        for total, squares in np.sum(partial_sums, axis=0).T.tolist():
            means.append(total / pixels / self.highest)
            stds.append((pixels * squares - total**2) ** 0.5 / pixels / self.highest)
        return means, stds


def selected_labels(labels: Tensor, label_map: Tensor) -> Tensor:
    """Map a source's labels, int64 `[N]` or uint8 `[N, K]`, to the labels of the selected classes; see `Pack`."""
    if labels.ndim == 1:
        return label_map.index_select(0, labels)
    return labels[:, label_map.argsort()[(label_map < 0).sum() :]]


def select_images(images: Tensor, indices: Tensor) -> Tensor:
    """Select images from uint8 or uint16 `[N, C, H, W]`; PyTorch before 2.13 cannot index uint16."""
    if images.dtype == torch.uint16:
        return images.view(torch.int16).index_select(0, indices).view(torch.uint16)
    return images.index_select(0, indices)


def _image_files(folder: Path, names: NDArray[np.bytes_], facts: Mapping[str, Any]) -> "ImageFiles":
    from datamodules.decoding.image_files import ImageFiles
    from datamodules.decoding.pixel_format import PixelFormat

    return ImageFiles(folder, names, tuple(facts["shape"]), facts["resize"], PixelFormat.of(facts["pixel_format"]))


def files_of(images: Images) -> "ImageFiles | None":
    """Return the images if they are `ImageFiles`, else None, without importing the decoder."""
    return cast("ImageFiles", images) if hasattr(images, "pixel_format") else None
