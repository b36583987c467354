"""The configurations of earlier versions, as this one reads them."""

import re
from typing import Any

# What the names of these callbacks began with before they had a package of their own.
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
    """Bring a configuration to this version: where classes have moved to, and the rule of a run's splits."""
    config = _with_moved_classes(config)
    data: Any = config.get("data")
    given = data.get("init_args") if isinstance(data, dict) else None
    if not isinstance(given, dict) or "split_rule" in given or not {"split_seed", "drop_last"} <= given.keys():
        return config
    return config | {"data": data | {"init_args": given | {"split_rule": "shuffle"}}}
