"""Audit a data set before training: unreadable files, stray files, duplicates, leakage between splits, label conflicts.

python scripts/audit.py [--config FILE] [--data.root FOLDER ...] [--json FILE] [--html FILE] [--splits FILE]

Exit status: 0 clean, 1 findings, 2 the data cannot be read.
"""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from core.names import escape_name
from core.user_error import UserError
from scripts.command.boundary import CommandParser, report_errors
from scripts.command.expansion import to_path

if TYPE_CHECKING:
    from scripts.data_quality.findings import Audit


def print_findings(audit: "Audit") -> None:
    """Print a table of the findings and one of the splits."""
    from scripts.report.table import Table, show

    print(audit.title)
    findings = [
        [finding.title, f"{finding.count:,}", "\n".join(map(escape_name, finding.examples))]
        for finding in audit.findings
    ]
    show(Table(["what", "found", "such as"], findings))
    rows, class_names = [], audit.listing.class_names
    for split, counts in audit.images_per_class.items():
        extremes = [f"{count:,} ({class_names[counts.index(count)]})" for count in (min(counts), max(counts))]
        rows.append([split, f"{audit.images[split]:,}", f"{sum(count > 0 for count in counts):,}", *extremes])
    show(Table(["split", "images", "classes", "fewest of a class", "most of a class"], rows))
    if audit.data.tests_on_validation:
        print("test is val: the labels of the test images are not public")


def audit(options: Namespace, flags: Sequence[str]) -> bool:
    """Audit the data set of the flags, print and write the findings, and return True if there is no problem."""
    from core.durable_file import replace_file
    from scripts.command.data_flags import build_data
    from scripts.command.output_file import check_output
    from scripts.data_quality.findings import Audit, write_page_of

    for kind in ("json", "html", "splits"):
        if path := getattr(options, kind):
            check_output(path, overwrite=True, flag=f"--{kind}")
    audit = Audit(build_data(flags))
    print_findings(audit)
    if options.json:
        replace_file(options.json, json.dumps(audit.as_json(), indent=2) + "\n")
    if options.html:
        write_page_of(audit, options.html)
    if options.splits:
        if audit.splits_problem:
            raise UserError(f"{options.splits}: {audit.splits_problem}")
        table = StringIO(newline="")
        csv.writer(table).writerows([("path", "class", "group", "split"), *audit.split_rows()])
        replace_file(options.splits, table.getvalue())
    return audit.is_clean


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; a user error is one message and exit status 2."""
    parser = CommandParser(prog="scripts/audit.py", description=__doc__)
    parser.add_argument("--json", type=to_path, metavar="FILE", help="write all findings as JSON")
    parser.add_argument("--html", type=to_path, metavar="FILE", help="write a page with all findings and their images")
    parser.add_argument("--splits", type=to_path, metavar="FILE", help="write the split of each image as CSV")
    with report_errors():
        options, flags = parser.parse_known_args(args)
        is_clean = audit(options, flags)
    sys.exit(not is_clean)


if __name__ == "__main__":
    main()
