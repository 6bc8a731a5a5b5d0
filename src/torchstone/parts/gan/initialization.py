"""Initial weights of convolutional GANs."""

from torch import nn


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """Weights N(0, std²), scales of norms N(1, std²), all else zero.

    Radford et al. 2016 (arXiv:1511.06434), section 4, and the code published with it.
    """
    for module in network.modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0, std)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm) and weight is not None:
            nn.init.normal_(weight, 1, std)
        if bias is not None:
            nn.init.zeros_(bias)
