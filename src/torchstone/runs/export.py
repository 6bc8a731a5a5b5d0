"""A trained model as one file for other programs: ONNX, or torch's own exported program.

An image model takes images as decoded, uint8 from 0 to 255, and normalizes them itself, so that nobody has
to know its mean and standard deviation. A table model takes rows of raw values. The batch may be of any size.
Class names and preprocessing are stored in the file.
"""

import importlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from torchstone.data.vision.dataset import normalize
from torchstone.errors import BadInput, NotSaved

ENDINGS = (".onnx", ".pt2")
TOLERANCE = 1e-4  # relative to the largest logit where that is above 1
# tasks of generative systems
GENERATIVE = ("adversarial", "audio_lm", "autoencode", "density", "diffuse", "unclip")
CARD = "card.json"  # where the facts stand in a .pt2


class OfPixels(nn.Module):
    """The model with the normalisation of its training in front of it."""

    def __init__(self, model: nn.Module, metadata: dict):
        super().__init__()
        self.model, self.metadata = model, metadata

    def forward(self, images: Tensor) -> Tensor:
        return self.model(normalize(images, self.metadata))


class OfRows(nn.Module):
    """The model under the name that its input has in the file."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        return self.model(rows)


def export(model: nn.Module, metadata: dict, system: str, out: Path) -> dict[str, Any]:
    """Write `model` to `out` after the file has been read back and found equal to the model.

    Args:
        metadata: of the run: its task, classes, and either `picture` or `features`.
        out: ends in one of ENDINGS; its folder exists.

    Returns:
        `facts` (the metadata of the file), its size in `bytes`, and `relative_error` against eager.

    Raises:
        BadInput: the packages for ONNX are not there, or the file does not compute the same.
        NotSaved: the file cannot be written; one that was there stays.
    """
    write = {".onnx": _onnx, ".pt2": _program}[out.suffix.lower()]
    if write is _onnx:
        _needed()
    model = model.to("cpu").eval()
    facts = described(metadata, system)
    name, shape = facts["input"]["name"], facts["input"]["shape"]
    dynamic = {axis: Dim(side, min=1) for axis, side in enumerate(shape) if isinstance(side, str)}
    exported = OfPixels(model, metadata["picture"]) if "picture" in metadata else OfRows(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about its own insides
        program = torch.export.export(exported.eval(), (example(facts, 2),), dynamic_shapes={name: dynamic})
        for node in program.graph.nodes:  # it would hold this machine's paths
            node.meta.pop("stack_trace", None)
        try:
            with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
                file = Path(folder) / out.name
                run = write(program, facts, file)
                error = max(distance(exported, run, example(facts, n)) for n in (1, 3))
                if not error <= TOLERANCE:
                    raise BadInput(
                        f"{out} would differ from the model by {error:.2g}, more than {TOLERANCE:g}: "
                        "nothing was written"
                    )
                size = file.stat().st_size
                os.replace(file, out)
        except OSError as problem:
            raise NotSaved(f"{out} cannot be written: {problem}") from None
    return {"file": str(out), "bytes": size, "relative_error": error, "facts": facts}


def described(metadata: dict, system: str) -> dict[str, Any]:
    """Everything that a program needs to use the file, as JSON."""
    if metadata["task"] in GENERATIVE:
        raise BadInput(
            f"{system} generates from noise, while a file takes an image or a row: use torchstone sample"
        )
    if metadata["task"] in ("play", "cards", "team", "riddle", "iterated", "job_shop"):
        raise BadInput(
            f"{system} acts in an environment, while a file takes an image or a row: use torchstone play"
        )
    if metadata["task"] == "answer":
        raise BadInput(
            f"{system} writes an answer token by token, while a file has one pass: use torchstone predict"
        )
    if metadata["task"] == "image_translation":
        raise BadInput(
            f"{system} makes images of images, while a file gives logits: use torchstone predict, or the "
            "generator that ts.load gives"
        )
    if metadata["task"] == "image_text":
        raise BadInput(f"{system} takes images and texts, while a file takes one input: use --format hf")
    if not {"picture", "features"} & set(metadata):
        raise BadInput(
            f"{system} takes neither images nor rows of a table: export it with --format hf, if "
            "transformers has it"
        )
    classes = len(metadata["classes"])
    facts = {
        "torchstone": version("torchstone"),
        "system": system,
        "variant": metadata["variant"],
        "task": metadata["task"],
        "classes": metadata["classes"],
    }
    output = {"name": "logits", "shape": ["batch", classes], "use": "softmax over axis 1"}
    if "picture" in metadata:
        picture = metadata["picture"]
        sides = [picture["size"], picture["size"]]
        if metadata["task"] == "segment":
            output["shape"] = ["batch", classes, *sides]
        values = "pixels, 0 to 255; the model normalizes them"
        if picture.get("levels"):
            low, high = picture["levels"]
            values += f"; of more than 8 bits, {low:g} is 0 and {high:g} is 255"
        entry = {"name": "images", "type": "uint8", "values": values}
        entry["shape"] = ["batch", picture["channels"], *sides]
        framing = (
            "light ink on black; the ink's longer side is `box` of the frame, its centre of mass in "
            "the middle"
            if picture.get("ink")
            else "shorter side resized to `size` (bilinear, antialiased), then the centre"
        )
        if stated := picture.get("framing"):
            resize, crop = stated["resize"], stated["crop"]
            steps = [] if resize is None else [f"resized to {resize} (an integer: the shorter side)"]
            steps += [] if crop is None else [f"the centre of {crop} cut out"]
            framing = f"{', then '.join(steps) or 'as it is'}; Pillow's filter {stated['resample']}"
        return facts | {"input": entry, "output": output, "picture": picture, "framing": framing}
    entry = {"name": "rows", "type": "float32", "values": "raw values of the table"}
    entry["shape"] = ["batch", len(metadata["features"])]
    return facts | {"input": entry, "output": output, "features": metadata["features"]}


def example(facts: dict[str, Any], batch: int) -> Tensor:
    """Noise of the input's shape."""
    shape = [batch if isinstance(side, str) else side for side in facts["input"]["shape"]]
    generator = torch.Generator().manual_seed(batch)
    if facts["input"]["type"] == "uint8":
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def distance(model: nn.Module, run: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """max |a − b| / max(1, max |a|), a of the model and b of the file."""
    a, b = model(inputs), run(inputs)
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / a.abs().max().clamp(min=1))


def _needed() -> None:
    try:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            importlib.import_module(package)
    except ImportError as error:
        raise BadInput(
            f"ONNX needs packages that are not there ({error.name}): pip install 'torchstone[export]'"
        ) from None


def _onnx(program: Any, facts: dict[str, Any], file: Path) -> Callable[[Tensor], Tensor]:
    """Write the file; return ONNX Runtime's session as a function."""
    import onnx
    import onnxruntime

    name, output = facts["input"]["name"], facts["output"]["name"]
    exported: Any = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=[name], output_names=[output]
    )
    proto = exported.model_proto
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in facts.items()})
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"  # torch calls it s34
    onnx.checker.check_model(proto)
    file.write_bytes(proto.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _program(program: Any, facts: dict[str, Any], file: Path) -> Callable[[Tensor], Tensor]:
    """Write the file; return the program read back from it."""
    torch.export.save(program, file, extra_files={CARD: json.dumps(facts)})
    return torch.export.load(file).module()
