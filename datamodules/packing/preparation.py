"""Download the source of a data set, and write its pack."""

import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock

from core.user_error import UserError
from datamodules.packing.pack import Rows, files_of
from datamodules.packing.pack_writer import write_pack
from datamodules.packing.source import ImageSource
from datamodules.packing.source_check import checked


def download(data: ImageSource, read: Callable[[], object], missing_file: str) -> None:
    """Download a data set, unless another process has meanwhile; raise UserError if that fails."""
    data.root.mkdir(parents=True, exist_ok=True)
    with FileLock(data.root / f".{type(data).__name__.lower()}.lock"):
        with suppress(FileNotFoundError):
            read()
            return
        # Refuse unsafe members of an archive: torchvision 0.26 sets no filter, and Python has none before 3.14.
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
        try:
            data.fetch()
        except (OSError, RuntimeError, tarfile.TarError) as error:
            raise UserError(
                f"{type(data).__name__} could not be downloaded ({' '.join(str(error).split())}); get it from "
                f"{data.origin} with another machine and put it where it is looked for: {missing_file}."
            ) from error


def prepare(data: ImageSource) -> None:
    """Write the pack of a data set, unless another process has meanwhile; `data.repack` writes it in any case."""
    folder = data.pack_folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if data.repack or data.open_pack(explain=True) is None:
                _pack(data, folder)
    except OSError as error:
        raise UserError(
            f"The data set cannot be packed in {folder.parent}: {error.strerror or error}; choose another folder "
            "with --data.packs, or keep no pixels of image files with --data.storage files."
        ) from error


def _pack(data: ImageSource, folder: Path) -> None:
    names, summary = data.source_class_names, ""
    source = checked(type(data).__name__, data.from_source(data.read), names, data.image_shape, data.is_multi_label)
    if files_left_out := data.from_source(lambda: data.files_left_out(data.known_names(source))):
        from datamodules.packing import left_out

        summary = left_out.summary(files_left_out, data.source_folder)
    write_pack(folder, source, names, packed=_stores_pixels(data, source), left_out=summary)


def _stores_pixels(data: ImageSource, source: Mapping[str, Rows]) -> bool:
    """Follow `storage`; by default, store pixels of files if they take at most half of memory and of the free disk."""
    are_files = files_of(source["train"].images) is not None
    if data.storage == "files" and not are_files:
        raise UserError(f"data.storage is files, but {type(data).__name__} does not come as image files; use packed.")
    if data.storage is not None or not are_files:
        return data.storage != "files"
    size = sum(torch.Size(rows.images.shape).numel() * rows.images.dtype.itemsize for rows in source.values())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return size <= min(memory, shutil.disk_usage(data.packs).free) // 2
