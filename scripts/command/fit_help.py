"""The help page of `fit --help`: `fit_help.txt`, with a list of the project's networks and data sets.

Source files are parsed, not imported, so that the page needs neither torch nor Lightning.
"""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import shorten

from core.own_classes import PROJECT


def page() -> str:
    """Return the help page, 80 characters wide."""
    text = Path(__file__).with_suffix(".txt").read_text().rstrip()
    for title, folder, sign in (("Networks", "models", "num_classes"), ("Data sets", "datamodules", "read")):
        text = text.replace(f"\n{title}\n", "\n".join(["", title, *_classes(folder, sign), ""]))
    return text


def _classes(folder: str, sign: str) -> Iterator[str]:
    """Yield a line for each class of a folder's files that has an argument or method `sign`, or inherits it."""
    nodes: dict[str, ast.ClassDef] = {}
    for file in sorted((PROJECT / folder).glob("*.py")):
        with suppress(OSError, SyntaxError, ValueError):  # the file is being edited
            nodes |= {node.name: node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}

    def has_sign(name: str) -> bool:
        methods = [part for part in nodes[name].body if isinstance(part, ast.FunctionDef) and not part.decorator_list]
        arguments = {argument.arg for part in methods if part.name == "__init__" for argument in part.args.args}
        bases = {*map(ast.unparse, nodes[name].bases)} & nodes.keys() - {name}
        return sign in {*arguments, *(part.name for part in methods)} or any(map(has_sign, bases))

    for name, node in nodes.items():
        is_classifier = "LightningModule" in map(ast.unparse, node.bases)  # it wraps a network
        if has_sign(name) and not is_classifier and not name.startswith("_"):
            summary = re.split(r"[.;]\s", re.sub(r"\s+\([^()]*\)", "", f"{ast.get_docstring(node)} "))[0]
            yield f"  {name:<16}  {shorten(summary, 60, placeholder=' ...')}"
