"""The first weights of an encoder."""

from torch import nn


def init_truncated_normal(model: nn.Module, width: int) -> None:
    """Truncated normal, cut at two deviations: 0.02 as in BERT (Devlin et al. 2018, arXiv:1810.04805), and in
    linear layers of a network of width w 0.02 √(768/w), so that narrow networks pass on as much. Biases and
    the embedding of padding are zero."""
    for module in model.modules():
        std = 0.02 * (768 / width) ** (isinstance(module, nn.Linear) / 2)
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
