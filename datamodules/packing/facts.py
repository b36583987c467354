"""The file that says what is in the folder of a pack or of features, and that the folder is whole."""

import json
from collections.abc import Collection, Mapping
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

from core.plain_data import read_json

FACTS = "facts.json"

HEADER_BYTES = 128  # what precedes the values in a file of NumPy, unless the shape takes more than a line


def write_facts(folder: Path, facts: Mapping[str, Any], large: Collection[str]) -> None:
    """Write the facts and a digest of the folder; of `large` arrays, whose rows have checksums, only of the header."""
    (folder / FACTS).write_text(json.dumps({**facts, "digest": _digest(folder, facts, large)}, indent=2))


def read_facts(folder: Path) -> dict[str, Any]:
    """Read the facts of a folder, of whatever version."""
    facts: dict[str, Any] = read_json(folder / FACTS)
    return facts


def read_checked_facts(folder: Path, version: int, large: Collection[str]) -> dict[str, Any]:
    """Read the facts of a folder of this version that holds what was written; a ValueError says why it does not."""
    facts = read_facts(folder)
    if facts["version"] != version:
        raise ValueError(f"it was written by version {facts['version']}, this is {version}")
    written = {name: fact for name, fact in facts.items() if name != "digest"}
    if facts["digest"] != _digest(folder, written, large):
        raise ValueError("its content is not what was written")
    return facts


def _digest(folder: Path, facts: Mapping[str, Any], large: Collection[str]) -> str:
    digest = blake2b(json.dumps(facts).encode(), digest_size=16)
    for path in sorted(chain(folder.glob("*.npy"), folder.glob("*.parquet"))):
        with path.open("rb") as file:
            digest.update(file.read(HEADER_BYTES if path.stem in large else -1))
    return digest.hexdigest()
