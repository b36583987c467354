from callbacks.run.migration import migrate_config


def test_a_run_from_before_there_were_two_rules_keeps_its_own() -> None:
    arguments = {"split_seed": 0, "drop_last": False}
    run = {"data": {"class_path": "datamodules.digits.Digits", "init_args": arguments}, "seed_everything": 0}
    assert migrate_config(run)["data"]["init_args"] == arguments | {"split_rule": "shuffle"}
    assert "split_rule" not in arguments
    newer = {"data": {"init_args": arguments | {"split_rule": "hash"}}}
    for config in (newer, {}, {"data": {"init_args": {"split_seed": 3}}}, {"data": {"class_path": "a"}}, {"data": "a"}):
        assert migrate_config(config) == config


def test_a_callback_is_found_where_it_has_moved_to() -> None:
    arguments = {"callback": "callbacks.confusion_matrix.ConfusionMatrix", "note": "callbacks.filters. And more"}
    old = {"filters": {"class_path": "callbacks.filters.Filters", "init_args": arguments}, "trainer": {"callbacks": []}}
    new = migrate_config(old)
    assert new["filters"]["class_path"] == "callbacks.tensorboard.filters.Filters"
    assert new["filters"]["init_args"] == arguments | {
        "callback": "callbacks.tensorboard.confusion_matrix.ConfusionMatrix"
    }
    assert migrate_config(new) == new


def test_a_run_from_before_there_were_two_depths_keeps_eight_bits() -> None:
    arguments = {"split_seed": 0, "drop_last": False, "split_rule": "hash", "channels": 1, "resize": "crop"}
    assert migrate_config({"data": {"init_args": arguments}})["data"]["init_args"] == arguments | {"bit_depth": 8}
    newer = {"data": {"init_args": arguments | {"bit_depth": None}}}
    assert migrate_config(newer) == newer
