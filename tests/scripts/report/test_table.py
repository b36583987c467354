import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from scripts.report.table import Bold, Table, in_latex, latex, markdown, show

SOME = Table(["", "A", "B"], [["x", "1", "2"], ["y", "3", "4"], ["z", "5", "6"]], frozenset({0, 2}))

HOSTILE = '50% & $a_b$ #1 {x} ~ ^ \\ <b> |"`[*]--'


def shown(table: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show(table, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_can_be_turned() -> None:
    turned = SOME.turned()
    assert turned.heading == ["", "x", "y", "z"]
    assert turned.rows == [["A", "1", "3", "5"], ["B", "2", "4", "6"]]
    assert turned.turned().rows == SOME.rows


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_a_terminal_sees_every_cell_within_its_width(width: int) -> None:
    table = Table(["", *(f"column {n}" for n in range(9))], [["row", *(f"cell {n}" for n in range(9))]])
    lines = shown(table, width)
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert all(f"column {n}" in text and f"cell {n}" in text for n in range(9))


def test_a_terminal_takes_no_name_for_markup_and_folds_long_cells() -> None:
    text = "\n".join(shown(Table(["", "[red]A[/red]"], [["x", "[bold]1"], ["y", "n" * 100]]), 80))
    assert "[red]A[/red]" in text
    assert "[bold]1" in text
    assert text.count("n") == 100


def test_columns_of_numbers_stand_right() -> None:
    text = "\n".join(shown(Table(["", "size", "±"], [["x", "1,352 MB", "1 ± 1"], ["y", "2 MB", "2"]]), 80))
    assert "│     2 MB │ 2     │" in text


def test_parts_are_told_apart() -> None:
    lines = shown(SOME, 80)
    assert len(lines) == 8  # three of the frame, one of the heading, three rows and the line between two parts
    assert latex(SOME).count(r"\midrule") == 2


def test_markdown_keeps_its_columns_whatever_the_names() -> None:
    lines = markdown(Table(["", HOSTILE], [["a|b", "<script>"], ["_x_ a_b", "https://x"]])).splitlines()
    assert lines[1] == "|---|---|"
    for line in lines:
        unescaped = line.replace("\\\\", "").replace("\\|", "")
        assert unescaped.count("|") == 3
    text = "\n".join(lines)
    assert "<" not in text
    assert r"a\|b" in text
    assert r"\_x\_ a_b" in text
    assert "https://" not in text


def test_latex_sets_every_letter_as_it_is() -> None:
    assert in_latex(HOSTILE) == (
        r"50\% \& \$a\_b\$ \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}b\textgreater{} "
        r"\textbar{}''\textasciigrave{}{[}{*}]-{}-"
    )
    assert in_latex("0.98 ± 0.01") == r"0.98 $\pm$ 0.01"
    assert in_latex("Käse, ß, 犬, ¿") == r"Käse, ß, \textbackslash{}u72ac, ¿"


def test_latex_has_as_many_cells_in_each_row_and_no_option_by_mistake() -> None:
    text = latex(Table(["", "A & B"], [["[x]", "1"], ["*", "[2]"]], caption="5% of x_y"))
    assert text.startswith("\\begin{table}\n\\centering\n\\caption{5\\% of x\\_y}\n\\begin{tabular}{ll}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n\\end{table}\n")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    for row in rows:
        assert row.replace(r"\&", "").count("&") == 1
        assert not row.startswith(("[", "*"))


def test_bold_cells_and_the_caption_are_there_in_every_form() -> None:
    table = Table(["", "x"], [["a", Bold("0.9 ± 0.1")], ["b", "0.8"]], caption="Bold: the best of _x_.")
    for either in (table, table.turned()):
        text = "\n".join(shown(either, 80))
        assert "│ 0.9 ± 0.1 * │" in text
        assert text.endswith("Bold, with *: the best of _x_.")
        assert "0.8 *" not in text
    assert "| a | **0.9 ± 0.1** |\n| b | 0.8 |\n\nBold: the best of \\_x\\_.\n" in markdown(table)
    assert "a & \\textbf{0.9 $\\pm$ 0.1} \\\\\nb & 0.8 " in latex(table)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_star_takes_its_place(width: int) -> None:
    table = Table(["", *(f"c{n}" for n in range(9))], [["row", *(Bold(f"cell {n}") for n in range(9))]])
    lines = shown(table, width)
    assert all(len(line) <= width for line in lines)
    assert all(f"cell {n} *" in "\n".join(lines) for n in range(9))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
def test_latex_compiles_it_without_a_complaint(tmp_path: Path) -> None:
    names = ["", HOSTILE, "Käse ß ¿ 犬 … ø", "test/f1_macro (%)"]
    rows = [[HOSTILE, "[x]", Bold("98.10 ± 0.21"), Bold(HOSTILE)], ["*", "-", "[y]", "lr=0.1"]]
    (tmp_path / "table.tex").write_text(latex(Table(names, rows, frozenset({1}), f"Mean ± half; {HOSTILE}")))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{table}\n\\end{document}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.search(r"Missing character|undefined", done.stdout)
    assert (tmp_path / "paper.pdf").stat().st_size
