"""Files in the layouts of published StyleGAN2 generators, written out of one of ours."""

import pickle
import sys
from types import ModuleType

import torch

FILTER = torch.ones(4, 4) / 16


def nvidia_state(model) -> dict[str, torch.Tensor]:
    """By the names of the authors' PyTorch code."""
    state = {}
    for i, layer in enumerate(model.mapping.layers):
        state |= {f"mapping.fc{i}.weight": layer.weight, f"mapping.fc{i}.bias": layer.bias}
    if model.mapping.embedding is not None:
        state["mapping.embed.weight"] = model.mapping.embedding.weight
        state["mapping.embed.bias"] = model.mapping.embedding.bias
    state["mapping.w_avg"] = model.mapping.average
    state["synthesis.b4.const"] = model.constant
    sizes = [2 ** (i + 2) for i in range(len(model.to_colors))]
    layers = ["b4.conv1", *(f"b{size}.conv{j}" for size in sizes[1:] for j in (0, 1))]
    for name, conv in zip(layers, model.convs, strict=True):
        name = f"synthesis.{name}"
        state |= {f"{name}.weight": conv.weight, f"{name}.bias": conv.bias}
        state |= {f"{name}.affine.weight": conv.affine.weight, f"{name}.affine.bias": conv.affine.bias}
        state |= {f"{name}.noise_strength": conv.noise_strength, f"{name}.noise_const": conv.noise}
        state[f"{name}.resample_filter"] = FILTER
    for size, color in zip(sizes, model.to_colors, strict=True):
        name = f"synthesis.b{size}.torgb"
        state |= {f"{name}.weight": color.weight[:, :, None, None], f"{name}.bias": color.bias}
        state |= {f"{name}.affine.weight": color.affine.weight, f"{name}.affine.bias": color.affine.bias}
        state[f"synthesis.b{size}.resample_filter"] = FILTER
    return {key: tensor.detach().clone() for key, tensor in state.items()}


def port_state(model) -> dict[str, torch.Tensor]:
    """By the names of the port that has `g_ema`; the mean style is not among them."""
    state = {"input.input": model.constant[None]}
    for i, layer in enumerate(model.mapping.layers):
        state |= {f"style.{i + 1}.weight": layer.weight, f"style.{i + 1}.bias": layer.bias}
    for i, conv in enumerate(model.convs):
        name = "conv1" if i == 0 else f"convs.{i - 1}"
        state[f"{name}.conv.weight"] = conv.weight[None]
        state[f"{name}.conv.modulation.weight"] = conv.affine.weight
        state[f"{name}.conv.modulation.bias"] = conv.affine.bias
        state[f"{name}.noise.weight"] = conv.noise_strength[None]
        state[f"{name}.activate.bias"] = conv.bias
        state[f"noises.noise_{i}"] = conv.noise[None, None]
        if conv.doubles:
            state[f"{name}.conv.blur.kernel"] = FILTER
    for i, color in enumerate(model.to_colors):
        name = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}"
        state[f"{name}.conv.weight"] = color.weight[None, :, :, None, None]
        state[f"{name}.conv.modulation.weight"] = color.affine.weight
        state[f"{name}.conv.modulation.bias"] = color.affine.bias
        state[f"{name}.bias"] = color.bias[None, :, None, None]
        if i:
            state[f"{name}.upsample.kernel"] = FILTER
    return {key: tensor.detach().clone() for key, tensor in state.items()}


class Persistent:
    """Written as the authors' `persistence` writes a module."""

    def __init__(self, name: str, state: dict):
        self.meta = sys.modules["dnnlib.util"].EasyDict(
            type="class",
            version=6,
            module_src="raise SystemExit('code of the file ran')",
            class_name=name,
            state=state,
        )

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def nested(tensors: dict[str, torch.Tensor], name: str = "Generator") -> Persistent:
    """A tree of modules with these parameters and buffers."""
    import numpy as np

    state = {
        "training": False,
        "_parameters": {},
        "_buffers": {},
        "_modules": {},
        "gain": np.sqrt(np.float64(2)),
    }
    state["_non_persistent_buffers_set"] = set()
    inner: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        head, dot, tail = key.partition(".")
        if dot:
            inner.setdefault(head, {})[tail] = tensor
        elif key in ("w_avg", "noise_const", "resample_filter"):
            state["_buffers"][key] = tensor
        else:
            state["_parameters"][key] = torch.nn.Parameter(tensor)
    state["_modules"] = {head: nested(each, "Layer") for head, each in inner.items()}
    return Persistent(name, state)


def write_nvidia_pickle(file, tensors, monkeypatch, **others) -> None:
    """A pickle of the authors' layout, with stand-ins for the modules that they name while it is written."""
    modules = {
        name: ModuleType(name) for name in ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")
    }

    class EasyDict(dict):
        __module__, __qualname__ = "dnnlib.util", "EasyDict"

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the file's own function ran")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    modules["dnnlib.util"].EasyDict = EasyDict
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        content = {
            "G": None,
            "G_ema": nested(tensors),
            "training_set_kwargs": EasyDict(path="x.zip"),
            **others,
        }
        with open(file, "wb") as opened:
            pickle.dump(content, opened)
