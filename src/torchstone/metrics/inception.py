"""Fréchet inception distance, where Inception's weights are at hand: samples in the eyes of a network of photographs.

Heusel et al. 2017 (arXiv:1706.08500). The network is the one of 2015 that published figures are told by, as
torch-fidelity carries it over, its way of enlarging pictures included; the weights are a file of 95 MB,
`weights-inception-2015-12-05-6726825d.pth` in the releases of that library, whose code loads it. What is
compared with the features is `parts/metrics/fidelity_diversity.py`, as for the judge of a set (`metrics/classifier_features.py`).
"""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from torchstone import references
from torchstone.data.vision.dataset import ImageSplit
from torchstone.errors import BadInput
from torchstone.parts.metrics import fidelity_diversity

Pixels = UInt8[Tensor, "count channel height width"]
Features = Float[Tensor, "count features"]  # 2048 of them

ROWS = 50  # seen at a time, at 299 × 299


def inception(weights: str | Path, device: torch.device | str = "cpu") -> Any:
    """The network, which takes uint8 pictures of any size in three channels and returns their features.

    Raises:
        BadInput: no such file, one that holds code or other weights; the package is not there.
    """
    try:
        references.torchvision()  # which it imports: also one that was built for another torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (BadInput, ImportError):
        raise BadInput(
            "Inception's features need torch-fidelity: pip install 'torchstone[inception]'"
        ) from None
    file = Path(weights)
    if not file.is_file():
        raise BadInput(f"there is no file {file}: give Inception's weights, a .pth of torch-fidelity")
    try:
        torch.load(file, weights_only=True)  # the library itself would run what stands in it
        network = FeatureExtractorInceptionV3("inception-v3", ["2048"], str(file))
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        why = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise BadInput(f"{file} holds no weights of this Inception ({why})") from None
    return network.to(device)


@torch.no_grad()
def see(network: Any, pictures: Pixels) -> Features:
    """What stands before its last layer, averaged over places, on the CPU; a bar meanwhile, on a terminal."""
    from rich.console import Console
    from rich.progress import track

    device = next(network.parameters()).device
    console = Console(stderr=True)
    bar = track(
        pictures.split(ROWS), "seen by Inception", console=console,
        disable=not console.is_terminal, transient=True,
    )  # fmt: skip
    return torch.cat([network(rows.expand(-1, 3, -1, -1).to(device))[0].cpu() for rows in bar])


def by_inception(made: Pixels, splits: Sequence[ImageSplit], network: Any) -> dict[str, float]:
    """`inception_distance`, `inception_precision` and `inception_recall` of samples beside real pictures.

    Published distances are of 50,000 samples: with fewer they are higher, so compare like counts.
    """
    real = [s.take(torch.arange(len(s), device=s.labels.device)).cpu() for s in splits]
    theirs, ours = see(network, torch.cat(real)), see(network, made.cpu())
    precision, recall = fidelity_diversity.precision_recall(ours, theirs)
    found = {
        "distance": fidelity_diversity.frechet(ours, theirs),
        "precision": precision,
        "recall": recall,
    }
    return {f"inception_{name}": float(value) for name, value in found.items()}
