import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from core.user_error import UserError
from scripts.comparison import paired
from scripts.comparison.comparison import Group, compare_runs
from scripts.comparison.paired import Answers, answers_of, compare_groups, on_the_same_images, over_runs, told
from scripts.comparison.runs import Run as ReadRun
from scripts.comparison.runs import read_run
from scripts.uncertainty.significance import mcnemar
from tests.conftest import Run

SHORT = ("--trainer.max_epochs=1", "--trainer.precision=32-true")


def group(letter: str, *accuracies: float) -> Group:
    runs = [
        ReadRun(Path(letter), "x", seed, {}, Path("best.ckpt"), figures={"test/accuracy": accuracy})
        for seed, accuracy in enumerate(accuracies or (0.5,))
    ]
    return Group(letter, runs)


def answers(right: str, classes: str = "ab") -> Answers:
    """Of images labelled a, those taken for a and those for another class."""
    return Answers(tuple(classes), [f"test[{n}]" for n in range(len(right))], ["a"] * len(right), list(right))


def test_answers_are_those_of_the_test(train: Callable[..., Run]) -> None:
    run = train(*SHORT)
    found = answers_of(read_run(run.folder), [])
    assert found.class_names == tuple("0123456789")
    assert len(found.images) == len(set(found.images)) == 359
    assert float(found.right.mean()) == pytest.approx(run.results["metrics"]["test/accuracy"])
    assert len(answers_of(read_run(run.folder), ["--data.limit", "0.5"]).images) < 200


def test_an_evaluation_is_used_if_it_is_of_the_same_test(
    train: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(*SHORT)
    read, folder = read_run(run.folder), run.folder / "evaluation"
    expected = answers_of(read, [])

    def refuse(*args: object, **options: object) -> NoReturn:
        raise UserError("it is predicted")

    def is_used() -> bool:
        with monkeypatch.context() as patched:
            patched.setattr(paired, "TrainedNetwork", refuse)
            try:
                return answers_of(read, []) == expected
            except UserError:
                return False

    assert not is_used()
    evaluate = pytest.importorskip("scripts.evaluate").evaluate
    evaluate(run.folder, [], "test", None, 1)
    assert is_used()
    (folder / "predictions.csv").write_text("image,label,prediction\n")
    assert not is_used()
    for flags, split in ((["--data.limit", "0.5"], "test"), ([], "val")):
        evaluate(run.folder, flags, split, None, 1)
        assert not is_used(), "it is of other images"
    evaluate(run.folder, [], "test", None, 1)
    assert is_used()
    os.utime(run.best, ns=(2**62, 2**62))
    assert not is_used(), "it is older than the checkpoint"


def test_the_better_network_is_told_from_the_worse() -> None:
    first, second = answers("a" * 80 + "b" * 20), answers("a" * 95 + "b" * 5)
    verdict = on_the_same_images(group("A"), group("B"), first, second)
    found = verdict.difference(1)
    assert found.value == pytest.approx(0.15)
    assert found.p == mcnemar(0, 15)
    (sentence,) = told([verdict])
    low, high = (f"{100 * end:.2f}" for end in found.interval)
    expected = f"B is better than A by 15.00 points, 95% interval {low} to {high} (McNemar p < 0.001, 100 test images)."
    assert sentence == expected
    (sentence,) = told([on_the_same_images(group("A"), group("B"), second, first)])
    assert sentence.startswith("B is worse than A by 15.00 points, 95% interval ")
    assert "-" not in sentence


def test_networks_that_may_be_as_good_cannot_be_told_apart() -> None:
    verdict = on_the_same_images(group("A", 0.5, 0.5), group("B"), answers("aaaaab"), answers("aaabba"))
    (sentence,) = told([verdict])
    assert sentence.startswith("B and A (seed 0) cannot be told apart: B is worse by 16.67 points, 95% interval -")
    assert sentence.endswith("(McNemar p = 1.00, 6 test images).")


def test_one_image_identical_predictions_and_no_mistakes() -> None:
    for first, second, expected in (
        ("aab", "aab", "both take every image for the same (3 test images)"),
        ("aaaa", "aaaa", "both take every image for the same (4 test images)"),
        ("ab", "ac", "both are right on the same images (2 test images)"),
        ("a", "a", "both take every image for the same (1 test image)"),
        ("a", "b", "B is worse by 100.00 points, 95% interval -100.00 to 100.00 (McNemar p = 1.00, 1 test image)"),
    ):
        pair = answers(first, "abc"), answers(second, "abc")
        (sentence,) = told([on_the_same_images(group("A"), group("B"), *pair)])
        assert sentence == f"B and A cannot be told apart: {expected}."


def test_other_classes_and_other_images_are_refused() -> None:
    with pytest.raises(UserError, match="only A has b; only B has c"):
        on_the_same_images(group("A"), group("B"), answers("ab"), answers("ac", "ac"))
    with pytest.raises(UserError, match=r"A was tested on 2 images, B on 3, of which 2 have the same"):
        on_the_same_images(group("A"), group("B"), answers("ab"), answers("aba"))


def test_p_values_are_adjusted_for_how_many_there_are() -> None:
    one = over_runs(group("A", 0.50, 0.51, 0.52), group("B", 0.53, 0.54))
    assert one is not None
    alone, *together = told([one]) + told([one, one])
    assert "B is better than A by 2.50 points, 95% interval 0.01 to 4.99 (Welch's t-test p = 0.049, " in alone
    for sentence in together:
        assert "B and A cannot be told apart: B is better by 2.50 points, 95% simultaneous interval -" in sentence
        assert "p = 0.099 adjusted for 2 comparisons" in sentence
    assert told([]) == []


def test_seeds_are_compared_where_there_are_several() -> None:
    assert over_runs(group("A", 0.5, 0.6), group("B", 0.9)) is None
    verdict = over_runs(group("A", 0.50, 0.51, 0.52), group("B", 0.90, 0.91))
    assert verdict is not None
    (sentence,) = told([verdict])
    assert sentence.startswith("Over seeds, B is better than A by 39.50 points, 95% interval ")
    assert sentence.endswith("2 and 3 runs).")
    verdict = over_runs(group("A", 0.5, 0.6), group("B", 0.5, 0.7))
    assert verdict is not None
    assert told([verdict])[0].startswith("Over seeds, B and A cannot be told apart: B is better by 5.00 points, ")


def test_nothing_is_concluded_of_seeds_that_all_gave_the_same() -> None:
    verdict = over_runs(group("A", 0.5, 0.5), group("B", 0.5028, 0.5028, 0.5028))
    assert verdict is not None
    (sentence,) = told([verdict])
    assert sentence.startswith("Over seeds, nothing can be concluded about B and A: B is better by 0.28 points, but ")
    assert sentence.endswith(" (3 and 2 runs).")


def test_a_single_run_is_told() -> None:
    found, (note,) = compare_groups([group("A", 0.5, 0.6), group("B", 0.5)], False, [])
    assert found == []
    assert note.startswith("Nothing can be concluded over seeds about B and A: only one run of B was tested; ")


def test_error_rates_of_several_comparisons_are_told() -> None:
    groups = [group("A", 0.5, 0.6), group("B", 0.5, 0.7), group("C", 0.8, 0.9)]
    found, (note,) = compare_groups(groups, False, [])
    assert len(found) == 2
    assert "with a probability of at most 5%" in note


def test_without_data_it_is_told_why_and_seeds_are_compared_all_the_same(
    train: Callable[..., Run], data_root: Path, tmp_path: Path
) -> None:
    runs = [
        read_run(train(*SHORT, f"--seed_everything={seed}", f"--model.optimizer.lr={rate}").folder)
        for rate in (0.003, 0.01)
        for seed in (0, 1)
    ]
    groups = compare_runs(runs).groups
    found, notes = compare_groups(groups, True, [])
    assert len(found) == 2
    assert "359 test images" in found[0]
    assert "2 and 2 runs" in found[1]
    assert notes == []
    found, notes = compare_groups(groups, True, ["--data", "datamodules.mnist.MNIST", "--data.root", str(tmp_path)])
    assert "2 and 2 runs" in found[0]
    assert len(found) == len(notes) == 1
    assert notes[0].startswith("A is not tested on the same images as the others: ")
    assert compare_groups(groups, False, []) == (found, [])
    for run in runs[2:]:
        assert run.checkpoint is not None
        run.checkpoint.unlink()
        run.checkpoint.with_name("last.ckpt").unlink()
    found, notes = compare_groups(compare_runs([read_run(run.path) for run in runs]).groups, True, [])
    assert len(found) == 1
    assert "B is not tested on the same images as the others: it has no checkpoint" in notes[0]


def test_runs_with_other_test_images_are_not_compared(train: Callable[..., Run]) -> None:
    runs = [read_run(train(*SHORT, f"--data.split_seed={seed}").folder) for seed in (0, 1)]
    found, (note,) = compare_groups(compare_runs(runs).groups, True, [])
    assert found == []
    assert re.search(r"A was tested on 359 images, B on \d+, of which", note)
    found, (note,) = compare_groups(compare_runs(runs).groups, False, [])
    assert found == []
    assert "may not have been tested on the same images: data.split_seed is 0 in A and 1 in B" in note
