"""Transfer: start from weights that there are, a published file's or a run's, and train all or the head.

What is frozen is as it was, bit for bit: its parameters receive no gradient and no decay, and its
layers stay in evaluation mode, so that running statistics do not move and no branch is left out.
Dropout goes on, since what it drops is for the head to do without.
"""

import dataclasses
import inspect
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.data.vision.dataset import PictureSet
from torchstone.engine import checkpoint
from torchstone.engine.console import notify
from torchstone.engine.recipe_fields import field_paths, replace_fields
from torchstone.errors import BadInput
from torchstone.parts.old_keys import rename_old_keys

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
# mean and deviation of the pictures that published networks were trained on, unless a system says else
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAME = "transfer"  # of the recipe that weights bring with them


def initialize_from(
    model: nn.Module,
    recipe: Any,
    data: PictureSet,
    *,
    head: tuple[str, ...] = (),
    published: Callable[[str, dict], Mapping[str, Tensor]] | None = None,
    statistics: Statistics = IMAGENET,
) -> PictureSet:
    """Give `model` the weights that the recipe names, and freeze what it says; the data to train on.

    The pictures are normalised as those were that the weights come from: the run's, or `statistics`.

    Args:
        head: prefixes of the parameters that tell classes apart; made anew for other classes.
        published: from a published file's names to ours.

    Raises:
        BadInput: the weights are missing or do not fit; nothing to freeze, or nothing left to train.
    """
    source, frozen = getattr(recipe, "weights", None), getattr(recipe, "freeze", "none")
    fresh: Mapping[str, Tensor] = {}
    if source is not None:
        problem = f"{source} does not fit {recipe.variant}"
        if Path(source).is_dir():
            tensors, metadata = of_run(Path(source))
            if metadata["variant"] != recipe.variant:
                raise BadInput(f"{source} holds a {metadata['variant']}, not a {recipe.variant}")
            picture = metadata["picture"]
            if metadata["classes"] != list(data.classes) and head:
                fresh = {k: v for k, v in model.state_dict().items() if k.startswith(head)}
                tensors |= fresh
                notify(f"other classes: a new head takes the old one's place ({', '.join(fresh)})")
        else:
            tensors = checkpoint.read_weights(Path(source))
            tensors = published(recipe.variant, tensors) if published else tensors
            picture = dict(zip(("mean", "std"), map(list, statistics), strict=True))
        new = load_weights(model, tensors, problem, head)
        with torch.no_grad():
            # All classes alike at first: from random logits, unlearning them is most of a short run
            # (480 photos, 120 steps of a head alone: 0.33 right; from zero 0.73).
            for name, tensor in model.state_dict().items():
                if name in (new or fresh) and len(tensor) == len(data.classes):
                    tensor.zero_()
        same = {key: picture[key] for key in ("mean", "std")}
        data = dataclasses.replace(data, metadata=data.metadata | same)
    if frozen not in ("none", "backbone"):
        raise BadInput(f"freeze is none or backbone, not {frozen!r}")
    if frozen == "backbone":
        if source is None:
            raise BadInput("freeze backbone keeps weights as they are: say which with --weights")
        freeze(model, head)
    return data


def of_run(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """The weights of a run's newest checkpoint (their average, if it has one) and its metadata."""
    found, meta, _ = checkpoint.find(folder / "checkpoint")
    tensors = checkpoint.tensors(found, "ema.module") or checkpoint.tensors(found, "model")
    return tensors, meta["metadata"]


def load_weights(
    model: nn.Module, tensors: Mapping[str, Tensor], problem: str, head: tuple[str, ...] = ()
) -> list[str]:
    """Load `tensors`, all of them or none; a head for another number of classes is left as it is, and
    the names of its tensors are returned."""
    own, tensors = model.state_dict(), rename_old_keys(model, tensors)
    # a parameter with two names is whole with one of them
    where = {key: (value.data_ptr() or key, value.shape) for key, value in own.items()}
    first = {place: key for key, place in where.items() if key in tensors}
    tied = {key: first.get(place, key) for key, place in where.items()}
    # older files do not count the batches that went into running statistics; nothing uses it
    needed = [k for k in own if not k.endswith("num_batches_tracked") and tied[k] not in tensors]
    differs = [k for k in own if k in tensors and own[k].shape != tensors[k].shape]
    fresh = [k for k in differs if k.startswith(head)] if head else []
    wrong = {
        "missing": needed,
        "unknown": [k for k in tensors if k not in own],
        "of another shape": [k for k in differs if k not in fresh],
        "not the same though tied": [
            k
            for k, other in tied.items()
            if k in tensors and k not in differs and not tensors[k].equal(tensors[other])
        ],
    }
    said = [f"{w}: {', '.join(keys[:4])}{' …' * (len(keys) > 4)}" for w, keys in wrong.items() if keys]
    if said:
        raise BadInput(f"{problem}; {'; '.join(said)}")
    if fresh:
        classes = len(tensors[fresh[-1]])
        notify(f"the file tells {classes} classes apart: a new head takes its place ({', '.join(fresh)})")
    kept = {key: value for key, value in tensors.items() if key not in fresh}
    model.load_state_dict(kept, strict=False)
    return fresh


def freeze(model: nn.Module, head: tuple[str, ...]) -> None:
    """Keep everything but the head as it is, whatever is trained."""
    names = [name for name, _ in model.named_parameters() if head and name.startswith(head)]
    if not names:
        raise BadInput("this network has no head apart from its backbone: use freeze none")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    for name, layer in model.named_modules():
        inside = f"{name}.".startswith(head)
        if not inside and not list(layer.children()) and not isinstance(layer, nn.Dropout):
            layer.eval()
            # a method of the instance, so that copies (averaged weights) have one of their own
            vars(layer)["train"] = types.MethodType(lambda self, mode=True: self, layer)


def recipe_for_weights(recipe: Any, variant: str | None, module: Any, is_frozen: bool) -> Any:
    """`recipe`, a system's first, as it suits a published file of weights, before the user's own changes:
    the network and image size that the variant has by itself, three channels, a small learning rate."""
    make, shape = module.VARIANTS[variant or recipe.variant]
    values = {"variant": variant or recipe.variant, "channels": shape[0], "size": shape[-1]}
    values |= {name: p.default for name, p in inspect.signature(make).parameters.items()}
    values |= {"optimizer": "adamw", "lr": 3e-3 if is_frozen else 1e-4, "batch_size": 32}
    values |= {"augment": f"flip+crop{shape[-1] // 14}"}
    known = field_paths(recipe)
    fitting = {k: v for k, v in values.items() if k in known and v is not inspect.Parameter.empty}
    return replace_fields(recipe, fitting)
