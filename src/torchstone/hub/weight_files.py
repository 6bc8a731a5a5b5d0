"""Weight files: read without running code, without the wrappers of whoever saved them, and what is known of
the network that they are of."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from torchstone.errors import BadInput, did_you_mean
from torchstone.files import foreign_format, parse_json, read_pickle

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std that images are normalized with

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that exists in a folder, or its index
# names under which training programs save a state dict beside other things
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights")
AVERAGED = re.compile(r"(^|_)(ema|swa)(_|$)|averag")  # of one of averaged weights
# what holds tensors too, and no network's
NO_NETWORK = re.compile(r"optim|sched|scaler|^rng|random|^args$|config|metric", re.IGNORECASE)
# prefixes of a whole state dict: of DataParallel, and of a network inside a training program's own
PREFIXES = ("module.", "model.")
# more of these, which some networks have as a name of their own
ATTRIBUTES = ("net.", "network.", "backbone.", "_model.", "ema_model.", "student.", "teacher.")
# what a training program's module holds beside its network
NOT_NETWORK = re.compile(r"_?(criterion|loss\w*|metric\w*|(train|val|valid|test)_\w+|acc\w*)\.")
COMPILED = "_orig_mod."  # of torch.compile, also around a layer
MAX_DEPTH = 4  # of dictionaries in dictionaries
GENERIC = ("model", "pytorch_model", "weights", "checkpoint")  # file names that say nothing
SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")
FORMATS = ("pt", "np", None)  # of safetensors: how its tensors lie


class WeightFile(NamedTuple):
    """Tensors by the names in the file; the architecture by the name that its publisher gives it, lower
    case; the normalization of images, if the folder states it; and names of what is of no network."""

    tensors: dict[str, Tensor]
    architecture: str
    statistics: Statistics | None
    left_out: tuple[str, ...] = ()


def read_weights(source: str | Path, own_names: Collection[str] = ()) -> WeightFile:
    """Published weights: `.safetensors`, or `.pth`/`.pt`/`.bin` read without running code; the folder that
    holds them, also in shards; or `hf:ORG/NAME`. Of several state dicts in a file `FILE:NAME` names one.

    The architecture is what a `config.json` beside it says, else the file's name.

    Args:
        own_names: parameters of the network that they are for; what those begin with is no prefix.

    Raises:
        BadInput: no such file, one that is damaged or holds code, or one that is no state dict.
    """
    if str(source).startswith("hf:"):
        from torchstone.hub.hf_folder import fetch  # it imports this module

        source = fetch(str(source))
    path, wanted = Path(source), None
    if not path.exists() and Path(str(source).rpartition(":")[0] or "?").is_file():
        name, _, wanted = str(source).rpartition(":")
        path = Path(name)
    if path.is_dir():
        path = find_weights(path)
    elif not path.exists():
        raise BadInput(f"no weights file at {path}")
    config = read_settings(path.with_name("config.json"))
    name = path.parent.name if path.stem.split(".")[0] in GENERIC or SHARD.search(path.name) else path.name
    architecture = str(config.get("architecture") or config.get("model_type") or name).lower()
    tensors = read_whole(path, wanted)
    network = {name: tensor for name, tensor in tensors.items() if not NOT_NETWORK.match(name)}
    if len(network) == len(tensors) or not strip_prefixes(network, own_names).keys() - network.keys():
        network = tensors  # it is the network's own
    left_out = tuple(name for name in tensors if name not in network)
    stripped = strip_prefixes(network, own_names)
    return WeightFile(stripped, architecture, stated_statistics(path, config), left_out)


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds published weights, and is no run."""
    names = (f"{name}{ending}" for name in WEIGHTS for ending in ("", ".index.json"))
    return not (folder / "recipe.json").exists() and any((folder / name).exists() for name in names)


def find_weights(folder: Path, names: Sequence[str] = WEIGHTS) -> Path:
    """The weights in a folder: the first of `names` that is there, or the index of its shards.

    Raises:
        BadInput: none is.
    """
    for name in names:
        for file in (folder / name, folder / f"{name}.index.json"):
            if file.exists():
                return file
    raise BadInput(f"{folder} holds no weights: {' or '.join(names)} is missing")


def read_whole(file: Path, wanted: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file, of all shards of an index, or of all shards where it is one of several.

    Raises:
        BadInput: as `read_tensors`; a shard is missing.
    """
    match = SHARD.search(file.name)
    if match and int(match[2]) > 1:
        index = file.with_name(f"{SHARD.sub('', file.name)}.index.json")
        if not index.exists():
            raise BadInput(f"{file} is one of {int(match[2])} shards, and {index.name} is not beside it")
        file = index
    return read_shards(file) if file.name.endswith(".index.json") else read_tensors(file, wanted)


def read_tensors(file: Path, wanted: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file, out of their wrappers, by the names that they have there.

    Args:
        wanted: which state dict, of a file with several.

    Raises:
        BadInput: it is damaged, holds code, or is no state dict.
    """
    if file.suffix != ".safetensors":
        return unwrap(read_pickle(file), file, wanted)
    if wanted is not None:
        raise BadInput(f"{file} holds one state dict: leave out {wanted!r}")
    try:
        with safe_open(file, framework="pt") as opened:
            form = (opened.metadata() or {}).get("format")
            if form not in FORMATS:
                raise BadInput(f"{file} is of format {form!r}, whose tensors lie otherwise: save it by torch")
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        what = foreign_format(file)
        raise BadInput(f"{file} {what or f'is not a whole safetensors file: {error}'}") from None


def unwrap(state: Any, file: Path, wanted: str | None = None) -> dict[str, Tensor]:
    """The state dict inside dictionaries of a training program.

    Raises:
        BadInput: there is none, or several that differ and none that is wanted; it is quantized.
    """
    found = {".".join(path): own for path, own in _state_dicts(state, file)}
    if wanted is not None:
        inside = {path: own for path, own in found.items() if f"{path}.".startswith(f"{wanted}.")}
        if not inside:
            raise BadInput(f"{file} holds no state dict {wanted!r} ({did_you_mean(wanted, found)})")
        found = inside
    averaged = {path for path in found if any(AVERAGED.search(part) for part in path.split("."))}
    plain = [path for path in found if path not in averaged]
    usual = [path for path in plain if all(part in WRAPPERS for part in path.split(".") if part)]
    names = [*(usual or plain), *sorted(averaged)]
    if not names:
        raise BadInput(f"{file} is not a state dict (names with tensors)")
    first = strip_prefixes(found[names[0]])
    if differing := [path for path in names[1:] if not _same(first, strip_prefixes(found[path]))]:
        raise BadInput(
            f"{file} holds {1 + len(differing)} state dicts: {', '.join([names[0], *differing])}; say which, "
            f"as {file}:{differing[-1]}"
        )
    return found[names[0]]


def _state_dicts(
    state: Any, file: Path, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every state dict in nested dictionaries, with the keys that lead there.

    Raises:
        BadInput: one is quantized.
    """
    if not isinstance(state, Mapping) or not state or not all(isinstance(name, str) for name in state):
        return
    tensors = {name: each for name, each in state.items() if isinstance(each, Tensor)}
    if any(each.is_quantized for each in tensors.values()) or any("_packed_params" in name for name in state):
        raise BadInput(f"{file} holds quantized weights: give those that they were made from")
    # numbers such as `epoch` may stand among the tensors
    if 2 * len(tensors) > len(state) and not any(isinstance(each, Mapping) for each in state.values()):
        if not path or any(each.is_floating_point() for each in tensors.values()):
            yield path, tensors
        return
    for name, each in state.items():
        if len(path) < MAX_DEPTH and not NO_NETWORK.search(name):
            yield from _state_dicts(each, file, (*path, name))


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def strip_prefixes(tensors: Mapping[str, Tensor], own_names: Collection[str] = ()) -> dict[str, Tensor]:
    """The names without what `DataParallel`, `torch.compile`, averaging and a module around the network put
    before all of them."""
    plain = {name.replace(COMPILED, ""): tensor for name, tensor in tensors.items()}
    if len(plain) > 1 and all(name.startswith("module.") for name in plain if name != "n_averaged"):
        plain.pop("n_averaged", None)  # the count of torch's AveragedModel
    removable = [p for p in (*PREFIXES, *ATTRIBUTES) if not any(name.startswith(p) for name in own_names)]
    while prefix := next((p for p in removable if plain and all(name.startswith(p) for name in plain)), ""):
        plain = {name.removeprefix(prefix): tensor for name, tensor in plain.items()}
    return plain


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of a sharded state dict, by its index file.

    Raises:
        BadInput: the index is none; a shard is missing, damaged, or lacks a tensor.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise BadInput(f"{index} has no weight_map from names to files")
    tensors: dict[str, Tensor] = {}
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        file = index.parent / shard
        if Path(shard).name != shard:
            raise BadInput(f"{index} names {shard!r}, which lies outside its folder")
        if not file.exists():
            raise BadInput(f"{index.parent} lacks the shard {shard}, one of {len(shards)}")
        content = read_tensors(file)
        names = [name for name, own_shard in weight_map.items() if own_shard == shard]
        if missing := [name for name in names if name not in content]:
            hint = did_you_mean(missing[0], content)
            raise BadInput(f"{file} should hold {missing[0]}, by {index.name}, but does not ({hint})")
        tensors |= {name: content[name] for name in names}
    return tensors


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadInput: there is no such file, or it holds something else.
    """
    if not file.exists():
        raise BadInput(f"{file.parent} holds no {file.name}: give a folder in Hugging Face layout")
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{file} cannot be read ({error}): fetch it again") from None
    if not isinstance(content, dict):
        raise BadInput(f"{file} holds a {type(content).__name__}, not a JSON object")
    return content


def stated_statistics(file: Path, config: Mapping[str, Any]) -> Statistics | None:
    """Mean and standard deviation that timm's `config.json` or transformers' preprocessor states, of pixels
    scaled to 0..1.

    Raises:
        BadInput: pixels are rescaled by what is no number.
    """
    timm = config.get("pretrained_cfg")
    if stated := _statistics(timm if isinstance(timm, dict) else config, "mean", "std"):
        return stated
    settings = read_settings(file.with_name("preprocessor_config.json"))
    factors = _numbers([settings.get("rescale_factor", 1 / 255)])
    if not factors or factors[0] <= 0:
        raise BadInput(
            f"{file.parent} rescales pixels by {settings['rescale_factor']!r}: give a number above 0"
        )
    scale = 255 * factors[0] if settings.get("do_rescale", True) else 255.0
    if settings.get("do_normalize") is False:
        channels = config.get("num_channels")
        channels = channels if isinstance(channels, int) else 3
        return (0.0,) * channels, (1 / scale,) * channels
    if stated := _statistics(settings, "image_mean", "image_std"):
        mean, std = stated
        return tuple(each / scale for each in mean), tuple(each / scale for each in std)
    return None


def _statistics(settings: Mapping[str, Any], *names: str) -> Statistics | None:
    mean, std = (_numbers(settings.get(name)) for name in names)
    return (mean, std) if mean and len(mean) == len(std) and min(std) > 0 else None


def _numbers(values: Any) -> tuple[float, ...]:
    is_list = isinstance(values, list | tuple) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and isfinite(each) for each in values
    )
    return tuple(map(float, values)) if is_list else ()


def read_settings(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none that can be read."""
    try:
        content = parse_json(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
