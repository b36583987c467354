"""Compare runs: what differs in their settings, what has come of it, and whether that is more than luck.

    python scripts/compare.py RUN [RUN ...] [--html FILE] [--csv FILE] [--latex FILE] [--markdown FILE] [--data...]

RUN is a run's folder, an experiment's, a glob pattern or a checkpoint. Runs that are the same but for their seed are
one row. The others are compared with the first: on the same test images, if there are checkpoints and data, and over
seeds. Exit status 1 if a run could not be read, 2 if there is none.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from rich import get_console

from core.durable_file import replace_file
from core.names import escape_name
from core.user_error import UserError
from scripts.command.boundary import TRUST, mistakes_in_one_sentence
from scripts.command.expansion import expand, to_path
from scripts.command.silence import silence_libraries
from scripts.comparison.comparison import Comparison, compare_runs
from scripts.comparison.comparison_page import page_values
from scripts.comparison.paired import compare_groups
from scripts.comparison.runs import read_all
from scripts.report.page import write_page
from scripts.report.table import latex, markdown, show


def as_csv(comparison: Comparison) -> str:
    """A row for each group, with figures in full, the ends of their intervals, and the settings that differ."""
    records = comparison.records()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def compare(names: Sequence[str], files: dict[str, Path | None], predict: bool, flags: Sequence[str]) -> bool:
    """Compare runs, print what is found, and write what is asked for."""
    silence_libraries()
    for kind, path in files.items():
        if path and not path.parent.is_dir():
            raise UserError(f"--{kind} is {path}, but there is no folder {path.parent}; make it, or choose another.")
    runs, problems = read_all(names)
    if not runs:
        raise UserError(" ".join(problems))
    for problem in problems:
        print(f"error: {escape_name(problem)}", file=sys.stderr)
    comparison = compare_runs(runs)
    findings, notes = compare_groups(comparison.groups, predict, flags)
    notes = [*(f"Left out: {problem}" for problem in problems), *comparison.notes, *notes]
    show(comparison.table, get_console())
    for sentence in (*findings, *notes[len(problems) :]):
        print(escape_name(sentence))
    contents = {"csv": as_csv(comparison), "latex": latex(comparison.table), "markdown": markdown(comparison.table)}
    for kind, path in files.items():
        try:
            if kind == "html" and path:
                write_page(path, "comparison/comparison.html", **page_values(comparison, findings, notes))
            elif path:
                replace_file(path, contents[kind])
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror or error}; choose another file with --{kind}."
            ) from error
    return not problems


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[TRUST],
    )
    parser.add_argument(
        "runs", type=expand, nargs="+", metavar="RUN", help="a run, an experiment, a glob pattern or a checkpoint"
    )
    parser.add_argument("--html", type=to_path, metavar="FILE", help="write a page with table, tests, learning curves")
    parser.add_argument("--csv", type=to_path, metavar="FILE", help="write all figures in full, a row for each group")
    parser.add_argument("--latex", type=to_path, metavar="FILE", help="write the table for LaTeX with booktabs")
    parser.add_argument("--markdown", type=to_path, metavar="FILE", help="write the table in Markdown")
    parser.add_argument("--no-predict", action="store_true", help="test no network again; figures and seeds alone")
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        files = {kind: getattr(options, kind) for kind in ("html", "csv", "latex", "markdown")}
        whole = compare(options.runs, files, not options.no_predict, flags)
    sys.exit(not whole)


if __name__ == "__main__":
    main()
