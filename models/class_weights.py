"""Weights of the classes in the training loss."""

import math
from collections.abc import Sequence
from typing import Any, Literal

from core.user_error import UserError


def check_class_weights(
    weights: Literal["balanced"] | Sequence[float], num_classes: int
) -> Literal["balanced"] | list[float]:
    """Return the weights as floats; raise UserError unless each class has a finite one of at least 0, not all 0."""
    if isinstance(weights, str):
        return weights
    numbers = [float(weight) for weight in weights]
    if len(numbers) != num_classes or not min(numbers) >= 0 or not 0 < sum(numbers) < math.inf:
        raise UserError(
            f"model.class_weights is {weights}; give {num_classes} finite numbers of at least 0, not all 0, one for "
            "each class, or balanced."
        )
    return numbers


def balanced_weights(datamodule: Any, multi_label: bool = False) -> list[float]:
    """Return weights inversely proportional to each class's number of training images, 1 on average over the images.

    For multi-label data, the weight makes the images with a label count as much as the images without it.
    """
    counts = getattr(datamodule, "class_counts", None)
    if counts is None:
        raise UserError("model.class_weights is balanced, but the training data has no class_counts; give numbers.")
    if multi_label:
        images = len(datamodule.splits["train"])
        return [(images - count) / count if 0 < count < images else 1.0 for count in counts]
    return [sum(counts) / (len(counts) * count) if count else 0.0 for count in counts]
