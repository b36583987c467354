"""Metrics besides loss and accuracy: configured ones, and those of multi-label data.

Shapes: `N` images, `K` classes.
"""

import inspect
import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
import torchmetrics.classification
from jsonargparse._util import import_object  # raises for a class that is not trusted
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from core.names import near_names, some_of
from core.own_classes import own_classes
from core.user_error import UserError
from models.serialization.class_path import full_path
from models.training.metrics import ClassificationMetrics
from models.training.monitor import Mode, direction

# `model.metrics`: maps a name to a class, or to its `class_path` and `init_args`; null removes a metric.
Configured = dict[str, str | dict[str, Any] | None]

FILLED_IN = {"num_classes", "num_labels"}  # arguments that the data determines


class ExtraMetrics:
    """Computes metrics of torchmetrics, or your own, on a whole split at once.

    It keeps the logits of a split until its end, 4 bytes for each image and class. Then every rank computes the metrics
    on the logits of all ranks, on the CPU. The results therefore depend neither on the batch size nor on the number of
    ranks, and saved logits give equal results.

    A metric gets probabilities, float64 `[N, K]`, and labels, int64 `[N]`, or multi-label 0 and 1 `[N, K]`. A binary
    metric of torchmetrics gets the probability of the second class. A metric returns one number, or a number and its
    threshold, which is logged as `<name>_threshold`.

    Raises:
        UserError: If a class or an argument does not exist or does not fit.
    """

    def __init__(self, configured: Configured | None, num_classes: int, multi_label: bool = False) -> None:
        self.num_classes, self.multi_label = num_classes, multi_label
        self.metrics = {
            name: self._build(name, metric) for name, metric in (configured or {}).items() if metric is not None
        }
        self._reported: set[str] = set()  # metrics that were reported as undefined
        self._batches: list[tuple[Tensor, Tensor]] = []

    def reset(self) -> None:
        """Drop the kept logits and labels."""
        self._batches.clear()

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Keep a batch: logits float `[B, K]`, labels `[B]` or `[B, K]`."""
        self._batches.append((logits.detach().float(), labels.long()))

    def log(self, classifier: Any, stage: str) -> None:
        """Log the metrics at the end of a split; for multi-label data, validation also chooses the thresholds."""
        logits, labels = self.gather(classifier.device)
        if self.multi_label and stage == "val" and len(labels):
            classifier.thresholds = best_thresholds(logits.double().sigmoid(), labels)
        for name, value in self.compute(logits, labels).items():
            classifier.log(f"{stage}/{name}", value)
        trainer, class_names = classifier.trainer, classifier.class_names or range(self.num_classes)
        for name, classes in self.undefined(labels).items():
            key = f"{stage}/{name}"
            reason = (
                f"either no image or every image of {stage} is of {some_of([str(class_names[k]) for k in classes])}"
            )
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            monitors = {getattr(monitoring, "monitor", None) for monitoring in (*trainer.callbacks, *schedules)}
            if trainer.state.fn == "fit" and key in monitors:
                raise UserError(f"The monitor {key} is not defined: {reason}; choose another, or give more images.")
            if trainer.is_global_zero and key not in self._reported:
                self._reported.add(key)
                print(f"note: {key} is not defined, and NaN: {reason}")

    def gather(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the logits and labels that all ranks have kept; a rank may have none."""
        logits = torch.empty(0, self.num_classes, device=device)
        labels = torch.empty(0, *([self.num_classes] if self.multi_label else []), dtype=torch.long, device=device)
        logits = torch.cat([logits, *(batch_logits for batch_logits, _ in self._batches)])
        labels = torch.cat([labels, *(batch_labels for _, batch_labels in self._batches)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            logits = torch.cat(gather_all_tensors(logits))
            labels = torch.cat(gather_all_tensors(labels))
        return logits.cpu(), labels.cpu()

    def compute(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return each metric of logits `[N, K]` and their labels; an undefined metric is NaN."""
        logits, labels = logits.double(), labels.long()
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        is_computable = len(labels) and not probabilities.isnan().any()
        undefined = self.undefined(labels)
        values: dict[str, float] = {}
        for name, metric in self.metrics.items():
            if is_computable and name not in undefined:
                values |= _compute(name, metric, probabilities, labels)
            else:
                values[name] = math.nan
        return values

    def undefined(self, labels: Tensor) -> dict[str, list[int]]:
        """Return the undefined metrics, each with the classes whose curves are undefined.

        A class has no curve if none or all of the images have it; torchmetrics would count the area under it as 0.
        """
        counts = labels.sum(dim=0) if self.multi_label else torch.bincount(labels, minlength=self.num_classes)
        without_curve = torch.nonzero((counts == 0) | (counts == len(labels))).flatten().tolist()
        # These averages give no weight to missing classes; they are defined if two classes have images.
        tolerant_averages = ("micro",) if self.multi_label else ("micro", "weighted")
        undefined: dict[str, list[int]] = {}
        for name, metric in self.metrics.items():
            allowed = self.num_classes - 2 if getattr(metric, "average", "") in tolerant_averages else 0
            if hasattr(metric, "thresholds") and len(without_curve) > allowed:
                undefined[name] = without_curve
        return undefined

    def _build(self, name: str, configured: str | dict[str, Any]) -> Metric:
        """Build a metric and try it on a few images; raise UserError if that fails."""
        try:
            if name in ("loss", "accuracy", "top5_accuracy", "exact_match"):
                raise ValueError("its name is taken")
            class_, arguments = metric_class(configured, "Multilabel" if self.multi_label else "Multiclass")
            parameters = inspect.signature(class_).parameters.keys()
            settable = sorted(parameters - FILLED_IN - {"kwargs"})
            for argument in arguments:
                if argument not in settable:
                    raise ValueError(f"it has no argument {argument} to set; {near_names(argument, settable)}")
            metric = class_(**arguments, **dict.fromkeys(FILLED_IN & parameters, self.num_classes))
            metric.distributed_available_fn = bool  # bool() is False: no synchronisation, as each rank has all images
            labels = torch.arange(5) % self.num_classes
            probabilities = torch.eye(self.num_classes, dtype=torch.float64)[labels]
            _compute(name, metric, probabilities, probabilities.long() if self.multi_label else labels)
        except Exception as error:  # a metric that does not fit may raise any error
            class_name = configured if isinstance(configured, str) else configured.get("class_path", configured)
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"In model.metrics.{name}, correct {class_name}: {reason}{'' if reason.endswith('?') else '.'}"
            ) from error
        return metric


def metric_class(configured: str | dict[str, Any], task: str = "Multiclass") -> tuple[type[Metric], dict[str, Any]]:
    """Return a configured metric's class and arguments; `F1Score` means torchmetrics' class for the task."""
    node: dict[str, Any] = {"class_path": configured} if isinstance(configured, str) else configured
    if node.keys() - {"init_args"} != {"class_path"}:
        raise ValueError("write a class with arguments as {class_path: F1Score, init_args: {average: macro}}")
    path, arguments = str(node["class_path"]), dict(node.get("init_args") or {})
    own_names = {name for name, paths in own_classes().items() if paths[0].startswith("models.")}
    if path in own_names or ("." in path and not path.startswith("torchmetrics.")):
        return import_object(full_path(path)), arguments
    short, task = path.rpartition(".")[2], str(arguments.pop("task", task)).capitalize()
    classes = {name: value for name, value in vars(torchmetrics.classification).items() if isinstance(value, type)}
    for name in (task + short, short, "Multilabel" + short):
        if name in classes:
            return classes[name], arguments
    near = near_names(short, [*classes, *own_names], "F1Score is one of many in torchmetrics")
    raise ValueError(f"there is no such classification metric; {near}")


def modes(configured: Configured | None) -> dict[str, Mode]:
    """Return for each key in the logs whether lower or higher is better, if the metric's class tells."""
    modes: dict[str, Mode] = {}
    for name, metric in (configured or {}).items():
        with suppress(Exception):  # an error is reported when the metric is built
            class_, _ = metric_class(metric or {})
            mode = {True: "max", False: "min"}.get(class_.higher_is_better)  # type: ignore[arg-type]
            modes[f"val/{name}"] = direction(class_.__name__, mode, name)
    return modes


def _compute(name: str, metric: Metric, probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    if any(base.__name__.startswith("Binary") for base in type(metric).__mro__):
        if probabilities.shape[1] != 2:
            raise ValueError(f"it is for two classes, not {probabilities.shape[1]}")
        probabilities = probabilities[:, 1]
    fresh_metric = deepcopy(metric)
    with warnings.catch_warnings(action="ignore"):  # torchmetrics warns about metrics that `undefined` reports
        fresh_metric.update(probabilities, labels)
        result = fresh_metric.compute()
    numbers = result if isinstance(result, tuple) else (result,)
    if len(numbers) > 2 or not all(isinstance(number, Tensor) and number.numel() == 1 for number in numbers):
        raise ValueError("it does not give one number")
    names = (name, f"{name}_threshold")
    return {name: float(number.float()) for name, number in zip(names, numbers, strict=False)}


class MultiLabelMetrics(ClassificationMetrics):
    """Loss, accuracy and exact match of multi-label data; a label is predicted above a probability of 0.5.

    `accuracy` is the fraction of correct labels, 1 - Hamming loss. A label of a mixed image is correct by its fraction.
    `exact_match` is the fraction of images whose labels are all correct. For a mixed image, the labels with a
    fraction above 0.5 count.
    """

    exact_matches: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(0)
        self.add_state("exact_matches", torch.zeros_like(self.correct), dist_reduce_fx="sum", persistent=True)

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Add a batch: logits and labels float `[B, K]`. `loss` is its mean; by default the binary cross-entropy."""
        if loss is None:
            loss = F.binary_cross_entropy_with_logits(logits.to(self.loss_sum.dtype), labels.to(self.loss_sum.dtype))
        predicted = logits > 0
        self.loss_sum.add_(loss, alpha=len(labels))
        correct = torch.where(predicted, labels, 1 - labels)
        self.correct.add_(correct.sum(dtype=self.correct.dtype), alpha=1 / labels.shape[1])
        self.exact_matches.add_((predicted == (labels > 0.5)).all(dim=1).sum())
        self.total.add_(len(labels))

    def compute(self) -> Mapping[str, Tensor]:
        """Return each metric by its name; NaN if no image was added."""
        return {**super().compute(), "exact_match": self.exact_matches / self.total}


def best_thresholds(probabilities: Tensor, labels: Tensor) -> list[float]:
    """Return for each label the threshold on its probability with the highest F1.

    A threshold lies midway between two neighbouring probabilities. Of equally good thresholds, the highest is chosen. A
    label that no image has gets 0.5. Both arguments are `[N, K]`; labels are 0 or 1.
    """
    ranked, order = probabilities.sort(dim=0, descending=True)
    below = torch.cat([ranked[1:], torch.zeros_like(ranked[:1])])
    positives = labels.sum(dim=0)
    predicted_positives = torch.arange(1, len(labels) + 1, device=labels.device)[:, None]
    true_positives = labels.gather(0, order).cumsum(dim=0)
    f1 = 2 * true_positives / (predicted_positives + positives)
    # No threshold separates equal probabilities.
    best = f1.masked_fill(ranked == below, -1).argmax(dim=0, keepdim=True)
    middle = (ranked.gather(0, best) + below.gather(0, best))[0] / 2
    return torch.where(positives > 0, middle, 0.5).nan_to_num(0.5).tolist()
