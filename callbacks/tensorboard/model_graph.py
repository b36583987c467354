"""The network as a graph."""

import copy
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from callbacks.run.outside_steps import OutsideSteps
from callbacks.run.sharding import has_all_weights
from callbacks.tensorboard.board import write_to_tensorboard
from core.breakpoints import skipping_breakpoints
from models.classifier import Classifier


class ModelGraph(OutsideSteps):
    """Writes the network's graph for TensorBoard: its layers, and the shapes of their outputs.

    The network is traced on one black image, in evaluation mode: weights, statistics and random numbers of the training
    stay as they are, and a breakpoint is passed by. A network that cannot be traced has no graph.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the graph, unless the run's folder has it."""
        if has_all_weights(trainer):
            write_to_tensorboard(trainer, partial(_write_graph, cast(Classifier, pl_module)), at_start=True)


def _write_graph(classifier: Classifier, writer: Any) -> None:
    if (traced := trace(classifier.network, classifier.preprocessing)) is not None:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            writer.add_graph(*traced)


def trace(network: nn.Module, preprocessing: Mapping[str, Any]) -> tuple[nn.Module, Tensor] | None:
    """A copy of a network, traced, and the image `[1, C, H, W]` that it was traced on; None if it cannot be traced."""
    if not {"channels", "image_size"} <= preprocessing.keys():
        return None
    # Modes, statistics and compilation belong to the copy; the weights, which tracing does not touch, are shared.
    weights = {id(parameter): parameter for parameter in network.parameters()}
    with suppress(Exception), warnings.catch_warnings(), skipping_breakpoints(), isolate_rng(), torch.no_grad():
        warnings.simplefilter("ignore")  # of branches that depend on the image, and that tracing is deprecated
        copied = copy.deepcopy(network, dict(weights)).eval()
        first = next((weight for weight in weights.values() if weight.is_floating_point()), torch.empty(0))
        image = first.new_zeros(1, preprocessing["channels"], *preprocessing["image_size"])
        traced: nn.Module = torch.jit.trace(copied, image, check_trace=False)  # type: ignore[no-untyped-call]
        return traced, image
    return None
