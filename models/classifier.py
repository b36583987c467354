"""Any network as an image classifier.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, instantiate_module
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from core.user_error import UserError
from models.losses import CrossEntropy, Loss
from models.serialization.checkpoint import FORMAT_VERSION, CheckpointContent, read_checkpoint
from models.serialization.class_path import check_classes, known_classes
from models.serialization.pretrained import misfit
from models.serialization.saved_network import saved_arguments
from models.training.freezing import Freezing
from models.training.metrics import ClassificationMetrics
from models.training.optimization import Optimization, make_ready, make_schedule, step_plateaus
from models.training.parameter_groups import parameter_groups
from models.training.test_time_augmentation import Views, average_logits

# Normalised images, float `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities `[B, K]`.
Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Loss and accuracy around any network that maps images `[B, C, H, W]` to logits `[B, K]`.

    Logs `train/loss`, `train/accuracy`, the same under `val/` and `test/`, and with more than 10 classes
    `.../top5_accuracy`: once per epoch, as exact means over its images. `train/loss` is what training minimises, with
    `loss` and `class_weights`; `val/loss` and `test/loss` are always the plain cross-entropy, so that they compare
    between runs whatever these were trained with.

    A checkpoint holds, besides the weights, the constructor's arguments, `class_names` and `preprocessing`, all in
    plain types: `Classifier.load_from_checkpoint(path)` needs nothing else. (Built in Python around a ready network,
    whose own arguments nobody knows, give that network again: `load_from_checkpoint(path, network=...)`.)

    Args:
        network: The network.
        num_classes: Classes, K.
        optimizer: Makes the optimizer from the parameters, such as `torch.optim.AdamW`.
        scheduler: Makes the learning-rate schedule from the optimizer. One that has an argument `total_steps` is
            given the Trainer's number of optimizer steps and steps after each; any other steps after each epoch.
        loss: What training minimises, one of `models.losses`; by default the cross-entropy.
        decay_norms_and_biases: Whether the optimizer's `weight_decay` holds for all parameters, or for weights alone.
        layer_decay: By what the learning rate is multiplied for each layer further from the logits.
        class_weights: What an image of each class counts in the training loss, `K` numbers, or `balanced`: inversely
            proportional to the class's training images, 1 on average over them. The loss is the weighted sum divided
            by the number of images.
        freeze: Names of the network's submodules that are not trained, such as `[backbone]`; their batch norm stays
            in evaluation mode.
        unfreeze: For an epoch, the names of submodules that are trained from there on: `{5: [backbone]}`.
        test_time_augmentation: Further views of each image that test and predict average over: `flip`, `crops`,
            `shifts` or two of them, `crops+flip` or `shifts+flip`.
        compile: Whether to compile the network (`torch.compile`); the weights keep their names.
        channels_last: Whether images and weights lie in memory pixel by pixel, which convolutions on GPUs with tensor
            cores and on CPUs with bfloat16 units prefer.
    """

    _weight: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerCallable,
        scheduler: LRSchedulerCallable | None = None,
        loss: Loss | None = None,
        decay_norms_and_biases: bool = True,
        layer_decay: float = 1.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
        freeze: Sequence[str] = (),
        unfreeze: dict[int, Sequence[str]] | None = None,
        test_time_augmentation: Views | None = None,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # Built in Python, the network is saved as weights only; built from a configuration, as its arguments.
            warnings.filterwarnings("ignore", "Attribute '(network|loss)' is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        saved = self.hparams["network"]
        if isinstance(self.hparams["loss"], nn.Module):
            self.remove_ignored_hparams(["loss"])
        if isinstance(saved, nn.Module):
            self.remove_ignored_hparams(["network", "optimizer", "scheduler"])
        elif "init_args" in saved:
            # The command line offers what the data knows to every network; keep what this one takes.
            taken = ArgumentParser().add_class_arguments(type(network), fail_untyped=False)
            saved["init_args"] = {name: value for name, value in saved["init_args"].items() if name in taken}
            # What training began from may be gone when the checkpoint is loaded, and would be overwritten at once.
            saved["init_args"] |= getattr(network, "rebuilt_with", {})
        self.network = network
        self.loss = loss or CrossEntropy()
        self.num_classes = num_classes
        self.class_names: list[str] = []
        """The classes' names; known once data or a checkpoint are attached."""
        self.preprocessing: dict[str, Any] = {}
        """Channels, image size, mean and std of the images that the network was trained on; likewise."""
        self.train_metrics = ClassificationMetrics(num_classes)
        self.val_metrics = ClassificationMetrics(num_classes)
        self.test_metrics = ClassificationMetrics(num_classes)
        if class_weights not in (None, "balanced"):
            weights = [float(weight) for weight in class_weights or ()]
            if len(weights) != num_classes or not min(weights) >= 0 or not 0 < sum(weights) < math.inf:
                raise UserError(
                    f"model.class_weights is {class_weights}; give {num_classes} finite numbers of at least 0, not all "
                    "0, one for each class, or balanced."
                )
        self.class_weights = class_weights
        self.test_time_augmentation = test_time_augmentation
        self.register_buffer("_weight", None, persistent=False)
        self.freezing = Freezing(network, freeze, unfreeze)
        # All that is ever trained must seem so when processes agree on what they share; training freezes the rest.
        self.freezing.apply(self.freezing.last_change)
        self.on_features: Callable[[Tensor], Tensor] | None = None
        """The part of the network that is left to apply when `forward` is given features in place of images."""
        self._before: Optimization | None = None
        self.make_optimizer = optimizer
        self.parameter_groups: Callable[[nn.Module], list[dict[str, Any]]] = partial(
            parameter_groups,
            decay_norms_and_biases=decay_norms_and_biases,
            layer_decay=layer_decay,
            is_trained=self.freezing.is_ever_trained,
        )
        """Lays out the parameters of the network, or of a copy of it, for `make_optimizer`."""
        self._make_scheduler = scheduler
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        network.to(memory_format=self._memory_format)
        self._is_compiled = compile
        if compile:
            network.compile(dynamic=False)  # else what was compiled depends on the sizes of batches before a break

    @property
    def num_parameters(self) -> int:
        """Numbers that the network has learnt or could learn, frozen ones included."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def loss_weights(self) -> list[float]:
        """What an image of each class counts in the training loss, `K` numbers; known once training has begun."""
        return [1.0] * self.num_classes if self._weight is None else self._weight.tolist()

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float `[B, C, H, W]`, to logits, float `[B, K]`; or features of images, by `on_features`.

        Raises:
            UserError: If the network gives something else.
        """
        apply = self.on_features or self.network
        logits: Tensor = apply(self.to_memory_format(images))
        if getattr(logits, "shape", None) != (len(images), self.num_classes):
            given = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UserError(
                f"{type(self.network).__name__} gives {given} for {len(images)} images; expected logits alone, of "
                f"shape {[len(images), self.num_classes]}, a number for each class."
            )
        return logits

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Images, or features of images, float `[B, ...]`, in the dtype and the layout that the network takes."""
        layout = self._memory_format if images.ndim == 4 else torch.preserve_format
        return images.to(self.dtype, memory_format=layout)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's mean loss, classes weighted.

        Raises:
            UserError: If batch norm is given one number of each channel, or nothing is trained.
        """
        images, labels = batch
        try:
            logits = self(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "A batch of a single image leaves batch norm nothing to take a variance of; leave such a last one of "
                "an epoch out with --data.drop_last true, or give another --data.batch_size."
            ) from error
        # Where no image is left for this process, it takes part with some that do not count.
        loss: Tensor = self.loss(logits.float(), labels, self._weight) if len(labels) else logits.float().sum() * 0
        if not loss.requires_grad:
            raise UserError(
                f"Nothing of {type(self.network).__name__} is trained: its logits come from no parameter with "
                "requires_grad; use one in forward, and do not detach what it gives."
            )
        if len(labels):
            self.train_metrics.update(logits.detach(), labels, loss.detach())
        if (accumulated := self.trainer.accumulate_grad_batches) > 1:
            # Lightning divides by as many, also in an epoch's last step, for which there may be fewer.
            first = getattr(self.trainer.fit_loop.epoch_loop, "first_batch", 0)
            step = first + (batch_idx - first) // accumulated * accumulated
            left = self.trainer.num_training_batches - step
            loss = loss * (accumulated / min(accumulated, left))
        if self.trainer.world_size > 1 and self.trainer.is_last_batch:
            # Gradients are averaged over processes, whose shares of an epoch's last batch may differ by an image.
            total = torch.tensor(float(len(labels)), device=self.device)
            torch.distributed.all_reduce(total)
            loss = loss * (len(labels) * self.trainer.world_size / total)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Count the batch; logits float `[B, K]`, for callbacks to look at, unless it is empty."""
        return self._count(self, batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Count the batch; logits likewise."""
        return self._count(self.predict_logits, batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits, float32 `[B, K]`."""
        return self.predict_logits(batch[0]).float()

    def predict_logits(self, images: Tensor) -> Tensor:
        """Logits, float `[B, K]`, averaged over the views of `test_time_augmentation`."""
        if self.test_time_augmentation:
            return average_logits(self, images, self.test_time_augmentation)
        logits: Tensor = self(images)
        return logits

    @staticmethod
    def _count(predict: Callable[[Tensor], Tensor], batch: Batch, metrics: ClassificationMetrics) -> Tensor | None:
        images, labels = batch
        if not len(labels):  # the last of a process may be empty
            return None
        logits = predict(images)
        metrics.update(logits, labels, F.cross_entropy(logits.to(metrics.loss_sum.dtype), labels))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Put all but what is frozen into training mode."""
        super().train(mode)
        self.freezing.keep_in_evaluation()
        return self

    def on_train_start(self) -> None:
        """Freeze what is frozen where a run is taken up, and say what will never be thawed.

        Raises:
            UserError: If several processes could not agree on what they train.
        """
        if self.freezing.last_change and self.trainer.world_size > 1:
            strategy = getattr(self.trainer.strategy, "_ddp_kwargs", {})
            if not strategy.get("find_unused_parameters"):
                raise UserError(
                    "model.unfreeze with several processes needs --trainer.strategy ddp_find_unused_parameters_true."
                )
        self.freezing.apply(self.current_epoch)
        last, epochs = self.freezing.last_change, self.trainer.max_epochs
        if epochs is not None and 0 <= epochs <= last and self.trainer.is_global_zero:
            print(f"model.unfreeze names epoch {last}, which a run of {epochs} epochs, counted from 0, does not reach.")

    def on_train_epoch_start(self) -> None:
        """Count anew; not called when an epoch is taken up in its middle, whose count goes on."""
        self.train_metrics.reset()
        self.freezing.apply(self.current_epoch)
        if self.freezing.changes(self.current_epoch) and self._is_compiled:
            torch.compiler.reset()  # code for each set of trained parts would exceed what torch keeps of one network

    def on_validation_epoch_start(self) -> None:
        """Count anew."""
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        """Count anew."""
        self.test_metrics.reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's figures.

        Raises:
            UserError: If the schedule waits for a figure that is not among those logged.
        """
        self._log_figures("train", self.train_metrics)
        step_plateaus(self.trainer, validated=False)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's figures."""
        self._log_figures("val", self.val_metrics)

    def on_validation_end(self) -> None:
        """Let a schedule that waits for a figure look at it."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            step_plateaus(self.trainer, validated=True)

    def on_test_epoch_end(self) -> None:
        """Log the figures."""
        self._log_figures("test", self.test_metrics)

    def _log_figures(self, stage: str, metrics: ClassificationMetrics) -> None:
        for name, value in metrics.compute().items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=f"{stage}/{name}" in ("train/loss", "val/accuracy"))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over all trainable parameters and its schedule, which is logged as `lr`.

        Raises:
            UserError: If either refuses its arguments, the schedule has an end and the run has none or
                a later one, or training cannot go on with it from the checkpoint.
        """
        try:
            optimizer = self.make_optimizer(self.parameter_groups(self.network))
            before, self._before = self._before, None
            if before is not None:
                before.refuse_another(self.hparams.get("optimizer"), optimizer, self.make_optimizer)
            make_ready(optimizer)
            schedule = make_schedule(self._make_scheduler, optimizer, self.trainer, before)
        except ValueError as error:
            raise UserError(f"model.optimizer or model.scheduler: {str(error).rstrip('.')}; correct it.") from error
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def setup(self, stage: str) -> None:
        """Take class names and preprocessing from the data, to be saved with the weights."""
        self.trainer.precision_plugin.convert_module(self)  # the Trainer would when a checkpoint's weights are rounded
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self.class_names = list(datamodule.class_names)
            self.preprocessing = dict(datamodule.preprocessing)
        if stage == "fit" and self.class_weights is not None:
            self._weight = torch.tensor(self._balanced_weights())

    def _balanced_weights(self) -> list[float]:
        if self.class_weights != "balanced":
            return [float(weight) for weight in self.class_weights or ()]
        counts = getattr(getattr(self.trainer, "datamodule", None), "class_counts", None)
        if counts is None:
            raise UserError(
                "model.class_weights is balanced, but what is trained on does not say its class_counts; give numbers."
            )
        return [sum(counts) / (len(counts) * count) if count else 0.0 for count in counts]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights mean, and what each of several processes has counted in the epoch."""
        content = cast(CheckpointContent, checkpoint)
        content["format_version"] = FORMAT_VERSION
        content["class_names"], content["preprocessing"] = self.class_names, self.preprocessing
        if self._trainer is not None and self.trainer.world_size > 1:
            content["counts"] = {name: _of_each_process(count) for name, count in self._counts().items()}

    def _counts(self) -> dict[str, Tensor]:
        counts: dict[str, Tensor] = self.train_metrics.state_dict(prefix="train_metrics.")
        return counts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what the weights mean.

        Raises:
            UserError: If data with other classes is attached, or the weights are of another network
                than the Trainer has.
        """
        datamodule = getattr(self._trainer, "datamodule", None)
        class_names = getattr(datamodule, "distinct_names", list)(checkpoint["class_names"])
        if self.class_names and self.class_names != class_names:
            raise UserError(
                f"The checkpoint knows the classes {', '.join(class_names)}, the data has "
                f"{', '.join(self.class_names)}; use data with the classes of the checkpoint."
            )
        # Images of another size are trained on as they are now, but normalised by what they were.
        own = {name: value for name, value in self.preprocessing.items() if name not in ("mean", "std")}
        self.class_names, self.preprocessing = class_names, checkpoint["preprocessing"] | own
        if self._trainer is None:
            named = next(iter(self.named_parameters()), None)
            if named and (saved := checkpoint["state_dict"].get(named[0])) is not None and saved.dtype != self.dtype:
                self.to(saved.dtype)  # of a run in bf16-true or 64-true
            return
        if found := misfit(self.state_dict(), checkpoint["state_dict"]):
            raise UserError(
                f"The checkpoint's weights do not fit {type(self.network).__name__} as it is given: {found}; leave "
                "model.network as it was trained, or begin a new run from the backbone with --model.network.weights."
            )
        if self._trainer.state.fn == "fit":
            self._before = Optimization.taken_from(checkpoint)
            for config in self.trainer.lr_scheduler_configs:  # of a strategy that restores after they are made
                self._before.take_up(config.scheduler, per_step=config.interval == "step")
            self._take_counts(checkpoint)

    def _take_counts(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the counts of this process or, if there were more or fewer of them, with all in the first."""
        weights, rank, processes = checkpoint["state_dict"], self.trainer.global_rank, self.trainer.world_size
        for name in self._counts():
            counts = checkpoint.get("counts", {}).get(name, weights[name][None])
            if len(counts) == processes:
                weights[name] = counts[rank]
            else:
                weights[name] = counts.sum(dim=0) if rank == 0 else torch.zeros_like(counts[0])

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is no plain classmethod
        cls, checkpoint_path: str | Path, map_location: str | torch.device = "cpu", **kwargs: Any
    ) -> Self:
        """Build the classifier and load its weights from a checkpoint alone.

        Args:
            checkpoint_path: The file.
            map_location: The device to load to.
            kwargs: Arguments of the constructor that replace the saved ones.

        Raises:
            UserError: If the file is missing, damaged or of another program, or if it names a function or a class of a
                package that `models.serialization.class_path.trust` was not called with.
        """
        path = Path(checkpoint_path)
        checkpoint = read_checkpoint(path)
        arguments = saved_arguments(checkpoint, path, kwargs)
        with known_classes(str(path), own=kwargs):
            if arguments.pop("_instantiator", None):  # the command line built it
                parser = ArgumentParser(exit_on_error=False)
                parser.add_class_arguments(cls, fail_untyped=False)
                check_classes(parser.parse_object(arguments), str(path))
                classifier: Self = instantiate_module(cls, arguments)
            else:
                classifier = cls(**arguments)
            classifier.on_load_checkpoint(cast(dict[str, Any], checkpoint))
            classifier.load_state_dict(checkpoint["state_dict"])
        return classifier.to(map_location)


def _of_each_process(value: Tensor) -> Tensor:
    """The scalar of each process, `[processes]`, by rank."""
    values = [torch.empty_like(value) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(values, value)
    return torch.stack(values)
