"""Any network as an image classifier.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ConstantLR

from models.checkpoint import read_checkpoint
from models.metrics import ClassificationMetrics

Batch = tuple[Tensor, Tensor]
"""Normalised images, float `[B, C, H, W]`, and labels, int64 `[B]`."""


class Classifier(LightningModule):
    """Cross-entropy and accuracy around any network that maps images `[B, C, H, W]` to logits `[B, K]`.

    Logs `train/loss`, `train/accuracy`, the same under `val/` and `test/`, and with more than 10 classes
    `.../top5_accuracy`: once per epoch, as exact means over its images.

    A checkpoint holds, besides the weights, the constructor's arguments, `class_names` and `preprocessing`, all in
    plain types: `Classifier.load_from_checkpoint(path)` needs nothing else. (Built in Python around a ready network,
    whose own arguments nobody knows, give that network again: `load_from_checkpoint(path, network=...)`.)

    Args:
        network: The network.
        num_classes: Classes, K.
        optimizer: Makes the optimizer from the parameters, such as `torch.optim.AdamW`.
        scheduler: Makes the learning-rate schedule from the optimizer. One that has an argument `total_steps` is
            given the Trainer's number of optimizer steps and steps after each; any other steps after each epoch.
        compile: Whether to compile the network (`torch.compile`); the weights keep their names.
        channels_last: Whether images and weights lie in memory pixel by pixel, which convolutions on GPUs with tensor
            cores and on CPUs with bfloat16 units prefer.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # Built in Python, the network is saved as weights only; built from a configuration, as its arguments.
            warnings.filterwarnings("ignore", "Attribute 'network' is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        saved = self.hparams["network"]
        if isinstance(saved, nn.Module):
            self.remove_ignored_hparams(["network", "optimizer", "scheduler"])
        elif "init_args" in saved:
            # The command line offers what the data knows to every network; keep what this one takes.
            taken = ArgumentParser().add_class_arguments(type(network), fail_untyped=False)
            saved["init_args"] = {name: value for name, value in saved["init_args"].items() if name in taken}
        self.network = network
        self.num_classes = num_classes
        self.class_names: list[str] = []
        """The classes' names; known once data or a checkpoint are attached."""
        self.preprocessing: dict[str, Any] = {}
        """Channels, image size, mean and std of the images that the network was trained on; likewise."""
        self.train_metrics = ClassificationMetrics(num_classes)
        self.val_metrics = ClassificationMetrics(num_classes)
        self.test_metrics = ClassificationMetrics(num_classes)
        self.make_optimizer = optimizer
        self._make_scheduler = scheduler
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        network.to(memory_format=self._memory_format)
        if compile:
            network.compile()

    @property
    def num_parameters(self) -> int:
        """Numbers that the network has learnt or could learn, frozen ones included."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float `[B, C, H, W]`, to logits, float `[B, K]`.

        Raises:
            MisconfigurationException: If the network gives something else.
        """
        logits: Tensor = self.network(images.to(memory_format=self._memory_format))
        if logits.shape != (len(images), self.num_classes):
            raise MisconfigurationException(
                f"{type(self.network).__name__} gives {list(logits.shape)} for {len(images)} images; expected logits "
                f"of shape {[len(images), self.num_classes]}, a number for each class."
            )
        return logits

    def _step(self, batch: Batch, metrics: ClassificationMetrics) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits.float(), labels)
        metrics.update(logits.detach(), labels, loss.detach())
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's mean loss."""
        return self._step(batch, self.train_metrics)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the batch."""
        self._step(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the batch."""
        self._step(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits, float32 `[B, K]`."""
        logits: Tensor = self(batch[0])
        return logits.float()

    def on_train_epoch_start(self) -> None:
        """Count anew; not called when an epoch is taken up in its middle, whose count goes on."""
        self.train_metrics.reset()

    def on_validation_epoch_start(self) -> None:
        """Count anew."""
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        """Count anew."""
        self.test_metrics.reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's figures."""
        self._log_figures("train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's figures."""
        self._log_figures("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._log_figures("test", self.test_metrics)

    def _log_figures(self, stage: str, metrics: ClassificationMetrics) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=f"{stage}/{name}" in ("train/loss", "val/accuracy"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over all trainable parameters and its schedule, which is logged as `lr`."""
        # A constant rate is a schedule too, so that it is logged under the same name.
        make_scheduler: Callable[..., Any] = self._make_scheduler or partial(ConstantLR, factor=1.0, total_iters=0)
        arguments = {**inspect.signature(make_scheduler).parameters, **getattr(make_scheduler, "keywords", {})}
        per_step = "total_steps" in arguments
        if per_step and not isinstance(arguments["total_steps"], int):
            make_scheduler = partial(make_scheduler, total_steps=int(self.trainer.estimated_stepping_batches))
        try:
            optimizer = self.make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)
            scheduler = make_scheduler(optimizer)
        except ValueError as error:
            raise MisconfigurationException(f"model.optimizer or model.scheduler: {error}.") from error
        config = LRSchedulerConfigType(scheduler=scheduler, interval="step" if per_step else "epoch", name="lr")
        if isinstance(scheduler, ReduceLROnPlateau):
            config["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": config}

    def setup(self, stage: str) -> None:
        """Take class names and preprocessing from the data, to be saved with the weights."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self.class_names = list(datamodule.class_names)
            self.preprocessing = dict(datamodule.preprocessing)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights mean."""
        checkpoint["class_names"] = self.class_names
        checkpoint["preprocessing"] = self.preprocessing

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what the weights mean.

        Raises:
            MisconfigurationException: If data with other classes is attached.
        """
        class_names = checkpoint["class_names"]
        if self.class_names and self.class_names != class_names:
            raise MisconfigurationException(
                f"The checkpoint knows the classes {', '.join(class_names)}, the data has "
                f"{', '.join(self.class_names)}; use data with the classes of the checkpoint."
            )
        self.class_names, self.preprocessing = class_names, checkpoint["preprocessing"]

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is no plain classmethod
        cls, checkpoint_path: str | Path, map_location: str | torch.device = "cpu", **kwargs: Any
    ) -> Self:
        """Rebuild network and weights from a checkpoint alone.

        Args:
            checkpoint_path: The file.
            map_location: The device to load to.
            kwargs: Arguments of the constructor that replace those saved.

        Raises:
            MisconfigurationException: If the file is missing, damaged or of another program.
        """
        saved = read_checkpoint(checkpoint_path).get(cls.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if "network" not in {**saved, **kwargs}:
            raise MisconfigurationException(
                f"{checkpoint_path} was saved around a ready-made network, whose arguments are not in it; "
                "give the network again: Classifier.load_from_checkpoint(path, network=...)."
            )
        classifier: Self = super().load_from_checkpoint(
            checkpoint_path, map_location=map_location, weights_only=True, **kwargs
        )
        return classifier
