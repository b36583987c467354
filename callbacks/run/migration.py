"""The configurations of earlier versions, as this one reads them."""

from typing import Any


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run, with the rule of its splits where it is from before there was another.

    Args:
        config: Any configuration; one that does not say all there is to say of data is no run's, and stays as it is.
    """
    data: Any = config.get("data")
    given = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(given, dict) or "split_rule" in given or not {"split_seed", "drop_last"} <= given.keys():
        return config
    return config | {"data": data | {"init_args": given | {"split_rule": "shuffle"}}}
