"""The command line of training: the signatures of the constructors are its configuration."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer import Trainer

from callbacks.run.interruption import Interruption
from callbacks.run.run_folder import CHECKPOINTS, CONFIG, current_job
from callbacks.run.run_record import RunRecord
from core.durable_file import NO_SPACE
from core.stopping import Stopped
from core.user_error import CommandError, UserError
from datamodules.base import ImageDataModule
from models.classifier import Classifier
from models.serialization.class_path import Scope, check_classes
from models.training.precision import choose_precision
from scripts.command.configuration import CONFIGS, Parser, fill_modes, read_layers
from scripts.command.silence import silence_libraries
from scripts.training.run_place import RunPlace
from scripts.training.summary import print_metrics, print_places, print_results, print_start
from scripts.training.trainer_arguments import (
    build_trainer,
    check_trainer,
    is_project_logger,
    one_or_more,
    place_loggers,
)

# The keys of the callbacks that a configuration has by default.
CALLBACKS = (
    *("feature_cache", "weight_average", "finite_guard", "checkpoint", "early_stopping", "learning_rate_monitor"),
    *("progress_bar", "preview", "custom_scalars", "hyperparameters", "model_graph", "confusion_matrix"),
    *("worst_mistakes", "filters", "throughput"),
)


class TrainCLI(LightningCLI):
    """Parses the command line, builds data, model and Trainer, and runs a stage of the Trainer.

    It adds to Lightning's command line: a folder and a record for each run, a precision that suits the hardware, and a
    test of the best checkpoint at the end of `fit`.

    Args:
        args: The stage (`fit`, `validate` or `test`) and its flags.
        callbacks: More callbacks of `fit`.
    """

    # Only `fit` has these.
    place: RunPlace
    folder: Path
    record: RunRecord

    def __init__(self, args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.stage, self.args, self.more_callbacks = args[0], list(args[1:]), callbacks
        self.resumed: Path | None = None  # the folder of the run that --resume names
        self.original: Path | None = None  # the folder of the run that this one repeats
        self.is_identical = True  # False if a repeated run has other results than the original
        self.scope: Scope = nullcontext
        silence_libraries()  # again, because Lightning's import resets its loggers
        with ExitStack() as self.at_end:
            try:
                super().__init__(
                    Classifier,
                    ImageDataModule,
                    subclass_mode_data=True,
                    save_config_callback=None,
                    auto_configure_optimizers=False,
                    parser_class=Parser,
                    parser_kwargs={"allow_abbrev": False, "prog": f"train.py {self.stage}", "description": None},
                    # Kindling's batch sampler divides the images among the ranks; Lightning's would repeat some.
                    trainer_defaults={"use_distributed_sampler": False},
                    args=self.args,
                    run=False,
                )
                self.run()
            except (UserError, MisconfigurationException) as error:
                self._undo_start()
                raise UserError(str(error)) from error
            except OSError as error:
                if error.errno not in NO_SPACE or not self._undo_start():
                    raise
                raise UserError(
                    f"The run's folder {self.folder} cannot be written to: {error.strerror}; free space there or "
                    "choose another place with --runs."
                ) from error

    def _undo_start(self) -> bool:
        """Restore the run's folder unless the run has written a checkpoint; return True if it was restored."""
        if not hasattr(self, "place") or (hasattr(self, "record") and self.record.is_kept):
            return False
        for logger in self.trainer.loggers if hasattr(self, "trainer") else ():
            logger.finalize("failed")  # or its thread would write into the folder again
        return self.place.undo()

    # Parse the arguments.

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, which is always a number, so that every run can be repeated."""
        parser.add_argument("--seed_everything", type=int, default=0, help="The seed of everything random in the run.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's place, the default callbacks, and the links from the data to the network."""
        parser.add_argument("--experiment", type=str | None, help="Name of the runs' folder; by default the config's.")
        parser.add_argument("--runs", type=Path, default=Path("runs"), help="The folder of all experiments.")
        for key in CALLBACKS:
            parser.add_lightning_class_args(Callback, key, subclass_mode=True, required=False)
        parser.add_argument("--test", type=bool, default=True, help="Test the best checkpoint at the end of `fit`.")
        parser.add_argument("--ckpt_path", type=str | Path | None, help="The checkpoint to test, or to start from.")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        network = "model.network.init_args"
        for source, target, derive in (
            ("num_classes", "model.num_classes", None),
            ("is_multi_label", "model.multi_label", None),
            ("num_classes", f"{network}.num_classes", None),
            ("image_shape", f"{network}.in_channels", lambda shape: shape[0]),
            ("image_shape", f"{network}.image_size", lambda shape: shape[1:]),
            ("image_shape", f"{network}.in_features", lambda shape: shape[0] * shape[1] * shape[2]),
        ):
            parser.link_arguments(f"data.{source}", target, compute_fn=derive, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the layers of the configuration: defaults, the checkpoint's, each --config, and the flags."""
        self.flags = self.args
        if self.stage == "fit" and {"--resume", "--like"} & {flag.partition("=")[0] for flag in self.args}:
            from scripts.training.resume import find_earlier_run

            self.flags, self.resumed, self.original = find_earlier_run(self.args, self._experiment_folder)
        layers = self._merge_layers(self.flags, self.resumed)
        with self.scope():
            self.config = parser.parse_args(layers)
            # Without defaults; the seed is given because another argument is linked to it.
            explicit = parser.parse_args(["--seed_everything=0", *layers], defaults=False)
            metric_modes = {}
            if self.config.model.metrics:
                from models.training.extra_metrics import modes

                metric_modes = modes(self.config.model.metrics)
            fill_modes(self.config, explicit, metric_modes)
            check_classes(self.config, "The configuration")
        if not 0 <= (seed := self.config.seed_everything) < 2**32:
            raise UserError(f"seed_everything is {seed}; give a whole number from 0 to {2**32 - 1}.")

    def _merge_layers(self, args: list[str], resumed: Path | None = None) -> list[str]:
        """Return the flags with the merged configuration in place of the configuration files."""
        config, flags, self.config_files, self.scope = read_layers(args, resumed and resumed / CONFIG)
        if any(flag.partition("=")[0] in ("--data.seed", "--data.init_args.seed") for flag in flags):
            raise UserError("data.seed is that of the whole run; give it as --seed_everything.")
        if self.stage != "fit":  # nothing is logged, so the checkpoint's loggers need not be installed
            config["trainer"] = config.get("trainer", {}) | {"logger": False}
        return ["--config", yaml.safe_dump(config), *flags]

    def _experiment_folder(self, flags: list[str]) -> Path:
        config = self.parser.parse_args(self._merge_layers(flags))
        return Path(config.runs / self._experiment_name(config))

    def _experiment_name(self, config: Namespace) -> str:
        """Return the given name, the path of the last --config below configs/, or the names of data and network."""
        if config.experiment:
            return str(config.experiment)
        if not self.config_files:
            return "-".join(part.class_path.rsplit(".")[-1].lower() for part in (config.data, config.model.network))
        path = Path(self.config_files[-1]).resolve().with_suffix("")
        return str(path.relative_to(CONFIGS)) if path.is_relative_to(CONFIGS) else path.name

    # Prepare the run.

    def before_instantiate_classes(self) -> None:
        """Check the configuration, record it, and give the run its folder."""
        config = self.config
        self.job = current_job()
        if self.stage == "fit":
            self._check_fit(config)
        elif not config.ckpt_path:
            raise UserError(f"{self.stage} needs the weights of a run; give --ckpt_path with a run's best.ckpt.")
        if config.trainer.enable_checkpointing is False:
            config.checkpoint = None
        if config.trainer.enable_progress_bar is False:
            config.progress_bar = None
        self.name_experiment()
        network = config.model.network
        if not network.get("init_args"):  # Lightning adds the linked arguments there
            network.init_args = Namespace()  # type: ignore[no-untyped-call]
        if self.stage == "fit":
            self._prepare_folder(config)
        else:
            config.trainer.logger = False
        if config.ckpt_path:
            from scripts.training.from_checkpoint import skip_initial_weights

            skip_initial_weights(config, is_training=self.stage == "fit")

    def _check_fit(self, config: Namespace) -> None:
        if config.ckpt_path:
            from scripts.training.from_checkpoint import check_trainable

            check_trainable(config.ckpt_path)
        check_trainer(config)
        if config.trainer.fast_dev_run and (self.resumed or self.original):
            raise UserError("trainer.fast_dev_run keeps no files of the run; leave it out to resume or repeat a run.")

    def name_experiment(self) -> None:
        """Add the experiment's name to the configuration, and record the configuration as text."""
        config = self.config
        config.experiment = self.experiment = self._experiment_name(config)
        if Path(self.experiment).is_absolute() or ".." in Path(self.experiment).parts:
            raise UserError(f"experiment is {self.experiment!r}, which leads out of {config.runs}; give another name.")
        recorded = config.clone()
        if "repack" in recorded.data.get("init_args", ()):
            recorded.data.init_args.repack = False  # do not repack again when this configuration is used later
        self.config_text = self.parser.dump(recorded, skip_unset=False)

    def _prepare_folder(self, config: Namespace) -> None:
        """Make the run's folder or resume from its newest checkpoint, and let the loggers write there."""
        runs = config.runs
        if config.trainer.fast_dev_run:
            runs = Path(self.at_end.enter_context(TemporaryDirectory(prefix="kindling-")))
        self.place = RunPlace(runs / self.experiment, self.resumed, self.flags)
        self.folder = self.place.folder
        if not self.place.is_new:
            from scripts.training.resume import prepare_resume

            config.ckpt_path = prepare_resume(self.place) or config.ckpt_path
        config.trainer.default_root_dir = config.trainer.default_root_dir or str(self.folder)
        if config.checkpoint and "dirpath" in config.checkpoint.get("init_args", ()):
            config.checkpoint.init_args.dirpath = str(self.folder / CHECKPOINTS)
        if config.trainer.logger is False:
            config.learning_rate_monitor = None
        else:
            place_loggers(config.trainer, self.folder, self.experiment)

    # Build data, model and Trainer.

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; raises UserError for a ValueError of a constructor."""
        try:
            with self.scope():
                super().instantiate_classes()
        except (ValueError, ModuleNotFoundError, UserError, MisconfigurationException) as error:
            from scripts.command.error_message import one_line

            raise UserError(one_line(str(error))) from error
        self.datamodule.seed = self.config.seed_everything  # a constructor without `seed` did not get it

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, and print what will be trained."""
        init = self.config_init
        # The default callbacks come first, because the Trainer tests the best checkpoint of its first one.
        callbacks: list[Callback] = [Interruption()]
        callbacks += [init[key] for key in CALLBACKS if init.get(key) is not None] + one_or_more(init.trainer.callbacks)
        if self.stage == "fit":
            origin = (["scripts/train.py", "fit", *self.args], self.place.step, self.original)
            self.record = RunRecord(self.folder, self.experiment, self.config_text, *origin)
            callbacks += [self.record, *self.more_callbacks]
        init.trainer.callbacks = callbacks
        init.trainer.precision, reason = self._precision(init.trainer)
        trainer = build_trainer(init.trainer)
        if self.job or trainer.world_size > 1:
            from scripts.training.ranks import connect_ranks

            connect_ranks(trainer, self.job, sync_batchnorm=self.config.trainer.sync_batchnorm)
        if trainer.is_global_zero:
            device = trainer.strategy.root_device.type
            print_start(self.model, self.datamodule, device, f"{init.trainer.precision} ({reason})")
        return trainer

    def _precision(self, trainer: Namespace) -> tuple[Any, str]:
        """Return the precision, and why it was chosen."""
        if trainer.precision is not None:
            return trainer.precision, "as given"
        device = torch.accelerator.current_accelerator(check_available=True)
        if device is None or trainer.accelerator == "cpu":
            device = torch.device("cpu")
        return choose_precision(self.model.network, self.datamodule.image_shape, device)

    # Run the stage.

    def run(self) -> None:
        """Run the stage, and print its metrics."""
        if self.stage == "fit":
            services: AbstractContextManager[None] = nullcontext()
            if not all(is_project_logger(logger) for logger in self.config.trainer.logger or ()):
                from scripts.training.loggers import open_services

                services = open_services(self.trainer, self.folder, self.place.cut)
            with services:
                self.fit()
            return
        path = self.config.ckpt_path
        evaluate = getattr(self.trainer, self.stage)
        evaluate(self.model, self.datamodule, ckpt_path=path, verbose=False, weights_only=True)
        if self.trainer.is_global_zero:
            from scripts.training.from_checkpoint import print_data_changes

            print_data_changes(path, self.datamodule)
            print_metrics(self.trainer.callback_metrics)

    def fit(self) -> None:
        """Train, test the best checkpoint, and print the results and where the files are."""
        try:
            self.trainer.fit(self.model, self.datamodule, ckpt_path=self.config.ckpt_path, weights_only=True)
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None
            if self.config.test:
                self.trainer.test(self.model, self.datamodule, ckpt_path=best, verbose=False, weights_only=True)
        except (Stopped, CommandError, FloatingPointError, torch.OutOfMemoryError, MemoryError) as error:
            if self.trainer.is_global_zero and not self.config.trainer.fast_dev_run:
                from scripts.training.resume import print_resume_hint

                print_resume_hint(error, self.folder, self.job)
            raise
        if not self.trainer.is_global_zero:
            return
        # With a feature cache, a step takes so little time that most of it is waiting.
        print_results(self.record.results, self.place.step, may_wait=bool(self.config.feature_cache))
        if self.config.trainer.fast_dev_run:
            print("nothing is kept, because trainer.fast_dev_run only tries the configuration out")
            return
        print_places(best, self.config.runs, self.folder)
        if self.original:
            from scripts.training.reproducibility import compare_runs

            self.is_identical, report = compare_runs(self.original, self.folder)
            print(*report, sep="\n")
