"""The LightningModule that trains any network as an image classifier.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from core.user_error import UserError
from models.losses import ClassWeights, Loss, balanced_weights, check_class_weights, check_labels, fitting_loss
from models.serialization.checkpoint import FORMAT_VERSION, CheckpointContent
from models.serialization.class_path import keep_rebuildable
from models.serialization.pretrained import misfit
from models.training.batch_norm import trained_batch_norms
from models.training.fine_tuning import FineTuning
from models.training.metrics import ClassificationMetrics
from models.training.optimization import keep_arguments, make_schedule, step_plateaus, update_in_one_pass
from models.training.test_time_augmentation import Views, average_logits

# Normalised images, float `[B, C, H, W]`, and labels, int64 `[B]` or, of mixed images, probabilities `[B, K]`; several
# labels per image are float `[B, K]`, 0 and 1 or shares of mixed images.
Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Trains and tests any network that maps images `[B, C, H, W]` to logits `[B, K]`.

    Logs `loss`, `accuracy` and, with more than 10 classes, `top5_accuracy` under `train/`, `val/` and `test/`: once per
    epoch, as exact means over its images. `train/loss` is what training minimises; the others are always the plain
    cross-entropy, so that runs with different losses compare. With several labels per image, that is the binary
    cross-entropy, and `exact_match` is logged; a checkpoint then holds the `thresholds` above which each label is
    predicted, chosen by its F1 in the last validation.

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
        metrics: dict[str, str | dict[str, Any] | None] | None = None,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings(action="ignore"):  # about the modules among them, which the next line handles
            self.save_hyperparameters(logger=False)
        keep_rebuildable(self.hparams, network)
        self.network, self.num_classes, self.multi_label = network, num_classes, multi_label
        self.loss = fitting_loss(loss, multi_label)
        self.test_time_augmentation = test_time_augmentation
        self.class_weights = check_class_weights(class_weights, num_classes)
        self.loss_weights = [1.0] * num_classes  # the weight of each class in the training loss, set when it begins
        self.register_buffer("_weight", None, persistent=False)
        # Set from the data or a checkpoint: the classes, and channels, image size, mean and std of the images.
        self.class_names: list[str] = []
        self.preprocessing: dict[str, Any] = {}
        self.thresholds: list[float] = []  # of several labels, chosen in the last validation
        counts: type[ClassificationMetrics] = ClassificationMetrics
        self.extra_metrics: Any = None
        if multi_label or any(given is not None for given in (metrics or {}).values()):
            from models.training.extra_metrics import ExtraMetrics, MultiLabelMetrics

            self.extra_metrics = ExtraMetrics(metrics, num_classes, multi_label)
            counts = MultiLabelMetrics if multi_label else counts
        self.train_metrics, self.val_metrics, self.test_metrics = (counts(num_classes) for _ in range(3))
        self.make_optimizer, self._make_scheduler, self._finetune = optimizer, scheduler, finetune
        self._groups: dict[str, Any] = {"decay_norms_and_biases": decay_norms_and_biases, "layer_decay": layer_decay}
        self.freezing: Any = None
        if finetune:
            if freeze or unfreeze or layer_decay != 1:
                raise ValueError("model.finetune freezes and decays itself; leave out freeze, unfreeze, layer_decay")
            self._groups["layer_decay"] = finetune.layer_decay
            self.freezing = finetune.freezing(network)
        elif freeze or unfreeze:
            from models.training.freezing import Freezing

            self.freezing = Freezing(network, freeze, unfreeze)
        self._resumed: Any = None  # the progress that a resumed run goes on with
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        network.to(memory_format=self._memory_format)
        self._is_compiled = compile
        if compile:
            network.compile(dynamic=False)  # code for dynamic sizes would depend on the batches before an interruption

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """The trained parameters of the network, or of a copy of it, as `make_optimizer` takes them."""
        if self._groups == {"decay_norms_and_biases": True, "layer_decay": 1}:
            return [{"params": [parameter for parameter in network.parameters() if parameter.requires_grad]}]
        from models.training.parameter_groups import parameter_groups

        return parameter_groups(network, **self._groups)

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
        if self.trainer.accumulate_grad_batches > 1 or self.trainer.world_size > 1:
            from models.training.gradient_average import scale_loss

            return scale_loss(loss, self.trainer, batch_idx, len(labels))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self._count(self, batch, batch_idx, self.val_metrics)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self._count(self.predict_logits, batch, batch_idx, self.test_metrics)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.predict_logits(batch[0]).float()

    def predict_logits(self, images: Tensor) -> Tensor:
        """Logits, float `[B, K]`, averaged over the views of `test_time_augmentation`."""
        return average_logits(self, images, self.test_time_augmentation, self.multi_label)

    def _count(
        self, predict: Callable[[Tensor], Tensor], batch: Batch, batch_idx: int, metrics: ClassificationMetrics
    ) -> Tensor | None:
        """Count a batch; its logits, float `[B, K]`, for callbacks."""
        images, labels = batch
        if batch_idx == 0:
            metrics.reset()
            if self.extra_metrics:
                self.extra_metrics.reset()
        if not len(labels):  # a process may have no image left in the last batch
            return None
        logits = predict(images)
        metrics.update(logits, labels)
        if self.extra_metrics:
            self.extra_metrics.update(logits, labels)
        return logits

    @override
    def on_train_epoch_start(self) -> None:
        # Not called when an epoch is resumed in its middle: its count goes on.
        self.train_metrics.reset()
        if self.freezing and self.freezing.apply(self.current_epoch) and self._is_compiled:
            torch.compiler.reset()  # torch keeps too little code of one network for each set of trained parts

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
        if self.extra_metrics and stage != "train" and not self.trainer.sanity_checking:
            self.extra_metrics.log(self, stage)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freezing:
            self.freezing.keep_in_evaluation()
        return self

    @override
    def setup(self, stage: str) -> None:
        self.trainer.precision_plugin.convert_module(self)  # the Trainer does so only after it has loaded a checkpoint
        if stage == "fit" and self.freezing:  # optimizer and DDP are told once of all that is trained in some epoch
            self.freezing.apply(self.freezing.last_change)
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            check_labels(getattr(datamodule, "is_multi_label", False), self.multi_label, "The data", "the classifier")
            self.class_names = list(datamodule.class_names)
            self.preprocessing = dict(datamodule.preprocessing)
        if stage == "fit" and self.class_weights is not None:
            is_balanced = self.class_weights == "balanced"
            self.loss_weights = balanced_weights(datamodule, self.multi_label) if is_balanced else self.class_weights
            self._weight = torch.tensor(self.loss_weights)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        resumed, self._resumed = self._resumed, None
        try:
            optimizer = self.make_optimizer(self.parameter_groups(self.network))
            if resumed:
                resumed.check_optimizer(optimizer, self.hparams.get("optimizer"), self.make_optimizer)
            optimizer.register_load_state_dict_pre_hook(keep_arguments)
            update_in_one_pass(optimizer)
            schedule = make_schedule(self._make_scheduler, optimizer, self.trainer, resumed, self._finetune)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise UserError(f"In model.optimizer or model.scheduler, correct this: {reason}.") from error
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def on_train_start(self) -> None:
        if self.freezing:
            self.freezing.check_run(self.trainer)
            self.freezing.apply(self.current_epoch)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        content = cast(CheckpointContent, checkpoint)
        content["format_version"] = FORMAT_VERSION
        content["class_names"], content["preprocessing"] = self.class_names, self.preprocessing
        if self.thresholds:
            content["thresholds"] = self.thresholds
        if self._trainer is not None and self.trainer.world_size > 1:
            content["state_dict"] |= self.train_metrics.totals(prefix="train_metrics.")

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        datamodule = getattr(self._trainer, "datamodule", None)
        class_names = getattr(datamodule, "distinct_names", list)(checkpoint["class_names"])
        if self.class_names and self.class_names != class_names:
            raise UserError(
                f"The checkpoint knows the classes {', '.join(class_names)}, the data has "
                f"{', '.join(self.class_names)}; use data with the classes of the checkpoint."
            )
        multi_label = checkpoint.get("hyper_parameters", {}).get("multi_label", False)
        check_labels(multi_label, self.multi_label, "The checkpoint", "the data")
        self.thresholds = checkpoint.get("thresholds", [])
        # Images of another size are trained on as they are now, but normalised by what they were.
        own = {name: value for name, value in self.preprocessing.items() if name not in ("mean", "std")}
        self.class_names, self.preprocessing = class_names, checkpoint["preprocessing"] | own
        if self._trainer is None:
            return
        if mismatch := misfit(self.state_dict(), checkpoint["state_dict"]):
            raise UserError(
                f"The checkpoint's weights do not fit {type(self.network).__name__} as it is given: {mismatch}; leave "
                "model.network as it was trained, or begin a new run from the backbone with --model.network.weights."
            )
        if self._trainer.state.fn == "fit":
            from models.training.resumption import Resumption, take_counts

            self._resumed = Resumption(checkpoint)
            for config in self.trainer.lr_scheduler_configs:  # of a strategy that restores after they are made
                self._resumed.take_up(config.scheduler, per_step=config.interval == "step")
            take_counts(checkpoint, "train_metrics.", is_first=self.trainer.is_global_zero)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is no plain classmethod
        cls, checkpoint_path: str | Path, map_location: str | torch.device = "cpu", **kwargs: Any
    ) -> Self:
        """Build the classifier and load its weights from a checkpoint alone, to the device `map_location`.

        `kwargs` are arguments of the constructor that replace the saved ones.

        Raises:
            UserError: If the file is missing, damaged or of another program, or if it names a function or a class of a
                package that `models.serialization.class_path.trust` was not called with.
        """
        from models.serialization.saved_network import load_module

        return load_module(cls, Path(checkpoint_path), kwargs).to(map_location)
