"""The configuration that several runs share."""

from collections.abc import Sequence

import yaml

from scripts.training.several_runs import Plan
from scripts.training.train_cli import TrainCLI


class ConfigReader(TrainCLI):
    """Reads the configuration of `fit`, and builds and runs nothing."""

    def before_instantiate_classes(self) -> None:
        """Name the experiment."""
        self.name_experiment()

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def run(self) -> None:
        """Run nothing."""


def plan_runs(flags: Sequence[str]) -> Plan:
    """Read what `fit` with these flags would train, and where."""
    reader = ConfigReader(["fit", *flags])
    return Plan(reader.config.runs / reader.experiment, yaml.safe_load(reader.config_text), tuple(flags))
