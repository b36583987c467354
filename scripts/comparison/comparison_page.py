"""The page of a comparison, part by part."""

from collections.abc import Iterator, Sequence

from datamodules.decoding.names import readable
from scripts.comparison.comparison import ABSENT, Comparison, Group
from scripts.report import chart
from scripts.report.page import escaped, section, table
from scripts.uncertainty.intervals import CONFIDENCE

STYLE = (
    chart.STYLE
    + """
h2 { margin-top: 2.5rem; } h3 { margin: 1.5rem 0 .5rem; font-size: 1rem; }
.headline { font-size: 1.15rem; } .note { border-left: 3px solid var(--across); padding-left: .75rem; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.wide td { min-width: 6rem; max-width: 26rem; overflow-wrap: break-word; } .columns .number { text-align: left; }
.wide tr > :first-child { position: sticky; left: 0; min-width: 8rem; background: var(--paper); font-weight: 600; }
@media (max-width: 40rem) { .wide tr > :first-child { max-width: 8rem; font-size: .85rem; overflow-wrap: anywhere; } }
"""
)

LONGEST = 60
"""Letters of a cell that are shown; the configuration of a run has the rest."""


def page_parts(comparison: Comparison, findings: Sequence[str], notes: Sequence[str]) -> Iterator[str]:
    """The page, part by part.

    Args:
        comparison: What to show.
        findings: What the tests have found, in sentences.
        notes: What is to be known besides, likewise.
    """
    yield from (f'<p class="headline">{escaped(finding)}</p>' for finding in findings)
    yield from (f'<p class="note">{escaped(note)}</p>' for note in notes)
    said = f"Figures are means over the runs, ± the half of their {CONFIDENCE:.0%} t-interval. "
    said += "test/ is of the best checkpoint, val/ and train/ of the last epoch."
    facts = comparison.table
    shown = table([[_shortened(cell) for cell in row] for row in facts.rows], facts.heading)
    kind = "columns" if facts.heading[1:] == [group.name for group in comparison.groups] else "rows"
    yield section("Settings that differ, and figures", f'<div class="{kind}">{shown}</div>', note=said)
    drawn = [
        curves_over_each_other(comparison.groups, figure, split)
        for figure in ("loss", "accuracy")
        for split in ("train", "val")
    ]
    if any(drawn):
        several = any(len(group.counted) > 1 for group in comparison.groups)
        said = "Means over the runs that have got as far, and the range of these, shaded." if several else ""
        yield section("Learning curves", f'<div class="charts">{"".join(drawn)}</div>', note=said)
    runs = table(_runs(comparison), ("", "seed", "test/accuracy", "run"))
    yield section("Runs", f'<div class="columns">{runs}</div>')


def _shortened(cell: str) -> str:
    return cell if len(cell) <= LONGEST else f"{cell[: LONGEST - 1]}…"


def _runs(comparison: Comparison) -> Iterator[list[str]]:
    for group in comparison.groups:
        for run in group.runs:
            accuracy = run.figures.get("test/accuracy")
            shown = run.state or (ABSENT if accuracy is None else f"{accuracy:.4f}")
            yield [group.name, str(run.seed), shown, readable(str(run.path))]


def curves_over_each_other(groups: Sequence[Group], figure: str, split: str) -> str:
    """Draw a figure of each group by epoch, with the range over its runs.

    Args:
        groups: The groups.
        figure: `loss` or `accuracy`.
        split: `train` or `val`.

    Returns:
        HTML; empty if no run has it.
    """
    curves = {group.letter: curve for group in groups if (curve := group.curve(figure, split))}
    if not curves:
        return ""
    means = {name: [(epoch, mean) for epoch, mean, _, _ in curve] for name, curve in curves.items()}
    bands = {
        name: [(epoch, low, high) for epoch, _, low, high in curve]
        for name, curve in curves.items()
        if any(low < high for _, _, low, high in curve)
    }
    return chart.line_chart(means, "epoch", f"{split}/{figure}", bands)
