import torch
from torch import Tensor

from datamodules.batching.data_changes import data_changes, trained_on_both


def images(train: range, val: range, test: range) -> dict[str, Tensor]:
    return {
        name: torch.tensor(part, dtype=torch.int32) for name, part in (("train", train), ("val", val), ("test", test))
    }


THEN = images(range(10), range(10, 14), range(14, 20))


def test_says_nothing_of_the_same_images_in_any_order() -> None:
    assert data_changes(THEN, {name: part.flip(0) for name, part in THEN.items()}) == ""
    twice = images(range(10), range(9, 14), range(14, 20))
    assert data_changes(twice, twice) == "", "a copy that was there all along is the audit's"


def test_counts_what_is_new_gone_and_was_trained_on() -> None:
    told = data_changes(THEN, images(range(2, 6), range(10, 14), range(6, 23)))
    assert told.endswith(": 3 new, 2 gone; trained on: 0 of 4 val and 4 of 17 test images")


def test_a_run_that_goes_on_has_been_trained_on_both() -> None:
    both = trained_on_both(THEN, images(range(5, 12), range(12, 14), range(3, 5)))
    assert both["train"].tolist() == list(range(12))
    assert both["test"].tolist() == []
    assert "2 of 2 test" in data_changes(both, images(range(5), range(12, 14), range(3, 5)))
