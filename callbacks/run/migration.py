"""Convert configurations of earlier versions to the current one."""

import re
from typing import Any

# Matches the class paths of callbacks that were in `callbacks` before they moved to `callbacks.tensorboard`.
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
    """Update class paths that have moved, and name the splits and bit depth that early runs could not choose."""
    config = _with_moved_classes(config)
    data: Any = config.get("data")
    arguments = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(arguments, dict) or not {"split_seed", "drop_last"} <= arguments.keys():
        return config
    early: dict[str, Any] = {"split_rule": "shuffle"}
    if {"channels", "resize"} <= arguments.keys():
        early["bit_depth"] = 8
    return config | {"data": data | {"init_args": early | arguments}}
