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
        ValueError: If reading it would take more memory than it takes on the disk.
        Exception: If its bytes make no archive, of whatever kind they lead to.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):  # which torch.save never does
            raise ValueError("it is compressed")
        if sum(part.file_size for part in parts) > Path(path).stat().st_size:
            raise ValueError("its parts are larger than the whole")
        has_checksums = any(part.CRC for part in parts)
        return archive.testzip() if has_checksums else None
