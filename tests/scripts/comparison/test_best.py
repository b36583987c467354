from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts.comparison.best import mark_best
from scripts.comparison.comparison import Comparison
from scripts.comparison.groups import Group
from scripts.comparison.runs import Run
from scripts.inference.predictions import Predictions
from scripts.report.table import Bold
from tests.scripts.comparison.test_paired import folds, predictions


def with_figure(name: str, *values: float, figure: str = "test/accuracy", **settings: str) -> Group:
    return Group(name, [Run(Path(name), "x", seed, settings, metrics={figure: v}) for seed, v in enumerate(values)])


def bold(*groups: Group, figure: str = "test/accuracy", found: Mapping[str, Predictions] | None = None) -> set[str]:
    marked = mark_best(Comparison([*groups], [], selected=(figure,)), found or {})
    rows = {name: row for name, *row in marked.table.turned().rows}
    of_table = {group.name for group, cell in zip(groups, rows.get(figure, []), strict=True) if isinstance(cell, Bold)}
    assert of_table == {name for name, is_bold in marked.bold.get(figure, {}).items() if is_bold}
    return of_table


BEST, AS_GOOD, WORSE = (0.90, 0.91, 0.92), (0.89, 0.90, 0.92), (0.50, 0.51, 0.52)


def test_the_best_and_what_is_not_significantly_worse_are_bold() -> None:
    groups = with_figure("worse", *WORSE), with_figure("best", *BEST), with_figure("as good", *AS_GOOD)
    assert bold(*groups) == {"best", "as good"}
    assert bold(
        *(with_figure(each.name, *each.values("test/accuracy"), figure="val/loss") for each in groups),
        figure="val/loss",
    ) == {"worse"}
    marked = mark_best(Comparison([*groups], []), {})
    assert marked.bold_caption == (
        "Bold: the best, and what is not significantly worse at the 5% level (Bonferroni) by Welch's t-test over "
        "seeds. What cannot be tested is not bold."
    )
    assert marked.bold_caption in marked.table.caption


def test_p_values_are_adjusted_for_the_number_of_comparisons() -> None:
    pair = with_figure("best", 0.53, 0.54), with_figure("other", 0.50, 0.51, 0.52)  # p = 0.049
    assert bold(*pair) == {"best"}
    assert bold(*pair, with_figure("third", 0.10, 0.11, 0.12)) == {"best", "other"}


def test_networks_are_compared_on_the_same_images_for_want_of_seeds() -> None:
    groups = with_figure("best", 0.95), with_figure("as good", 0.94), with_figure("worse", 0.8)
    found = {"best": predictions("a" * 95 + "b" * 5), "as good": predictions("b" + "a" * 94 + "b" * 5)}
    found["worse"] = predictions("a" * 80 + "b" * 20)
    assert bold(*groups, found=found) == {"best", "as good"}
    assert "by McNemar's test over the same images" in mark_best(Comparison([*groups], []), found).bold_caption
    several = with_figure("best", *BEST), with_figure("as good", *AS_GOOD), with_figure("worse", *WORSE)
    found["worse"] = found["best"]
    assert bold(*several, found=found) == {"best", "as good"}, "means over seeds are not judged by one network of each"


def test_a_network_that_is_better_on_the_images_than_the_best_group_is_not_worse() -> None:
    groups = with_figure("best", 0.9, 0.9), with_figure("other", 0.8)
    found = {"best": predictions("a" * 70 + "b" * 30), "other": predictions("a" * 100)}
    assert bold(*groups, found=found) == {"best", "other"}


def test_what_cannot_be_tested_is_not_bold() -> None:
    assert bold(with_figure("best", *BEST), with_figure("single", 0.9), with_figure("as good", *AS_GOOD)) == {
        "best",
        "as good",
    }
    assert bold(with_figure("one", 0.9), with_figure("other", 0.8)) == set()
    assert mark_best(Comparison([with_figure("one", 0.9), with_figure("other", 0.8)], []), {}).bold_caption == ""
    assert bold(with_figure("one", *BEST), with_figure("other", *WORSE, figure="test/loss")) == set()
    assert mark_best(Comparison([with_figure("alone", *BEST)], []), {}).bold_caption == ""


def test_figures_of_other_images_are_not_compared() -> None:
    other_test = (
        with_figure("a", *BEST, **{"data.test_size": "0.1"}),
        with_figure("b", *WORSE, **{"data.test_size": "0.2"}),
    )
    assert bold(*other_test) == set()
    found = {"a": predictions("a" * 9), "b": predictions("a" * 8)}
    assert bold(with_figure("a", *BEST), with_figure("b", *WORSE), found=found) == set(), "predictions show it"
    figure = "best/val/accuracy"
    other_validation = [
        with_figure(name, *values, figure=figure, **{"data.val_size": size})
        for name, values, size in (("a", BEST, "0.1"), ("b", WORSE, "0.2"))
    ]
    assert bold(*other_validation, figure=figure) == set()


@pytest.mark.parametrize("figure", ["train/accuracy", "seconds", "test/odd"])
def test_figures_that_make_nothing_better_are_not_bold(figure: str) -> None:
    assert bold(with_figure("a", *BEST, figure=figure), with_figure("b", *WORSE, figure=figure), figure=figure) == set()


def test_figures_that_are_no_numbers_do_not_count() -> None:
    assert bold(with_figure("nan", float("nan"), 0.9), with_figure("best", *BEST), with_figure("worse", *WORSE)) == {
        "best"
    }


def test_cross_validations_are_compared_fold_by_fold() -> None:
    best = folds("best", (0, 0, 0.80), (0, 1, 0.90), (0, 2, 0.97))
    worse = folds("worse", (0, 0, 0.70), (0, 1, 0.81), (0, 2, 0.86))
    unclear = folds("unclear", (0, 0, 0.85), (0, 1, 0.85), (0, 2, 0.90))
    assert bold(best, worse, unclear) == {"best", "unclear"}
    assert (
        "(Bonferroni) by corrected resampled t-test over folds"
        in mark_best(Comparison([best, worse], []), {}).bold_caption
    )
    assert bold(best, folds("lacking", (0, 0, 0.70), (0, 1, 0.81))) == set()
