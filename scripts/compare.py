"""Compare runs: how their settings and figures differ, and whether a difference is more than luck.

    python scripts/compare.py RUN [RUN ...] [--html FILE] [--csv FILE] [--latex FILE] [--markdown FILE] [--data...]

RUN is a run's folder, an experiment's, a glob pattern or a checkpoint. Runs that differ in their seed alone are one
group. The others are compared with the first: on the same test images, if there are checkpoints and data, and over
seeds. Exit status 1 if a run could not be read, 2 if there is none.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from core.names import escape_name
from core.user_error import UserError
from scripts.command.boundary import TRUST, CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import expand, to_path


def compare(names: Sequence[str], files: dict[str, Path | None], predict: bool, flags: Sequence[str]) -> bool:
    """Compare runs, print the comparison, and write the files; False if a run could not be read."""
    from rich import get_console

    from core.durable_file import replace_file
    from scripts.command.output_file import check_output
    from scripts.comparison.comparison import compare_runs
    from scripts.comparison.comparison_page import page_values
    from scripts.comparison.paired import compare_groups
    from scripts.comparison.runs import read_all
    from scripts.report.page import write_page
    from scripts.report.table import latex, markdown, show

    for kind, path in files.items():
        if path:
            check_output(path, overwrite=True, flag=f"--{kind}")
    runs, problems = read_all(names)
    if not runs:
        raise UserError(" ".join(problems))
    for problem in problems:
        print(f"error: {escape_name(problem)}", file=sys.stderr)
    comparison = compare_runs(runs)
    findings, notes = compare_groups(comparison.groups, predict, flags)
    notes = [*comparison.notes, *notes]
    show(comparison.table, get_console())
    for sentence in (*findings, *notes):
        print(escape_name(sentence))
    notes = [*(f"Left out: {problem}" for problem in problems), *notes]
    tables = {"latex": latex(comparison.table), "markdown": markdown(comparison.table), "csv": comparison.as_csv()}
    for kind, path in files.items():
        if path and kind == "html":
            write_page(path, "comparison/comparison.html", **page_values(comparison, findings, notes))
        elif path:
            replace_file(path, tables[kind])
    return not problems


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/compare.py", description=__doc__, parents=[TRUST])
    parser.add_argument(
        "runs", type=expand, nargs="+", metavar="RUN", help="a run, an experiment, a glob pattern or a checkpoint"
    )
    for kind, help_ in (
        ("html", "write a page with table, tests and learning curves"),
        ("csv", "write all figures in full, a row for each group"),
        ("latex", "write the table for LaTeX with booktabs"),
        ("markdown", "write the table in Markdown"),
    ):
        parser.add_argument(f"--{kind}", type=to_path, metavar="FILE", help=help_)
    parser.add_argument("--no-predict", action="store_true", help="predict nothing; compare figures and seeds alone")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        files = {kind: getattr(options, kind) for kind in ("html", "csv", "latex", "markdown")}
        whole = compare(options.runs, files, not options.no_predict, flags)
    sys.exit(not whole)


if __name__ == "__main__":
    main()
