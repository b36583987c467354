"""A start looks at the folders of a large source; each of its files is looked at beside training."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from json import dumps
from pathlib import Path
from threading import Thread

from core.durable_file import replace_file
from core.names import escape_name
from core.plain_data import read_json
from core.user_error import UserError
from datamodules.decoding.image_files import LOOK, look_through, times_of

MANY_FILES = 20_000  # every start looks at fewer files, in a fraction of a second


class RememberedTimes:
    """Fingerprints of large folders from earlier starts, which hold while no folder within has another time.

    A file that is added, removed, renamed or replaced changes the times of its folder. A file that is written in place
    does not: all files are looked at beside training, and `check_unchanged` reports such a file. The fingerprints are
    kept in the folder `store`.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._recalled: dict[tuple[Path, tuple[str, ...] | None], str] = {}
        self._thread: Thread | None = None
        self._problem = ""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let `fingerprint_files` give what is remembered."""
        before = LOOK.set(self._fingerprint)
        try:
            yield
        finally:
            LOOK.reset(before)

    def _file(self, folder: Path, only: tuple[str, ...] | None) -> Path:
        digest = sha256(os.fsencode("\0".join((str(folder.resolve()), *(only or ()))))).hexdigest()
        return self._store / f".{digest[:12]}.times"

    def _fingerprint(self, folder: Path, only: tuple[str, ...] | None) -> str:
        file = self._file(folder, only)
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # nothing is remembered, or damaged
            facts = read_json(file)
            if all(times_of((folder / within).stat()) == times for within, times in facts["folders"].items()):
                self._recalled[folder, only] = str(facts["fingerprint"])
                return self._recalled[folder, only]
        seen = look_through(folder, only)
        if seen.files >= MANY_FILES:
            with suppress(OSError):  # where nothing can be written, nothing is remembered
                self._store.mkdir(parents=True, exist_ok=True)
                replace_file(file, dumps({"fingerprint": seen.fingerprint, "folders": seen.folders}))
        return seen.fingerprint

    def look_at_all(self) -> None:
        """Begin to look at the files of the folders whose fingerprint was remembered."""
        if self._recalled:
            self._thread = Thread(target=self._look, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        for (folder, only), fingerprint in self._recalled.items():
            try:
                seen = look_through(folder, only)
            except OSError as error:
                self._problem = f"{error.filename} cannot be looked at ({error.strerror})"
            else:
                if seen.fingerprint == fingerprint:
                    continue
                self._problem = f"{folder / seen.newest} has been written to since the data set was read"
            with suppress(OSError):
                self._file(folder, only).unlink(missing_ok=True)

    def check_unchanged(self) -> None:
        """Wait until all files have been looked at, and refuse to go on if one has changed."""
        if self._thread is not None:
            self._thread.join()
        if self._problem:
            raise UserError(
                f"{escape_name(self._problem)}, which the times of its folder did not show; start again: all files are "
                "then looked at before training."
            )
