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
    """Replace the class paths that have moved, and name the rule by which an early run has drawn its splits."""
    config = _with_moved_classes(config)
    data: Any = config.get("data")
    own = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(own, dict) or "split_rule" in own or not {"split_seed", "drop_last"} <= own.keys():
        return config
    return config | {"data": data | {"init_args": own | {"split_rule": "shuffle"}}}
