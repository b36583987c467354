"""The command line of a training: constructors' signatures are its configuration."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.trainer import Trainer
from rich import get_console
from rich.table import Table

from callbacks.checkpoint import refuse_small_disk
from callbacks.curves import Curves, cut_curves
from callbacks.run import slurm, torchrun
from callbacks.run.interruption import Interruption
from callbacks.run.origin import repeated_run
from callbacks.run.peers import let_come_together
from callbacks.run.run_folder import (
    CHECKPOINTS,
    CONFIG,
    agree_on_run_folder,
    hold,
    newest_run,
    put_back,
    read_records,
    refuse_links,
)
from callbacks.run.run_record import RunRecord
from core.durable_file import NO_SPACE, remove_leftovers
from core.names import some_of
from core.stopping import Stopped
from core.user_error import UserError
from datamodules.base import ImageDataModule
from models.classifier import Classifier
from models.serialization.checkpoint import is_weights_only, newest_checkpoint, read_checkpoint
from models.serialization.checkpoint_io import DurableCheckpointIO
from models.serialization.class_path import Scope, check_classes
from models.training.precision import choose_precision
from scripts.command.boundary import FAULTS
from scripts.command.configuration import CONFIGS, Parser, fill_modes, one_sentence, read_layers
from scripts.command.expansion import to_path
from scripts.training.trainer_arguments import default_place, one_or_more, refuse_impossible

NEWEST = Path("NEWEST")  # stands for the newest run of the experiment


MOST_WAITING = 0.05  # the share of training time spent waiting for data above which a run says so


class NoProfiler(PassThroughProfiler):
    """Measures nothing, like Lightning's default, which yet sets up a generator around each of a step's forty hooks."""

    def profile(self, action_name: str) -> nullcontext[None]:  # type: ignore[override]  # any context manager will do
        """A context that does nothing."""
        return nullcontext()


class TrainCLI(LightningCLI):
    """Lightning's command line with a run's folder, a precision that suits the hardware and a test at the end.

    Args:
        args: The arguments; by default those of the process.
        callbacks: Further callbacks of `fit`.
    """

    record: RunRecord
    _records: dict[Path, bytes] | None = None  # of the run's folder, before this has changed anything there
    _tried_in: TemporaryDirectory[str] | None = None  # what fast_dev_run writes into

    def __init__(self, args: ArgsType = None, callbacks: Sequence[Callback] = ()) -> None:
        self.more_callbacks = callbacks
        self.step = 0
        self.is_alike = True
        """Whether the run came to what the one came to that it was to do again."""
        try:
            super().__init__(
                Classifier,
                ImageDataModule,
                subclass_mode_data=True,
                save_config_callback=None,
                auto_configure_optimizers=False,
                parser_class=Parser,
                parser_kwargs={"allow_abbrev": False},
                # The batch sampler knows of processes; Lightning's would repeat images to even out their shares.
                trainer_defaults={"use_distributed_sampler": False},
                args=args,
            )
        except (UserError, MisconfigurationException):
            self._leave_as_it_was()
            raise
        except OSError as error:
            if self._records is None or self._is_kept or error.errno not in NO_SPACE:
                raise
            self._leave_as_it_was()
            raise UserError(
                f"The run's folder {self.folder} cannot be written to: {error.strerror}; free space there or choose "
                "another place with --runs."
            ) from error
        finally:
            if self._tried_in:
                self._tried_in.cleanup()

    @property
    def _is_kept(self) -> bool:
        return hasattr(self, "record") and self.record.is_kept

    def _leave_as_it_was(self) -> None:
        """What is refused changes no run and leaves no new one, unless it has already written a checkpoint."""
        if self._records is None or self._is_kept:
            return
        for logger in self.trainer.loggers if hasattr(self, "trainer") else ():
            logger.finalize("failed")  # else its thread may go on writing
        if self.is_new:
            rmtree(self.folder, ignore_errors=True)
        else:
            put_back(self.folder, self._records)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's subcommands, less the arguments that are decided here."""
        return {
            name: skip | {"weights_only", "verbose"}
            for name, skip in LightningCLI.subcommands().items()
            if name != "predict"  # scripts/predict.py takes any images, and scripts/evaluate.py those of the data set
        }

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed: always a number, so that every run can be run again."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of everything random in the run.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The callbacks that are there by default, and what data and network are told rather than asked."""
        parser.add_argument("--experiment", type=str | None, help="Name of the runs' folder; by default the config's.")
        parser.add_argument("--runs", type=Path, default=Path("runs"), help="The folder of all experiments.")
        keys = "feature_cache weight_average finite_guard checkpoint early_stopping learning_rate_monitor"
        keys += " progress_bar preview custom_scalars hyperparameters model_graph confusion_matrix worst_mistakes"
        for key in (*keys.split(), "filters", "throughput"):
            parser.add_lightning_class_args(Callback, key, subclass_mode=True, required=False)
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        network = "model.network.init_args"
        parser.link_arguments("data.num_classes", f"{network}.num_classes", apply_on="instantiate")
        for source, name, derive in (
            ("data.image_shape", "in_channels", lambda shape: shape[0]),
            ("data.image_shape", "image_size", lambda shape: shape[1:]),
            ("data.image_shape", "in_features", lambda shape: shape[0] * shape[1] * shape[2]),
        ):
            parser.link_arguments(source, f"{network}.{name}", compute_fn=derive, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Read the defaults, the configuration in the checkpoint if one is given, --config and the flags, in turn."""
        args = list(sys.argv[1:] if args is None else args)
        self.config_files: list[str] = []
        self.resumed: Path | None = None
        self.original: Path | None = None
        self.command = ["scripts/train.py", *args]
        if args and args[0] == "fit":
            args = self._find_other_run(parser, args)
        self.scope: Scope = nullcontext
        layers = self._lay(args)
        with self.scope():
            self.config = parser.parse_args(layers)
            if args and args[0] in self.subcommands():
                # The seed is given because arguments are linked to it.
                given = parser.parse_args([args[0], "--seed_everything=0", *layers[1:]], defaults=False)
                fill_modes(self.config[args[0]], given[args[0]])
            check_classes(self.config, "The configuration")
        if not 0 <= (seed := self.config[self.config.subcommand].seed_everything) < 2**32:
            raise UserError(f"seed_everything is {seed}; give a whole number from 0 to {2**32 - 1}.")

    def _find_other_run(self, parser: LightningArgumentParser, args: list[str]) -> list[str]:
        """The arguments without --resume and --like, which say what run to go on with or to do again.

        --resume by itself goes on with the newest.
        """
        other = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        other.add_argument("--resume", nargs="?", type=to_path, const=NEWEST)
        other.add_argument("--like", nargs="?", type=to_path, const=Path())
        given, rest = other.parse_known_args(args)
        self.resumed, self.original = given.resume, given.like
        names = [name for name, value in (("--resume", given.resume), ("--like", given.like)) if value]
        names += ["--ckpt_path"] if any(flag.partition("=")[0] == "--ckpt_path" for flag in rest) else []
        if len(names) > 1:
            raise UserError(
                f"{' and '.join(names)} are given: --resume goes on with a run, --like does it again from its "
                "beginning, --ckpt_path begins another from its checkpoint; give one of them."
            )
        if given.like:
            from scripts.training.reproducibility import refuse_incomplete

            refuse_incomplete(given.like)
            return ["fit", "--config", str(given.like / CONFIG), *rest[1:]]
        if given.resume == NEWEST:
            config = parser.parse_args(self._lay(rest)).fit
            self.resumed = newest_run(config.runs / (config.experiment or self._experiment_name(config)))
        elif given.resume and not (given.resume / CONFIG).is_file():
            raise UserError(
                f"{given.resume} is no folder of a run: it has no {CONFIG}; give one such as runs/EXPERIMENT/DATE-TIME."
            )
        if self.resumed:
            self.original = repeated_run(self.resumed)
        return rest

    def _lay(self, args: list[str]) -> list[str]:
        """The arguments with one configuration in place of those that they are laid over."""
        if not args or args[0] not in self.subcommands():
            return args
        run = self.resumed / CONFIG if self.resumed and self.resumed != NEWEST else None
        config, flags, self.config_files, self.scope = read_layers(args[1:], run)
        if args[0] != "fit":
            # Nothing is logged, so a checkpoint's loggers, which may be of any package, are not asked for.
            config["trainer"] = config.get("trainer", {}) | {"logger": False}
        return [args[0], "--config", yaml.safe_dump(config), *flags]

    def _parse_ckpt_path(self) -> None:
        """Leave out Lightning's reading of hyperparameters, which would overrule the flags."""

    def before_instantiate_classes(self) -> None:
        """Refuse what cannot begin, keep the configuration as it was asked for, and give the run its folder."""
        config = self.config[self.subcommand]
        if not config.ckpt_path and self.subcommand != "fit":
            raise UserError(
                f"{self.subcommand} needs the weights of a run; give --ckpt_path runs/EXPERIMENT/DATE-TIME/"
                "checkpoints/best.ckpt."
            )
        if config.ckpt_path and self.subcommand == "fit" and is_weights_only(read_checkpoint(config.ckpt_path)):
            raise UserError(
                f"{config.ckpt_path} holds weights alone, from which no training goes on; give the last.ckpt of a run, "
                "or begin from its backbone with --model.network.weights."
            )
        slurm.refuse_unknown_tasks()
        if self.subcommand == "fit":
            refuse_impossible(config)
            if config.trainer.fast_dev_run:
                if self.resumed or self.original:
                    raise UserError(
                        "trainer.fast_dev_run tries a configuration out and keeps nothing; leave it out to go on with "
                        "a run or to do one again."
                    )
                self._tried_in = TemporaryDirectory(prefix="kindling-")
        if config.trainer.enable_checkpointing is False:
            config.checkpoint = None
        if config.trainer.enable_progress_bar is False:
            config.progress_bar = None
        self.name_experiment()
        network = config.model.network
        if not network.get("init_args"):  # where Lightning adds what the data knows
            network.init_args = Namespace()  # type: ignore[no-untyped-call]
        if config.ckpt_path:
            self._leave_out_weights(config)
        if self.subcommand != "fit":
            config.trainer.logger = False
            return
        runs = Path(self._tried_in.name) if self._tried_in else config.runs
        self.folder = agree_on_run_folder(runs / self.experiment, self.resumed)
        self.is_new = not (self.folder / CONFIG).is_file()
        if _get_rank() in (None, 0):
            refuse_links(self.folder)
            hold(self.folder)
            self._records = read_records(self.folder)
        self._take_up(config)
        config.trainer.default_root_dir = config.trainer.default_root_dir or str(self.folder)
        if config.trainer.logger is False:
            config.learning_rate_monitor = None
        for logger in one_or_more(config.trainer.logger):
            if (place := default_place(logger)) is not None:
                logger.init_args.save_dir = str(self.folder / place)
        if config.checkpoint and "dirpath" in config.checkpoint.get("init_args", ()):
            config.checkpoint.init_args.dirpath = str(self.folder / CHECKPOINTS)

    def name_experiment(self) -> None:
        """Complete the configuration with the experiment's name, and keep it as it was asked for."""
        config = self.config[self.subcommand]
        config.experiment = self.experiment = config.experiment or self._experiment_name(config)
        if Path(self.experiment).is_absolute() or ".." in Path(self.experiment).parts:
            raise UserError(
                f"experiment is {self.experiment!r}, which leads out of {config.runs}; give a name such as "
                "cifar10/baseline, and another place with --runs."
            )
        recorded = config.clone()
        if "repack" in recorded.data.get("init_args", ()):
            recorded.data.init_args.repack = False  # done once; what reads this later is not asked for it again
        self.config_text = self._parser(self.subcommand).dump(recorded, skip_unset=False)

    def _take_up(self, config: Namespace) -> None:
        """Go on from the newest checkpoint in the run's folder, if there is one."""
        checkpoints = self.folder / CHECKPOINTS
        first = _get_rank() in (None, 0)
        if first:
            for place in (self.folder, checkpoints):
                remove_leftovers(place)
        checkpoint = newest_checkpoint(checkpoints)
        if checkpoint:
            config.ckpt_path = checkpoint
            self._leave_out_weights(config)
        if first and not self.is_new:
            assert self._records is not None, "read before"
            size = checkpoint.stat().st_size if checkpoint else 0
            # Tried before anything is changed, with room to put back what is.
            refuse_small_disk(checkpoints, size + sum(map(len, self._records.values())))
            reached: Mapping[str, Any] = read_checkpoint(checkpoint) if checkpoint else {}
            self.step = reached.get("global_step", 0)
            cut_curves(self.folder, reached.get("curves", {}))
            print(f"going on in {self.folder} after step {self.step:,}")

    def _leave_out_weights(self, config: Namespace) -> None:
        """Build the network without what training began from, which may be gone: the checkpoint's weights follow."""
        network = config.model.network
        names = getattr(resolve_name(network.class_path), "rebuilt_with", {})
        model = read_checkpoint(config.ckpt_path).get("config", {}).get("model", {}) if names else {}
        for name, value in names.items():
            known = value, model.get("network", {}).get("init_args", {}).get(name)
            if self.subcommand == "fit" and str(network.init_args[name]) not in map(str, known):
                raise UserError(
                    f"model.network.{name} is {network.init_args[name]}, but training goes on with the weights of "
                    f"{config.ckpt_path}; leave it out, or begin a new run."
                )
            network.init_args[name] = value

    def _experiment_name(self, config: Namespace) -> str:
        """The last --config's place under configs/, or what is trained on what."""
        if not self.config_files:
            return "-".join(part.class_path.rsplit(".")[-1].lower() for part in (config.data, config.model.network))
        path = Path(self.config_files[-1]).resolve().with_suffix("")
        return str(path.relative_to(CONFIGS)) if path.is_relative_to(CONFIGS) else path.name

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; what a constructor refuses is the user's to change."""
        try:
            with self.scope():
                super().instantiate_classes()
        except (ValueError, ModuleNotFoundError, UserError, MisconfigurationException) as error:
            raise UserError(one_sentence(str(error))) from error
        self.datamodule.seed = self.config[self.subcommand].seed_everything  # where the constructor does not take it

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with the record of the run, and with a precision for the hardware where none is given."""
        init, keys = self.config_init[self.subcommand], self._parser(self.subcommand).callback_keys
        # The defaults come first, so that the Trainer's checkpoint callback is the one whose best is tested.
        callbacks: list[Callback] = [Interruption()]
        callbacks += [init[key] for key in keys if init.get(key) is not None] + one_or_more(init.trainer.callbacks)
        keys.clear()
        if self.subcommand == "fit":
            origin = (self.command, self.step, self.original)
            self.record = RunRecord(self.folder, self.experiment, self.config_text, *origin)
            callbacks += [self.record, Curves(), *self.more_callbacks]
        precision, reason = init.trainer.precision, "as given"
        if precision is None:
            device = torch.accelerator.current_accelerator(check_available=True)
            if device is None or init.trainer.accelerator == "cpu":
                device = torch.device("cpu")
            precision, reason = choose_precision(self.model.network, self.datamodule.image_shape, device)
        # In float32, cuDNN's fastest convolutions give other bits each time.
        torch.backends.cudnn.deterministic = init.trainer.deterministic is not False
        plugins = one_or_more(init.trainer.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(DurableCheckpointIO())
        has_checkpoint = any(isinstance(callback, Checkpoint) for callback in callbacks)
        try:
            trainer = super().instantiate_trainer(
                callbacks=callbacks,
                precision=precision,
                profiler=init.trainer.profiler or NoProfiler(),
                plugins=plugins,
                enable_checkpointing=has_checkpoint and init.trainer.enable_checkpointing is not False,
                **kwargs,
            )
        except TypeError as error:
            if "CPUAccelerator" not in str(error):
                raise
            raise UserError(
                f"trainer.devices is {init.trainer.devices}, but training is to run on the CPU; give a number of "
                "processes, such as 1, or leave it out."
            ) from error
        by_torchrun = torchrun.has_started_this()
        started = int(os.environ["WORLD_SIZE"]) if by_torchrun else slurm.tasks()
        if started > 1 and started != trainer.world_size:
            raise UserError(
                f"{started} processes were started together by {'torchrun' if by_torchrun else 'SLURM'}, but the "
                f"Trainer is for {trainer.world_size}: give --trainer.devices as many as start on each node, or start "
                "one."
            )
        let_come_together(trainer)
        device = trainer.strategy.root_device
        if init.trainer.sync_batchnorm and trainer.world_size > 1 and device.type == "cpu":
            raise UserError(
                "trainer.sync_batchnorm is true, but processes share batch norm on GPUs only; leave it out."
            )
        if trainer.is_global_zero:
            network, data, names = self.model.network, self.datamodule, self.datamodule.class_names
            print(
                f"{type(network).__name__} with {self.model.num_parameters:,} parameters on {type(data).__name__}, "
                f"{len(names)} classes ({some_of(names)}), {device.type}, {precision} ({reason})"
            )
        return trainer

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}
        return kwargs | ({"verbose": False} if subcommand != "fit" else {})

    def _run_subcommand(self, subcommand: str) -> None:
        """Say how to go on when a signal or a fault has ended the process."""
        try:
            super()._run_subcommand(subcommand)
        except (Stopped, *FAULTS, torch.OutOfMemoryError, MemoryError) as end:
            if subcommand == "fit" and self.trainer.is_global_zero and not self._tried_in:
                what = f"stopped by {end.signal.name}" if isinstance(end, Stopped) else "broken off"
                if (self.folder / CONFIG).is_file():
                    print(f"{what}; go on with: scripts/train.py fit --resume {self.folder}")
                else:
                    print(f"{what} before training has begun; start again")
                    rmtree(self.folder, ignore_errors=True)
                if isinstance(end, Stopped) and end.signal == SIGUSR1 and slurm.job():
                    slurm.queue_again()
            raise

    def after_fit(self) -> None:
        """Test the best checkpoint and say what has come out and where it is."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None
        self.trainer.test(self.model, self.datamodule, ckpt_path=best, verbose=False, weights_only=True)
        if self.trainer.is_global_zero:
            results = self.record.results
            facts = {name: results[name] for name in ("epochs", "seconds", "images_per_second")}
            self._print_table(results["metrics"] | facts)
            tensorboard = Path(sys.executable).with_name("tensorboard")
            share = results["waiting_for_data"]
            if share > MOST_WAITING and not self.config.fit.feature_cache:  # whose steps are all but nothing
                print(f"{share:.0%} of training was waiting for data: {self.datamodule.remedy_for_waiting}")
            if self._tried_in:
                print("nothing is kept of this, because trainer.fast_dev_run only tries the configuration out")
                return
            print(f"checkpoint  {os.path.relpath(best) if best else 'none'}")
            print(f"curves      {os.path.relpath(tensorboard)} --logdir {self.config.fit.runs}")
            if self.original:
                from scripts.training.reproducibility import compare_runs

                likeness = compare_runs(self.original, self.folder)
                self.is_alike = likeness.is_identical
                print(*likeness.lines(self.original), sep="\n")

    def after_validate(self) -> None:
        """Print the figures, and whether they are of other data than those of training."""
        self._print_changes()
        self._print_table(self.trainer.callback_metrics)

    after_test = after_validate

    def _print_changes(self) -> None:
        trained = read_checkpoint(self.config[self.subcommand].ckpt_path)
        changed = self.datamodule.changes_since(trained.get("data_images"))
        if changed and self.trainer.is_global_zero:
            print(f"note: {changed}")

    def _print_table(self, figures: Mapping[str, Any]) -> None:
        if self.trainer.is_global_zero:
            table = Table(show_header=False)
            for name, value in sorted(figures.items()):
                table.add_row(name, f"{float(value):,.4f}" if "/" in name else f"{value:,}")
            get_console().print(table)
