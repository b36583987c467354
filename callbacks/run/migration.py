"""Configurations of earlier versions, brought to this one."""

import re
from typing import Any

# These callbacks were in `callbacks` before they had a package of their own.
TENSORBOARD = re.compile(
    r"callbacks(?=\.(confusion_matrix|custom_scalars|filters|hyperparameters|model_graph|preview|worst_mistakes)\.\w+$)"
)


def _with_moved_classes(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _with_moved_classes(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_with_moved_classes(value) for value in node]
    return TENSORBOARD.sub("callbacks.tensorboard", node) if isinstance(node, str) else node


def migrate_config(config: dict[str, Any]) -> dict[str, Any]:
    """Replace the class paths that have moved, and name what early runs could not choose: how they split and decode."""
    config = _with_moved_classes(config)
    data: Any = config.get("data")
    own = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(own, dict) or not {"split_seed", "drop_last"} <= own.keys():
        return config
    early = {"split_rule": "shuffle"} | ({"bit_depth": 8} if {"channels", "resize"} <= own.keys() else {})
    return config | {"data": data | {"init_args": early | own}} if early.keys() - own.keys() else config
