"""A file that is there whole or not at all."""

from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Where to; a file that is there is replaced.
        content: What; text is written in UTF-8.

    Raises:
        OSError: If it cannot be written; a file that was there before is kept.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
