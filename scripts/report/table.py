"""Tables of text with bold cells and a caption, for the terminal, Markdown and LaTeX."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import get_console
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from core.names import in_markdown

# Characters with a meaning in LaTeX, escaped.
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': "''",
        "`": r"\textasciigrave{}",
        "±": r"$\pm$",
        "[": "{[}",  # a bracket or a star at the start of a row would be an argument of the previous row's `\\`
        "*": "{*}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)

NUMBER = re.compile(r"[\d,.]*( ?(MB|%))?")

WIDEST = 40  # characters per line of a cell in the terminal; a longer cell takes several lines


class Bold(str):
    """A bold cell; the terminal adds a star, because its output is often kept as plain text."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """A heading and rows of cells, each of one line."""

    heading: list[str]
    rows: list[list[str]]  # each as long as the heading; the first cell names the row
    breaks: frozenset[int] = frozenset()  # indices of the rows that begin a new section
    caption: str = ""

    def turned(self) -> "Table":
        """Return the transposed table, without sections."""
        heading, *rows = (list(column) for column in zip(self.heading, *self.rows, strict=True))
        return Table(heading, rows, caption=self.caption)


def show(table: Table, console: Console | None = None) -> None:
    """Print a table, split into several below each other if the terminal is narrow; columns of numbers align right."""
    console = console or get_console()
    _show_columns(list(zip(table.heading, *table.rows, strict=True)), table.breaks, console)
    if table.caption:
        console.print(Text(table.caption.replace("Bold:", "Bold, with *:")))


def _show_columns(columns: Sequence[Sequence[str]], breaks: frozenset[int], console: Console) -> None:
    table = RichTable()
    for heading, *cells in columns:
        justify = "right" if all(map(NUMBER.fullmatch, cells)) else "left"
        table.add_column(Text(heading), justify=justify, overflow="fold", max_width=WIDEST)  # type: ignore[arg-type]
    for number, row in enumerate(zip(*(column[1:] for column in columns), strict=True)):
        if number in breaks:
            table.add_section()
        table.add_row(*(Text(f"{cell} *", "bold") if isinstance(cell, Bold) else Text(cell) for cell in row))
    needed_width = console.measure(table, options=console.options.update_width(10_000)).maximum
    if needed_width <= console.width or len(columns) <= 2:
        console.print(table)
        return
    names, *columns = columns
    half = (len(columns) + 1) // 2
    for part in (columns[:half], columns[half:]):
        _show_columns([names, *part], breaks, console)


def markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown."""
    rows = table.heading, *table.rows
    lines = [f"| {' | '.join(_escaped(cells, in_markdown, '**{}**'))} |\n" for cells in rows]
    caption = f"\n{in_markdown(table.caption)}\n" if table.caption else ""
    return "".join([lines[0], f"|{'---|' * len(table.heading)}\n", *lines[1:], caption])


def latex(table: Table) -> str:
    r"""Return a table with its caption in LaTeX, for a document with `\usepackage{booktabs}`."""
    text = f"\\begin{{table}}\n\\centering\n\\caption{{{in_latex(table.caption)}}}\n"
    text += f"\\begin{{tabular}}{{{'l' * len(table.heading)}}}\n\\toprule\n"
    for number, cells in enumerate((table.heading, *table.rows), start=-1):
        text += "\\midrule\n" if number == 0 or number in table.breaks else ""
        text += " & ".join(_escaped(cells, in_latex, "\\textbf{{{}}}")) + " \\\\\n"
    return text + "\\bottomrule\n\\end{tabular}\n\\end{table}\n"


def _escaped(cells: Sequence[str], escape: Callable[[str], str], bold: str) -> list[str]:
    return [bold.format(escape(cell)) if isinstance(cell, Bold) else escape(cell) for cell in cells]


def in_latex(text: str) -> str:
    r"""Escape a text for LaTeX; characters outside Latin-1, which its fonts may lack, become their code.

    Example:
        >>> in_latex("50% of [a_b] 犬")
        '50\\% of {[}a\\_b] \\textbackslash{}u72ac'
    """
    latin = text.encode("latin-1", "backslashreplace").decode("latin-1")
    return re.sub(r"-(?=-)", "-{}", latin.translate(LATEX))  # two hyphens would become a dash
