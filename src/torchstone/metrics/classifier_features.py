"""How good samples are, by one measure for every family: the features of a classifier of the same set.

The space is the last hidden layer of a LeNet-5 that was trained on the training split of the very set,
for a few seconds, by that system's own recipe (`records/lenet5-mnist5k.json` is its record); it is kept
in the user's cache and made again where it is missing. It tells the classes of its set apart, and so
notices a missing class or a broken stroke better than features of photographs do; it is no Inception,
and its distances compare with nothing but distances on the same set.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from torchstone.data.download import cache
from torchstone.data.vision.dataset import Pictures, PictureSet, normalise
from torchstone.engine import parallel, rng
from torchstone.engine.console import notify
from torchstone.engine.run import Intervals, fit
from torchstone.parts.metrics import fidelity_diversity
from torchstone.plots.sample_grid import sheet
from torchstone.tasks.vision.classify import classify

Pixels = UInt8[Tensor, "count channel height width"]

SIDE = 32  # of a picture as LeNet-5 sees it
PADDED = range(24, SIDE + 1)  # sides that ink on an empty ground is padded from, not resized
MOST = 60_000  # pictures it learns from
ROWS = 1000
SEEN = 2000  # samples and pictures that are compared one with each other


class Seen(NamedTuple):
    """What the judge sees in pictures: features, and each class's probability."""

    features: Float[Tensor, "count features"]
    chances: Float[Tensor, "count classes"]

    @property
    def labels(self) -> Int64[Tensor, " count"]:
        return self.chances.argmax(1)


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier that looks at samples; `accuracy` (a share) is its own, on the test split."""

    network: nn.Module
    metadata: dict[str, Any]
    classes: tuple[str, ...]
    accuracy: float

    @torch.no_grad()
    def see(self, pictures: Pixels) -> Seen:
        """Pictures of any size, on any device; what is seen is on the CPU."""
        last = [m for m in self.network.modules() if isinstance(m, nn.Linear)][-1]
        device = next(self.network.parameters()).device
        caught: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].cpu()))
        try:
            logits = [
                self.network(normalise(fitted(rows.to(device), self.metadata), self.metadata)).cpu()
                for rows in pictures.split(ROWS)
            ]
        finally:
            hook.remove()
        return Seen(torch.cat(caught), torch.cat(logits).softmax(1))

    def see_split(self, split: Pictures, most: int | None = None) -> tuple[Seen, Tensor]:
        """What is seen in (up to `most` evenly chosen) pictures of a split, and their labels."""
        index = spread(len(split), most).to(split.labels.device)
        seen = [self.see(split.take(rows)) for rows in index.split(ROWS)]
        return Seen(*map(torch.cat, zip(*seen, strict=True))), split.labels[index].cpu()

    def see_all(self, splits: Sequence[Pictures]) -> tuple[Seen, Tensor]:
        """What is seen in all pictures of some splits together, and their labels."""
        seen, labels = zip(*map(self.see_split, splits), strict=True)
        return Seen(*map(torch.cat, zip(*seen, strict=True))), torch.cat(labels)


def spread(count: int, most: int | None = None) -> Int64[Tensor, " chosen"]:
    """`most` places of `count`, evenly."""
    chosen = min(count, most or count)
    return torch.linspace(0, count - 1, chosen, dtype=torch.float64).round().long()


def fitted(pictures: Pixels, metadata: dict[str, Any]) -> UInt8[Tensor, "count channel side side"]:
    """As LeNet-5 takes them: ink on an empty ground gets a margin, everything else is resized."""
    if pictures.shape[-1] == SIDE:
        return pictures
    return framed(pictures.float(), metadata).round().clamp(0, 255).byte()


def framed(
    x: Float[Tensor, "count channel height width"], metadata: dict[str, Any]
) -> Float[Tensor, "count channel side side"]:
    """`fitted`, of numbers that a gradient may go through."""
    side = x.shape[-1]
    if side == SIDE:
        return x
    if metadata.get("ink") and side in PADDED:
        margin = SIDE - side
        return F.pad(x, [margin // 2, margin - margin // 2] * 2)
    return F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)


def judge(data: PictureSet, classifier: Any) -> Judge:
    """The judge of samples of `data`: out of the cache, or trained now.

    Args:
        classifier: a system for pictures of 32×32, such as `lenet5`: its first network and recipe.
    """
    small = {name: _small(getattr(data, name), data.metadata) for name in ("train", "val", "test")}
    metadata = data.metadata | {"size": SIDE}
    shrunk = dataclasses.replace(data, **small, metadata=metadata)
    device = str(data.train.labels.device)
    recipe = dataclasses.replace(next(iter(classifier.RECIPES.values())), data=data.name, device=device)
    variant = next(iter(classifier.VARIANTS))
    model_config = {"num_classes": len(data.classes), "channels": metadata["channels"]}
    asked = {**dataclasses.asdict(recipe), "variant": variant, "device": None, **model_config}
    name = re.sub(r"\W+", "-", data.name)
    file = cache() / "judges" / f"{name}-{_digest(shrunk, asked)}.safetensors"
    before = rng.snapshot()  # a run's numbers do not depend on whether there was one
    rng.seed(recipe.seed)
    network = classifier.VARIANTS[variant].make(**model_config).to(device)
    everywhere = parallel.gather(_read(file, network))  # where several machines have caches
    accuracy = None if None in everywhere else everywhere[0]
    if accuracy is None:
        notify(f"training the judge of samples, {variant} on {data.name} (once, some seconds)")
        run = classify(network, recipe, shrunk, model_config=model_config)
        fit(run, intervals=Intervals(log=run.steps, evaluate=run.steps), quiet=True)
        accuracy = run.results["test/accuracy"]
        if parallel.rank() == 0:
            _write(file, network, accuracy, asked)
    rng.restore(before)
    return Judge(network.requires_grad_(False).eval(), metadata, data.classes, accuracy)


def _small(split: Pictures, metadata: dict[str, Any]) -> Pictures:
    index = spread(len(split), MOST).to(split.labels.device)
    images = [fitted(split.take(rows), metadata) for rows in index.split(ROWS)]
    return Pictures(split.labels[index], torch.cat(images))


def _digest(data: PictureSet, asked: dict[str, Any]) -> str:
    """Of the pictures it learns from and of how it learns."""
    found = hashlib.sha256(json.dumps([data.metadata, asked], sort_keys=True).encode())
    for split in (data.train, data.test):
        assert isinstance(split.images, Tensor)
        found.update(split.images.cpu().numpy().tobytes())
        found.update(split.labels.cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def _read(file: Path, network: nn.Module) -> float | None:
    """The accuracy of a kept judge, whose weights `network` now has; None if there is no whole one."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            accuracy = float(opened.metadata()["accuracy"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    wanted = {name: each.shape for name, each in network.state_dict().items()}
    if {name: each.shape for name, each in tensors.items()} != wanted:
        return None  # and what is trained now begins where it did then
    network.load_state_dict(tensors)
    return accuracy


def _write(file: Path, network: nn.Module, accuracy: float, asked: dict[str, Any]) -> None:
    about = {"accuracy": repr(accuracy), "recipe": json.dumps(asked)}
    tensors = {name: each.cpu().contiguous() for name, each in network.state_dict().items()}
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata=about)
        os.replace(beside, file)
    except (OSError, SafetensorError) as error:  # it is only trained again next time
        notify(f"the judge could not be kept in {file.parent} ({error})")


def compared(
    made: Seen, real: Seen, labels: Int64[Tensor, " others"], asked: Tensor | None = None
) -> dict[str, float]:
    """The figures of samples beside real pictures, all of them the better the nearer to the data's own.

    `distance` (Fréchet), `precision` and `recall`, `variety` (1 for data), `modes` (how many classes
    there are), `least_share` (of samples that are of the rarest class), `confident` (the share that the
    judge is at least 0.95 sure of), and where a label was `asked`, `agreement`.

    Args:
        labels: of the real pictures.
    """
    classes = made.chances.shape[1]
    share, wanted = (
        fidelity_diversity.shares(made.labels, classes),
        fidelity_diversity.shares(labels, classes),
    )
    # labels are asked in turn, so that every other sample would be of every other class
    data = real.features[spread(len(real.features), SEEN)]
    precision, recall = fidelity_diversity.precision_recall(made.features[:SEEN], data)
    found = {
        "distance": fidelity_diversity.frechet(made.features, real.features),
        "precision": precision,
        "recall": recall,
        "variety": fidelity_diversity.variety(made.features, real.features),
        "modes": fidelity_diversity.modes(share, wanted).sum(),
        "least_share": share[wanted > 0].min(),
        "confident": (made.chances.amax(1) >= 0.95).double().mean(),
    }
    if asked is not None:
        found["agreement"] = fidelity_diversity.agreement(asked, made.labels)
    return {name: float(value) for name, value in found.items()}


def beside(judge: Judge, made: Pixels, train: Pictures, file: str | Path, *, columns: int = 12) -> Path:
    """A sheet of samples, each with the nearest training picture below it, so that copying is seen."""
    made = made[: max(columns, len(made) // columns * columns)].cpu()
    seen, _ = judge.see_split(train, MOST)
    places = spread(len(train), MOST).to(train.labels.device)
    near = fidelity_diversity.nearest(judge.see(made).features, seen.features)
    theirs = train.take(places[near.to(places.device)]).cpu()
    rows: list[Tensor] = []
    for ours, others in zip(made.split(columns), theirs.split(columns), strict=True):
        rows += [ours, others]
    return sheet(torch.cat(rows), file, columns=columns)
