"""A table of text with bold cells and a caption, for a terminal, Markdown and LaTeX."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from unicodedata import decomposition

from rich import get_console
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from core.names import in_markdown

# How LaTeX writes letters that it would take for commands.
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "±": r"$\pm$",
} | {letter: f"\\{letter}" for letter in "&%$#_{}"}

NUMBER = re.compile(r"[\d,.]*( ?(MB|%))?")

PADDING = 3  # letters that the frame of a column takes
WIDEST = 40  # letters in a line of a cell on a terminal; a longer cell takes several lines


class Bold(str):
    """A cell in bold type; a star on a terminal, whose output is often kept as plain text."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Cells of one line each."""

    heading: list[str]
    rows: list[list[str]]  # as many cells in each; the first names the row
    breaks: frozenset[int] = frozenset()  # the numbers of rows that begin another part
    caption: str = ""

    def turned(self) -> "Table":
        """The table with rows as columns, in one part."""
        heading, *rows = (list(column) for column in zip(self.heading, *self.rows, strict=True))
        return Table(heading, rows, caption=self.caption)

    def blocks(self, width: int) -> Iterator["Table"]:
        """The table in tables that fit a width, each with the first column."""
        columns = list(zip(self.heading, *self.rows, strict=True))
        first, *widths = (min(WIDEST, max(map(_width, column))) + PADDING for column in columns)
        block, used = [columns[0]], first
        for column, needed in zip(columns[1:], widths, strict=True):
            if len(block) > 1 and used + needed + 1 > width:
                yield self._of(block)
                block, used = [columns[0]], first
            block.append(column)
            used += needed
        yield self._of(block)

    def _of(self, columns: Sequence[Sequence[str]]) -> "Table":
        heading, *rows = map(list, zip(*columns, strict=True))
        return Table(heading, rows, self.breaks)


def show(table: Table, console: Console | None = None) -> None:
    """Print a table, in several below each other if the terminal is narrow; columns of numbers stand right."""
    console = console or get_console()
    for block in table.blocks(console.width):
        drawn = RichTable()
        for name, *cells in zip(block.heading, *block.rows, strict=True):
            justify: Literal["left", "right"] = "right" if all(map(NUMBER.fullmatch, cells)) else "left"
            drawn.add_column(Text(name), justify=justify, overflow="fold", max_width=WIDEST)
        for number, row in enumerate(block.rows):
            if number in block.breaks:
                drawn.add_section()
            drawn.add_row(*(Text(f"{cell} *", "bold") if isinstance(cell, Bold) else Text(cell) for cell in row))
        console.print(drawn)
    if table.caption:
        console.print(Text(table.caption.replace("Bold:", "Bold, with *:")))


def markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown."""
    rows = table.heading, *table.rows
    lines = [f"| {' | '.join(_written(cells, in_markdown, '**{}**'))} |\n" for cells in rows]
    caption = f"\n{in_markdown(table.caption)}\n" if table.caption else ""
    return "".join([lines[0], f"|{'---|' * len(table.heading)}\n", *lines[1:], caption])


def latex(table: Table) -> str:
    r"""Write a table with its caption in LaTeX, for a document that has `\usepackage{booktabs}`."""
    text = f"\\begin{{table}}\n\\centering\n\\caption{{{in_latex(table.caption)}}}\n"
    text += f"\\begin{{tabular}}{{{'l' * len(table.heading)}}}\n\\toprule\n"
    for number, cells in enumerate((table.heading, *table.rows), start=-1):
        text += "\\midrule\n" if number == 0 or number in table.breaks else ""
        text += " & ".join(_written(cells, in_latex, "\\textbf{{{}}}")) + " \\\\\n"
    return text + "\\bottomrule\n\\end{tabular}\n\\end{table}\n"


def _written(cells: Sequence[str], escape: Callable[[str], str], bold: str) -> list[str]:
    return [bold.format(escape(cell)) if isinstance(cell, Bold) else escape(cell) for cell in cells]


def _width(cell: str) -> int:
    return max(map(len, cell.split("\n"))) + 2 * isinstance(cell, Bold)


def in_latex(text: str) -> str:
    r"""Text that LaTeX sets as it is, in any of its usual encodings; a letter that it may lack is written as its code.

    Example:
        >>> in_latex("50% of [a_b]")
        '50\\% of {[}a\\_b]'
    """
    letters = []
    for letter in text:
        known = letter.isascii() or letter in "ßæøÆØ" or (letter <= "ÿ" and decomposition(letter)[:1].isalnum())
        letters.append(LATEX.get(letter, letter if known else f"U+{ord(letter):04X}"))
    # A bracket or a star at the start of a row would belong to the command before; two hyphens would become a dash.
    return re.sub(r"-(?=-)", "-{}", "".join(letters).replace("[", "{[}").replace("*", "{*}"))
