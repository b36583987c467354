"""Read untrusted JSON and YAML, and limit the depth and size of the data."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

MAX_DEPTH = 64  # levels of nesting
MAX_VALUES = 1_000_000
MAX_INTEGER = 2**1023  # larger ones cannot become a float


def check_plain(data: object) -> None:
    """Raise ValueError if data are nested too deeply, or hold too many values or too large an integer."""
    stack, count = [(data, 0)], 0
    while stack:
        node, depth = stack.pop()
        count += 1
        _check_limits(depth, count)
        if isinstance(node, Mapping):
            stack += ((part, depth + 1) for item in node.items() for part in item)
        elif isinstance(node, list | tuple):
            stack += ((part, depth + 1) for part in node)
        elif isinstance(node, int) and abs(node) > MAX_INTEGER:
            raise ValueError("it holds a number of more than 300 digits")


def _check_limits(depth: int, count: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if count > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")


@contextmanager
def _parse_errors(format_name: str) -> Iterator[None]:
    """Turn a parser's error into a ValueError that names the format."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"it is not {format_name}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from error


def read_json(file: Path) -> Any:
    """Read a JSON file; raises ValueError if it is not JSON or exceeds a limit."""
    with _parse_errors("JSON"):
        data = json.loads(file.read_text())
    check_plain(data)
    return data


def read_yaml(file: Path) -> Any:
    """Read a YAML file; raises ValueError if it is not YAML or exceeds a limit."""
    with _parse_errors("YAML"):
        return parse_yaml(file.read_text())


def parse_yaml(text: str) -> Any:
    """Parse YAML; raises ValueError if it is not YAML or exceeds a limit, also with its aliases written out."""
    with _parse_errors("YAML"):
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, 0, {})  # before merge keys are expanded, which could fill the memory
        data = loader.construct_document(node)
    check_plain(data)
    return data


def _count_values(node: yaml.Node, depth: int, counts: dict[yaml.Node, int]) -> int:
    """Return the number of values in a node; a node with an alias counts once for each use."""
    if node not in counts:
        _check_limits(depth, 0)  # ends the recursion if a node contains itself
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in children for child in pair]
        counts[node] = 1 + sum(_count_values(child, depth + 1, counts) for child in children)
        _check_limits(depth, counts[node])
    return counts[node]
