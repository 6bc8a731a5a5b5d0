"""Weight files: read without running code, without the wrappers of whoever saved them, and what is known of
the network that they are of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from torchstone.errors import BadInput
from torchstone.files import parse_json, read_pickle

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std that images are normalized with

# names under which training programs save a state dict beside other things, the likelier first
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights")
# prefixes of a whole state dict: of DataParallel, and of a network inside a training program's own
PREFIXES = ("module.", "model.")
COMPILED = "_orig_mod."  # of torch.compile, also around a layer
GENERIC = ("model", "pytorch_model", "weights", "checkpoint")  # file names that say nothing


class WeightFile(NamedTuple):
    """Tensors by the names in the file; the architecture by the name that its publisher gives it, lower
    case; and the normalization of images, if the folder states it."""

    tensors: dict[str, Tensor]
    architecture: str
    statistics: Statistics | None


def read_weights(file: Path) -> WeightFile:
    """A published weights file: `.safetensors`, or `.pth`/`.pt`/`.bin` read without running code.

    The architecture is what a `config.json` beside it says, else the file's name.

    Raises:
        BadInput: no such file, one that is damaged or holds code, or one that is no state dict.
    """
    if not file.exists():
        raise BadInput(f"no weights file at {file}")
    config = read_settings(file.with_name("config.json"))
    name = file.parent.name if file.stem in GENERIC else file.name
    architecture = str(config.get("architecture") or config.get("model_type") or name).lower()
    return WeightFile(strip_prefixes(read_tensors(file)), architecture, stated_statistics(file, config))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, out of their wrappers, by the names that they have there.

    Raises:
        BadInput: it is damaged, holds code, or is no state dict.
    """
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{file} is not a whole safetensors file: {error}") from None
    tensors = unwrap(read_pickle(file))
    if tensors is None:
        raise BadInput(f"{file} is not a state dict (names with tensors)")
    return tensors


def unwrap(state: Any) -> dict[str, Tensor] | None:
    """The state dict inside dictionaries of a training program; None if there is none."""
    while isinstance(state, Mapping) and not _is_state_dict(state):
        inner = next((state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)), None)
        if inner is None:  # a name of the program's own
            held = [value for value in state.values() if isinstance(value, Mapping) and _is_state_dict(value)]
            inner = held[0] if len(held) == 1 else None
        state = inner
    return dict(state) if isinstance(state, Mapping) else None


def _is_state_dict(state: Mapping[str, Any]) -> bool:
    return bool(state) and all(isinstance(each, Tensor) for each in state.values())


def strip_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without what `DataParallel`, `torch.compile`, averaging and a module around the network put
    before all of them."""
    plain = {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}
    if len(plain) > 1 and all(name.startswith("module.") for name in plain if name != "n_averaged"):
        plain.pop("n_averaged", None)  # the count of torch's AveragedModel
    while prefix := next((p for p in PREFIXES if plain and all(name.startswith(p) for name in plain)), ""):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def stated_statistics(file: Path, config: Mapping[str, Any]) -> Statistics | None:
    """Mean and standard deviation that timm's `config.json` or transformers' preprocessor states."""
    settings = read_settings(file.with_name("preprocessor_config.json"))
    timm = config.get("pretrained_cfg")
    for stated, names in (
        (timm if isinstance(timm, dict) else config, ("mean", "std")),
        (settings, ("image_mean", "image_std")),
    ):
        mean, std = (_numbers(stated.get(name)) for name in names)
        if mean and len(mean) == len(std) and min(std) > 0:
            return mean, std
    return None


def _numbers(values: Any) -> tuple[float, ...]:
    is_list = isinstance(values, list | tuple) and all(isinstance(each, int | float) for each in values)
    return tuple(map(float, values)) if is_list else ()


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none that can be read."""
    try:
        content = parse_json(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
