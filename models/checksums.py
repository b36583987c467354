"""Whether a file of `torch.save` still is what was written."""

import zipfile
from pathlib import Path


def damaged_part(path: str | Path) -> str | None:
    """Compare a file with the checksums in it, which `torch.save` writes and `torch.load` does not look at.

    Args:
        path: The file. One that has none, because it was written by an older release or torch was told to write none,
            or is no archive at all, is left to `torch.load`.

    Returns:
        The first part that is not what was written, or None.

    Raises:
        Exception: If its bytes make no archive, of whatever kind they lead to.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        has_checksums = any(part.CRC for part in archive.infolist())
        return archive.testzip() if has_checksums else None
