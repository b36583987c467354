"""The metric that a run is judged by, and whether two of its scores are comparable."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, cast, get_args

from core.user_error import UserError

Mode = Literal["min", "max"]

# Words in a metric's name that tell whether lower or higher is better.
LOWER_IS_BETTER = (
    "loss|logloss|error|err|nll|negative_log_likelihood|bce|ce|crossentropy|cross_entropy|kl|mse|rmse|mae|mape|hinge|"
    "brier|ece|mce|perplexity|ppl|hamming|misclassification|mistakes|fpr|fnr|eer|false_(?:positive|negative)(?:s|_rate)"
)
HIGHER_IS_BETTER = (
    "accuracy|acc|exact_match|f1|fbeta|auc|auroc|auprc|ap|map|precision|recall|sensitivity|specificity|tpr|tnr|"
    "true_(?:positive|negative)(?:s|_rate)|iou|jaccard|dice|kappa|mcc|matthews|r2|youden"
)

# Scores are comparable if their metric, mode, weight average and images are equal.
Basis = Mapping[str, str | None]


def direction(monitor: str, mode: str | None, key: str) -> Mode:
    """Return `min` if lower is better and `max` if higher is: `mode` if it is given, else what the name implies.

    Example:
        >>> [direction(f"val/{name}", None, "checkpoint") for name in ("loss", "acc5", "MulticlassCalibrationError")]
        ['min', 'max', 'min']
    """
    if mode is not None:
        if mode not in get_args(Mode):
            raise UserError(f"{key}.mode is {mode}; give max or min.")
        return cast(Mode, mode)
    words = "_".join(re.findall(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*(?![a-z])|\d+", monitor)).lower()
    lower_is_better = bool(re.search(rf"(^|_)({LOWER_IS_BETTER})\d*(_|$)", words))
    higher_is_better = bool(re.search(rf"(^|_)({HIGHER_IS_BETTER})\d*(_|$)", words))
    if lower_is_better == higher_is_better:
        raise UserError(
            f"{key}.monitor is {monitor}, whose name does not say whether lower or higher is better; give {key}.mode "
            "min or max."
        )
    return "min" if lower_is_better else "max"


def is_of_validation(monitor: str) -> bool:
    """Return True for a metric of validation, and False for one that each training epoch logs."""
    return monitor.startswith("val/")


def check_logged(metrics: Mapping[str, Any], monitor: str, key: str) -> None:
    """Raise UserError if an epoch has ended without its metric; a `val/` metric is due only after a validation."""
    validated = any(map(is_of_validation, metrics))
    if monitor not in metrics and (validated or not is_of_validation(monitor)):
        raise UserError(
            f"{key}.monitor is {monitor}, which is not logged; choose from "
            f"{', '.join(sorted(name for name in metrics if '/' in name))}."
        )


def basis(trainer: Any, monitor: str, mode: str) -> Basis:
    """Return the basis of the run's scores, which is saved with the best score."""
    averages = [type(callback).__name__ for callback in trainer.callbacks if getattr(callback, "is_evaluated", False)]
    datamodule = getattr(trainer, "datamodule", None)
    split = "train" if getattr(trainer, "overfit_batches", 0) else monitor.partition("/")[0]
    images = getattr(datamodule, "splits", {}).get(split)
    limit = trainer.limit_val_batches if is_of_validation(monitor) else 1.0
    subset = "" if limit == 1 and isinstance(limit, float) else f" {limit} of {getattr(datamodule, 'batch_size', None)}"
    return {
        "metric": monitor,
        "mode": mode,
        "weight_average": ", ".join(averages) or None,
        "images": None if images is None else blake2b(images.numpy().tobytes(), digest_size=8).hexdigest() + subset,
    }


def still_holds(before: Basis, now: Basis, purpose: str) -> bool:
    """Return True if a restored score is comparable with new ones; otherwise print why `purpose` starts again."""
    changed = [name.replace("_", " ") for name in now if name in before and before[name] != now[name]]
    if changed:
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only(print)(f"{purpose} starts again: {' and '.join(changed)} changed")
    return not changed
