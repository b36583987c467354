"""A table of text, as it is written on a terminal, in Markdown and in LaTeX."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from unicodedata import decomposition

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from core.names import in_markdown

# What letters that mean something to LaTeX are written as.
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

PADDING = 3  # columns of a terminal that a column takes besides its letters

WIDEST = 40  # letters in a line of a cell on a terminal; what is longer takes several


@dataclass(frozen=True)
class Table:
    """Cells of one line each.

    Args:
        heading: Names of the columns.
        rows: As many cells in each; the first says what the row is.
        breaks: The numbers of rows that begin another part.
    """

    heading: list[str]
    rows: list[list[str]]
    breaks: frozenset[int] = frozenset()

    def turned(self) -> "Table":
        """Rows for columns; parts are no longer told apart."""
        heading, *rows = (list(column) for column in zip(self.heading, *self.rows, strict=True))
        return Table(heading, rows)

    def blocks(self, width: int) -> Iterator["Table"]:
        """The table in parts that are no wider, each with the first column."""
        lines = [self.heading, *self.rows]
        widths = [min(WIDEST, max(map(len, column))) + PADDING for column in zip(*lines, strict=True)]
        places: list[int] = []
        for place in range(1, len(widths)):
            if places and widths[0] + sum(widths[other] for other in (*places, place)) + 1 > width:
                yield self._columns(places)
                places = []
            places.append(place)
        if places:
            yield self._columns(places)

    def _columns(self, places: list[int]) -> "Table":
        heading, *rows = ([line[0], *(line[place] for place in places)] for line in (self.heading, *self.rows))
        return Table(heading, rows, self.breaks)


def show(table: Table, console: Console) -> None:
    """Write a table on a terminal, in as many parts below each other as its width asks for."""
    for block in table.blocks(console.width):
        drawn = RichTable()
        for name in block.heading:
            drawn.add_column(Text(name), overflow="fold", max_width=WIDEST)
        for number, row in enumerate(block.rows):
            if number in block.breaks:
                drawn.add_section()
            drawn.add_row(*map(Text, row))
        console.print(drawn)


def markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown."""

    def line(cells: list[str]) -> str:
        return f"| {' | '.join(map(in_markdown, cells))} |"

    return "\n".join([line(table.heading), f"|{'---|' * len(table.heading)}", *map(line, table.rows)]) + "\n"


def latex(table: Table) -> str:
    r"""Write a table in LaTeX, for a document that has `\usepackage{booktabs}`."""

    def line(cells: list[str]) -> str:
        return f"{' & '.join(map(in_latex, cells))} \\\\"

    lines = [rf"\begin{{tabular}}{{{'l' * len(table.heading)}}}", r"\toprule", line(table.heading), r"\midrule"]
    for number, row in enumerate(table.rows):
        lines += [r"\midrule"] if number and number in table.breaks else []
        lines.append(line(row))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def in_latex(text: str) -> str:
    r"""Text that LaTeX sets as it is, in any of its usual encodings; letters that it may not have, as their code.

    Example:
        >>> in_latex("50% of [a_b]")
        '50\\% of {[}a\\_b]'
    """
    letters = []
    for letter in text:
        known = letter.isascii() or letter in "ßæøÆØ" or (letter <= "ÿ" and decomposition(letter)[:1].isalnum())
        letters.append(LATEX.get(letter, letter if known else f"U+{ord(letter):04X}"))
    # A bracket or a star that begins a row would belong to the command before; hyphens in a row become a dash.
    plain = "".join(letters).replace("[", "{[}").replace("*", "{*}")
    return re.sub(r"-(?=-)", "-{}", plain)
