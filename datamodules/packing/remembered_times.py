"""A start looks at the folders of a large source, and at each of its files only beside training."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from core.names import escape_name
from core.user_error import UserError
from datamodules.decoding.image_files import LOOK, look_through, times_of

MANY_FILES = 20_000  # fewer are looked at by every start, in a fraction of a second


class RememberedTimes:
    """Fingerprints of large folders from earlier starts, taken again where no folder within has another time.

    A file that is added, removed, renamed or replaced changes the times of the folder it is in. One that is written in
    place does not: all files are looked at beside training, and `refuse_changed` tells of such a one.

    Args:
        store: The folder where the fingerprints are kept.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._taken: dict[Path, str] = {}
        self._thread: Thread | None = None
        self._problem = ""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let `fingerprint_files` take what is remembered."""
        before = LOOK.set(self._fingerprint)
        try:
            yield
        finally:
            LOOK.reset(before)

    def _file(self, folder: Path) -> Path:
        digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
        return self._store / f".{digest[:12]}.times"

    def _fingerprint(self, folder: Path) -> str:
        file = self._file(folder)
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            facts = json.loads(file.read_text())
            if all(times_of((folder / within).stat()) == times for within, times in facts["folders"].items()):
                self._taken[folder] = str(facts["fingerprint"])
                return self._taken[folder]
        looked = look_through(folder)
        if looked.files >= MANY_FILES:
            with suppress(OSError):  # where nothing can be written, nothing is remembered
                self._store.mkdir(parents=True, exist_ok=True)
                part = file.with_suffix(f".{os.getpid()}")
                part.write_text(json.dumps({"fingerprint": looked.fingerprint, "folders": looked.folders}))
                part.replace(file)
        return looked.fingerprint

    def look_at_all(self) -> None:
        """Begin to look at the files of the folders that were not looked through."""
        if self._taken:
            self._thread = Thread(target=self._look, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        for folder, fingerprint in self._taken.items():
            try:
                looked = look_through(folder)
            except OSError as error:
                self._problem = f"{error.filename} cannot be looked at ({error.strerror})"
            else:
                if looked.fingerprint == fingerprint:
                    continue
                self._problem = f"{folder / looked.newest} has been written to since the data set was read"
            with suppress(OSError):
                self._file(folder).unlink(missing_ok=True)

    def refuse_changed(self) -> None:
        """Wait until all files have been looked at."""
        if self._thread is not None:
            self._thread.join()
        if self._problem:
            raise UserError(
                f"{escape_name(self._problem)}, which the times of its folder did not show; start again: all files are "
                "then looked at before training."
            )
