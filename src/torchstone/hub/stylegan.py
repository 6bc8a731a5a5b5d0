"""Published StyleGAN2 generators: their parameter names and ours.

`nvidia`: the authors' PyTorch code (stylegan2-ada-pytorch). `port`: the PyTorch port that most others follow,
whose files hold `g_ema` and the mean style as `latent_avg`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from torchstone.files import read_pickle
from torchstone.hub.nvidia_pickle import read_nvidia_pickle
from torchstone.hub.weight_files import read_weights

Tensors = dict[str, Tensor]

# a pattern of their names: our name of the match, and from their tensor to ours
Rules = tuple[tuple[str, str | Callable[[re.Match], str], Callable[[Tensor], Tensor]], ...]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _first(tensor: Tensor) -> Tensor:
    """Without a leading dimension of one."""
    return tensor[0] if tensor.ndim and len(tensor) == 1 else tensor


def _matrix(tensor: Tensor) -> Tensor:
    """A 1 × 1 convolution's weight, (1,) outputs, inputs, 1, 1."""
    return tensor.flatten(-3) if tensor.ndim == 4 else tensor[0].flatten(1)


def _nvidia_conv(match: re.Match) -> str:
    """`b4.conv1` is layer 0, `b8.conv0` 1, `b8.conv1` 2, …"""
    level = int(match[1]).bit_length() - 3
    return f"convs.{2 * level - 1 + int(match[2])}."


def _nvidia_color(match: re.Match) -> str:
    return f"to_colors.{int(match[1]).bit_length() - 3}."


def _next(room: str) -> Callable[[re.Match], str]:
    return lambda match: f"{room}.{int(match[1]) + 1}."


def _previous(room: str) -> Callable[[re.Match], str]:
    return lambda match: f"{room}.{int(match[1]) - 1}."


NVIDIA: Rules = (
    (r"^mapping\.fc(\d+)\.", r"mapping.layers.\1.", _same),
    (r"^mapping\.embed\.", "mapping.embedding.", _same),
    (r"^mapping\.w_avg$", "mapping.average", _same),
    (r"^synthesis\.b4\.const$", "constant", _same),
    (r"^synthesis\.b(\d+)\.conv(\d)\.(?=affine)", _nvidia_conv, _same),
    (r"^synthesis\.b(\d+)\.conv(\d)\.noise_const$", lambda m: _nvidia_conv(m) + "noise", _same),
    (r"^synthesis\.b(\d+)\.conv(\d)\.", _nvidia_conv, _same),
    (r"^synthesis\.b(\d+)\.torgb\.weight$", lambda m: _nvidia_color(m) + "weight", lambda t: t.flatten(1)),
    (r"^synthesis\.b(\d+)\.torgb\.", _nvidia_color, _same),
)
PORT: Rules = (
    (r"^style\.(\d+)\.", _previous("mapping.layers"), _same),
    (r"^latent_avg$", "mapping.average", lambda t: t.flatten()),
    (r"^input\.input$", "constant", _first),
    (r"^noises\.noise_(\d+)$", r"convs.\1.noise", lambda t: t[0, 0]),
    (r"^conv1\.", "convs.0.", _first),
    (r"^convs\.(\d+)\.", _next("convs"), _first),
    (r"^to_rgb1\.", "to_colors.0.", _first),
    (r"^to_rgbs\.(\d+)\.", _next("to_colors"), _first),
)
PORT_LAYER = (
    (r"\.conv\.modulation\.", ".affine."),
    (r"\.noise\.weight$", ".noise_strength"),
    (r"\.activate\.bias$", ".bias"),
    (r"\.conv\.weight$", ".weight"),
)
FILTERS = re.compile(r"(resample_filter|(blur|upsample)\.kernel)$")  # constants


def from_nvidia(tensors: Mapping[str, Tensor]) -> Tensors:
    """The authors' names to ours."""
    return _rename(tensors, NVIDIA)


def from_port(tensors: Mapping[str, Tensor]) -> Tensors:
    """The port's names to ours."""
    renamed: Tensors = {}
    for name, tensor in _rename(tensors, PORT).items():
        for pattern, ours in PORT_LAYER:
            name = re.sub(pattern, ours, name)
        if name.startswith("to_colors.") and "affine" not in name:
            tensor = tensor.flatten(1) if name.endswith("weight") else tensor.flatten()
        renamed[name] = tensor
    return renamed


def _rename(tensors: Mapping[str, Tensor], rules: Rules) -> Tensors:
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if FILTERS.search(name):
            continue
        for pattern, ours, convert in rules:
            if match := re.search(pattern, name):
                own = ours(match) if callable(ours) else match.expand(ours)
                name, tensor = f"{own}{name[match.end() :]}", convert(tensor)
                break
        renamed[name] = tensor
    return renamed


def from_published(tensors: Mapping[str, Tensor]) -> Tensors:
    """Whichever of the two layouts it is; ours stays as it is."""
    if any(name.startswith("synthesis.") for name in tensors):
        return from_nvidia(tensors)
    if any(name.startswith("to_rgb1.") for name in tensors):
        return from_port(tensors)
    return dict(tensors)


def read_stylegan_weights(source: str | Path) -> Tensors:
    """A generator's tensors by our names.

    They come out of the authors' pickle (`G_ema`), the port's checkpoint (`g_ema` and `latent_avg`), or any
    file of one state dict in one of these layouts.

    Raises:
        BadInput: no such file, or as `read_nvidia_pickle` and `read_weights`.
    """
    file = Path(source)
    if file.suffix.lower() == ".pkl" and file.is_file():
        return from_nvidia(read_nvidia_pickle(file))
    if file.suffix.lower() in (".pt", ".pth", ".bin") and file.is_file():
        content = read_pickle(file)
        if isinstance(content, Mapping) and isinstance(content.get("g_ema"), Mapping):
            extra = {name: t for name, t in content.items() if name == "latent_avg" and isinstance(t, Tensor)}
            return from_port({**content["g_ema"], **extra})
    return from_published(read_weights(source).tensors)
