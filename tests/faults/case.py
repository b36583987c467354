"""Runs that are broken off and taken up again, each compared with the unbroken run bit for bit."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.stopping import EXIT_STATUS
from datamodules.digits import Digits
from models.serialization.checkpoint import read_checkpoint
from tests.discovery import ROOT
from tests.faults.change import Account, Change, images_of, unused
from tests.faults.fault import PLACES, START, Fault

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
DISK = 0
"""Stands among them for a disk that is full."""

STATUSES = {signal.SIGKILL: {-9}, DISK: {1, 2}} | {number: {status} for number, status in EXIT_STATUS.items()}
"""What a struck process leaves with."""

DISK_SIZE = "24m"
LOST = "points for TensorBoard are lost"
"""What is said where a disk was full at a time when no checkpoint was written, which alone brings the points back."""

CONFIGURATIONS = 20
"""Several cases have the same, so that fewer unbroken runs are needed."""

MEASURED = "train/images_per_second"
"""The figure that is a time and no result: its points must be where they are, but differ between any two runs."""

COMPARED = ("state_dict", "raw_state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")

KEEPING = ("EarlyStopping", "Checkpoint", "ConfusionMatrix")
"""Callbacks whose state is compared."""

FIGURES = ("metrics", "best", "epochs", "steps")

MIXING = "[{class_path: datamodules.mixing.MixUp}]"
AFFINE = "[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]"
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")
NOISE = (
    "--model.network=tests.faults.noise.NoisyConvNet",
    f"--data.augmentation=[{{class_path: tests.faults.noise.Noise}}, {AFFINE[1:-1]}]",
    "--data.mixing=[{class_path: tests.faults.noise.NoisyMixing}]",
)
PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"
FEATURES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (
        (),
        ("--data.num_workers=2",),
        ("--data=datamodules.image_folder.ImageFolder", "--data.folder=scans", "--data.image_size=8"),
        (
            *("--data=datamodules.image_folder.ImageFolder", "--data.folder=scans", "--data.image_size=8"),
            *("--data.storage=files", "--data.num_workers=1"),
        ),
    ),
    ((), NOISE),
    ((), (f"--data.mixing={MIXING}",)),
    ((), ("--data.balanced=true",)),
    ((), ("--model.network.head_dropout=0.2",)),
    ((), ("--trainer.accumulate_grad_batches=2",)),
    ((), ("--trainer.gradient_clip_val=0.5",)),
    ((), ("--trainer.val_check_interval=0.5",)),
    ((), *((f"--trainer.precision={precision}",) for precision in PRECISIONS)),
    (
        (),
        ("--weight_average=callbacks.ema.EMA",),
        ("--weight_average=callbacks.ema.EMA", "--early_stopping.patience=1"),
        ("--early_stopping.patience=1",),
        ("--weight_average=callbacks.swa.SWA", "--weight_average.start=1", "--early_stopping=null"),
    ),
    (
        (),
        (f"--model.scheduler={PLATEAU}", "--model.scheduler.monitor=val/loss", "--model.scheduler.patience=0"),
        ("--model.scheduler=torch.optim.lr_scheduler.OneCycleLR", "--model.scheduler.max_lr=0.01"),
        ("--model.scheduler=torch.optim.lr_scheduler.StepLR", "--model.scheduler.step_size=1"),
    ),
    ((), ("--model.freeze=[stages.0]", "--model.unfreeze={1: [stages.0]}"), ("--model.layer_decay=0.8",)),
    ((), ("--checkpoint.every_minutes=0.000001",)),
)
SMALL = ("--model.network=models.resnet.ResNet", "--model.network.channels=[8, 8]", "--model.network.blocks=[1, 1]")
SPECIAL: tuple[tuple[str, ...], ...] = (
    (*SMALL, "--model.freeze=[backbone]", "--feature_cache=callbacks.feature_cache.FeatureCache"),
    ("--model.compile=true", "--model.network.head_dropout=0.2"),
)
"""What does not go with everything; each is the whole of a configuration."""


@dataclass(frozen=True)
class Case:
    """A configuration and what befalls it, run after run."""

    flags: tuple[str, ...]
    faults: tuple[Fault | tuple[float, int], ...] = ()
    """Places, or seconds after the start and a signal."""
    processes: int = 1
    damaged: bool = False
    """Whether a bit of the last checkpoint changes after the first of them."""

    def __str__(self) -> str:
        told = (
            f"{signal.Signals(number).name if (number := _signal_of(fault)) else 'the disk is full'} "
            + (f"{fault.place} ({fault.nth})" if isinstance(fault, Fault) else f"after {fault[0]:.2f} s")
            for fault in self.faults
        )
        return (
            f"{', '.join(told)} with {' '.join(self.flags) or 'the defaults'}, {self.processes} process(es)"
            f"{', a bit of the last checkpoint changed' if self.damaged else ''}"
        )


def _signal_of(fault: Fault | tuple[float, int]) -> int:
    return fault.signal if isinstance(fault, Fault) else fault[1]


def _change_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount a small file system, which only root may, as a rule.

    Raises:
        PermissionError: If this process may not.
    """
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "none", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        place.rmdir()
        raise PermissionError("this machine allows no mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def draw_case(seed: int, number: int) -> Case:
    """The case of that number, the same whenever it is asked for."""
    configuration = random.Random(f"{seed}/{number % CONFIGURATIONS}")
    flags = tuple(flag for choices in FEATURES for flag in configuration.choice((*choices, ())))
    if 0 < (special := number % CONFIGURATIONS) <= len(SPECIAL):
        flags = SPECIAL[special - 1]
    processes = 2 if number % CONFIGURATIONS == 0 else 1
    draw = random.Random(f"{seed}/{number}")
    faults: list[Fault | tuple[float, int]] = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        number_of_signal = int(draw.choice((*SIGNALS, DISK)))
        if number_of_signal != DISK and draw.random() < 0.3:
            faults.append((draw.uniform(0.2, 4.0 * processes), number_of_signal))
        else:
            place = draw.choice((*PLACES, START, START, START) if number_of_signal == DISK else PLACES)
            nth = draw.randint(1, 3 if place in ("in packing", "in a test batch", "in a checkpoint's writing") else 12)
            faults.append(Fault(place, nth, number_of_signal, draw.random()))
    return Case(flags, tuple(faults), processes, damaged=draw.random() < 0.1)


@dataclass
class Laboratory:
    """Runs cases in a folder.

    Args:
        folder: The folder; unbroken runs stay there, to be compared with again.
    """

    folder: Path
    _whole: dict[tuple[tuple[str, ...], int], Path] = field(default_factory=dict)

    @cached_property
    def _zygote(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process that runs are forked from."""
        self._zygote.communicate()

    def survives(self, case: Case, folder: Path, env: dict[str, str] | None = None) -> str:
        """Break off and take up a run, and compare it with the unbroken one.

        Args:
            case: What is run and what befalls it.
            folder: Where, not yet there.
            env: Variables of its environment.

        Returns:
            What is different, or nothing.

        Raises:
            PermissionError: If it needs a small disk, and this process may mount none.
        """
        if any(_signal_of(fault) == DISK for fault in case.faults):
            with small_disk(folder):
                return self._survives(case, folder, env or {})
        folder.mkdir(parents=True)
        return self._survives(case, folder, env or {})

    def _survives(self, case: Case, folder: Path, env: dict[str, str]) -> str:
        whole, log = self.unbroken(case), self.log(folder)
        for number, fault in enumerate((*case.faults, None)):
            said = len(log.read_text()) if log.exists() else 0
            status = self._run(case, folder, fault, env)
            (folder / "runs" / "filling").unlink(missing_ok=True)
            expected = STATUSES[_signal_of(fault)] | {0} if fault else {0}
            if status not in expected:
                return f"exit status {status} instead of {sorted(expected)}: {log.read_text()[-2000:]}"
            if fault and _signal_of(fault) == DISK:
                if "Traceback" in (said_now := log.read_text()[said:]):
                    return f"a traceback: {said_now[-2000:]}"
                if status == 2 and any(not (run / "config.yaml").exists() for run in folder.glob("runs/*/*/")):
                    return f"a folder without a run is left: {said_now[-2000:]}"
            if case.damaged and number == 0:
                for last in folder.glob("runs/*/*/checkpoints/last.ckpt"):
                    _change_a_bit(last)
        runs = [file.parent for file in folder.glob("runs/*/*/config.yaml")]
        if len(runs) != 1:
            return f"{len(runs)} runs: {log.read_text()[-2000:]}"
        return difference(whole, runs[0], may_lack_points=LOST in log.read_text())

    def follows(self, change: Change, folder: Path) -> str:
        """Stop a run, go on with other settings, and compare it with the account of steps and images.

        Args:
            change: The settings.
            folder: Where, not yet there.

        Returns:
            What is different, or nothing.
        """
        folder.mkdir(parents=True)
        log, noted = self.log(folder), folder / "images.jsonl"
        data, data_after = (self._digits(settings.limit) for settings in (change.before, change.after))
        args = ["fit", "--trainer.log_every_n_steps=1", "--early_stopping=null"]
        args += [f"--data.root={data.root}", f"--runs={folder / 'runs'}", "--experiment=change"]
        request: dict[str, Any] = {"env": {}, "log": str(log)}
        status = self._ask(request | {"args": [*args, *change.before.flags], "fault": asdict(change.fault)})
        (run,) = (file.parent for file in folder.glob("runs/*/*/config.yaml"))
        if status not in (0, 143):
            return f"exit status {status}: {log.read_text()[-2000:]}"
        flags = ["fit", "--resume", str(run), *change.after.flags]
        last, config = run / "checkpoints" / "last.ckpt", (run / "config.yaml").read_text()
        if change.refused:
            status = self._ask(request | {"args": [*flags, change.refused]})
            if status != 2 or (run / "config.yaml").read_text() != config:
                return f"exit status {status} with {change.refused}: {log.read_text()[-2000:]}"
        account = Account(change, data, data_after)
        account.stop()
        weights, rates, images = account.go_on(dict(read_checkpoint(last)), last)
        if status := self._ask(request | {"args": flags, "images": str(noted)}):
            return f"exit status {status}: {log.read_text()[-2000:]}"
        checkpoint = read_checkpoint(last)
        found = {name: checkpoint["state_dict"][f"network.{name}"] for name in weights}
        rows = [row for row in csv.DictReader((run / "metrics.csv").read_text().splitlines()) if row["lr"]]
        logged = [float(row["lr"]) for row in rows]
        pairs = {
            "steps": (account.steps, checkpoint["global_step"]),
            "images": (images, images_of(noted)),
            "weights": (weights, found),
        }
        if change.after.schedule in ("cosine", "one-cycle"):  # others have a point for each epoch
            pairs["learning rates"] = (rates, logged[len(logged) - len(rates) :])
        for name, (expected, seen) in pairs.items():
            if not _equal(expected, seen):
                return f"{name} differ: {_shown(expected)} became {_shown(seen)}"
        return unused(run, change.after) if rates else ""

    def _digits(self, limit: int) -> Digits:
        data = Digits(root=self._data, limit=limit)
        data.prepare_data()
        data.setup("test")
        return data

    def unbroken(self, case: Case) -> Path:
        """The folder of the run that nothing befalls."""
        key = case.flags, case.processes
        if key not in self._whole:
            self.folder.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="unbroken-", dir=self.folder))
            if status := self._run(case, folder, None, {}):
                raise AssertionError(f"{case} ends with {status} unbroken: {self.log(folder).read_text()}")
            (self._whole[key],) = (file.parent for file in folder.glob("runs/*/*/config.yaml"))
        return self._whole[key]

    def log(self, folder: Path) -> Path:
        """What the processes say that run in a folder; not in there, where the disk may be full."""
        return self.folder / f"{folder.parent.name}-{folder.name}.txt"

    def _run(self, case: Case, folder: Path, fault: Fault | tuple[float, int] | None, env: dict[str, str]) -> int:
        args = [
            *(
                "fit",
                "--trainer.max_epochs=3",
                "--data.batch_size=64",
                "--data.limit=400",
                "--trainer.log_every_n_steps=3",
            ),
            *(f"--data.augmentation={AFFINE}", "--data.root", str(self._data), "--data.packs", str(folder / "packs")),
            *("--runs", str(folder / "runs"), "--experiment=case"),
            *case.flags,
        ]
        if case.processes > 1:
            args += [f"--trainer.devices={case.processes}", "--trainer.accelerator=cpu"]
            args += ["--trainer.strategy=ddp_find_unused_parameters_true"]
        begun = list(folder.glob("runs/*/*/config.yaml"))
        if begun:
            args += ["--resume", str(begun[0].parent)]
        else:  # what was broken off before it has begun
            shutil.rmtree(folder / "runs", ignore_errors=True)
        request: dict[str, Any] = {"args": args, "env": env, "log": str(self.log(folder))}
        if isinstance(fault, Fault):
            request["fault"] = asdict(fault)
        elif fault:
            request["kill"] = fault
        return self._ask(request)

    def _ask(self, request: dict[str, Any]) -> int:
        zygote = self._zygote
        assert zygote.stdin
        assert zygote.stdout
        zygote.stdin.write(json.dumps(request) + "\n")
        zygote.stdin.flush()
        return int(zygote.stdout.readline())

    @cached_property
    def _data(self) -> Path:
        root = self.folder / "data"
        images, labels = load_digits(return_X_y=True)
        for number, (image, label) in enumerate(zip(images[:400].reshape(-1, 8, 8), labels, strict=False)):
            file = root / "scans" / str(label) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype("uint8")).save(file)
        return root


def difference(whole: Path, broken: Path, *, may_lack_points: bool = False) -> str:
    """What two runs do not have in common of all that must be the same, or nothing."""
    checkpoints: list[dict[str, Any]] = [
        dict(read_checkpoint(run / "checkpoints" / "last.ckpt")) for run in (whole, broken)
    ]
    results = [json.loads((run / "results.json").read_text()) for run in (whole, broken)]
    pairs = {f"last.ckpt: {part}": [c.get(part) for c in checkpoints] for part in COMPARED}
    pairs |= {f"last.ckpt: {name}": [_state(c, name) for c in checkpoints] for name in KEEPING}
    pairs |= {
        f"results.json: {name}": [r.get(name) for r in results] for name in ("metrics", "best", "epochs", "steps")
    }
    pairs["metrics.csv"] = [timeless_rows(run) for run in (whole, broken)]
    if not may_lack_points:
        pairs["TensorBoard"] = [timeless_points(run) for run in (whole, broken)]
    pairs["best.ckpt"] = [read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"] for run in (whole, broken)]
    for name, (expected, found) in pairs.items():
        if not _equal(expected, found):
            return f"{name} differs: {_shown(expected)} became {_shown(found)}"
    return ""


def _state(checkpoint: dict[str, Any], name: str) -> Any:
    (state,) = [state for key, state in checkpoint["callbacks"].items() if key.startswith(name)] or [None]
    return {key: value for key, value in (state or {}).items() if not key.endswith("path")}


def timeless_rows(run: Path) -> list[list[tuple[str, str]]]:
    """Of what is measured, whether it is there."""
    rows = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [list({**row, MEASURED: "measured" if row[MEASURED] else ""}.items()) for row in rows]


def timeless_points(run: Path) -> dict[str, list[Any]]:
    """Steps and values of each curve, of what is measured the steps alone; steps and bytes of each picture."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()
    found: dict[str, list[Any]] = {
        tag: [(point.step, None if tag == MEASURED else point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    pictures = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    return found | {tag: [(one.step, one.encoded_image_string) for one in ones] for tag, ones in pictures.items()}


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 1500 else f"{repr(value)[:1500]} ..."


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
