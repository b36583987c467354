"""A table of text with bold cells and a caption, for a terminal, Markdown and LaTeX."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import get_console
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from core.names import in_markdown

# How LaTeX writes letters that it would take for commands.
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
        "[": "{[}",  # a bracket or a star at the start of a row would belong to the command before
        "*": "{*}",
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    }
)

NUMBER = re.compile(r"[\d,.]*( ?(MB|%))?")

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


def show(table: Table, console: Console | None = None) -> None:
    """Print a table, in several below each other if the terminal is narrow; columns of numbers stand right."""
    console = console or get_console()
    _show_columns(list(zip(table.heading, *table.rows, strict=True)), table.breaks, console)
    if table.caption:
        console.print(Text(table.caption.replace("Bold:", "Bold, with *:")))


def _show_columns(columns: Sequence[Sequence[str]], breaks: frozenset[int], console: Console) -> None:
    drawn = RichTable()
    for heading, *cells in columns:
        justify = "right" if all(map(NUMBER.fullmatch, cells)) else "left"
        drawn.add_column(Text(heading), justify=justify, overflow="fold", max_width=WIDEST)  # type: ignore[arg-type]
    for number, row in enumerate(zip(*(column[1:] for column in columns), strict=True)):
        if number in breaks:
            drawn.add_section()
        drawn.add_row(*(Text(f"{cell} *", "bold") if isinstance(cell, Bold) else Text(cell) for cell in row))
    wanted = console.measure(drawn, options=console.options.update_width(10_000)).maximum
    if wanted > console.width and len(columns) > 2:
        first, *others = columns
        half = (len(others) + 1) // 2
        for part in (others[:half], others[half:]):
            _show_columns([first, *part], breaks, console)
    else:
        console.print(drawn)


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


def in_latex(text: str) -> str:
    r"""Text that LaTeX sets as it is; a letter that its fonts may lack is written as its code.

    Example:
        >>> in_latex("50% of [a_b] 犬")
        '50\\% of {[}a\\_b] \\textbackslash{}u72ac'
    """
    known = text.encode("latin-1", "backslashreplace").decode("latin-1")
    return re.sub(r"-(?=-)", "-{}", known.translate(LATEX))  # two hyphens would become a dash
