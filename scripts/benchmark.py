"""Speed of the whole program against the bare training step.

    python scripts/benchmark.py [--config FILE ...] [--epochs 30] [any flag of scripts/train.py]

Each configuration is trained by scripts/train.py as a user would, with all default callbacks, loggers and metrics;
every epoch is timed right after as many bare steps, so that both see the machine in the same state.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import yaml
from rich import get_console
from rich.table import Table

TRAIN = Path(__file__).with_name("train.py")


def measure(config: str | None, epochs: int, flags: list[str]) -> dict[str, float | str]:
    """Train one configuration.

    Args:
        config: The file, or None for the default configuration.
        epochs: Epochs to keep.
        flags: Further flags of scripts/train.py.

    Returns:
        Milliseconds per step and images per second of the limit and of the program, and what they were measured with.

    Raises:
        SystemExit: If training fails; it has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "steps.json"
        benchmark = yaml.safe_dump(
            {"class_path": "callbacks.step_benchmark.StepBenchmark", "init_args": {"file": str(file)}}
        )
        command = [sys.executable, str(TRAIN), "fit", *(["--config", config] if config else [])]
        command += ["--runs", folder, "--early_stopping", "null", "--data.drop_last", "true"]
        command += [f"--trainer.max_epochs={epochs + 1}", f"--trainer.callbacks+={benchmark}", *flags]
        # The bar is drawn as on a terminal: it is part of what a user's run costs.
        environment = os.environ | {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}
        done = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        figures = json.loads(file.read_text())
    limit, program = median(figures["limit_ms"]), median(figures["program_ms"])
    pairs = list(zip(figures["limit_ms"], figures["program_ms"], strict=True))
    return {
        "config": Path(config).stem if config else "default",
        "device": f"{figures['device']}, {figures['precision']}",
        "batch_size": figures["batch_size"],
        "limit_ms": limit,
        "program_ms": program,
        "limit_images": 1000 * figures["batch_size"] / limit,
        "program_images": 1000 * figures["batch_size"] / program,
        "ratio": median(bare / whole for bare, whole in pairs),
        "added_ms": median(whole - bare for bare, whole in pairs),
    }


def main() -> None:
    """Measure each configuration and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", action="append", help="a file in configs/; may be given several times")
    parser.add_argument("--epochs", type=int, default=30, help="epochs whose median is taken")
    options, flags = parser.parse_known_args()
    table = Table("configuration", "batch", show_lines=True)
    for heading in ("bare\nms", "program\nms", "bare\nimages/s", "program\nimages/s", "ratio", "added\nms"):
        table.add_column(heading, justify="right")
    for config in options.config or [None, "configs/digits/mlp.yaml"]:
        row = measure(config, options.epochs, flags)
        table.add_row(
            f"{row['config']}\n{row['device']}",
            str(row["batch_size"]),
            *(f"{row[name]:,.2f}" for name in ("limit_ms", "program_ms")),
            *(f"{row[name]:,.0f}" for name in ("limit_images", "program_images")),
            *(f"{row[name]:.2f}" for name in ("ratio", "added_ms")),
        )
    get_console().print(table)


if __name__ == "__main__":
    main()
