"""Plain data in files from anybody: JSON, YAML, and the facts beside the weights in a checkpoint."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

# The most levels and values, and the largest whole number, that are accepted.
DEEPEST, MOST, LARGEST = 64, 1_000_000, 2**1023


def check_plain(data: object) -> None:
    """Check that data can be walked through, printed and computed with."""
    left, count = [(data, 0)], 0
    while left:
        node, depth = left.pop()
        count += 1
        _check_extent(depth, count)
        if isinstance(node, Mapping):
            left += ((part, depth + 1) for item in node.items() for part in item)
        elif isinstance(node, list | tuple):
            left += ((part, depth + 1) for part in node)
        elif isinstance(node, int) and abs(node) > LARGEST:
            raise ValueError("it holds a number of more than 300 digits")


def _check_extent(depth: int, count: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if count > MOST:
        raise ValueError(f"it holds more than {MOST:,} values")


@contextmanager
def _named(format_: str) -> Iterator[None]:
    """Name the format in errors that are raised inside the block."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"it is not {format_}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from error


def read_json(file: Path) -> Any:
    """Read a JSON file."""
    with _named("JSON"):
        data = json.loads(file.read_text())
    check_plain(data)
    return data


def read_yaml(file: Path) -> Any:
    """Read a YAML file, as `parse_yaml` reads its text."""
    with _named("YAML"):
        return parse_yaml(file.read_text())


def parse_yaml(text: str) -> Any:
    """Read YAML; an alias counts as often as it is used."""
    with _named("YAML"):
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _expanded(node, 0, {})
        data = loader.construct_document(node)
    check_plain(data)
    return data


def _expanded(node: yaml.Node, depth: int, known: dict[yaml.Node, int]) -> int:
    """How many values a node would hold if its aliases were written out, as merging them does."""
    if node not in known:
        _check_extent(depth, 0)  # first, for a node that refers to itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        count = 1 + sum(_expanded(part, depth + 1, known) for part in parts)
        _check_extent(depth, count)
        known[node] = count
    return known[node]
