from core.near_names import near_names


def test_offers_the_nearest_first_and_few_of_them() -> None:
    names = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]
    answer = near_names("resnet50x", names)
    assert answer.startswith("did you mean resnet50, ")
    assert answer.count("resnet") == 3


def test_says_what_there_is_when_none_is_near() -> None:
    assert near_names("?", ["backbone", "head"]) == "there is backbone, head"
    assert near_names("?", ["backbone", "head"], otherwise="ask elsewhere") == "ask elsewhere"
