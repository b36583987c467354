"""Verify the checksums in a file of `torch.save`."""

import time
import zipfile
from hashlib import blake2b
from pathlib import Path

TICK = 10**9  # nanoseconds; two changes of a file within this time may get the same timestamp

_verified: set[tuple[int, ...]] = set()  # device, inode, size and time of change of intact files


def damaged_part(path: str | Path) -> str | None:
    """Compare a file with its checksums, which `torch.load` does not, and return the first part that differs.

    This process does not read an intact file again until it changes.
    """
    if not zipfile.is_zipfile(path):
        return None
    file = Path(path).stat()
    file_version = (file.st_dev, file.st_ino, file.st_size, file.st_ctime_ns)
    if file_version in _verified:
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
        _verified.add(file_version)
    return damaged


def content_digest(path: Path) -> str:
    """Hash a checkpoint's content by its stored checksums, without reading its bytes."""
    with zipfile.ZipFile(path) as archive:
        parts = [(part.filename, part.file_size, part.CRC) for part in archive.infolist()]
    return blake2b(repr(parts).encode(), digest_size=16).hexdigest()
