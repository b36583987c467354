from scripts.report.differences import names_by_difference


def test_names_are_of_the_first_settings_that_tell_runs_apart() -> None:
    settings = {
        "": ["x", "x", "y"],
        "data": ["d.D", "d.D", "d.D"],
        "optimizer.lr": ["0.1", "1", "0.1"],
        "optimizer.decay": ["0", "1", "2"],
    }
    assert names_by_difference(settings) == (["x lr=0.1", "x lr=1", "y lr=0.1"], {"", "optimizer.lr"})


def test_a_class_stands_for_itself_and_other_values_do_not() -> None:
    names, _ = names_by_difference({"model.network": ["MLP", "true", "a.MLP", "-", ""]})
    assert names == ["MLP", "network=true", "network=a.MLP", "network=-", "network="]


def test_keys_with_the_same_end_are_told_in_full() -> None:
    names, _ = names_by_difference({"a.lr": ["1", "2", "1"], "b.lr": ["1", "1", "2"]})
    assert names == ["a.lr=1 b.lr=1", "a.lr=2 b.lr=1", "a.lr=1 b.lr=2"]
