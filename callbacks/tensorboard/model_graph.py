"""The network's graph in TensorBoard."""

from functools import partial
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer

from callbacks.run.logged_steps import has_all_weights
from callbacks.run.outside_steps import OutsideSteps
from callbacks.tensorboard.board import write_to_tensorboard
from models.classifier import Classifier


class ModelGraph(OutsideSteps):
    """Writes the network's graph for TensorBoard: its layers, and the shapes of their outputs.

    The network is traced in evaluation mode on one black image, which changes neither weights nor batch statistics nor
    random numbers of the training. A network that cannot be traced has no graph.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the graph, except in a resumed run."""
        if has_all_weights(trainer):
            write_to_tensorboard(trainer, partial(_write_graph, cast(Classifier, pl_module)), at_start=True)


def _write_graph(classifier: Classifier, writer: Any) -> None:
    from callbacks.tensorboard.network_tracing import write_graph

    write_graph(writer, classifier.network, classifier.preprocessing)
