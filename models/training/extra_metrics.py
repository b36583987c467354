"""What a run is judged by besides loss and accuracy of one label per image.

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
from jsonargparse._util import import_object  # refuses what a checkpoint may not name
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

# For each name a class, or its `class_path` and `init_args`; null takes one away.
Asked = dict[str, str | dict[str, Any] | None]

FILLED_IN = {"num_classes", "num_labels"}  # arguments that follow from the data


class ExtraMetrics:
    """Computes metrics of torchmetrics, or of one's own, on a whole split at once.

    Logits are kept until the end of a split, 4 bytes for each image and class; then every process computes on those of
    all, on the CPU. So figures depend neither on batches nor on processes, and saved logits give the same.

    A metric gets probabilities, float64 `[N, K]`, and labels, int64 `[N]` or, of several per image, 0 and 1 `[N, K]`;
    torchmetrics' for two classes get the probability of the second. It gives a number, or a number and its threshold,
    which is logged as `<name>_threshold`.

    Raises:
        UserError: If a class or an argument does not exist, or does not fit.
    """

    def __init__(self, asked: Asked | None, num_classes: int, multi_label: bool = False) -> None:
        self.num_classes, self.multi_label = num_classes, multi_label
        self.metrics = {name: self._build(name, given) for name, given in (asked or {}).items() if given is not None}
        self._told: set[str] = set()  # figures that were said to be undefined
        self._kept: list[tuple[Tensor, Tensor]] = []

    def reset(self) -> None:
        """Forget what was kept."""
        self._kept.clear()

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Keep a batch: logits float `[B, K]`, labels `[B]` or `[B, K]`."""
        self._kept.append((logits.detach().float(), labels.long()))

    def log(self, classifier: Any, stage: str) -> None:
        """Log the figures of a split that has ended and, of several labels, choose thresholds on the validation split.

        Raises:
            UserError: If a figure that a callback or a schedule decides by is not defined.
        """
        logits, labels = self.gather(classifier.device)
        if self.multi_label and stage == "val" and len(labels):
            classifier.thresholds = best_thresholds(logits.double().sigmoid(), labels)
        for name, number in self.figures(logits, labels).items():
            classifier.log(f"{stage}/{name}", number)
        trainer, names = classifier.trainer, classifier.class_names or range(self.num_classes)
        for name, classes in self.undefined(labels).items():
            figure = f"{stage}/{name}"
            lacking = f"no image of {stage}, or every one, is of {some_of([str(names[label]) for label in classes])}"
            schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
            monitors = {getattr(each, "monitor", None) for each in (*trainer.callbacks, *schedules)}
            if trainer.state.fn == "fit" and figure in monitors:
                raise UserError(f"The monitor {figure} is not defined: {lacking}; choose another, or give more images.")
            if trainer.is_global_zero and figure not in self._told:
                self._told.add(figure)
                print(f"note: {figure} is not defined, and NaN: {lacking}")

    def gather(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The logits and labels that all processes have kept; a process may have none."""
        none = torch.empty(0, self.num_classes, device=device)
        kept = [*self._kept, (none, none.long() if self.multi_label else none[:, 0].long())]
        logits, labels = map(torch.cat, zip(*kept, strict=True))
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            logits, labels = (torch.cat(gather_all_tensors(part)) for part in (logits, labels))
        return logits.cpu(), labels.cpu()

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Each figure by its name, of logits `[N, K]` and their labels; NaN where it is not defined."""
        logits, labels = logits.double(), labels.long()
        probabilities = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        is_known, undefined = len(labels) and not probabilities.isnan().any(), self.undefined(labels)
        figures: dict[str, float] = {}
        for name, metric in self.metrics.items():
            is_defined = is_known and name not in undefined
            figures |= _computed(name, metric, probabilities, labels) if is_defined else {name: math.nan}
        return figures

    def undefined(self, labels: Tensor) -> dict[str, list[int]]:
        """The classes that lack images, by metric: torchmetrics counts the area under no curve as 0."""
        counts = labels.sum(dim=0) if self.multi_label else torch.bincount(labels, minlength=self.num_classes)
        lacking = torch.nonzero((counts == 0) | (counts == len(labels))).flatten().tolist()
        # A mean that gives no weight to absent classes needs two others.
        most = dict.fromkeys(("micro",) if self.multi_label else ("micro", "weighted"), self.num_classes - 2)
        return {
            name: lacking
            for name, metric in self.metrics.items()
            if hasattr(metric, "thresholds") and len(lacking) > most.get(getattr(metric, "average", ""), 0)
        }

    def _build(self, name: str, given: str | dict[str, Any]) -> Metric:
        try:
            if name in ("loss", "accuracy", "top5_accuracy", "exact_match"):
                raise ValueError("its name is taken")
            class_, arguments = metric_class(given, "Multilabel" if self.multi_label else "Multiclass")
            known = inspect.signature(class_).parameters.keys()
            for argument in arguments:
                if argument not in (free := sorted(known - FILLED_IN - {"kwargs"})):
                    raise ValueError(f"it has no argument {argument} to set; {near_names(argument, free)}")
            metric = class_(**arguments, **dict.fromkeys(FILLED_IN & known, self.num_classes))
            metric.distributed_available_fn = bool  # which gives False: each process has all images
            labels = torch.arange(5) % self.num_classes
            probabilities = torch.eye(self.num_classes, dtype=torch.float64)[labels]
            _computed(name, metric, probabilities, probabilities.long() if self.multi_label else labels)
        except Exception as error:  # a metric for something else raises anything
            named = given if isinstance(given, str) else given.get("class_path", given)
            reason = " ".join(str(error).split()).rstrip(".")
            raise UserError(
                f"In model.metrics.{name}, correct {named}: {reason}{'' if reason.endswith('?') else '.'}"
            ) from error
        return metric


def metric_class(given: str | dict[str, Any], task: str = "Multiclass") -> tuple[type[Metric], dict[str, Any]]:
    """The class of a metric, of torchmetrics' for a task unless it names another, and the arguments given."""
    node: dict[str, Any] = {"class_path": given} if isinstance(given, str) else given
    if node.keys() - {"init_args"} != {"class_path"}:
        raise ValueError("write a class with arguments as {class_path: F1Score, init_args: {average: macro}}")
    path, arguments = str(node["class_path"]), dict(node.get("init_args") or {})
    own = {name for name, paths in own_classes().items() if paths[0].startswith("models.")}
    if path in own or ("." in path and not path.startswith("torchmetrics.")):
        return import_object(full_path(path)), arguments
    short, task = path.rpartition(".")[2], str(arguments.pop("task", task)).capitalize()
    classes = {name: each for name, each in vars(torchmetrics.classification).items() if isinstance(each, type)}
    for name in (task + short, short, "Multilabel" + short):
        if name in classes:
            return classes[name], arguments
    near = near_names(short, [*classes, *own], "F1Score is one of many in torchmetrics")
    raise ValueError(f"there is no such classification metric; {near}")


def modes(asked: Asked | None) -> dict[str, Mode]:
    """Whether lower or higher is better, by the name in the logs, where a metric's class says so."""
    known: dict[str, Mode] = {}
    for name, given in (asked or {}).items():
        with suppress(Exception):  # what is wrong is said when it is built
            class_, _ = metric_class(given or {})
            mode = {True: "max", False: "min"}.get(class_.higher_is_better)  # type: ignore[arg-type]
            known[f"val/{name}"] = direction(class_.__name__, mode, name)
    return known


def _computed(name: str, metric: Metric, probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    if any(base.__name__.startswith("Binary") for base in type(metric).__mro__):
        if probabilities.shape[1] != 2:
            raise ValueError(f"it is for two classes, not {probabilities.shape[1]}")
        probabilities = probabilities[:, 1]
    fresh = deepcopy(metric)
    with warnings.catch_warnings(action="ignore"):  # about what `undefined` finds
        fresh.update(probabilities, labels)
        value = fresh.compute()
    values = value if isinstance(value, tuple) else (value,)
    if len(values) > 2 or not all(isinstance(each, Tensor) and each.numel() == 1 for each in values):
        raise ValueError("it does not give one number")
    return dict(zip((name, f"{name}_threshold"), (float(each.float()) for each in values), strict=False))


class MultiLabelMetrics(ClassificationMetrics):
    """Loss, accuracy and exact match of several labels per image, at a probability of 0.5.

    `accuracy` is the share of all labels of all images that are right (1 less the Hamming loss), of a mixed image by
    its shares; `exact_match` that of images whose labels are all right, of a mixed one those of the larger share.
    """

    exact_matches: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__(0)
        self.add_state("exact_matches", torch.zeros_like(self.correct), dist_reduce_fx="sum", persistent=True)

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor | None = None) -> None:
        """Count a batch: logits and labels float `[B, K]`; its mean loss is by default the binary cross-entropy."""
        if loss is None:
            loss = F.binary_cross_entropy_with_logits(logits.to(self.loss_sum.dtype), labels.to(self.loss_sum.dtype))
        predicted = logits > 0
        self.loss_sum.add_(loss, alpha=len(labels))
        right = torch.where(predicted, labels, 1 - labels)
        self.correct.add_(right.sum(dtype=self.correct.dtype), alpha=1 / labels.shape[1])
        self.exact_matches.add_((predicted == (labels > 0.5)).all(dim=1).sum())
        self.total.add_(len(labels))

    def compute(self) -> Mapping[str, Tensor]:
        """Each figure by its name; NaN when nothing was counted."""
        return {**super().compute(), "exact_match": self.exact_matches / self.total}


def best_thresholds(probabilities: Tensor, labels: Tensor) -> list[float]:
    """The probability above which each label is predicted for its F1 to be highest.

    It lies midway between two neighbouring probabilities, and is the highest of those that are equally good; 0.5 for a
    label that no image has. Both are `[N, K]`, labels 0 or 1.
    """
    ranked, order = probabilities.sort(dim=0, descending=True)
    below = torch.cat([ranked[1:], torch.zeros_like(ranked[:1])])
    there, counts = labels.sum(dim=0), torch.arange(1, len(labels) + 1, device=labels.device)[:, None]
    f1 = 2 * labels.gather(0, order).cumsum(dim=0) / (counts + there)
    best = f1.masked_fill(ranked == below, -1).argmax(dim=0, keepdim=True)  # equal ones are predicted together
    middle = (ranked.gather(0, best) + below.gather(0, best))[0] / 2
    return torch.where(there > 0, middle, 0.5).nan_to_num(0.5).tolist()
