"""What TensorBoard's own server has to show of runs, and what showing it takes from training: nothing."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
import torch
import yaml

from tests.conftest import Run
from tests.discovery import CONFIGS

PATIENCE_SECONDS = 120
"""How long the server may take for anything; it is not waited for without an end."""

BOARD = (
    *("preview", "custom_scalars", "hyperparameters", "model_graph", "confusion_matrix", "worst_mistakes"),
    *("filters", "throughput", "learning_rate_monitor"),
)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of runs, on this machine alone."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host=127.0.0.1", "--port=0"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        killer = threading.Timer(PATIENCE_SECONDS, server.kill)
        killer.start()
        try:
            assert server.stderr
            found = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+", line) for line in server.stderr)), None)
            assert found, "the server has ended without an address"
            yield found[0]
        finally:
            killer.cancel()
            server.kill()


def ask(address: str, plugin: str, body: dict[str, Any] | None = None, **query: object) -> Any:
    request = Request(f"{address}/data/{plugin}?{urlencode(query)}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        content = answer.read()
        return json.loads(content) if "json" in answer.headers["Content-Type"] else content


def wait_for(asked: Callable[[], Any], is_there: Callable[[Any], bool]) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS / 2
    while not is_there(found := asked()):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_every_tab_shows_the_runs(train: Callable[..., Run], tmp_path: Path) -> None:
    short = ("--data.batch_size=128", "--early_stopping=null")
    first = train("--trainer.max_epochs=2", *short)
    second = train("--config", str(CONFIGS / "digits" / "mlp.yaml"), "--trainer.max_epochs=1", *short)
    names = [str(run.folder.relative_to(tmp_path / "runs")) for run in (first, second)]
    with served(tmp_path / "runs") as address:
        tags = wait_for(
            lambda: ask(address, "plugin/scalars/tags"),
            lambda tags: all("test/loss" in tags.get(name, {}) for name in names),
        )
        figures = {f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "accuracy")}
        others = {"lr", "train/gradient_norm", "train/images_per_second", "best/val/accuracy"}
        for name in names:
            assert figures | others <= tags[name].keys()
        points = ask(address, "plugin/scalars/scalars", run=names[0], tag="test/accuracy")
        assert points[-1][2] == pytest.approx(first.results["metrics"]["test/accuracy"])

        (category,) = ask(address, "plugin/custom_scalars/layout")["category"]
        assert [chart["title"] for chart in category["chart"]] == ["loss", "accuracy"]
        drawn = ask(address, "plugin/custom_scalars/scalars", run=names[0], tag="train/loss")
        assert len(drawn["tag_to_events"]["train/loss"]) == 2

        settings = ask(address, "plugin/hparams/experiment", body={})
        columns = {info["name"]: info for info in settings["hparamInfos"]}
        assert columns["model.network"]["differs"]
        assert set(columns["model.network"]["domainDiscrete"]) == {"ConvNet", "MLP"}
        assert {"model.optimizer.lr", "data.batch_size", "seed_everything", "trainer.max_epochs"} <= columns.keys()
        asked_for = ["test/accuracy", "test/loss", "best/val/accuracy"]
        groups = ask(
            address,
            "plugin/hparams/session_groups",
            body={
                "colParams": [{"metric": {"tag": tag}, "order": "ORDER_DESC"} for tag in asked_for],
                "allowedStatuses": ["STATUS_UNKNOWN"],
                "startIndex": 0,
                "sliceSize": 10,
            },
        )["sessionGroups"]
        assert {session["name"] for group in groups for session in group["sessions"]} == set(names)
        best = [group["metricValues"][0]["value"] for group in groups]
        assert best == sorted(best, reverse=True)
        assert len(best) == 2

        graphs = ask(address, "plugin/graphs/info")
        assert set(names) <= graphs.keys()
        graph = ask(address, "plugin/graphs/graph", run=names[1], limit_attr_size=1024, large_attrs_key="_large_attrs")
        assert b"MLP" in graph

        pictures = ask(address, "plugin/images/tags")
        shown = {"preview/train", "confusion_matrix/val", "confusion_matrix/test", "worst_mistakes/test"}
        assert shown | {"filters/stages.0"} == pictures[names[0]].keys()
        assert shown == pictures[names[1]].keys(), "it has no convolution"
        for tag in pictures[names[0]]:
            for image in ask(address, "plugin/images/images", run=names[0], tag=tag, sample=0):
                pixels = ask(address, f"plugin/images/individualImage?{image['query']}&")
                assert pixels.startswith(b"\x89PNG"), tag
        assert "preview/classes/text_summary" in str(ask(address, "plugin/text/tags"))


@pytest.mark.slow
def test_training_is_bit_for_bit_the_same_without(train: Callable[..., Run]) -> None:
    defaults = yaml.safe_load((CONFIGS / "default.yaml").read_text())
    assert set(BOARD) <= defaults.keys()
    flags = (
        *("--trainer.max_epochs=2", "--data.batch_size=128", "--model.network.head_dropout=0.3"),
        *("--data.augmentation", "[{class_path: kornia.augmentation.RandomAffine, init_args: {degrees: 10.0}}]"),
        *("--weight_average=callbacks.ema.EMA", "--trainer.log_every_n_steps=1"),
    )
    with_, without = train(*flags), train(*flags, *(f"--{key}=null" for key in BOARD))
    assert with_.results["metrics"] == without.results["metrics"]
    for part in ("state_dict", "raw_state_dict"):
        assert with_.checkpoint[part].keys() == without.checkpoint[part].keys()
        for name, value in with_.checkpoint[part].items():
            assert torch.equal(value, without.checkpoint[part][name]), name
    moments = [run.checkpoint["optimizer_states"][0]["state"] for run in (with_, without)]
    for number, state in moments[0].items():
        for name, value in state.items():
            assert torch.equal(value, moments[1][number][name]), name
