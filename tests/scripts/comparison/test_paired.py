import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.user_error import UserError
from scripts.comparison.comparison import Comparison, compare_runs
from scripts.comparison.groups import Group
from scripts.comparison.paired import (
    changed_images,
    compare_groups,
    different_splits,
    mark_best,
    on_the_same_images,
    over_runs,
    predict_groups,
)
from scripts.comparison.runs import Run as ReadRun
from scripts.comparison.runs import read_run
from scripts.inference.predictions import Predictions
from scripts.report.table import Bold
from scripts.uncertainty.significance import difference_over_folds, mcnemar
from tests.conftest import Run
from tests.scripts.comparison.test_comparison import runs

SHORT = ("--trainer.max_epochs=1", "--trainer.precision=32-true")


def group(name: str, *accuracies: float) -> Group:
    runs = [
        ReadRun(Path(name), "x", seed, {}, Path("best.ckpt"), metrics={"test/accuracy": accuracy})
        for seed, accuracy in enumerate(accuracies or (0.5,))
    ]
    return Group(name, runs)


def folds(name: str, *accuracies: tuple[int, int, float], of: int = 3, **settings: str) -> Group:
    """Runs by seed, fold and accuracy."""
    settings = {"data.folds": str(of), "data.fold": "each"} | {f"data.{key}": value for key, value in settings.items()}
    runs = [
        ReadRun(Path(name), "x", seed, settings, metrics={"test/accuracy": accuracy}, fold=fold)
        for seed, fold, accuracy in accuracies
    ]
    return Group(name, runs)


def predictions(predicted: str, classes: str = "ab") -> Predictions:
    """Of images labelled a."""
    count, taken = len(predicted), [classes.index(name) for name in predicted]
    names = [f"test[{n}]" for n in range(count)]
    logits = np.eye(len(classes), dtype=np.float32)[taken]
    return Predictions(list(classes), names, np.arange(count), np.zeros(count, np.int64), logits)


@pytest.mark.slow
def test_predictions_are_those_of_the_test(train: Callable[..., Run]) -> None:
    run = train(*SHORT)
    pair = [Group(name, [read_run(run.folder)]) for name in "ab"]
    found = predict_groups(pair, [])[0]["b"]
    assert found.class_names == list("0123456789")
    assert len(found.names) == len(set(found.names)) == 359
    assert float((found.classes == found.labels).mean()) == pytest.approx(run.results["metrics"]["test/accuracy"])
    assert len(predict_groups(pair, ["--data.limit", "0.5"])[0]["b"]) < 200


def test_the_better_network_is_told_from_the_worse() -> None:
    first, second = predictions("a" * 80 + "b" * 20), predictions("a" * 95 + "b" * 5)
    verdict = on_the_same_images(group("A"), group("B"), {"A": first, "B": second})
    found = verdict.difference(1)
    assert found.value == pytest.approx(0.15)
    assert found.p == mcnemar(0, 15)
    sentence = verdict.message(1)
    low, high = (f"{100 * end:.2f}" for end in found.interval)
    expected = (
        f"B is better than A by 15.00 points, 95% interval {low} to {high} (McNemar's test p < 0.001, 100 test images)."
    )
    assert sentence == expected
    sentence = on_the_same_images(group("A"), group("B"), {"A": second, "B": first}).message(1)
    assert sentence.startswith("B is worse than A by 15.00 points, 95% interval ")
    assert "-" not in sentence


def test_networks_that_may_be_as_good_cannot_be_told_apart() -> None:
    verdict = on_the_same_images(
        group("A", 0.5, 0.5), group("B"), {"A": predictions("aaaaab"), "B": predictions("aaabba")}
    )
    sentence = verdict.message(1)
    assert sentence.startswith("B and A (seed 0) cannot be told apart: B is worse by 16.67 points, 95% interval -")
    assert sentence.endswith("(McNemar's test p = 1.00, 6 test images).")


def test_one_image_identical_predictions_and_no_mistakes() -> None:
    for first, second, expected in (
        ("aab", "aab", "better by 0.00 points, 95% interval -"),
        ("ab", "ac", "better by 0.00 points, 95% interval -"),
        ("a", "a", "better by 0.00 points, 95% interval -"),
        ("a", "b", "worse by 100.00 points, 95% interval -100.00 to 100.00 (McNemar's test p = 1.00, 1 test images)."),
    ):
        pair = {"A": predictions(first, "abc"), "B": predictions(second, "abc")}
        sentence = on_the_same_images(group("A"), group("B"), pair).message(1)
        assert sentence.startswith(f"B and A cannot be told apart: B is {expected}")


def test_other_classes_and_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="of A and B differ in b, c;"):
        on_the_same_images(group("A"), group("B"), {"A": predictions("ab"), "B": predictions("ac", "ac")})
    with pytest.raises(UserError, match=r"A was tested on 2 images, B on 3, and 2 have the same"):
        on_the_same_images(group("A"), group("B"), {"A": predictions("ab"), "B": predictions("aba")})


def several(*rows: str) -> Predictions:
    """Of images with several labels, of which each row has the ones that are predicted; the labels are a and b."""
    labels = np.ones((len(rows), 2), np.int64)
    logits = np.array([[1.0 if name in row else -1.0 for name in "ab"] for row in rows], np.float32)
    return Predictions(["a", "b"], [f"test[{n}]" for n in range(len(rows))], np.arange(len(rows)), labels, logits)


def test_of_several_labels_an_image_is_right_if_all_are() -> None:
    better, worse = several(*["ab"] * 30), several(*["a"] * 15, *["ab"] * 15)
    verdict = on_the_same_images(group("one"), group("other"), {"one": worse, "other": better})
    assert verdict.difference(1).value == 0.5
    assert "30 test images, right if all labels are" in verdict.message(1)
    same = on_the_same_images(group("one"), group("other"), {"one": several("a", "ab"), "other": several("b", "ab")})
    assert "is better by 0.00 points" in same.message(1)
    with pytest.raises(UserError, match=r"One is multi-label, the other single-label; give runs of the same kind"):
        on_the_same_images(group("one"), group("other"), {"one": better, "other": predictions("a" * 30)})


def test_p_values_are_adjusted_for_how_many_there_are() -> None:
    one = over_runs(group("A", 0.50, 0.51, 0.52), group("B", 0.53, 0.54))
    assert one is not None
    alone = one.message(1)
    assert "B is better than A by 2.50 points, 95% interval 0.01 to 4.99 (Welch's t-test p = 0.049, " in alone
    together = one.message(2)
    assert "B and A cannot be told apart: B is better by 2.50 points, 95% simultaneous interval -" in together
    assert "p = 0.099 adjusted for 2 comparisons" in together


def test_seeds_are_compared_where_there_are_several() -> None:
    assert over_runs(group("A", 0.5, 0.6), group("B", 0.9)) is None
    verdict = over_runs(group("A", 0.50, 0.51, 0.52), group("B", 0.90, 0.91))
    assert verdict is not None
    sentence = verdict.message(1)
    assert sentence.startswith("Over seeds, B is better than A by 39.50 points, 95% interval ")
    assert sentence.endswith("2 and 3 runs).")
    verdict = over_runs(group("A", 0.5, 0.6), group("B", 0.5, 0.7))
    assert verdict is not None
    assert verdict.message(1).startswith("Over seeds, B and A cannot be told apart: B is better by 5.00 points, ")


def test_nothing_is_concluded_of_seeds_that_all_gave_the_same() -> None:
    verdict = over_runs(group("A", 0.5, 0.5), group("B", 0.5028, 0.5028, 0.5028))
    assert verdict is not None
    sentence = verdict.message(1)
    assert sentence.startswith("Over seeds, nothing can be concluded about B and A: B is better by 0.28 points, but ")
    assert sentence.endswith(" (3 and 2 runs).")


def test_a_single_run_is_told() -> None:
    found, (note,) = compare_groups([group("A", 0.5, 0.6), group("B", 0.5), group("C", 0.5)], {})
    assert found == []
    assert note.startswith("Nothing can be concluded over seeds about B, C: only one run of each was tested; ")


def test_error_rates_of_several_comparisons_are_told() -> None:
    groups = [group("A", 0.5, 0.6), group("B", 0.5, 0.7), group("C", 0.8, 0.9)]
    found, notes = compare_groups(groups, {})
    assert [sentence.count("adjusted for 2 comparisons") for sentence in found] == [1, 1]
    assert notes == []


@pytest.mark.slow
def test_without_data_it_is_told_why_and_seeds_are_compared_all_the_same(
    train: Callable[..., Run], data_root: Path, tmp_path: Path
) -> None:
    runs = [
        read_run(train(*SHORT, f"--seed_everything={seed}", f"--model.optimizer.lr={rate}").folder)
        for rate in (0.003, 0.01)
        for seed in (0, 1)
    ]
    groups = compare_runs(runs).groups
    predicted, notes = predict_groups(groups, [])
    assert notes == []
    found, notes = compare_groups(groups, predicted)
    assert len(found) == 2
    assert "359 test images" in found[0]
    assert "2 and 2 runs" in found[1]
    assert notes == []
    predicted, (note,) = predict_groups(groups, ["--data", "datamodules.mnist.MNIST", "--data.root", str(tmp_path)])
    assert predicted == {}
    assert note.startswith("lr=0.003 is not tested on the same images as the others: ")
    (sentence,), notes = compare_groups(groups, predicted)
    assert "2 and 2 runs" in sentence
    assert notes == []
    for run in runs[2:]:
        assert run.checkpoint is not None
        run.checkpoint.unlink()
        run.checkpoint.with_name("last.ckpt").unlink()
    _, (note,) = predict_groups(compare_runs([read_run(run.path) for run in runs]).groups, [])
    assert "lr=0.01 is not tested on the same images as the others: it has no checkpoint" in note


@pytest.mark.slow
def test_runs_with_other_test_images_are_not_compared(train: Callable[..., Run]) -> None:
    runs = [read_run(train(*SHORT, f"--data.split_seed={seed}").folder) for seed in (0, 1)]
    groups = compare_runs(runs).groups
    found, (note,) = compare_groups(groups, predict_groups(groups, [])[0])
    assert found == []
    assert re.search(r"split_seed=0 was tested on 359 images, split_seed=1 on \d+, and", note)
    found, notes = compare_groups(groups, {})
    assert found == []
    assert "the same images: data.split_seed is 0 in split_seed=0 and 1 in split_seed=1" in notes[0]


def test_folds_are_compared_in_pairs_with_seeds_averaged_first() -> None:
    ours = folds("A", (0, 0, 0.80), (0, 1, 0.90), (0, 2, 0.85), (1, 0, 0.82), (1, 1, 0.90), (1, 2, 0.85))
    other = folds("B", (0, 2, 0.95), (0, 1, 0.99), (0, 0, 0.91))
    verdict = over_runs(ours, other)
    assert verdict is not None
    assert verdict.difference(2) == difference_over_folds([0.81, 0.90, 0.85], [0.91, 0.99, 0.95], 3, 2)
    (sentence,), notes = compare_groups([ours, other], {})
    assert sentence.startswith("Over folds, B is better than A by 9.67 points, 95% interval ")
    assert re.search(r"\(corrected resampled t-test p = 0\.\d+, 3 folds\)\.$", sentence)
    assert notes == []


def test_folds_that_both_have_are_compared() -> None:
    ours, other = folds("A", (0, 0, 0.8), (0, 1, 0.9), (0, 2, 0.7)), folds("B", (0, 0, 0.9), (0, 2, 0.9))
    (sentence,), _ = compare_groups([ours, other], {})
    assert sentence.endswith(", 2 folds).")
    found, (note,) = compare_groups([ours, folds("B", (0, 0, 0.9))], {})
    assert found == []
    assert note == (
        "B is not compared with A: fewer than two folds of both were tested; train the others with fit --folds."
    )
    same = folds("B", (0, 0, 0.9), (0, 1, 1.0), (0, 2, 0.8))
    (sentence,), _ = compare_groups([ours, same], {})
    assert sentence == (
        "Over folds, nothing can be concluded about B and A: B is better by 10.00 points, but the metric does not "
        "vary over folds, so that its spread is unknown (3 folds)."
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (folds("B", (0, 0, 0.9), (0, 1, 0.9), of=5), "data.folds is 3 in A and 5 in B"),
        (folds("B", (0, 0, 0.9), (0, 1, 0.9), split_seed="1"), "data.split_seed is - in A and 1 in B"),
        (group("B", 0.9, 0.95), "data.folds is 3 in A and - in B; data.fold is each in A and - in B"),
    ],
)
def test_other_folds_are_not_compared(other: Group, words: str) -> None:
    ours = folds("A", (0, 0, 0.8), (0, 1, 0.9))
    found, (note, *_) = compare_groups([ours, other], {})
    assert found == []
    assert words in note


def test_no_network_stands_for_a_cross_validation() -> None:
    assert predict_groups([folds("A", (0, 0, 0.8)), folds("B", (0, 0, 0.9))], []) == ({}, [])


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        ({}, {"val_size": 0.3}, ""),
        ({"split_seed": 0}, {"split_seed": 1}, "data.split_seed is 0 in split_seed=0 and 1 in split_seed=1"),
        (
            {"classes": None},
            {"classes": ["a", "b"]},
            "data.classes is null in classes=null and [a, b] in classes=[a, b]",
        ),
        (
            {"limit": None, "test_size": 0.2},
            {"limit": 0.5, "test_size": 0.1},
            "data.limit is null in limit=null and 0.5 in limit=0.5; data",
        ),
    ],
)
def test_settings_that_give_other_test_images_are_told(
    tmp_path: Path, one: dict[str, object], other: dict[str, object], told: str
) -> None:
    data: list[dict[str, Any]] = [{"data": {"class_path": "d.D", "init_args": arguments}} for arguments in (one, other)]
    pair = [*runs(tmp_path, 0.9, **data[0]), *runs(tmp_path, 0.8, name="y", lr=2, **data[1])]
    first, second = compare_runs(pair).groups
    notes = different_splits(first, second)
    assert told in "".join(notes)
    assert len(notes) == bool(told)


def test_files_of_the_data_that_have_changed_are_told(tmp_path: Path) -> None:
    data: dict[str, Any] = {"data": {"class_path": "d.D"}}
    one, other = runs(tmp_path, 0.9, **data)[0], runs(tmp_path, 0.8, name="y", lr=2, **data)[0]

    def told(first: str | None, second: str | None) -> list[str]:
        pair = [replace(one, data_fingerprint=first), replace(other, data_fingerprint=second)]
        return changed_images(*compare_runs(pair).groups)

    (note,) = told("content 1", "content 2")
    assert "The images of the data changed between the runs of lr=- and lr=2" in note
    assert told("content 1", "content 1") == told(None, "content 2") == []
    assert told("5f0c", "content 2") == [], "what older runs know are files"
    other.settings["data"] = "d.E"
    assert told("content 1", "content 2") == [], "of another data set, the setting is told"


def with_figure(name: str, *values: float, figure: str = "test/accuracy", **settings: str) -> Group:
    return Group(name, [ReadRun(Path(name), "x", seed, settings, metrics={figure: v}) for seed, v in enumerate(values)])


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
