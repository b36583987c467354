"""The LightningModule that trains any network as an image classifier.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, instantiate_module
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from core.names import some_of
from core.user_error import UserError
from models.losses import PER_IMAGE, ClassWeights, Loss, balanced_weights, check_class_weights, fitting_loss
from models.serialization.checkpoint import FORMAT_VERSION, CheckpointContent, read_checkpoint
from models.serialization.class_path import check_classes, known_classes
from models.serialization.pretrained import misfit
from models.training.batch_norm import trained_batch_norms
from models.training.extra_metrics import Asked, ExtraMetrics
from models.training.fine_tuning import FineTuning
from models.training.freezing import Freezing
from models.training.gradient_average import scale_loss
from models.training.metrics import ClassificationMetrics, MultiLabelMetrics, best_thresholds
from models.training.monitor import monitors
from models.training.optimization import Optimization, make_ready, make_schedule, step_plateaus
from models.training.parameter_groups import parameter_groups
from models.training.test_time_augmentation import Views, average_logits

# Normalised images, float `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities `[B, K]`; several
# labels per image are float `[B, K]`, 0 and 1 or shares of mixed images.
Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Trains and tests any network that maps images `[B, C, H, W]` to logits `[B, K]`.

    Logs `train/loss` and `train/accuracy`, the same under `val/` and `test/`, and with more than 10 classes
    `.../top5_accuracy`: once per epoch, as exact means over its images. `train/loss` is what training minimises.
    `val/loss` and `test/loss` are always the plain cross-entropy, so that runs with different losses compare. With
    several labels per image, that is the binary cross-entropy, and `.../exact_match` is logged; a checkpoint then holds
    the `thresholds` above which each label is predicted, chosen by its F1 in the last validation.

    A checkpoint holds the weights, the constructor's arguments, `class_names` and `preprocessing`:
    `Classifier.load_from_checkpoint(path)` needs nothing else. Only a Classifier built in Python around a ready network
    needs that again, and its optimizer: `load_from_checkpoint(path, network=..., optimizer=...)`.

    Args:
        network: The network.
        num_classes: Classes, K.
        optimizer: Makes the optimizer from the parameters, for example `torch.optim.AdamW`.
        scheduler: Makes the learning-rate schedule from the optimizer. A schedule with an argument `total_steps` is
            given the number of optimizer steps of the run and steps after each; any other steps after each epoch.
        loss: What training minimises, one of `models.losses`; by default the cross-entropy.
        decay_norms_and_biases: Whether the optimizer's `weight_decay` applies to all parameters or to weights alone.
        layer_decay: Factor on the learning rate for each layer further from the logits.
        class_weights: Weight of each class in the training loss: `balanced`, or `K` numbers. Balanced weights are
            inversely proportional to the class's training images, 1 on average over the images. The weighted sum is
            divided by the number of images.
        freeze: Names of submodules of the network that are not trained, for example `[backbone]`. Their batch norm
            stays in evaluation mode.
        unfreeze: For an epoch, the names of submodules that are trained from then on: `{5: [backbone]}`.
        finetune: Trains a pretrained network in two stages, the head and then everything: `{head_epochs: 5}`.
        test_time_augmentation: Views of each image that test and predict average over, besides the image: `flip`,
            `crops`, `shifts`, `crops+flip` or `shifts+flip`.
        compile: Whether to compile the network (`torch.compile`); the weights keep their names.
        multi_label: Whether an image may have several labels or none; on the command line, what the data say.
        metrics: Metrics of torchmetrics, or of your own, beside loss and accuracy of `val/` and `test/`: for each name
            a class, or its `class_path` and `init_args`, as in `{f1: F1Score}`.
        channels_last: Whether images and weights lie in memory pixel by pixel, which is faster for convolutions on
            GPUs with tensor cores and on CPUs with bfloat16 units.
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
        class_weights: ClassWeights = None,
        freeze: Sequence[str] = (),
        unfreeze: dict[int, Sequence[str]] | None = None,
        finetune: FineTuning | None = None,
        test_time_augmentation: Views | None = None,
        compile: bool = False,
        channels_last: bool = False,
        multi_label: bool = False,
        metrics: Asked | None = None,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings(action="ignore"):  # about the modules among them, which the next line handles
            self.save_hyperparameters(logger=False)
        self._keep_rebuildable_arguments(network)
        self.network = network
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.loss = fitting_loss(loss, multi_label)
        self._plain_loss = fitting_loss(None, True) if multi_label else F.cross_entropy
        self.thresholds: list[float] = []  # of several labels, chosen in the last validation
        self.class_weights = check_class_weights(class_weights, num_classes)
        self.register_buffer("_weight", None, persistent=False)
        self.test_time_augmentation = test_time_augmentation
        # Set from the data or a checkpoint: the classes, and channels, image size, mean and std of the images.
        self.class_names: list[str] = []
        self.preprocessing: dict[str, Any] = {}
        counts = MultiLabelMetrics if multi_label else ClassificationMetrics
        self.train_metrics, self.val_metrics, self.test_metrics = (counts(num_classes) for _ in range(3))
        self.extra_metrics = ExtraMetrics(metrics, num_classes, multi_label)
        if finetune and (freeze or unfreeze or layer_decay != 1):
            raise ValueError("model.finetune freezes and decays itself; leave out model.freeze, unfreeze, layer_decay")
        self._finetune = finetune
        self.freezing = finetune.freezing(network) if finetune else Freezing(network, freeze, unfreeze)
        # DDP registers parameters once: enable gradients for all that is trained in any epoch, until `on_train_start`.
        self.freezing.apply(self.freezing.last_change)
        self._before: Optimization | None = None
        self.make_optimizer = optimizer
        # Groups the parameters of the network, or of a copy of it, for `make_optimizer`.
        self.parameter_groups: Callable[[nn.Module], list[dict[str, Any]]] = partial(
            parameter_groups,
            decay_norms_and_biases=decay_norms_and_biases,
            layer_decay=finetune.layer_decay if finetune else layer_decay,
            is_trained=self.freezing.is_ever_trained,
        )
        self._make_scheduler = scheduler
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        network.to(memory_format=self._memory_format)
        self._is_compiled = compile
        if compile:
            network.compile(dynamic=False)  # code for dynamic sizes would depend on the batches before an interruption

    def _keep_rebuildable_arguments(self, network: nn.Module) -> None:
        saved = self.hparams["network"]
        if isinstance(self.hparams["loss"], nn.Module):
            self.remove_ignored_hparams(["loss"])
        if isinstance(saved, nn.Module):  # built in Python: saved as weights alone
            self.remove_ignored_hparams(["network", "optimizer", "scheduler", "finetune"])
        elif "init_args" in saved:
            # The command line offers every network all that the data know; keep the arguments of this one.
            own = ArgumentParser().add_class_arguments(type(network), fail_untyped=False)
            saved["init_args"] = {name: value for name, value in saved["init_args"].items() if name in own}
            saved["init_args"] |= getattr(network, "rebuilt_with", {})

    @property
    def num_parameters(self) -> int:
        """The network's parameters, frozen ones included."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def loss_weights(self) -> list[float]:
        """The weight of each class in the training loss, `K` numbers; known once training has begun."""
        return [1.0] * self.num_classes if self._weight is None else self._weight.tolist()

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float `[B, K]`, of normalised images, float `[B, C, H, W]`.

        Raises:
            UserError: If the network gives something else.
        """
        logits: Tensor = self.network(self.to_memory_format(images))
        if getattr(logits, "shape", None) != (len(images), self.num_classes):
            output = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UserError(
                f"{type(self.network).__name__} gives {output} for {len(images)} images; expected logits alone, of "
                f"shape {[len(images), self.num_classes]}, a number for each class."
            )
        return logits

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Images or features, float `[B, ...]`, in the network's dtype and memory layout."""
        layout = self._memory_format if images.ndim == 4 else torch.preserve_format
        return images.to(self.dtype, memory_format=layout)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's mean loss, classes weighted.

        Raises:
            UserError: If batch norm gets a single number per channel, or nothing is trained.
        """
        images, labels = batch
        try:
            logits = self(images)
        except ValueError as error:
            if len(images) > 1 or not trained_batch_norms(self.network):
                raise
            raise UserError(
                "A batch of a single image leaves batch norm nothing to take a variance of; leave such a last one of "
                "an epoch out with --data.drop_last true, or give another --data.batch_size."
            ) from error
        # In an epoch's last step, a process may have no image left; it takes part with images that do not count.
        loss: Tensor = self.loss(logits.float(), labels, self._weight) if len(labels) else logits.float().sum() * 0
        if not loss.requires_grad:
            raise UserError(
                f"Nothing of {type(self.network).__name__} is trained: its logits come from no parameter with "
                "requires_grad; use one in forward, and do not detach what it gives."
            )
        if len(labels):
            self.train_metrics.update(logits.detach(), labels, loss.detach())
        return scale_loss(loss, self.trainer, batch_idx, len(labels))

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Count the batch; logits float `[B, K]` for callbacks, unless it is empty."""
        return self._count(self, batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Count the batch; logits float `[B, K]` for callbacks, unless it is empty."""
        return self._count(self.predict_logits, batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits, float32 `[B, K]`."""
        return self.predict_logits(batch[0]).float()

    def predict_logits(self, images: Tensor) -> Tensor:
        """Logits, float `[B, K]`, averaged over the views of `test_time_augmentation`."""
        if self.test_time_augmentation:
            return average_logits(self, images, self.test_time_augmentation, self.multi_label)
        logits: Tensor = self(images)
        return logits

    def _count(
        self, predict: Callable[[Tensor], Tensor], batch: Batch, metrics: ClassificationMetrics
    ) -> Tensor | None:
        images, labels = batch
        if not len(labels):  # a process may have no image left in the last batch
            return None
        logits = predict(images)
        metrics.update(logits, labels, self._plain_loss(logits.to(metrics.loss_sum.dtype), labels))
        if self.extra_metrics.metrics or (self.multi_label and metrics is self.val_metrics):
            self.extra_metrics.update(logits, labels)
        return logits

    @override
    def on_train_epoch_start(self) -> None:
        # Not called when an epoch is resumed in its middle: its count goes on.
        self.train_metrics.reset()
        self.freezing.apply(self.current_epoch)
        if self.freezing.changes(self.current_epoch) and self._is_compiled:
            torch.compiler.reset()  # torch keeps too little code of one network for each set of trained parts

    @override
    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset()
        self.extra_metrics.reset()

    @override
    def on_test_epoch_start(self) -> None:
        self.test_metrics.reset()
        self.extra_metrics.reset()

    @override
    def on_train_epoch_end(self) -> None:
        self._log_epoch("train", self.train_metrics)
        step_plateaus(self.trainer, validated=False)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_epoch("val", self.val_metrics)

    @override
    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            step_plateaus(self.trainer, validated=True)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_epoch("test", self.test_metrics)

    def _log_epoch(self, stage: str, metrics: ClassificationMetrics) -> None:
        for name, value in metrics.figures().items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=f"{stage}/{name}" in ("train/loss", "val/accuracy"))
        chooses = self.multi_label and stage == "val"
        if stage == "train" or not (self.extra_metrics.metrics or chooses) or self.trainer.sanity_checking:
            return
        logits, labels = self.extra_metrics.gather(self.device)
        if chooses and len(labels):
            self.thresholds = best_thresholds(logits.double().sigmoid(), labels)
        for name, number in self.extra_metrics.figures(logits, labels).items():
            self.log(f"{stage}/{name}", number)
        for name, classes in self.extra_metrics.undefined(labels).items():
            figure, names = f"{stage}/{name}", self.class_names or range(self.num_classes)
            lacking = f"no image of {stage}, or every one, is of {some_of([str(names[label]) for label in classes])}"
            if self.trainer.state.fn == "fit" and figure in monitors(self.trainer):
                raise UserError(f"The monitor {figure} is not defined: {lacking}; choose another, or give more images.")
            if self.trainer.is_global_zero and figure not in self.extra_metrics.told:
                self.extra_metrics.told.add(figure)
                print(f"note: {figure} is not defined, and NaN: {lacking}")

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.freezing.keep_in_evaluation()
        return self

    @override
    def setup(self, stage: str) -> None:
        self.trainer.precision_plugin.convert_module(self)  # the Trainer does so only after it has loaded a checkpoint
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            self._check_labels(getattr(datamodule, "is_multi_label", False), "The data", "the classifier")
            self.class_names = list(datamodule.class_names)
            self.preprocessing = dict(datamodule.preprocessing)
        if stage == "fit" and self.class_weights is not None:
            is_balanced = self.class_weights == "balanced"
            self._weight = torch.tensor(
                balanced_weights(datamodule, self.multi_label) if is_balanced else self.class_weights
            )

    def _check_labels(self, multi_label: bool, whose: str, other: str) -> None:
        if multi_label != self.multi_label:
            its, others = PER_IMAGE[multi_label], PER_IMAGE[self.multi_label]
            raise UserError(f"{whose} has {its}, {other} {others}; give both the same, by multi_label.")

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        before, self._before = self._before, None
        try:
            optimizer = self.make_optimizer(self.parameter_groups(self.network))
            if before is not None:
                before.check_optimizer(self.hparams.get("optimizer"), optimizer, self.make_optimizer)
            make_ready(optimizer)
            schedule = make_schedule(self._make_scheduler, optimizer, self.trainer, before, self._finetune)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise UserError(f"In model.optimizer or model.scheduler, correct this: {reason}.") from error
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def on_train_start(self) -> None:
        self.freezing.check_run(self.trainer)
        self.freezing.apply(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights mean, and what each of several processes has counted in the epoch."""
        content = cast(CheckpointContent, checkpoint)
        content["format_version"] = FORMAT_VERSION
        content["class_names"], content["preprocessing"] = self.class_names, self.preprocessing
        if self.thresholds:
            content["thresholds"] = self.thresholds
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
        multi_label = checkpoint.get("hyper_parameters", {}).get("multi_label", False)
        self._check_labels(multi_label, "The checkpoint", "the data")
        self.thresholds = checkpoint.get("thresholds", [])
        # Images of another size are trained on as they are now, but normalised by what they were.
        own = {name: value for name, value in self.preprocessing.items() if name not in ("mean", "std")}
        self.class_names, self.preprocessing = class_names, checkpoint["preprocessing"] | own
        if self._trainer is None:
            named = next(iter(self.named_parameters()), None)
            if named and (saved := checkpoint["state_dict"].get(named[0])) is not None and saved.dtype != self.dtype:
                self.to(saved.dtype)  # of a run in bf16-true or 64-true
            return
        if mismatch := misfit(self.state_dict(), checkpoint["state_dict"]):
            raise UserError(
                f"The checkpoint's weights do not fit {type(self.network).__name__} as it is given: {mismatch}; leave "
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
        from models.serialization.saved_network import saved_arguments

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
