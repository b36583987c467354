"""Export a trained network to ONNX, torch.export or safetensors.

Shapes: `B` images of `C` channels, `H` rows and `W` columns; `K` classes.

An ONNX or torch.export model takes decoded images, uint8 or uint16 `[B, C, H, W]` for any `B`, normalises them as in
training, and returns logits, float32 `[B, K]`. A safetensors file has only the weights, with the keys of the network's
state dict. Each file stores facts about the model, such as its class names, as JSON strings.
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

Predict = Callable[[Tensor], Tensor]  # decoded images `[B, C, H, W]` to logits, float32 `[B, K]`

FACTS = "facts.json"  # the extra file of a torch.export archive

# Most bytes of weights in an ONNX file, which protobuf limits to 2 GB in all.
LARGEST_ONNX = 1536 * 2**20


class ExportError(CommandError):
    """The network cannot be exported, or the exported network predicts other probabilities."""


class ExportedModel(nn.Module):
    """A copy of a network with normalisation and test-time augmentation.

    Shape:
        uint8 or uint16 `[B, C, H, W]` to logits float32 `[B, K]`.
    """

    def __init__(
        self, network: nn.Module, normalize: Normalize, views: Views | None = None, multi_label: bool = False
    ) -> None:
        super().__init__()
        self.normalize = normalize
        # Some formats support no channels_last tensors.
        self.network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
        self.views, self.multi_label = views, multi_label
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits."""
        return average_logits(self.network, self.normalize(images), self.views, self.multi_label).float()


def facts_of(trained: TrainedNetwork) -> dict[str, str]:
    """Return what a program must know to use the model, and where the model comes from."""
    channels, height, width = trained.shape
    checkpoint, pixels = trained.checkpoint, trained.pixel_format
    is_plain = pixels.is_plain(channels)
    reader = "docs/checkpoints.md shows" if is_plain else "datamodules.decoding.pixel_format does"
    facts = {
        "class_names": [escape_name(name) for name in trained.class_names],
        "channels": channels,
        "image_size": [height, width],
        "resize": trained.resize,
        "mean": trained.preprocessing["mean"],
        "std": trained.preprocessing["std"],
        **pixels.facts,
        "input": f"images: {pixels.dtype} [B, C, H, W], read as {reader}; normalised inside",
        "output": "logits: float32 [B, K]; softmax over K gives probabilities",
        "test_time_augmentation": trained.test_time_augmentation,
        "network": checkpoint["hyper_parameters"]["network"],
        "data_fingerprint": checkpoint.get("data_fingerprint"),
        "git_commit": checkpoint.get("git_commit"),
        "versions": checkpoint.get("versions"),
    }
    if trained.is_multi_label:
        facts["output"] = "logits: float32 [B, K]; the sigmoid gives the probability of each label"
        facts["thresholds"] = trained.thresholds.tolist()
    return {name: json.dumps(value) for name, value in facts.items()}


def write_onnx(model: ExportedModel, images: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write an ONNX file with input `images` and output `logits`; the facts become its `metadata_props`."""
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
            f"{type(model.network).__name__} cannot be exported to ONNX: {reason_of(error)}; try --format torch_export."
        ) from error
    assert exported is not None, "dynamo=True returns a program"
    exported.model.metadata_props.update(facts)
    exported.save(path)


def open_onnx(path: Path, _: ExportedModel) -> Predict:
    """Load an ONNX file into onnxruntime."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # no log, because errors are raised as exceptions
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def write_torch_export(model: ExportedModel, images: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write an archive for `torch.export.load(path).module()`; the facts become its extra file `facts.json`."""
    program = _traced(model, images)
    values = {name: json.loads(value) for name, value in facts.items()}
    memory = io.BytesIO()  # torch's own file writer aborts the process if the disk is full
    with silent():
        torch.export.save(program, memory, extra_files={FACTS: json.dumps(values)})
    path.write_bytes(memory.getbuffer())


def open_torch_export(path: Path, _: ExportedModel) -> Predict:
    """Load a torch.export archive."""
    with path.open("rb") as file, silent():
        return torch.export.load(file).module()


def write_safetensors(model: ExportedModel, images: Tensor, path: Path, facts: Mapping[str, str]) -> None:
    """Write the tensors of the network's state dict."""
    from safetensors.torch import save

    # The format cannot store tensors that share memory, so each is copied, nor the extra state of a module.
    state = {name: value.clone() for name, value in model.network.state_dict().items() if isinstance(value, Tensor)}
    highest = 65535 if images.dtype == torch.uint16 else 255
    facts = {**facts, "input": json.dumps(f"images: float32 [B, C, H, W], (level / {highest} - mean) / std")}
    path.write_bytes(save(state, facts))


def open_safetensors(path: Path, model: ExportedModel) -> Predict:
    """Load the weights into a copy of the model."""
    from safetensors.torch import load_file

    loaded = copy.deepcopy(model)
    extra = {name: value for name, value in loaded.network.state_dict().items() if not isinstance(value, Tensor)}
    loaded.network.load_state_dict(load_file(path) | extra)
    return loaded


@dataclass(frozen=True)
class Format:
    """Functions that write a model, and read it back to compare its predictions."""

    suffix: str  # of the default output file
    write: Callable[[ExportedModel, Tensor, Path, Mapping[str, str]], None]  # with example images `[2, C, H, W]`
    open: Callable[[Path, ExportedModel], Predict]  # safetensors needs the model, because the file has no code
    packages: tuple[str, ...] = ()  # required packages

    def check_is_installed(self) -> None:
        """Raise UserError if a required package is missing."""
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
            f"{type(model.network).__name__} cannot be exported: {reason_of(error)}; its forward must use only tensor "
            "operations that do not depend on the values of tensors or on the batch size."
        ) from error


def reason_of(error: BaseException) -> str:
    """Return the first line of the error that caused another one."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip(" -") for line in str(error).splitlines())
    line = next((line for line in lines if line and not line.startswith("Constraints violated")), type(error).__name__)
    return line.partition(". ")[0].rstrip(".!")
