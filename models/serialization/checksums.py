"""Whether a file of `torch.save` still is what was written."""

import time
import zipfile
from pathlib import Path

TICK = 10**9  # nanoseconds within which a second change of a file may leave its time as it is, on any file system

_whole: set[tuple[int, ...]] = set()


def damaged_part(path: str | Path) -> str | None:
    """Compare a file with the checksums in it, which `torch.save` writes and `torch.load` does not look at.

    A file that was found whole is not read again by this process until it changes.
    """
    if not zipfile.is_zipfile(path):
        return None
    file = Path(path).stat()
    if (known := (file.st_dev, file.st_ino, file.st_size, file.st_ctime_ns)) in _whole:
        return None
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):  # which torch.save never does
            raise ValueError("it is compressed")
        if sum(part.file_size for part in parts) > file.st_size:
            raise ValueError("its parts are larger than the whole")
        has_checksums = any(part.CRC for part in parts)
        damaged = archive.testzip() if has_checksums else None
    if damaged is None and time.time_ns() - file.st_ctime_ns > TICK:
        _whole.add(known)
    return damaged
