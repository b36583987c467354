"""The LightningModule that trains any network as an image classifier.

Shapes: a batch of `B` images with `C` channels, `H` rows and `W` columns; `K` classes.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from typing_extensions import override

from core.user_error import UserError
from models.losses import Loss, check_labels, make_loss
from models.serialization.checkpoint import FORMAT_VERSION, CheckpointContent
from models.serialization.class_path import keep_rebuildable
from models.training.batch_norm import trained_batch_norms
from models.training.fine_tuning import FineTuning
from models.training.metrics import ClassificationMetrics
from models.training.optimization import keep_arguments, make_schedule, step_plateaus, update_in_one_pass
from models.training.test_time_augmentation import Views, average_logits

# Normalised images, float `[B, C, H, W]`, and their labels. Single-label: int64 `[B]`, or probabilities `[B, K]` for
# mixed images. Multi-label: float `[B, K]`, 0 or 1, or fractions for mixed images.
Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Trains and tests any network that maps images `[B, C, H, W]` to logits `[B, K]`.

    Logs `loss`, `accuracy` and, with more than 10 classes, `top5_accuracy` under `train/`, `val/` and `test/`, once per
    epoch, as exact means over the images. `train/loss` is the loss that training minimises. `val/loss` and `test/loss`
    are always the plain cross-entropy, so that runs with different losses are comparable.

    With multi-label data, `val/loss` and `test/loss` are the binary cross-entropy, and `exact_match` is logged too.
    Each validation chooses for each label the threshold with the highest F1; a checkpoint holds these `thresholds`.

    A checkpoint holds the weights, the constructor's arguments, `class_names` and `preprocessing`, so that
    `Classifier.load_from_checkpoint(path)` needs nothing else. A Classifier that was built in Python around a ready
    network needs its network and optimizer: `load_from_checkpoint(path, network=..., optimizer=...)`.

    Args:
        network: The network.
        num_classes: Number of classes, K.
        optimizer: Makes the optimizer from the parameters, for example `torch.optim.AdamW`.
        scheduler: Makes the learning-rate schedule from the optimizer. A schedule with an argument `total_steps` gets
            the run's number of optimizer steps and steps after each of them; other schedules step after each epoch.
        loss: What training minimises, a class of `models.losses`; by default the cross-entropy.
        decay_norms_and_biases: Whether `weight_decay` also applies to biases and to parameters of normalisation layers.
        layer_decay: Factor on the learning rate for each layer further from the logits.
        class_weights: Weight of each class in the training loss: `balanced`, or `K` numbers. Balanced weights are
            inversely proportional to the class's number of training images, and average 1 over the images. The weighted
            sum is divided by the number of images.
        freeze: Names of submodules of the network that are not trained, for example `[backbone]`. Their batch norm
            stays in evaluation mode.
        unfreeze: Maps an epoch to the submodules that are trained from that epoch on: `{5: [backbone]}`.
        finetune: Trains a pretrained network in two stages, first the head, then everything: `{head_epochs: 5}`.
        test_time_augmentation: Test and predict average over the image and these views of it.
        compile: Whether to compile the network (`torch.compile`). The names of the weights stay the same.
        multi_label: Whether an image may have any number of labels. The command line takes it from the data.
        metrics: More metrics for `val/` and `test/`, of torchmetrics or your own. Maps a name to a class, or to its
            `class_path` and `init_args`: `{f1: F1Score}`.
        channels_last: Whether images and weights use PyTorch's channels-last memory format. It speeds up convolutions
            on GPUs with tensor cores and on CPUs with bfloat16 units.
    """

    _loss_weights: Tensor | None

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
        finetune: FineTuning | None = None,
        test_time_augmentation: Views | None = None,
        compile: bool = False,
        channels_last: bool = False,
        multi_label: bool = False,
        metrics: dict[str, str | dict[str, Any] | None] | None = None,
    ) -> None:
        super().__init__()
        with warnings.catch_warnings(action="ignore"):  # save_hyperparameters warns about modules; the next line acts
            self.save_hyperparameters(logger=False)
        keep_rebuildable(self.hparams, network)
        self.network, self.num_classes, self.multi_label = network, num_classes, multi_label
        self.loss = make_loss(loss, multi_label)
        self.test_time_augmentation = test_time_augmentation
        self.make_optimizer, self.make_scheduler, self.finetune = optimizer, scheduler, finetune
        self.decay_norms_and_biases = decay_norms_and_biases
        self.layer_decay = finetune.layer_decay if finetune else layer_decay

        self.class_weights: Any = None  # `balanced`, or a number for each class
        if class_weights is not None:
            from models.class_weights import check_class_weights

            self.class_weights = check_class_weights(class_weights, num_classes)
        self.loss_weights = [1.0] * num_classes  # the class weights as numbers, known when training begins
        self.register_buffer("_loss_weights", None, persistent=False)

        metrics_class: type[ClassificationMetrics] = ClassificationMetrics
        self.extra_metrics: Any = None  # an ExtraMetrics, only if there is something for it to compute
        if multi_label or any(metric is not None for metric in (metrics or {}).values()):
            from models.training.extra_metrics import ExtraMetrics, MultiLabelMetrics

            self.extra_metrics = ExtraMetrics(metrics, num_classes, multi_label)
            if multi_label:
                metrics_class = MultiLabelMetrics
        self.train_metrics = metrics_class(num_classes)
        self.val_metrics = metrics_class(num_classes)
        self.test_metrics = metrics_class(num_classes)

        self.freezing: Any = None  # a Freezing, only if something is frozen
        if finetune and (freeze or unfreeze or layer_decay != 1):
            raise ValueError("model.finetune freezes and decays itself; leave out freeze, unfreeze, layer_decay")
        if finetune or freeze or unfreeze:
            from models.training.freezing import Freezing, freeze_backbone

            self.freezing = (
                freeze_backbone(network, finetune.head_epochs) if finetune else Freezing(network, freeze, unfreeze)
            )

        # These come from the data or from a checkpoint.
        self.class_names: list[str] = []
        self.preprocessing: dict[str, Any] = {}  # channels, image size, mean and std of the images
        self.thresholds: list[float] = []  # multi-label: the probability above which each label is predicted

        self._resumption: Any = None  # the Resumption of a resumed run, until its optimizer is made
        self._memory_format = torch.channels_last if channels_last else torch.preserve_format
        network.to(memory_format=self._memory_format)
        self._is_compiled = compile
        if compile:
            # Code for dynamic sizes would depend on the batches seen before an interruption.
            network.compile(dynamic=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, float `[B, K]`, for normalised images, float `[B, C, H, W]`."""
        logits: Tensor = self.network(self.to_memory_format(images))
        if getattr(logits, "shape", None) != (len(images), self.num_classes):
            output = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UserError(
                f"{type(self.network).__name__} gives {output} for {len(images)} images; expected logits alone, of "
                f"shape {[len(images), self.num_classes]}, a number for each class."
            )
        return logits

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Return images or features, float `[B, ...]`, in the network's dtype and memory format."""
        memory_format = self._memory_format if images.ndim == 4 else torch.preserve_format
        return images.to(self.dtype, memory_format=memory_format)

    def predict_logits(self, images: Tensor) -> Tensor:
        """Return logits, float `[B, K]`, averaged over the views of `test_time_augmentation`."""
        return average_logits(self, images, self.test_time_augmentation, self.multi_label)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the batch's mean loss, with class weights."""
        images, labels = batch
        try:
            logits = self(images)
        except ValueError as error:
            if len(images) > 1 or not trained_batch_norms(self.network):
                raise
            raise UserError(
                "Batch norm cannot compute a variance from a batch of a single image; leave out the last batch of an "
                "epoch with --data.drop_last true, or give another --data.batch_size."
            ) from error
        if len(labels):
            loss: Tensor = self.loss(logits.float(), labels, self._loss_weights)
            self.train_metrics.update(logits.detach(), labels, loss.detach())
        else:  # a rank without images in an epoch's last step runs dummy images, which have no labels
            loss = logits.float().sum() * 0
        if not loss.requires_grad:
            raise UserError(
                f"No parameter of {type(self.network).__name__} is trained: its logits depend on none with "
                "requires_grad; use one in forward, and do not detach the logits."
            )
        if self.trainer.accumulate_grad_batches > 1 or self.trainer.world_size > 1:
            from models.training.gradient_average import scale_loss

            return scale_loss(loss, self.trainer, batch_idx, len(labels))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self._evaluation_step(batch, batch_idx, self, self.val_metrics)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        return self._evaluation_step(batch, batch_idx, self.predict_logits, self.test_metrics)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.predict_logits(batch[0]).float()

    def _evaluation_step(
        self, batch: Batch, batch_idx: int, predict: Callable[[Tensor], Tensor], metrics: ClassificationMetrics
    ) -> Tensor | None:
        """Update the metrics and return the logits, float `[B, K]`, which callbacks use."""
        images, labels = batch
        if batch_idx == 0:
            metrics.reset()
            if self.extra_metrics:
                self.extra_metrics.reset()
        if not len(labels):  # a rank may have no images in the last batch
            return None
        logits = predict(images)
        metrics.update(logits, labels)
        if self.extra_metrics:
            self.extra_metrics.update(logits, labels)
        return logits

    @override
    def on_train_epoch_start(self) -> None:
        # Lightning does not call this when a run resumes within an epoch, so that the epoch's sums are kept.
        self.train_metrics.reset()
        if self.freezing and self.freezing.apply(self.current_epoch) and self._is_compiled:
            torch.compiler.reset()  # torch limits the compiled variants of a network; each set of trained parts is one

    @override
    def on_train_epoch_end(self) -> None:
        self._log_metrics("train", self.train_metrics)
        step_plateaus(self.trainer, validated=False)

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val", self.val_metrics)

    @override
    def on_validation_end(self) -> None:
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            step_plateaus(self.trainer, validated=True)

    @override
    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, stage: str, metrics: ClassificationMetrics) -> None:
        for name, value in metrics.compute_over_ranks().items():
            self.log(f"{stage}/{name}", value.float(), prog_bar=f"{stage}/{name}" in ("train/loss", "val/accuracy"))
        if self.extra_metrics and stage != "train" and not self.trainer.sanity_checking:
            self.extra_metrics.log(self, stage)

    @override
    def setup(self, stage: str) -> None:
        self.trainer.precision_plugin.convert_module(self)  # Lightning converts only after it loads a checkpoint
        if stage == "fit" and self.freezing:  # optimizer and DDP need every parameter that is ever trained
            self.freezing.apply(self.freezing.last_change)
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            check_labels(getattr(datamodule, "is_multi_label", False), self.multi_label, "The data", "the classifier")
            self.class_names = list(datamodule.class_names)
            self.preprocessing = dict(datamodule.preprocessing)
        if stage == "fit" and self.class_weights is not None:
            from models.class_weights import balanced_weights

            is_balanced = self.class_weights == "balanced"
            self.loss_weights = balanced_weights(datamodule, self.multi_label) if is_balanced else self.class_weights
            self._loss_weights = torch.tensor(self.loss_weights)

    @override
    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freezing:
            self.freezing.keep_in_evaluation()
        return self

    @override
    def on_train_start(self) -> None:
        if self.freezing:
            self.freezing.check_run(self.trainer)
            self.freezing.apply(self.current_epoch)

    def parameter_groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """Return the trained parameters of the network, or of a copy of it, in the groups for `make_optimizer`."""
        if self.decay_norms_and_biases and self.layer_decay == 1:
            return [{"params": [parameter for parameter in network.parameters() if parameter.requires_grad]}]
        from models.training.parameter_groups import parameter_groups

        return parameter_groups(
            network, decay_norms_and_biases=self.decay_norms_and_biases, layer_decay=self.layer_decay
        )

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        resumption, self._resumption = self._resumption, None
        try:
            optimizer = self.make_optimizer(self.parameter_groups(self.network))
            if resumption:
                resumption.check_optimizer(optimizer, self.hparams.get("optimizer"), self.make_optimizer)
            optimizer.register_load_state_dict_pre_hook(keep_arguments)
            update_in_one_pass(optimizer)
            schedule = make_schedule(self.make_scheduler, optimizer, self.trainer, resumption, self.finetune)
        except ValueError as error:
            reason = str(error).rstrip(".")
            raise UserError(f"In model.optimizer or model.scheduler, correct this: {reason}.") from error
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        content = cast(CheckpointContent, checkpoint)
        content["format_version"] = FORMAT_VERSION
        content["class_names"], content["preprocessing"] = self.class_names, self.preprocessing
        if self.thresholds:
            content["thresholds"] = self.thresholds
        if self._trainer is not None and self.trainer.world_size > 1:
            content["state_dict"] |= self.train_metrics.state_over_ranks(prefix="train_metrics.")

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
        self.class_names = class_names
        self.thresholds = checkpoint.get("thresholds", [])
        # A resumed run may configure another image size, but keeps the checkpoint's mean and std.
        configured = {name: value for name, value in self.preprocessing.items() if name not in ("mean", "std")}
        self.preprocessing = checkpoint["preprocessing"] | configured
        if self._trainer is None:
            return
        from models.serialization.pretrained import check_fit

        check_fit(self, checkpoint["state_dict"], type(self.network).__name__)
        if self.trainer.state.fn == "fit":
            from models.training.resumption import resume

            self._resumption = resume(self.trainer, checkpoint)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]  # Lightning's is no plain classmethod
        cls, checkpoint_path: str | Path, map_location: str | torch.device = "cpu", **kwargs: Any
    ) -> Self:
        """Build the classifier from a checkpoint and load its weights, to the device `map_location`.

        `kwargs` replace saved arguments of the constructor.

        Raises:
            UserError: If the file is missing, damaged or from another program, or if it names a function, or a class of
                a package that is not trusted (`models.serialization.class_path.trust`).
        """
        from models.serialization.saved_network import load_module

        return load_module(cls, Path(checkpoint_path), kwargs).to(map_location)
