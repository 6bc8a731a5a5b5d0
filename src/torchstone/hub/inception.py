"""Inception with the weights of 2015, for the Fréchet inception distance.

The weights are a file of 95 MB, `weights-inception-2015-12-05-6726825d.pth` in the releases of
torch-fidelity, whose code builds the network.
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from torchstone.errors import BadInput
from torchstone.files import DAMAGED
from torchstone.parts.optional_imports import import_torchvision


def load_inception(weights: str | Path, device: torch.device | str = "cpu") -> Any:
    """The network: uint8 images of any size in three channels -> a tuple with their features.

    Raises:
        BadInput: no such file, one that holds code or other weights; the package is not installed.
    """
    try:
        import_torchvision()  # torch-fidelity imports it: also a wheel that was built for another torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (BadInput, ImportError):
        raise BadInput(
            "Inception's features need torch-fidelity: pip install 'torchstone[inception]'"
        ) from None
    file = Path(weights)
    if not file.is_file():
        raise BadInput(f"there is no file {file}: give Inception's weights, a .pth of torch-fidelity")
    try:
        torch.load(file, weights_only=True)  # the library itself would run code in it
        network = FeatureExtractorInceptionV3("inception-v3", ["2048"], str(file))
    except (*DAMAGED, pickle.UnpicklingError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0][:120] if lines else type(error).__name__
        raise BadInput(f"{file} holds no weights of this Inception ({reason})") from None
    return network.to(device)
