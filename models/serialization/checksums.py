"""The checksums in a file of `torch.save`."""

import time
import zipfile
from hashlib import blake2b
from pathlib import Path

TICK = 10**9  # nanoseconds within which a second change of a file may leave its time as it is, on any file system

_whole: set[tuple[int, ...]] = set()


def damaged_part(path: str | Path) -> str | None:
    """Compare a file with its checksums, which `torch.load` does not do; the name of the first part that differs.

    A whole file is not read again by this process until it changes.
    """
    if not zipfile.is_zipfile(path):
        return None
    file = Path(path).stat()
    if (known := (file.st_dev, file.st_ino, file.st_size, file.st_ctime_ns)) in _whole:
        return None
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):  # torch.save never compresses
            raise ValueError("it is compressed")
        if sum(part.file_size for part in parts) > file.st_size:
            raise ValueError("its parts are larger than the whole")
        has_checksums = any(part.CRC for part in parts)
        damaged = archive.testzip() if has_checksums else None
    if damaged is None and time.time_ns() - file.st_ctime_ns > TICK:
        _whole.add(known)
    return damaged


def content_digest(path: Path) -> str:
    """A digest of a checkpoint's content: of its checksums, so that its bytes need not be read again."""
    with zipfile.ZipFile(path) as archive:
        parts = [(part.filename, part.file_size, part.CRC) for part in archive.infolist()]
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()
