"""Compare runs: how their settings and metrics differ, and whether a difference is more than chance.

    python scripts/compare.py RUN [RUN ...] [--figures METRIC ...] [--percent] [--html FILE] [--latex FILE] [--data...]

RUN is a run's folder, an experiment's folder, a glob pattern or a checkpoint. Runs that differ only in their seed and
fold are one group. The other groups are compared with the first: on the same test images, if checkpoints and data are
available, and over seeds or folds. Bold marks the best and what is not significantly worse. Exit status 1 if a run
could not be read, 2 if no run could.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence

from core.names import escape_name
from core.user_error import UserError
from scripts.command.boundary import TRUST, CommandParser, report_errors
from scripts.command.expansion import expand, to_path

FILES = {
    "html": "write a page with table, tests and learning curves",
    "csv": "write all metrics without rounding, a row for each group",
    "latex": "write the table with its caption for LaTeX with booktabs",
    "markdown": "write the table in Markdown",
}


def compare(options: Namespace, flags: Sequence[str]) -> bool:
    """Compare runs, print the comparison and write the files; return False if a run could not be read."""
    from core.durable_file import replace_file
    from scripts.command.output_file import check_output
    from scripts.comparison.comparison import compare_runs
    from scripts.comparison.paired import compare_groups, mark_best, predict_groups
    from scripts.comparison.runs import read_all
    from scripts.report.table import latex, markdown, show

    files = {kind: path for kind in FILES if (path := getattr(options, kind))}
    for kind, path in files.items():
        check_output(path, overwrite=True, flag=f"--{kind}")
    runs, problems = read_all(options.runs)
    if not runs:
        raise UserError(" ".join(problems))
    for problem in problems:
        print(f"error: {escape_name(problem)}", file=sys.stderr)
    comparison = compare_runs(runs, options.figures, options.percent)
    predictions, prediction_notes = ({}, []) if options.no_predict else predict_groups(comparison.groups, flags)
    findings, comparison_notes = compare_groups(comparison.groups, predictions)
    comparison = mark_best(comparison, predictions)
    notes = [*comparison.notes, *prediction_notes, *comparison_notes]
    for message in (*findings, *notes):
        print(escape_name(message))
    table = comparison.table
    show(table)
    texts = {"latex": latex(table), "markdown": markdown(table), "csv": comparison.as_csv()}
    for kind, path in files.items():
        if kind == "html":
            from scripts.comparison.comparison_page import write_comparison

            write_comparison(path, comparison, findings, [*(f"Left out: {problem}" for problem in problems), *notes])
        else:
            replace_file(path, texts[kind])
    return not problems


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error prints one message and exits with status 2."""
    parser = CommandParser(prog="scripts/compare.py", description=__doc__, parents=[TRUST])
    parser.add_argument(
        "runs", type=expand, nargs="+", metavar="RUN", help="a run, an experiment, a glob pattern or a checkpoint"
    )
    parser.add_argument(
        "--figures",
        nargs="+",
        default=(),
        metavar="METRIC",
        help="the table's columns: metrics of results.json, your own too, best/val/accuracy, parameters, seconds",
    )
    parser.add_argument("--percent", action="store_true", help="show metrics in [0, 1] in percent if higher is better")
    for kind, help_ in FILES.items():
        parser.add_argument(f"--{kind}", type=to_path, metavar="FILE", help=help_)
    parser.add_argument("--no-predict", action="store_true", help="predict nothing; compare only the runs' metrics")
    with report_errors():
        options, flags = parser.parse_known_args(args)
        is_complete = compare(options, flags)
    sys.exit(not is_complete)


if __name__ == "__main__":
    main()
