"""Audit a data set before training: unreadable files, stray files, duplicates, leakage between splits, label conflicts.

python scripts/audit.py [--config FILE] [--data.root FOLDER ...] [--json FILE] [--html FILE] [--splits FILE]

Exit status: 0 clean, 1 findings, 2 the data cannot be read.
"""

import csv
import json
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from core.names import escape_name
from core.user_error import UserError
from scripts.command.boundary import CommandParser, mistakes_in_one_sentence
from scripts.command.expansion import to_path

if TYPE_CHECKING:
    from scripts.data_quality.findings import Audit

MOST_CLASSES = 20  # with more classes, the table has a row for each split instead of each class


def print_findings(audit: "Audit") -> None:
    """Print the findings, and the images of each class."""
    from scripts.report.table import Table, show

    print(audit.title)
    findings = [[each.title, f"{each.count:,}", "\n".join(map(escape_name, each.examples))] for each in audit.findings]
    show(Table(["what", "found", "such as"], findings))
    heading, *rows = class_table(audit.listing.class_names, audit.images_per_class, audit.images)
    show(Table(heading, rows, frozenset({len(rows) - 1 if rows[-1][0] == "all" else 0})))
    if audit.data.tests_on_validation:
        print("test is val: labels of others are not public")


def class_table(
    names: Sequence[str], images_per_class: dict[str, list[int]], images: dict[str, int]
) -> list[list[str]]:
    """Heading and rows: images of each class by split, or the range over the classes where there are many."""
    if len(names) <= MOST_CLASSES:
        rows = [
            [name, *(f"{number:,}" for number in numbers)]
            for name, *numbers in zip(names, *images_per_class.values(), strict=True)
        ]
        return [["class", *images_per_class], *rows, ["all", *(f"{of:,}" for of in images.values())]]
    table = [["split", "images", "classes", "fewest", "median", "most", "smallest", "largest"]]
    for split, numbers in images_per_class.items():
        fewest, most = min(numbers), max(numbers)
        figures = (images[split], sum(map(bool, numbers)), fewest, int(median(numbers)), most)
        ends = [names[numbers.index(end)] if fewest < most else "" for end in (fewest, most)]
        table.append([split, *(f"{figure:,}" for figure in figures), *ends])
    return table


def audit(flags: Sequence[str], json_file: Path | None, html_file: Path | None, splits_file: Path | None) -> bool:
    """Audit the data set that the flags name, print and write the findings; True if there is no problem."""
    from core.durable_file import replace_file
    from scripts.command.data_flags import build_data
    from scripts.command.output_file import check_output
    from scripts.data_quality.audit_page import write_audit_page
    from scripts.data_quality.findings import Audit

    for path, flag in ((json_file, "--json"), (html_file, "--html"), (splits_file, "--splits")):
        if path:
            check_output(path, overwrite=True, flag=flag)
    audit = Audit(build_data(flags))
    print_findings(audit)
    if json_file:
        replace_file(json_file, json.dumps(audit.as_json(), indent=2) + "\n")
        print(json_file)
    if html_file:
        write_audit_page(html_file, audit)
        print(html_file)
    if splits_file:
        if audit.splits_problem:
            raise UserError(f"{splits_file}: {audit.splits_problem}")
        table = StringIO(newline="")
        csv.writer(table).writerows([("path", "class", "group", "split"), *audit.split_rows()])
        replace_file(splits_file, table.getvalue())
        print(splits_file)
    return audit.is_clean


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one sentence and exit status 2."""
    parser = CommandParser(prog="scripts/audit.py", description=__doc__)
    parser.add_argument("--json", type=to_path, metavar="FILE", help="write everything found")
    parser.add_argument("--html", type=to_path, metavar="FILE", help="write a page with the pairs found")
    parser.add_argument(
        "--splits", type=to_path, metavar="FILE", help="write path, class, group and split of each image"
    )
    with mistakes_in_one_sentence():
        options, flags = parser.parse_known_args(args)
        is_clean = audit(flags, options.json, options.html, options.splits)
    sys.exit(not is_clean)


if __name__ == "__main__":
    main()
