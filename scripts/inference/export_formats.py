"""A trained network as a file for other programs: ONNX, torch.export and safetensors.

Shapes: `B` images of `C` channels, `H` rows and `W` columns; `K` classes.

An ONNX or torch.export model takes images as a decoder gives them, uint8 or uint16 `[B, C, H, W]` for any `B`,
normalises them as in training, and gives logits, float32 `[B, K]`; softmax makes probabilities of them. Safetensors
hold the weights alone, under the names of the network's state dict. All three carry the same facts, each a string of
JSON.
"""

import copy
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from core.names import escape_name
from core.user_error import CommandError, UserError
from datamodules.batching.transform import Normalize
from models.training.test_time_augmentation import Views, average_logits
from scripts.command.silence import silent
from scripts.inference.trained_network import TrainedNetwork

Predict = Callable[[Tensor], Tensor]  # images `[B, C, H, W]` as a decoder gives them, to logits, float32 `[B, K]`

FACTS = "facts.json"  # the extra file of a torch.export archive

# Bytes of weights above which they do not go into the ONNX file itself, which protobuf limits to 2 GB.
LARGEST_ONNX = 1536 * 2**20


class ExportError(CommandError):
    """The network cannot be exported, or the exported network predicts something else."""


class ExportedModel(nn.Module):
    """A copy of a network on the CPU, with normalisation before it and test-time augmentation around it.

    Shape:
        uint8 or uint16 `[B, C, H, W]` to logits float32 `[B, K]`.
    """

    def __init__(
        self, network: nn.Module, normalize: Normalize, views: Views | None = None, multi_label: bool = False
    ) -> None:
        super().__init__()
        self.normalize = normalize
        # Some formats know no other order in memory.
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        self.views, self.multi_label = views, multi_label
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return average_logits(self.network, self.normalize(images), self.views, self.multi_label).float()


def facts_of(trained: TrainedNetwork) -> dict[str, str]:
    """The facts that a program needs to use the model, and the origin of the model."""
    channels, height, width = trained.shape
    checkpoint, pixels = trained.checkpoint, trained.pixel_format
    shown = "docs/checkpoints.md shows" if pixels.is_plain(channels) else "datamodules.decoding.pixel_format does"
    facts = {
        "class_names": [escape_name(name) for name in trained.class_names],
        "channels": channels,
        "image_size": [height, width],
        "resize": trained.resize,
        "mean": trained.preprocessing["mean"],
        "std": trained.preprocessing["std"],
        **pixels.facts,
        "input": f"images: {pixels.dtype} [B, C, H, W], read as {shown}; normalised inside",
        "output": "logits: float32 [B, K]; softmax over K gives probabilities",
        "test_time_augmentation": trained.test_time_augmentation,
        "network": checkpoint["hyper_parameters"]["network"],
        "data_fingerprint": checkpoint.get("data_fingerprint"),
        "git_commit": checkpoint.get("git_commit"),
        "versions": checkpoint.get("versions"),
    }
    if trained.is_multi_label:
        facts["output"] = "logits: float32 [B, K]; the sigmoid gives the probability of each of several labels"
        facts["thresholds"] = trained.thresholds.tolist()
    return {name: json.dumps(value) for name, value in facts.items()}


def write_onnx(model: ExportedModel, images: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write an ONNX file with the input `images` and the output `logits`; the facts are its `metadata_props`."""
    if sum(getattr(value, "nbytes", 0) for value in model.state_dict().values()) > LARGEST_ONNX:
        raise ExportError(
            f"{type(model.network).__name__} has more than {LARGEST_ONNX / 1e9:,.1f} GB of weights, too many for one "
            "ONNX file; export it with --format torch_export."
        )
    program = _traced(model, images)
    try:
        with silent():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes={"images": {0: "B"}},
            )
    except Exception as error:
        raise ExportError(
            f"{type(model.network).__name__} cannot be exported to ONNX: {reason_of(error)}; --format torch_export may "
            "take it."
        ) from error
    assert exported is not None, "the exporter through torch.export gives a program"
    exported.model.metadata_props.update(facts)
    exported.save(path)


def open_onnx(path: Path, _: ExportedModel) -> Predict:
    """Load an ONNX file into onnxruntime."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # faults are raised too
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def write_torch_export(model: ExportedModel, images: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write an archive for `torch.export.load(path).module()`; the facts are its extra file `facts.json`."""
    program = _traced(model, images)
    values = {name: json.loads(value) for name, value in facts.items()}
    memory = io.BytesIO()  # torch's writer ends the process when the disk is full
    with silent():
        torch.export.save(program, memory, extra_files={FACTS: json.dumps(values)})
    path.write_bytes(memory.getbuffer())


def open_torch_export(path: Path, _: ExportedModel) -> Predict:
    """Load the archive."""
    with path.open("rb") as file, silent():
        return torch.export.load(file).module()


def write_safetensors(model: ExportedModel, images: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write the network's state dict, without its preprocessing."""
    from safetensors.torch import save

    # The format refuses tensors that share memory, so they are copied; it cannot hold a module's extra state.
    state = {name: value.clone() for name, value in model.network.state_dict().items() if isinstance(value, Tensor)}
    highest = 65535 if images.dtype == torch.uint16 else 255
    facts = {**facts, "input": json.dumps(f"images: float32 [B, C, H, W], (level / {highest} - mean) / std")}
    path.write_bytes(save(state, facts))


def open_safetensors(path: Path, model: ExportedModel) -> Predict:
    """Load the weights into a copy of the model."""
    from safetensors.torch import load_file

    again = copy.deepcopy(model)
    extra = {name: value for name, value in again.network.state_dict().items() if not isinstance(value, Tensor)}
    again.network.load_state_dict(load_file(path) | extra)
    return again


@dataclass(frozen=True)
class Format:
    """How a model is written, and read again to be checked."""

    suffix: str  # the default ending of its files
    write: Callable[[ExportedModel, Tensor, Path, Mapping[str, str]], None]  # traces an example, `[2, C, H, W]`
    open: Callable[[Path, ExportedModel], Predict]  # the model supplies what the file lacks: safetensors holds no code
    packages: tuple[str, ...] = ()  # that the format needs

    def check_is_installed(self) -> None:
        """See that its packages are there."""
        if missing := [package for package in self.packages if find_spec(package) is None]:
            raise UserError(
                f"This format needs {', '.join(missing)}, which is not installed; run pip install -e '.[export]', or "
                "give another --format."
            )


FORMATS = {
    "onnx": Format(".onnx", write_onnx, open_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torch_export": Format(".pt2", write_torch_export, open_torch_export),
    "safetensors": Format(".safetensors", write_safetensors, open_safetensors),
}


def _traced(model: ExportedModel, images: Tensor) -> torch.export.ExportedProgram:
    try:
        with silent():
            batch = torch.export.Dim("B", min=1)
            return torch.export.export(model, (images,), dynamic_shapes={"images": {0: batch}})
    except Exception as error:
        raise ExportError(
            f"{type(model.network).__name__} cannot be exported: {reason_of(error)}; its forward must be operations on "
            "tensors that depend neither on their values nor on how many images there are."
        ) from error


def reason_of(error: BaseException) -> str:
    """The first line of the error at the root of another."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip(" -") for line in str(error).splitlines())
    line = next((line for line in lines if line and not line.startswith("Constraints violated")), type(error).__name__)
    return line.partition(". ")[0].rstrip(".!")
