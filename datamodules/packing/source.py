"""Find or download the source of a data set, and open its pack.

Shapes: `N` images of `C` channels, `H` rows and `W` columns; `K` classes.
"""

import glob
import hashlib
import inspect
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from core.any_path import AnyPath
from core.names import distinct_names, escape_name, near_names, some_of
from core.user_error import UserError
from datamodules.packing.pack import Pack, Source, files_of

if TYPE_CHECKING:
    from datamodules.decoding.remembered_times import RememberedTimes

T = TypeVar("T")

# Modules and packages whose classes do not influence what a data set reads; their text is not part of the cache key.
FRAMEWORK = ("abc.", "builtins.", "datamodules.base.", "datamodules.packing.source.", "lightning.", "torch.", "typing.")


class ImageSource(ABC):
    """Declares the source of a data set, downloads it, and packs it once; `ImageDataModule` explains the arguments."""

    class_names: Sequence[str]  # a label is an index into this list; instances hold the names made distinct
    image_shape: tuple[int, int, int]  # (C, H, W)
    resize: Literal["crop", "squash"] = "crop"  # how an image of another size is fitted
    origin = ""  # download URL, shown when files are missing
    whereabouts = "say with --data.root in which folder it is"  # how to name another location of the files
    is_multi_label = False  # True if labels are uint8 `[N, K]` of 0 and 1
    tests_on_validation = False  # True if the validation split is also the test split: test labels are not public
    described_by: Mapping[str, str] = {}  # the name and SHA-256 of each file that lists the images
    known_files: Sequence[str] = ()  # glob patterns of files in the source's folder that are no labelled images
    own_arguments: Mapping[str, Any]  # constructor arguments that a subclass adds; part of the pack's cache key
    remembered_times: "RememberedTimes | None" = None
    distinct_names = staticmethod(distinct_names)  # used to rename the classes in checkpoints of earlier versions

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
        self._check_declaration()
        # All classes of the source; `class_names` may be a selection of them.
        self.class_names = self.source_class_names = distinct_names(self.class_names)
        # The label of each class of the source, int64 `[K]`, -1 for an unused class; None if all are used.
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
        data_set = type(self).__name__
        is_text = isinstance(names, Sequence) and all(isinstance(name, str) and name for name in names)
        # Names in the code must be distinct; duplicates that a property reads from a file are made distinct.
        is_literal = isinstance(inspect.getattr_static(type(self), "class_names", None), Sequence)
        if isinstance(names, str) or not is_text or (is_literal and len(set(names)) < len(names)):
            raise UserError(
                f"{data_set}.class_names is {repr(names)[:200]}; give each class a text of its own, such as "
                '("cat", "dog").'
            )
        is_whole = isinstance(shape, Sequence) and all(type(size) is int and size > 0 for size in shape)
        if not is_whole or len(shape) != 3:
            raise UserError(
                f"{data_set}.image_shape is {shape!r}; give channels, height and width, such as (3, 32, 32)."
            )

    def _select(self, classes: Sequence[str | int]) -> None:
        names, selected = self.source_class_names, [escape_name(str(name)) for name in classes]
        if unknown := sorted(set(selected) - set(names)):
            raise UserError(
                f"data.classes names {unknown[0]}, which {type(self).__name__} does not have; "
                f"{near_names(unknown[0], names, otherwise=f'give some of {some_of(names)}.')}"
            )
        if len(set(selected)) < len(selected):
            raise UserError(f"data.classes names a class twice: {', '.join(selected)}; name each once.")
        self.label_map = torch.tensor([selected.index(name) if name in selected else -1 for name in names])
        self.class_names = selected

    @abstractmethod
    def fingerprint(self) -> str:
        """Return text that changes whenever the source's files change; it is computed at every start."""

    @abstractmethod
    def read(self) -> Source:
        """Read images uint8 or uint16 `[N, C, H, W]`, and labels int64 `[N]`, of each split that the source has.

        The splits are named `train`, `val` and `test`; `train` is required. With `is_multi_label`, labels are uint8
        `[N, K]`: 1 for each class of the image, else 0. Images may also be `ImageFiles`, which all cores decode. A
        third item may hold columns, such as the group of each image: see `Rows`.
        """

    def fetch(self) -> None:
        """Download the source; raise OSError or RuntimeError if that fails. Implemented by data sets that can."""
        raise NotImplementedError

    @property
    def source_folder(self) -> Path:
        """The folder of the source's files."""
        return self.root

    @property
    def is_training(self) -> bool:
        """True while a Trainer is fitting with this data module."""
        return False

    def known_names(self, source: Source) -> set[str]:
        """Return the relative paths of all images and `known_files`; empty if the source is not image files."""
        files = [files_of(rows[0]) for rows in source.values()]
        paths = {os.fsdecode(name) for images in files if images for name in images.names}
        if paths:
            paths.update(*(glob.iglob(pattern, root_dir=self.source_folder) for pattern in self.known_files))  # noqa: PTH207
        return paths

    def files_left_out(self, known: Collection[str]) -> list[str]:
        """Return all other files in the source's folder, hidden ones too, sorted; empty if `known` is empty."""
        if not known:
            return []
        from datamodules.packing.left_out import files_besides

        return sorted(files_besides(known, self.source_folder, {self.packs.resolve()}))

    def from_source(self, read: Callable[[], T]) -> T:
        """Call `read`, after a download if files are missing and `download` is set; raise UserError if it fails."""
        can_fetch = type(self).fetch is not ImageSource.fetch
        try:
            try:
                return read()
            except FileNotFoundError as error:
                if not (self.download and can_fetch):
                    raise
                from datamodules.packing.preparation import download

                download(self, read, str(error.filename))
            return read()
        except OSError as error:
            remedies = [f"get it from {self.origin}"] if self.origin else []
            if can_fetch and not self.download:
                remedies.append("have it fetched with --data.download true")
            raise UserError(
                f"{type(self).__name__} cannot be read from {error.filename}: {error.strerror}; "
                f"{', or '.join((*remedies, self.whereabouts))}."
            ) from error

    @cached_property
    def pack_folder(self) -> Path:
        """The folder of this source's pack; its name ends in a hash of all that decides what is read."""
        compute: Callable[[], str] = self.fingerprint
        # Only data sets that call `fingerprint_files` have imported its module; the others have nothing to remember.
        if self.is_training and "datamodules.decoding.folder_fingerprint" in sys.modules:
            from datamodules.decoding.remembered_times import RememberedTimes

            self.remembered_times = RememberedTimes(self.packs)
            compute = partial(self.remembered_times.recalling, self.fingerprint)
        fingerprint = self.from_source(compute)  # may download the source, which `source_folder` may depend on
        key = (
            str(self.source_folder.resolve()),
            fingerprint,
            *(_code_of(base) for base in type(self).__mro__ if not f"{base.__module__}.".startswith(FRAMEWORK)),
            # The address of an object differs between processes.
            re.sub(r" at 0x[0-9a-f]+", "", repr(sorted(self.own_arguments.items()))),
            (self.source_class_names, self.image_shape, self.resize),
        )
        digest = hashlib.sha256(repr(key).encode(errors="surrogateescape")).hexdigest()[:12]
        return self.packs / f"{type(self).__name__.lower()}-{digest}"

    def prepare_data(self) -> None:
        """Read and pack the data set unless there is a pack; one process does so while the others wait."""
        if self.repack or self.open_pack() is None:
            from datamodules.packing.preparation import prepare

            prepare(self)
            self.repack = False

    def open_pack(self, *, explain: bool = False) -> Pack | None:
        """Open the pack, or return None if there is no complete pack of this storage; `explain` prints the reason."""
        folder = self.pack_folder
        try:
            pack = Pack(folder, label_map=self.label_map)
            if pack.images is not None and self.storage != "files":
                return pack
            if self.storage == "packed":
                return None
            return Pack(folder, self.source_folder, self.label_map)
        except ValueError as error:
            if explain and folder.exists():
                print(f"{error}; reading the data set again")
            return None

    def check_complete(self, pack: Pack) -> None:
        """Raise UserError if files of the source were unreadable."""
        if pack.skipped:
            examples = some_of([f"{self.source_folder / name} ({reason})" for name, reason in pack.skipped], 3)
            raise UserError(
                f"{len(pack.skipped)} of {len(pack.skipped) + len(pack)} files give no image: {examples}; replace or "
                "remove them, or leave them out with --data.on_corrupt skip."
            )

    def check_unchanged(self) -> None:
        """Raise UserError if an image file was changed in place since training started."""
        if self.remembered_times is not None:
            self.remembered_times.check_unchanged()


def _code_of(class_: type) -> str:
    """Return the source code of a class's module, or of the class alone if there is no file, as in a notebook."""
    for owner in (inspect.getmodule(class_), class_):
        with suppress(OSError, TypeError):
            return inspect.getsource(owner)  # type: ignore[arg-type]  # None raises TypeError
    return ""
