"""The command line of a training: the constructors' signatures are its configuration."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from pkgutil import resolve_name
from shutil import rmtree
from signal import SIGUSR1
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import Trainer

from callbacks.curves import CSVLogger
from callbacks.run.interruption import Interruption
from callbacks.run.run_folder import CHECKPOINTS, CONFIG, current_job
from callbacks.run.run_record import RunRecord
from core.durable_file import NO_SPACE
from core.names import some_of
from core.stopping import Stopped
from core.user_error import CommandError, UserError
from datamodules.base import ImageDataModule
from models.classifier import Classifier
from models.serialization.checkpoint import is_weights_only, read_checkpoint
from models.serialization.checkpoint_io import DurableCheckpointIO
from models.serialization.class_path import Scope, check_classes
from models.training.precision import choose_precision
from scripts.command.configuration import CONFIGS, Parser, fill_modes, read_layers
from scripts.command.silence import silence_libraries
from scripts.training.run_place import OtherRun, RunPlace, find_other_run
from scripts.training.summary import print_figures, print_places, print_results
from scripts.training.trainer_arguments import check_trainer, is_ours, one_or_more

# The keys of the callbacks that a configuration has by default.
CALLBACKS = (
    *("feature_cache", "weight_average", "finite_guard", "checkpoint", "early_stopping", "learning_rate_monitor"),
    *("progress_bar", "preview", "custom_scalars", "hyperparameters", "model_graph", "confusion_matrix"),
    *("worst_mistakes", "filters", "throughput"),
)


class NoProfiler(PassThroughProfiler):
    """Measures nothing. Lightning's default sets up a generator around each of the forty hooks of a step."""

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]  # any context manager will do
        """Return a context that does nothing."""
        return nullcontext()


class TrainCLI(LightningCLI):
    """Parses the command line, builds data, model and Trainer, and runs a stage of the Trainer.

    To Lightning's command line it adds the run's folder and record, a precision for the hardware, and a test of the
    best checkpoint at the end of `fit`. The arguments are a stage and its flags, and further callbacks of `fit`.
    """

    record: RunRecord  # of `fit`, like the folder
    folder: Path

    def __init__(self, args: Sequence[str], callbacks: Sequence[Callback] = ()) -> None:
        self.stage, self.args, self.more_callbacks = args[0], list(args[1:]), callbacks
        self.place: RunPlace | None = None  # of `fit`
        self.is_identical = True  # False if the run was to repeat another, and its results differ
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
                    # The batch sampler knows of processes; Lightning's would repeat images to even out their shares.
                    trainer_defaults={"use_distributed_sampler": False},
                    args=self.args,
                    run=False,
                )
                self.run()
            except (UserError, MisconfigurationException) as error:
                self._put_back()
                raise UserError(str(error)) from error
            except OSError as error:
                if error.errno not in NO_SPACE or not self._put_back():
                    raise
                raise UserError(
                    f"The run's folder {self.folder} cannot be written to: {error.strerror}; free space there or "
                    "choose another place with --runs."
                ) from error

    def _put_back(self) -> bool:
        """Leave the run's folder as it was before, unless the run has written a checkpoint; True if that was done."""
        if self.place is None or (hasattr(self, "record") and self.record.is_kept):
            return False
        for logger in self.trainer.loggers if hasattr(self, "trainer") else ():
            logger.finalize("failed")  # else its thread may go on writing
        return self.place.put_back()

    # The arguments.

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, which is always a number, so that every run can be repeated."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything random in the run.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's place, the default callbacks, and the links from the data to the network."""
        parser.add_argument("--experiment", type=str | None, help="Name of the runs' folder; by default the config's.")
        parser.add_argument("--runs", type=Path, default=Path("runs"), help="The folder of all experiments.")
        for key in CALLBACKS:
            parser.add_lightning_class_args(Callback, key, subclass_mode=True, required=False)
        parser.add_argument("--test", type=bool, default=True, help="Whether `fit` ends with a test of its best.")
        parser.add_argument("--ckpt_path", type=str | Path | None, help="The checkpoint to test, or to begin from.")
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
        # No stage but `fit` has --resume and --like.
        self.other = find_other_run(self.args, self._experiment_of) if self.stage == "fit" else OtherRun(self.args)
        layers = self._lay(self.other.flags, self.other.resumed)
        with self.scope():
            self.config = parser.parse_args(layers)
            # The seed is given because arguments are linked to it.
            given = parser.parse_args(["--seed_everything=0", *layers], defaults=False)
            known = {}
            if self.config.model.metrics:
                from models.training.extra_metrics import modes

                known = modes(self.config.model.metrics)
            fill_modes(self.config, given, known)
            check_classes(self.config, "The configuration")
        if not 0 <= (seed := self.config.seed_everything) < 2**32:
            raise UserError(f"seed_everything is {seed}; give a whole number from 0 to {2**32 - 1}.")

    def _lay(self, args: list[str], resumed: Path | None = None) -> list[str]:
        """Replace the configuration files among the arguments by the merged layers."""
        config, flags, self.config_files, self.scope = read_layers(args, resumed and resumed / CONFIG)
        if any(flag.partition("=")[0] in ("--data.seed", "--data.init_args.seed") for flag in flags):
            raise UserError("data.seed is that of the whole run; give it as --seed_everything.")
        if self.stage != "fit":
            # Nothing is logged, so the loggers that a checkpoint names are not imported.
            config["trainer"] = config.get("trainer", {}) | {"logger": False}
        return ["--config", yaml.safe_dump(config), *flags]

    def _experiment_of(self, flags: list[str]) -> Path:
        """The folder of the experiment that flags mean."""
        config = self.parser.parse_args(self._lay(flags))
        return Path(config.runs / self._experiment_name(config))

    def _experiment_name(self, config: Namespace) -> str:
        """The name that is given, the last --config's place under configs/, or the names of data set and network."""
        if config.experiment:
            return str(config.experiment)
        if not self.config_files:
            return "-".join(part.class_path.rsplit(".")[-1].lower() for part in (config.data, config.model.network))
        path = Path(self.config_files[-1]).resolve().with_suffix("")
        return str(path.relative_to(CONFIGS)) if path.is_relative_to(CONFIGS) else path.name

    # Before anything is built.

    def before_instantiate_classes(self) -> None:
        """Check the configuration, record it as it was asked for, and give the run its folder."""
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
        if not network.get("init_args"):  # where Lightning adds what the data knows
            network.init_args = Namespace()  # type: ignore[no-untyped-call]
        if self.stage == "fit":
            self._take_folder(config)
        else:
            config.trainer.logger = False
        if config.ckpt_path:
            self._drop_initial_weights(config)

    def _check_fit(self, config: Namespace) -> None:
        if config.ckpt_path and is_weights_only(read_checkpoint(config.ckpt_path)):
            raise UserError(
                f"{config.ckpt_path} holds weights alone; give a run's last.ckpt, or --model.network.weights with this."
            )
        check_trainer(config)
        if config.trainer.fast_dev_run and (self.other.resumed or self.other.original):
            raise UserError("trainer.fast_dev_run keeps nothing; leave it out to go on with a run or to do one again.")

    def name_experiment(self) -> None:
        """Complete the configuration with the experiment's name, and record it."""
        config = self.config
        config.experiment = self.experiment = self._experiment_name(config)
        if Path(self.experiment).is_absolute() or ".." in Path(self.experiment).parts:
            raise UserError(f"experiment is {self.experiment!r}, which leads out of {config.runs}; give another name.")
        recorded = config.clone()
        if "repack" in recorded.data.get("init_args", ()):
            recorded.data.init_args.repack = False  # a run that reads this later need not repack
        self.config_text = self.parser.dump(recorded, skip_unset=False)

    def _take_folder(self, config: Namespace) -> None:
        """Make the run's folder, or go on from the newest checkpoint in it, and let loggers write there."""
        runs = config.runs
        if config.trainer.fast_dev_run:
            runs = Path(self.at_end.enter_context(TemporaryDirectory(prefix="kindling-")))
        self.place = RunPlace(runs / self.experiment, self.other.resumed, self.other.flags)
        self.folder = folder = self.place.folder
        config.ckpt_path = self.place.go_on() or config.ckpt_path
        config.trainer.default_root_dir = config.trainer.default_root_dir or str(folder)
        if config.checkpoint and "dirpath" in config.checkpoint.get("init_args", ()):
            config.checkpoint.init_args.dirpath = str(folder / CHECKPOINTS)
        if config.trainer.logger is False:
            config.learning_rate_monitor = None
            return
        config.trainer.logger = loggers = one_or_more(config.trainer.logger)
        if not any(issubclass(resolve_name(logger.class_path), CSVLogger) for logger in loggers):
            table = Namespace(class_path="callbacks.curves.CSVLogger", init_args=Namespace())  # type: ignore[no-untyped-call]
            loggers.append(table)
        for logger in filter(is_ours, loggers):
            logger.init_args.save_dir = str(folder)
        if others := [logger for logger in loggers if not is_ours(logger)]:
            from scripts.training.loggers import place_loggers

            place_loggers(others, folder, self.experiment)

    def _drop_initial_weights(self, config: Namespace) -> None:
        """Build the network without the weights that training began from: the checkpoint's replace them."""
        network = config.model.network
        names = getattr(resolve_name(network.class_path), "rebuilt_with", {})
        model = read_checkpoint(config.ckpt_path).get("config", {}).get("model", {}) if names else {}
        for name, value in names.items():
            known = value, model.get("network", {}).get("init_args", {}).get(name)
            if self.stage == "fit" and str(network.init_args[name]) not in map(str, known):
                raise UserError(
                    f"model.network.{name} is {network.init_args[name]}, but the weights are those of "
                    f"{config.ckpt_path}; leave it out, or begin a new run."
                )
            network.init_args[name] = value

    # Data, model and Trainer.

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; an error in a constructor is the user's to mend."""
        try:
            with self.scope():
                super().instantiate_classes()
        except (ValueError, ModuleNotFoundError, UserError, MisconfigurationException) as error:
            from scripts.command.error_message import one_line

            raise UserError(one_line(str(error))) from error
        self.datamodule.seed = self.config.seed_everything  # where the constructor does not take it

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, with the record of the run, and a precision for the hardware where none is given."""
        init = self.config_init
        # The defaults come first, so that the Trainer's checkpoint callback is the one whose best is tested.
        callbacks: list[Callback] = [Interruption()]
        callbacks += [init[key] for key in CALLBACKS if init.get(key) is not None] + one_or_more(init.trainer.callbacks)
        if self.place:
            origin = (["scripts/train.py", "fit", *self.args], self.place.step, self.other.original)
            self.record = RunRecord(self.folder, self.experiment, self.config_text, *origin)
            callbacks += [self.record, *self.more_callbacks]
        precision, reason = self._precision(init.trainer)
        # In float32, cuDNN's fastest convolutions give other bits each time.
        torch.backends.cudnn.deterministic = init.trainer.deterministic is not False
        plugins = one_or_more(init.trainer.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(DurableCheckpointIO())
        init.trainer.callbacks, init.trainer.plugins, init.trainer.precision = callbacks, plugins, precision
        init.trainer.profiler = init.trainer.profiler or NoProfiler()
        if not any(isinstance(callback, Checkpoint) for callback in callbacks):
            init.trainer.enable_checkpointing = False
        try:
            trainer = Trainer(**vars(init.trainer))
        except TypeError as error:
            if "CPUAccelerator" not in str(error):
                raise
            raise UserError(
                f"trainer.devices is {init.trainer.devices}, which is for GPUs; give a number of processes, such as 1."
            ) from error
        self._check_processes(trainer)
        if trainer.is_global_zero:
            network, data, names = self.model.network, self.datamodule, self.datamodule.class_names
            size = sum(parameter.numel() for parameter in network.parameters())
            kind = f"labels by {type(self.model.loss).__name__}" if self.model.multi_label else "classes"
            print(
                f"{type(network).__name__} with {size:,} parameters on {type(data).__name__}, "
                f"{len(names)} {kind} ({some_of(names)}), {trainer.strategy.root_device.type}, {precision} ({reason})"
            )
        return trainer

    def _precision(self, trainer: Namespace) -> tuple[Any, str]:
        if trainer.precision is not None:
            return trainer.precision, "as given"
        device = torch.accelerator.current_accelerator(check_available=True)
        if device is None or trainer.accelerator == "cpu":
            device = torch.device("cpu")
        return choose_precision(self.model.network, self.datamodule.image_shape, device)

    def _check_processes(self, trainer: Trainer) -> None:
        """Check that all processes are there, and let them wait for each other."""
        job = self.job
        if job and job.processes > 1 and job.processes != trainer.world_size:
            raise UserError(
                f"{job.processes} processes were started together by {job.scheduler}, but the Trainer is for "
                f"{trainer.world_size}: give --trainer.devices as many as start on each node, or start one."
            )
        if trainer.world_size > 1:
            if self.config.trainer.sync_batchnorm and trainer.strategy.root_device.type == "cpu":
                raise UserError("trainer.sync_batchnorm is true, but batch norm is shared on GPUs only; leave it out.")
            from callbacks.run.peers import let_come_together

            let_come_together(trainer)

    # The stage.

    def run(self) -> None:
        """Run the stage, and print its figures."""
        if self.place:
            services: AbstractContextManager[None] = nullcontext()
            if not all(is_ours(logger) for logger in self.config.trainer.logger or ()):
                from scripts.training.loggers import open_services

                services = open_services(self.trainer, self.folder, self.place.cut)
            with services:
                self.fit()
            return
        path = self.config.ckpt_path
        run = getattr(self.trainer, self.stage)
        run(self.model, self.datamodule, ckpt_path=path, verbose=False, weights_only=True)
        if self.trainer.is_global_zero:
            from datamodules.batching.data_changes import data_changes

            if changed := data_changes(read_checkpoint(path).get("data_images"), self.datamodule.known_images):
                print(f"note: {changed}")
            print_figures(self.trainer.callback_metrics)

    def fit(self) -> None:
        """Train, test the best checkpoint, and say where everything is."""
        assert self.place is not None, "made before"
        try:
            self.trainer.fit(self.model, self.datamodule, ckpt_path=self.config.ckpt_path, weights_only=True)
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None
            if self.config.test:
                self.trainer.test(self.model, self.datamodule, ckpt_path=best, verbose=False, weights_only=True)
        except (Stopped, CommandError, FloatingPointError, torch.OutOfMemoryError, MemoryError) as end:
            self._say_how_to_go_on(end)
            raise
        if not self.trainer.is_global_zero:
            return
        # With a feature cache a step takes next to no time, so that most of it is waiting.
        print_results(self.record.results, self.place.step, may_wait=bool(self.config.feature_cache))
        if self.config.trainer.fast_dev_run:
            print("nothing is kept of this, because trainer.fast_dev_run only tries the configuration out")
            return
        print_places(best, self.config.runs, self.folder)
        if self.other.original:
            from scripts.training.reproducibility import compare_runs

            self.is_identical, report = compare_runs(self.other.original, self.folder)
            print(*report, sep="\n")

    def _say_how_to_go_on(self, end: BaseException) -> None:
        if not self.trainer.is_global_zero or self.config.trainer.fast_dev_run:
            return
        what = f"stopped by {end.signal.name}" if isinstance(end, Stopped) else "broken off"
        if (self.folder / CONFIG).is_file():
            print(f"{what}; go on with: scripts/train.py fit --resume {self.folder}")
        else:
            print(f"{what} before training has begun; start again")
            rmtree(self.folder, ignore_errors=True)
        if isinstance(end, Stopped) and end.signal == SIGUSR1 and self.job:
            self.job.queue_again()
