"""What a command line would train with several seeds."""

from collections.abc import Sequence

import yaml

from scripts.training.seeds import Plan
from scripts.training.train_cli import TrainCLI


class Reading(TrainCLI):
    """Reads the configuration of `fit`, and begins nothing."""

    def before_instantiate_classes(self) -> None:
        """Name the experiment."""
        self.name_experiment()

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def plan_seeds(flags: Sequence[str]) -> Plan:
    """What `fit` with these flags would train, and where."""
    read = Reading(["fit", *flags])
    return Plan(read.config.fit.runs / read.experiment, yaml.safe_load(read.config_text), tuple(flags))
