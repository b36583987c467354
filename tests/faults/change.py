"""Runs that go on with other flags or data, each compared bit for bit with a plain loop over steps and images."""

import json
import math
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from datamodules.batching.randomness import random_key
from datamodules.digits import Digits
from models.classifier import Classifier
from models.serialization.checkpoint import read_checkpoint
from tests.faults.fault import Fault

WARMUP, STEP_SIZE, GAMMA, PEAK = 0.1, 1, 0.5, 0.01

SCHEDULES: dict[str, tuple[str, ...]] = {
    "cosine": ("--model.scheduler=models.schedule.WarmupCosine",),
    "one-cycle": ("--model.scheduler=torch.optim.lr_scheduler.OneCycleLR", f"--model.scheduler.max_lr={PEAK}"),
    "steps": (
        *("--model.scheduler=torch.optim.lr_scheduler.StepLR", f"--model.scheduler.step_size={STEP_SIZE}"),
        f"--model.scheduler.gamma={GAMMA}",
    ),
    "constant": ("--model.scheduler=null",),
}

REFUSED = (
    "--model.optimizer.amsgrad=true",
    "--model.optimizer=torch.optim.SGD",
    "--data.normalization=none",
    "--model.layer_decay=0.8",
    "--model.network.head_sizes=[5]",
)
"""Flags that no run can go on with."""


@dataclass(frozen=True)
class Settings:
    """Flags of a run, by what they decide."""

    epochs: int = 2
    steps: int | None = None
    batch_size: int = 64
    accumulated: int = 1
    lr: float = 0.003
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    schedule: str = "cosine"
    seed: int = 0
    limit: int = 400
    """Images of the data set."""

    @property
    def flags(self) -> list[str]:
        return [
            *(f"--trainer.max_epochs={self.epochs}", f"--trainer.max_steps={self.steps or -1}"),
            *(f"--data.batch_size={self.batch_size}", f"--trainer.accumulate_grad_batches={self.accumulated}"),
            *(f"--model.optimizer.lr={self.lr}", f"--model.optimizer.weight_decay={self.weight_decay}"),
            *(f"--model.loss.label_smoothing={self.label_smoothing}", f"--seed_everything={self.seed}"),
            f"--data.limit={self.limit}",
            *SCHEDULES[self.schedule],
        ]


@dataclass(frozen=True)
class Change:
    """Settings, the batch after which a run with them is stopped, and the settings that it goes on with."""

    before: Settings
    stopped_after: int
    after: Settings
    refused: str = ""
    """A flag besides, with which the run must not go on."""

    @property
    def fault(self) -> Fault:
        return Fault("in a training batch", self.stopped_after, signal.SIGTERM)


def draw_change(seed: int, number: int) -> Change:
    """The change of that number, the same whenever it is asked for."""
    draw = random.Random(f"change {seed}/{number}")
    choices: dict[str, tuple[Any, ...]] = {
        "steps": (None, None, 7, 16),
        "batch_size": (16, 24, 32, 48, 64, 96),
        "accumulated": (1, 1, 2, 3),
        "lr": (0.003, 0.001, 0.0001),
        "weight_decay": (0.01, 0.1),
        "label_smoothing": (0.0, 0.1),
        "schedule": tuple(SCHEDULES),
        "seed": (0, 0, 1),
        "limit": (400, 400, 300),
    }
    before = Settings(**{name: draw.choice(values) for name, values in choices.items()})
    changed = {name: draw.choice(values) for name, values in choices.items() if draw.random() < 0.4}
    after = replace(before, epochs=draw.randint(2, 4), **changed)
    return Change(before, draw.randint(1, 20), after, draw.choice(REFUSED) if draw.random() < 0.25 else "")


@dataclass
class Account:
    """What a run must come to that is stopped and goes on with other settings.

    Args:
        change: The settings.
        data: The images before, set up.
        data_after: Those after.
    """

    change: Change
    data: Digits
    data_after: Digits
    steps: int = 0
    """Optimizer steps done so far."""
    epoch: int = 0
    done: int = 0
    """Images of the epoch done so far."""

    def order(self, settings: Settings, epoch: int) -> Tensor:
        """The training images of an epoch."""
        data = self.data if settings.limit == self.change.before.limit else self.data_after
        images = data.splits["train"]
        return images[torch.randperm(len(images), generator=generator_of(settings.seed, epoch))]

    def course(self, settings: Settings) -> Iterator[list[Tensor]]:
        """The batches of each step to the end of a run, from where the account stands; the account goes with them."""
        most = math.inf if settings.steps is None else settings.steps
        while self.epoch < settings.epochs and self.steps < most:
            batches = self.order(settings, self.epoch)[self.done :].split(settings.batch_size)  # type: ignore[no-untyped-call]
            for start in range(0, len(batches), settings.accumulated):
                if self.steps >= most:
                    return
                step = list(batches[start : start + settings.accumulated])
                yield step
                self.steps, self.done = self.steps + 1, self.done + sum(map(len, step))
            self.epoch, self.done = self.epoch + 1, 0

    def stop(self) -> None:
        """Go to where the run is stopped."""
        batches = 0
        for step in self.course(self.change.before):
            batches += len(step)
            if batches >= self.change.stopped_after:
                self.steps, self.done = self.steps + 1, self.done + sum(map(len, step))
                break
        if self.done == len(self.data.splits["train"]):
            self.epoch, self.done = self.epoch + 1, 0
        before, after = self.change.before, self.change.after
        if (before.seed, before.limit) != (after.seed, after.limit):
            self.done = 0  # in another order, the epoch begins again

    def go_on(self, checkpoint: dict[str, Any], path: Path) -> tuple[dict[str, Tensor], list[float], list[list[int]]]:
        """Train to the end from a checkpoint of the stopped run.

        Returns:
            The weights, the learning rate of each step from there on, and the images of each batch.
        """
        after, classifier = self.change.after, Classifier.load_from_checkpoint(path)
        network = classifier.network.train()
        classifier.loss.label_smoothing = after.label_smoothing  # type: ignore[assignment]
        optimizer = torch.optim.AdamW(network.parameters(), lr=after.lr, weight_decay=after.weight_decay, fused=True)
        state = checkpoint["optimizer_states"][0]["state"]
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        ahead = replace(self)
        total = self.steps + sum(1 for _ in ahead.course(after))
        if after.steps is not None:
            total = max(self.steps, min(total, after.steps))
        rates, images = [], []
        for step in self.course(after):
            for group in optimizer.param_groups:
                group["lr"], group["betas"] = rate_of(after, self.steps, self.epoch, total)
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad()
            for batch in step:
                pixels, labels = self.data.transform(self.data.pack[batch], training=False)  # type: ignore[index]
                loss = classifier.loss(network(classifier.to_memory_format(pixels)).float(), labels, None)
                (loss * (after.accumulated / len(step)) / after.accumulated).backward()
                images.append(batch.tolist())
            optimizer.step()
        return network.state_dict(), rates, images


def generator_of(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(random_key(*key))


def rate_of(settings: Settings, step: int, epoch: int, total: int) -> tuple[float, tuple[float, float]]:
    """Learning rate and betas of a step of a run."""
    betas, warmup = (0.9, 0.999), WARMUP * total
    match settings.schedule:
        case "cosine" if step < warmup:
            return settings.lr * ((step + 1) / (warmup + 1)), betas
        case "cosine":
            return settings.lr * (0.5 * (1 + math.cos(math.pi * ((step - warmup) / (total - warmup))))), betas
        case "one-cycle":
            group = {"params": [torch.zeros(1, requires_grad=True)]}
            optimizer = torch.optim.AdamW([group], lr=settings.lr)
            schedule = OneCycleLR(optimizer, PEAK, total_steps=total)
            for _ in range(step):
                optimizer.step()
                schedule.step()
            return optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]
        case "steps":
            rate = settings.lr
            for _ in range(epoch // STEP_SIZE):
                rate *= GAMMA
            return rate, betas
    return settings.lr, betas


def unused(run: Path, settings: Settings) -> str:
    """What a run has recorded otherwise than it was used, or nothing."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")["hyper_parameters"]
    recorded = {
        "epochs": config["trainer"]["max_epochs"],
        "steps": None if config["trainer"]["max_steps"] == -1 else config["trainer"]["max_steps"],
        "batch_size": config["data"]["init_args"]["batch_size"],
        "accumulated": config["trainer"]["accumulate_grad_batches"],
        "seed": config["seed_everything"],
        "limit": config["data"]["init_args"]["limit"],
    }
    for arguments in (config["model"], saved):
        recorded |= {name: arguments["optimizer"]["init_args"][name] for name in ("lr", "weight_decay")}
        recorded["label_smoothing"] = arguments["loss"]["init_args"]["label_smoothing"]
        for name in (field.name for field in fields(Settings) if field.name in recorded):
            if recorded[name] != getattr(settings, name):
                return f"{name} is recorded as {recorded[name]} and was {getattr(settings, name)}"
    return ""


def images_of(file: Path) -> list[list[int]]:
    """The images of each training batch, as a process has noted them."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
