"""Transfer learning: start from a published file's or a run's weights, and train all or the head.

What is frozen does not change by a bit: its parameters receive no gradient and no weight decay, and its
layers stay in evaluation mode, so that running statistics do not move and no branch is dropped. Dropout
stays active, since it regularizes the head.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.data.vision.dataset import ImageDataset
from torchstone.engine import checkpoint
from torchstone.engine.console import notify
from torchstone.engine.recipe_fields import field_paths, replace_fields
from torchstone.errors import BadInput
from torchstone.hub.weight_files import Statistics, WeightFile, read_weights
from torchstone.parts.old_keys import rename_old_keys

FileStatistics = Callable[[str, WeightFile], Statistics]
# mean and std that published networks normalize with, unless a system says otherwise
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAME = "transfer"  # of the recipe for initial weights


def initialize_from(
    model: nn.Module,
    recipe: Any,
    data: ImageDataset,
    *,
    head: tuple[str, ...] = (),
    published: Callable[[str, dict], Mapping[str, Tensor]] | None = None,
    statistics: Statistics | FileStatistics = IMAGENET,
) -> ImageDataset:
    """Load the weights that the recipe names into `model`, freeze what it says; returns the data to train on.

    The images are normalized like those that the weights were trained on: as the run's, as the file's folder
    states, or by `statistics`.

    Args:
        head: name prefixes of the classification layer, which is replaced for other classes.
        published: from a published file's names to ours.
        statistics: mean and std of the published files, or what tells them by variant and file.

    Raises:
        BadInput: the weights are missing or do not fit; nothing to freeze, or nothing left to train.
    """
    source, freeze_part = getattr(recipe, "weights", None), getattr(recipe, "freeze", "none")
    new_head: Mapping[str, Tensor] = {}
    replaced: list[str] = []
    if source is not None:
        problem = f"{source} does not fit {recipe.variant}"
        if Path(source, "recipe.json").exists():
            tensors, metadata = load_run_weights(Path(source))
            if metadata["variant"] != recipe.variant:
                raise BadInput(f"{source} holds a {metadata['variant']}, not a {recipe.variant}")
            normalization = metadata["picture"]
            if metadata["classes"] != list(data.classes) and head:
                new_head = {k: v for k, v in model.state_dict().items() if k.startswith(head)}
                tensors |= new_head
                notify(f"other classes: the head is replaced by a new one ({', '.join(new_head)})")
        else:
            file = read_published(source, model)
            family = statistics if isinstance(statistics, tuple) else statistics(recipe.variant, file)
            tensors = published(recipe.variant, file.tensors) if published else file.tensors
            normalization = data.metadata
            if data.metadata["channels"] == len(family[0]):
                stated = dict(zip(("mean", "std"), map(list, file.statistics or family), strict=True))
                normalization = stated
                mean, std = (", ".join(f"{value:.3g}" for value in stated[key]) for key in stated)
                notify(f"images are normalized as for {source}: mean {mean}, std {std}")
        replaced = load_weights(model, tensors, problem, head) or list(new_head)
        with torch.no_grad():
            # Zero logits at first: from random ones, unlearning them is most of a short run
            # (480 photos, 120 steps of the head alone: accuracy 0.33; from zero 0.73).
            for name, tensor in model.state_dict().items():
                if name in replaced and name.startswith(head) and len(tensor) == len(data.classes):
                    tensor.zero_()
        metadata = data.metadata | {key: normalization[key] for key in ("mean", "std")}
        data = dataclasses.replace(data, metadata=metadata)
    if freeze_part not in ("none", "backbone"):
        raise BadInput(f"freeze is none or backbone, not {freeze_part!r}")
    if freeze_part == "backbone":
        if source is None:
            raise BadInput("freeze backbone needs initial weights: say which with --weights")
        freeze(model, (*head, *{f"{name.rpartition('.')[0]}." for name in replaced}))
    return data


def read_published(source: str | Path, model: nn.Module) -> WeightFile:
    """A published file for `model` (`hub.weight_files.read_weights`); what of it is left out is said."""
    file = read_weights(source, model.state_dict().keys())
    if file.left_out:
        notify(f"{source} holds what is of no network, which is left out: {', '.join(file.left_out)}")
    return file


def load_run_weights(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """The best weights of a run's newest checkpoint (the EMA, if it has one) and its metadata."""
    path, meta, _ = checkpoint.find(folder / "checkpoint")
    return checkpoint.weights(path, meta)


def load_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], problem: str, head: tuple[str, ...] = ()
) -> list[str]:
    """Load `tensors`, all of them or none.

    A head that they lack, that is all NaN, or that is for another number of classes is not loaded: it stays
    as it is initialized, which is said, and the names of its tensors are returned.
    """
    own, tensors = model.state_dict(), dict(rename_old_keys(model, tensors))
    new_head = absent_head(own, tensors, head)
    absent = bool(new_head)
    tensors = {key: value for key, value in tensors.items() if key not in new_head}
    # a tied parameter has two names, and one of them suffices
    storage = {key: (value.data_ptr() or key, value.shape) for key, value in own.items()}
    first = {pointer: key for key, pointer in storage.items() if key in tensors}
    tied = {key: first.get(pointer, key) for key, pointer in storage.items()}
    reshaped = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    new_head += [k for k in reshaped if head and k.startswith(head)]
    # older files do not count the batches of running statistics; nothing uses the count
    optional = {k for k in own if k.endswith("num_batches_tracked")} | set(new_head)
    fitting = [k for k in own if k in tensors and k not in reshaped]
    values = {k: _readable(tensors[k]) for k in fitting}
    problems = {
        "missing": [k for k in own if k not in optional and tied[k] not in tensors],
        "unknown": [k for k in tensors if k not in own],
        "of another shape": [k for k in reshaped if k not in new_head],
        "no floating-point numbers (quantized?)": [
            k for k in fitting if own[k].is_floating_point() and not _is_plain(values[k])
        ],
    }
    usable = [k for k in fitting if _is_plain(values[k])]
    problems["NaN or infinite"] = [
        k for k in usable if not values[k].isfinite().all() and own[k].isfinite().all()
    ]
    problems["not the same though tied"] = [
        k for k in usable if tied[k] != k and tied[k] in usable and not values[k].equal(values[tied[k]])
    ]
    lists = [f"{p}: {', '.join(keys[:4])}{' …' * (len(keys) > 4)}" for p, keys in problems.items() if keys]
    if lists:
        raise BadInput(f"{problem}; {'; '.join(lists)}")
    if absent:
        notify(f"the file has no head: a new one is initialized ({', '.join(new_head)})")
    elif new_head:
        classes = len(tensors[new_head[-1]])
        notify(f"the file has {classes} classes: its head is replaced by a new one ({', '.join(new_head)})")
    model.load_state_dict(values, strict=False)
    return new_head


def absent_head(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], head: tuple[str, ...]) -> list[str]:
    """The names of the head's tensors that a file has no values for.

    The head's whole module counts, of which `head` may be the last layer: a file of features alone lacks it,
    or holds NaN there, as torchvision's.
    """
    modules = {f"{prefix.split('.')[0]}." for prefix in head}
    absent: set[str] = set()
    for prefix in (*modules, *head):
        names = [name for name in own if name.startswith(prefix)]
        held = [_readable(tensors[name]) for name in names if name in tensors]
        if all(_is_plain(each) and bool(each.isnan().all()) for each in held):
            absent.update(names)
    return [name for name in own if name in absent]


def _readable(tensor: Tensor) -> Tensor:
    """One of 8 bits as float32, since little can be computed with it."""
    return tensor.float() if tensor.dtype.is_floating_point and tensor.dtype.itemsize == 1 else tensor


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.layout == torch.strided


def freeze(model: nn.Module, head: tuple[str, ...]) -> None:
    """Freeze everything but the head."""
    names = [name for name, _ in model.named_parameters() if head and name.startswith(head)]
    if not names:
        raise BadInput("this network has no head apart from its backbone: use freeze none")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    for name, layer in model.named_modules():
        in_head = f"{name}.".startswith(head)
        if not in_head and not list(layer.children()) and not isinstance(layer, nn.Dropout):
            layer.eval()
            # a method of the instance, so that copies (EMA weights) have one of their own
            vars(layer)["train"] = types.MethodType(lambda self, mode=True: self, layer)


def recipe_for_weights(recipe: Any, variant: str | None, module: Any, is_frozen: bool) -> Any:
    """`recipe`, a system's first, adapted to a published file of weights, before the user's own changes:
    the network and image size of the variant's defaults, three channels, a small learning rate."""
    make, shape = module.VARIANTS[variant or recipe.variant]
    values = {"variant": variant or recipe.variant, "channels": shape[0], "size": shape[-1]}
    values |= {name: p.default for name, p in inspect.signature(make).parameters.items()}
    values |= {"optimizer": "adamw", "lr": 3e-3 if is_frozen else 1e-4, "batch_size": 32}
    values |= {"augment": f"flip+crop{shape[-1] // 14}"}
    known = field_paths(recipe)
    fitting = {k: v for k, v in values.items() if k in known and v is not inspect.Parameter.empty}
    return replace_fields(recipe, fitting)
