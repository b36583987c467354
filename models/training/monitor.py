"""The metric that a training is judged by, its direction, and the images that it is measured on."""

import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal, cast, get_args

from core.user_error import UserError

Mode = Literal["min", "max"]

# Words in a metric's name that give its direction.
LOWER_IS_BETTER = (
    "loss|logloss|error|err|nll|negative_log_likelihood|bce|ce|crossentropy|cross_entropy|kl|mse|rmse|mae|mape|hinge|"
    "brier|ece|mce|perplexity|ppl|hamming|misclassification|mistakes|fpr|fnr|eer|false_(?:positive|negative)(?:s|_rate)"
)
HIGHER_IS_BETTER = (
    "accuracy|acc|exact_match|f1|fbeta|auc|auroc|auprc|ap|map|precision|recall|sensitivity|specificity|tpr|tnr|"
    "true_(?:positive|negative)(?:s|_rate)|iou|jaccard|dice|kappa|mcc|matthews|r2|youden"
)

Basis = Mapping[str, str | None]  # scores compare if these are equal: metric, mode, weight average, images


def direction(monitor: str, mode: str | None, key: str) -> Mode:
    """Whether lower (`min`) or higher (`max`) is better: as given, else as the metric's name says.

    Example:
        >>> [direction(f"val/{name}", None, "checkpoint") for name in ("loss", "acc5", "MulticlassCalibrationError")]
        ['min', 'max', 'min']
    """
    if mode is not None:
        if mode not in get_args(Mode):
            raise UserError(f"{key}.mode is {mode}; give max or min.")
        return cast(Mode, mode)
    words = "_".join(re.findall(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*(?![a-z])|\d+", monitor)).lower()
    low, high = (re.search(rf"(^|_)({terms})\d*(_|$)", words) for terms in (LOWER_IS_BETTER, HIGHER_IS_BETTER))
    if bool(low) == bool(high):
        raise UserError(
            f"{key}.monitor is {monitor}, whose name does not say whether lower or higher is better; give {key}.mode "
            "min or max."
        )
    return "min" if low else "max"


def is_of_validation(monitor: str) -> bool:
    """Whether each validation measures a metric; each epoch of training measures any other."""
    return monitor.startswith("val/")


def check_logged(metrics: Mapping[str, Any], monitor: str, key: str) -> None:
    """Check, when an epoch has ended, that its metric was logged; a `val/` metric only if there was a validation."""
    validated = any(map(is_of_validation, metrics))
    if monitor not in metrics and (validated or not is_of_validation(monitor)):
        raise UserError(
            f"{key}.monitor is {monitor}, which is not logged; choose from "
            f"{', '.join(sorted(name for name in metrics if '/' in name))}."
        )


def basis(trainer: Any, monitor: str, mode: str) -> Basis:
    """The basis of a run's scores; it is saved with the best of them."""
    averages = [type(each).__name__ for each in trainer.callbacks if getattr(each, "is_evaluated", False)]
    data = getattr(trainer, "datamodule", None)
    split = "train" if getattr(trainer, "overfit_batches", 0) else monitor.partition("/")[0]
    images = getattr(data, "splits", {}).get(split)
    limit = trainer.limit_val_batches if is_of_validation(monitor) else 1.0
    part = "" if limit == 1 and isinstance(limit, float) else f" {limit} of {getattr(data, 'batch_size', None)}"
    return {
        "metric": monitor,
        "mode": mode,
        "weight_average": ", ".join(averages) or None,
        "images": None if images is None else blake2b(images.numpy().tobytes(), digest_size=8).hexdigest() + part,
    }


def still_holds(before: Basis, now: Basis, what: str) -> bool:
    """Whether a restored score compares with later ones; prints why not."""
    changed = [name.replace("_", " ") for name in now if name in before and before[name] != now[name]]
    if changed:
        from lightning.pytorch.utilities import rank_zero_only

        rank_zero_only(print)(f"{what} begins anew: {' and '.join(changed)} changed")
    return not changed
