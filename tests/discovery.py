"""Finds every network, data module, callback and configuration, so that what is added is tested without a test."""

import ast
import inspect
import pkgutil
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn
from torchmetrics import Metric

import callbacks
import datamodules
import models
from datamodules.base import ImageDataModule
from models.serialization.class_path import full_path

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"


def imported(file: Path) -> set[str]:
    """The packages that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found.add((node.module or "").partition(".")[0])
    return found


def extras() -> set[str]:
    """The optional packages, each an extra of its own name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"]) - {"dev"}


def classes(package: ModuleType, base: type) -> list[type]:
    found = []
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, base) and member.__module__ == module.__name__ and not inspect.isabstract(member):
                found.append(member)
    return found


def networks() -> list[type]:
    """A network is what is told the number of classes, and neither trains nor counts."""
    return [
        network
        for network in classes(models, nn.Module)
        if "num_classes" in inspect.signature(network).parameters
        and not issubclass(network, LightningModule)
        and not issubclass(network, Metric)
    ]


def data_modules() -> list[type]:
    return classes(datamodules, ImageDataModule)


def callback_classes() -> list[type]:
    return classes(callbacks, Callback)


def configs() -> list[Path]:
    return sorted(CONFIGS.rglob("*.yaml"))


def class_paths(node: object) -> set[str]:
    if isinstance(node, dict):
        own = {full_path(node["class_path"])} if "class_path" in node else set()
        return own.union(*(class_paths(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(class_paths(value) for value in node))
    return set()


def configured_classes() -> set[str]:
    return set().union(*(class_paths(yaml.safe_load(config.read_text())) for config in configs()))
