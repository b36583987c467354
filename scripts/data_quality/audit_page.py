"""The page of an audit: its findings, with the pictures of pairs side by side."""

from functools import cache
from pathlib import Path

from markupsafe import Markup

from scripts.data_quality.findings import Audit
from scripts.report.page import embedded, write_page

MOST_PAIRS = 100  # pairs of each kind that are shown


def write_audit_page(path: Path, audit: Audit) -> None:
    """Write the page; it loads nothing from elsewhere."""

    @cache  # an image may be in several pairs
    def picture(place: int) -> Markup:
        return embedded(audit.listing.picture(place))

    counts = audit.images_per_class
    classes = zip(audit.listing.class_names, *counts.values(), strict=True)
    write_page(
        path,
        "data_quality/audit.html",
        title=audit.title,
        findings=audit.findings,
        most_pairs=MOST_PAIRS,
        picture=picture,
        splits=list(counts),
        classes=[[name, *(f"{number:,}" for number in numbers)] for name, *numbers in classes],
    )
