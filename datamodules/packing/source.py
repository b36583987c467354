"""The first step of an image's way: from the source that a data set is distributed in to a pack.

Shapes: `N` images of `C` channels, `H` rows and `W` columns.
"""

import glob
import hashlib
import inspect
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from filelock import FileLock
from torch import Tensor

from core.any_path import AnyPath
from core.names import distinct_names, escape_name, near_names, some_of
from core.user_error import UserError
from datamodules.decoding.remembered_times import RememberedTimes
from datamodules.packing.pack import Pack, Rows, Source, files_of, write_pack

T = TypeVar("T")

# Modules whose classes decide nothing of what a data set reads, and packages of such modules.
FRAMEWORK = ("abc.", "builtins.", "datamodules.base.", "datamodules.packing.source.", "lightning.", "torch.", "typing.")


class ImageSource(ABC):
    """What a data set says of its source, and how that is found or fetched, read once, and packed.

    `datamodules.base.ImageDataModule` explains the arguments.
    """

    class_names: Sequence[str]  # a label is a place in this list; an instance has them as `distinct_names` writes them
    image_shape: tuple[int, int, int]  # (C, H, W)
    resize: Literal["crop", "squash"] = "crop"  # how an image of another shape is fitted
    origin = ""  # download URL, shown when files are missing
    whereabouts = "say with --data.root in which folder it is"  # what to do with files that lie elsewhere
    is_multi_label = False  # whether an image may have several labels or none: labels uint8 `[N, K]` of 0 and 1
    tests_on_validation = False  # whether the validation images are the test images too: labels of others are secret
    described_by: Mapping[str, str] = {}  # files that say what the images are, with the SHA-256 of each
    known_files: Sequence[str] = ()  # glob patterns of files in the source's folder that are no labelled images
    own_arguments: Mapping[str, Any]  # the constructor's arguments that the data set adds to those of every other
    distinct_names = staticmethod(distinct_names)  # how to write the names in checkpoints of earlier versions

    def __init__(
        self,
        root: AnyPath,
        packs: AnyPath | None,
        download: bool,
        storage: Literal["packed", "files"] | None,
        classes: Sequence[str | int] | None,
        repack: bool,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.packs = Path(packs) if packs else self.root / "packs"
        self.download = download
        self.storage = storage
        self.repack = repack
        self.remembered_times = RememberedTimes(self.packs)
        self._check_declaration()
        # All classes of the source; `class_names` may be a selection of them.
        self.class_names = self.source_class_names = distinct_names(self.class_names)
        # The label of each class of the source, int64, -1 for one that is not used; None if all are used.
        self.label_map: Tensor | None = None
        if classes is not None:
            self._select(classes)
        if len(self.class_names) < 2:
            raise UserError(
                f"{type(self).__name__} has only the class {some_of(self.class_names) or 'none'} of "
                f"{self.source_folder}; name more in --data.classes, add images of another, or {self.whereabouts}."
            )

    def _check_declaration(self) -> None:
        names: Any = getattr(self, "class_names", None)
        shape: Any = getattr(self, "image_shape", None)
        what = type(self).__name__
        is_text = isinstance(names, Sequence) and all(isinstance(name, str) and name for name in names)
        # Names that are read from a file, when they are asked for, may be there twice; they are made different.
        is_written = isinstance(inspect.getattr_static(type(self), "class_names", None), Sequence)
        if isinstance(names, str) or not is_text or (is_written and len(set(names)) < len(names)):
            raise UserError(
                f'{what}.class_names is {repr(names)[:200]}; give each class a text of its own, such as ("cat", "dog").'
            )
        is_whole = isinstance(shape, Sequence) and all(type(size) is int and size > 0 for size in shape)
        if not is_whole or len(shape) != 3:
            raise UserError(f"{what}.image_shape is {shape!r}; give channels, height and width, such as (3, 32, 32).")

    def _select(self, given: Sequence[str | int]) -> None:
        names, classes = self.source_class_names, [escape_name(str(name)) for name in given]
        if unknown := sorted(set(classes) - set(names)):
            raise UserError(
                f"data.classes names {unknown[0]}, which {type(self).__name__} does not have; "
                f"{near_names(unknown[0], names, otherwise=f'give some of {some_of(names)}.')}"
            )
        if len(set(classes)) < len(classes):
            raise UserError(f"data.classes names a class twice: {', '.join(classes)}; name each once.")
        self.label_map = torch.tensor([classes.index(name) if name in classes else -1 for name in names])
        self.class_names = classes

    @abstractmethod
    def fingerprint(self) -> str:
        """Text that changes whenever the source's files do; cheap, as every start asks for it."""

    @abstractmethod
    def read(self) -> Source:
        """Read the images, uint8 or uint16 `[N, C, H, W]`, and labels, int64 `[N]`, of each split that the source has.

        Where `is_multi_label` is True, labels are uint8 `[N, K]`: 1 for each class that the image has, else 0.
        The splits are named `train`, `val` and `test`; `train` must be there. Images may also be an `ImageFiles`, to be
        decoded by all cores. A third item has columns, such as the group of each image: see `Rows`.
        """

    def fetch(self) -> None:
        """Download the source, in a data set that can be downloaded; an OSError or RuntimeError says why not."""
        raise NotImplementedError

    @property
    def source_folder(self) -> Path:
        """The folder that the source's files are in."""
        return self.root

    @property
    def is_training(self) -> bool:
        """Whether a training is under way, beside which files may be looked at."""
        return False

    def known_names(self, source: Source) -> set[str]:
        """The paths of images and of other files that belong to the source; none if it does not come as image files."""
        files = [files_of(rows[0]) for rows in source.values()]
        known = {os.fsdecode(name) for images in files if images for name in images.names}
        if known:
            known.update(*(glob.iglob(pattern, root_dir=self.source_folder) for pattern in self.known_files))  # noqa: PTH207
        return known

    def files_left_out(self, known: Collection[str]) -> list[str]:
        """The files below the source's folder, hidden ones too, that are not known, sorted; none if none is known."""
        if not known:
            return []
        from datamodules.packing.left_out import files_besides

        return sorted(files_besides(known, self.source_folder, {self.packs.resolve()}))

    def from_source(self, read: Callable[[], T]) -> T:
        """Give what `read` reads from the source; download the source first if it is missing and may be downloaded."""
        can_fetch = type(self).fetch is not ImageSource.fetch
        try:
            try:
                return read()
            except FileNotFoundError as missing:
                if not (self.download and can_fetch):
                    raise
                self._download(read, str(missing.filename))
            return read()
        except OSError as error:
            remedies = [f"get it from {self.origin}"] if self.origin else []
            remedies += ["have it fetched with --data.download true"] if can_fetch and not self.download else []
            raise UserError(
                f"{type(self).__name__} cannot be read from {error.filename}: {error.strerror}; "
                f"{', or '.join((*remedies, self.whereabouts))}."
            ) from error

    def _download(self, read: Callable[[], object], missing: str) -> None:
        import tarfile

        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / f".{type(self).__name__.lower()}.lock"):
            with suppress(FileNotFoundError):
                read()
                return  # another process has fetched it
            # torchvision 0.26 names no filter, and Python has none by default before 3.14.
            tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
            try:
                self.fetch()
            except (OSError, RuntimeError, tarfile.TarError) as error:
                raise UserError(
                    f"{type(self).__name__} could not be downloaded ({' '.join(str(error).split())}); get it from "
                    f"{self.origin} with another machine and put it where it is looked for: {missing}."
                ) from error

    @cached_property
    def pack_folder(self) -> Path:
        """The folder that the pack of this source has or will have.

        Another place of the source, other files there by the data set's `fingerprint`, another text of the modules that
        the data set's classes are in, and other arguments of its own give another folder.
        """
        remembered = self.remembered_times.recalling if self.is_training else lambda look: look()
        fingerprint = self.from_source(lambda: remembered(self.fingerprint))
        identity = (
            str(self.source_folder.resolve()),
            fingerprint,
            *(_source_text(each) for each in type(self).__mro__ if not f"{each.__module__}.".startswith(FRAMEWORK)),
            # An object lies at another place in memory in each process.
            re.sub(r" at 0x[0-9a-f]+", "", repr(sorted(self.own_arguments.items()))),
            (self.source_class_names, self.image_shape, self.resize),
        )
        digest = hashlib.sha256(repr(identity).encode(errors="surrogateescape")).hexdigest()[:12]
        return self.packs / f"{type(self).__name__.lower()}-{digest}"

    def prepare_data(self) -> None:
        """Read the data set unless that has been done; of several processes, one reads and the others wait."""
        folder = self.pack_folder
        if not self.repack and self.open_pack() is not None:
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if self.repack or self.open_pack(say_why_not=True) is None:
                    self._pack_anew(folder)
                    self.repack = False
        except OSError as error:
            raise UserError(
                f"The data set cannot be packed in {folder.parent}: {error.strerror or error}; choose another folder "
                "with --data.packs, or keep no pixels of image files with --data.storage files."
            ) from error

    def _pack_anew(self, folder: Path) -> None:
        from datamodules.packing.source_check import checked

        names, read, left_out = self.source_class_names, self.from_source(self.read), ""
        source = checked(type(self).__name__, read, names, self.image_shape, self.is_multi_label)
        if others := self.from_source(lambda: self.files_left_out(self.known_names(source))):
            from datamodules.packing.left_out import summary

            left_out = summary(others, self.source_folder)
        write_pack(folder, source, names, packed=self._is_to_be_packed(source), left_out=left_out)

    def _is_to_be_packed(self, source: Mapping[str, Rows]) -> bool:
        lazy = files_of(source["train"].images) is not None
        if self.storage == "files" and not lazy:
            raise UserError(
                f"data.storage is files, but {type(self).__name__} does not come as image files; use packed."
            )
        if self.storage is not None or not lazy:
            return self.storage != "files"
        size = sum(torch.Size(rows.images.shape).numel() * rows.images.dtype.itemsize for rows in source.values())
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return size <= min(memory, shutil.disk_usage(self.packs).free) // 2

    def open_pack(self, say_why_not: bool = False) -> Pack | None:
        """The pack, if it is there, whole, and of the storage asked for; `say_why_not` prints what is wrong with it."""
        folder = self.pack_folder
        try:
            pack = Pack(folder, label_map=self.label_map)
            if pack.images is not None and self.storage != "files":
                return pack
            if self.storage == "packed":
                return None
            return Pack(folder, self.source_folder, self.label_map)
        except ValueError as error:
            if say_why_not and folder.exists():
                print(f"{error}; reading the data set again")
            return None

    def check_complete(self, pack: Pack) -> None:
        """Refuse a pack that lacks files because they give no image."""
        if pack.skipped:
            shown = some_of([f"{self.source_folder / name} ({reason})" for name, reason in pack.skipped], 3)
            raise UserError(
                f"{len(pack.skipped)} of {len(pack.skipped) + len(pack)} files give no image: {shown}; replace or "
                "remove them, or leave them out with --data.on_corrupt skip."
            )


def _source_text(of: type) -> str:
    """The text of the module that a class is in, or of the class alone where that has no file, as in a notebook."""
    for part in (inspect.getmodule(of), of):
        with suppress(OSError, TypeError):
            return inspect.getsource(part)  # type: ignore[arg-type]  # of None, TypeError
    return ""
