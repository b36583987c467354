"""The page of `fit --help`: `fit_help.txt`, with the defaults and texts of signatures and docstrings.

Sources are read, not imported: it needs neither torch nor Lightning.
"""

import ast
import re
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill

from core.own_classes import PROJECT, own_classes

# The classes at the top of a folder that are listed, by the name of an argument or of a method.
LISTS = {"Networks": ("models", "num_classes"), "Data sets": ("datamodules", "read()")}


def page() -> str:
    """The whole page, 80 to 120 characters wide."""
    lines = []
    owners = {"model": "models.classifier.Classifier"}  # by a flag's beginning, the class whose argument it is
    for line in Path(__file__).with_suffix(".txt").read_text().splitlines():
        if flag := re.fullmatch(r"  --((?:([\w.]+)\.)?(\w+\+?))(?: (\S+))? *(.*)", line):
            default, text = _read(owners.get(flag[2] or "", "")).get(flag[3], ("null", ""))
            for path in own_classes().get(flag[4], ()):
                owners[flag[1]], text = path, text or _read(path)[""][1]
            line = _entry(f"--{flag[1]} {flag[4] or default}", flag[5] or text, 28, 2)
        lines.append(line)
        folder, sign = LISTS.get(line, ("", ""))
        for path in (path for paths in own_classes().values() for path in paths):
            top = re.fullmatch(rf"{folder}\.\w+\.([^\W_]\w*)", path)
            if top and sign in (found := _read(path)) and "LightningModule" not in found:
                lines.append(_entry(top[1], found[""][1], 16, 1))
    return "\n".join(lines)


def _entry(name: str, text: str, width: int, lines: int) -> str:
    # A name, and of a text the first part, without asides.
    columns, start = min(120, max(80, get_terminal_size().columns)), f"  {name:<{width}}  "
    text = " ".join(re.split(r"[.;]\s", re.sub(r"\s+\([^()]*\)", "", f"{text} "))[0].split())
    return fill(start + text, columns, subsequent_indent=" " * (width + 4), max_lines=lines, placeholder=" ...")


@cache
def _read(path: str) -> dict[str, tuple[str, str]]:
    # The default and text of each argument of a class or a base; "" is itself. Bases and methods are keys too.
    *module, name = path.split(".")
    found, nodes = {"": ("", "")}, list[ast.stmt]()
    with suppress(OSError, SyntaxError, ValueError):  # somebody is at work on it
        nodes = ast.parse(PROJECT.joinpath(*module).with_suffix(".py").read_text()).body
    for node in (node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name):
        for base in map(ast.unparse, node.bases):
            for own in own_classes().get(base, ()) if base != name else ():
                found |= _read(own)
            found[base] = "", ""
        found[""] = "", ast.get_docstring(node) or ""
        texts = dict(re.findall(r"^ {4}(\w+): (.+(?:\n {5,}.*)*)", found[""][1], re.MULTILINE))
        methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        found |= {f"{part.name}()": ("", "") for part in methods if not part.decorator_list}
        for given in (part.args for part in methods if part.name == "__init__"):
            for argument, value in zip_longest(reversed(given.args), reversed(given.defaults)):
                default = value.args[0] if isinstance(value, ast.Call) else value
                shown = ast.unparse(default).strip("'") if default else ""
                shown = {"None": "null", "True": "true", "False": "false", "()": "[]"}.get(shown, shown)
                found[argument.arg] = shown, texts.get(argument.arg, "")
    return found
