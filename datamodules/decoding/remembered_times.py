"""Remember the fingerprints of large folders, so that a start need not look at every file."""

import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from hashlib import sha256
from json import dumps
from pathlib import Path
from threading import Thread

from core.durable_file import replace_file
from core.plain_data import read_json
from core.user_error import UserError
from datamodules.decoding.folder_fingerprint import MEMORY, look_through, times_of

MANY_FILES = 20_000  # folders with fewer files are not remembered: looking at them takes a fraction of a second


class RememberedTimes:
    """Fingerprints of large folders, kept in the folder `store` between starts.

    A fingerprint is valid while the times of the folder and of all folders below it are unchanged. Adding, removing,
    renaming or replacing a file changes the times of its folder; overwriting a file in place does not. So
    `look_at_all` compares all files during training, and `check_unchanged` raises UserError if one was overwritten.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._compute: Callable[[], str]
        self._fingerprint = ""
        self._recalled_files: list[Path] = []  # in `store`, those whose fingerprints were valid
        self._thread: Thread | None = None
        self._is_changed = False

    def recalling(self, compute: Callable[[], str]) -> str:
        """Call `compute`, and let `fingerprint_files` use remembered fingerprints inside it."""
        context = copy_context()
        context.run(MEMORY.set, self)
        self._compute, self._fingerprint = compute, context.run(compute)
        return self._fingerprint

    def fingerprint(self, folder: Path, only: tuple[str, ...] | None) -> str:
        """Return the remembered fingerprint of a folder if it is valid; otherwise look at its files."""
        key = sha256(os.fsencode("\0".join((str(folder.resolve()), *(only or ()))))).hexdigest()[:12]
        file = self._store / f".{key}.times"
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # the file is missing or damaged
            facts = read_json(file)
            if all(times_of((folder / relative).stat()) == times for relative, times in facts["folders"].items()):
                fingerprint = str(facts["fingerprint"])
                self._recalled_files.append(file)
                return fingerprint
        fingerprint, folder_times, file_count = look_through(folder, only)
        if file_count >= MANY_FILES:
            with suppress(OSError):  # the store is read-only: remember nothing
                self._store.mkdir(parents=True, exist_ok=True)
                replace_file(file, dumps({"fingerprint": fingerprint, "folders": folder_times}))
        return fingerprint

    def look_at_all(self) -> None:
        """Start to compare all files in a thread, if a remembered fingerprint was used."""
        if self._recalled_files:
            self._thread = Thread(target=self._compare, daemon=True)
            self._thread.start()

    def _compare(self) -> None:
        with suppress(OSError):  # such as a folder that was removed
            if self._compute() == self._fingerprint:
                return
        self._is_changed = True
        for file in self._recalled_files:
            with suppress(OSError):
                file.unlink(missing_ok=True)

    def check_unchanged(self) -> None:
        """Wait until all files are compared; raise UserError if one was overwritten."""
        if self._thread is not None:
            self._thread.join()
        if self._is_changed:
            raise UserError(
                "A file of the data set has been written to since it was read; start again to read the data set again."
            )
