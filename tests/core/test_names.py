import numpy as np
import pytest

from core.names import distinct_names, escape_name, label_name, near_names


def test_several_labels_are_joined() -> None:
    names = ["cat", "dog", "fox"]
    labels = np.int64(1), np.array([1, 0, 1]), [0, 0, 0]
    assert [label_name(label, names) for label in labels] == ["dog", "cat;fox", ""]


@pytest.mark.parametrize("name", ["cat.0.jpg", "Käse, 猫 & <b>.png", "a b"])
def test_leaves_letters_and_signs_alone(name: str) -> None:
    assert escape_name(name) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("é\udce9", "é\\xe9"),  # a byte that is no UTF-8
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),  # turns the direction of writing
    ],
)
def test_shows_what_is_neither_as_its_code(name: str, text: str) -> None:
    assert escape_name(name) == text
    assert escape_name(name).isprintable()


def test_names_of_classes_are_each_different_and_stay_as_they_are() -> None:
    names = ["crane", "crane (2)", "crane", "caf\udce9", "caf\\xe9", "\ud800", "crane"]
    distinct = distinct_names(names)
    assert distinct == ["crane", "crane (2)", "crane (3)", "caf\\xe9", "caf\\xe9 (2)", "\\ud800", "crane (4)"]
    assert distinct_names(distinct) == distinct


def test_offers_the_nearest_first_and_few_of_them() -> None:
    names = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    answer = near_names("resnet50x", names)
    assert answer.startswith("did you mean resnet50, ")
    assert answer.count("resnet") == 3


def test_says_what_there_is_when_none_is_near() -> None:
    assert near_names("?", ["backbone", "head"]) == "there is backbone, head"
    assert near_names("?", ["backbone", "head"], otherwise="ask elsewhere") == "ask elsewhere"
