"""The post-norm layer against torch's own encoder layer, and with padding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.parts.transformer.post_norm_block import PostNormBlock
from torchstone.references import randomize_weights
from torchstone.verify import relative_error


def pair(activation="gelu"):
    """Our block and torch's layer with the same weights, in float64."""
    torch.manual_seed(0)
    ours = PostNormBlock(12, 3, 20, activation=activation, eps=1e-5).double()
    function = {"gelu": F.gelu, "relu": F.relu}[activation]
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, function, batch_first=True).double()
    randomize_weights(theirs, 0.3)
    names = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj": "attention.out",
        "linear1": "feed_forward.up",
        "linear2": "feed_forward.down",
    }
    state = {}
    for name, value in theirs.state_dict().items():
        for before, after in names.items():
            name = name.replace(before, after)
        state[name] = value
    ours.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_post_norm_block_equals_torch_encoder_layer(activation):
    ours, theirs = pair(activation)
    x = torch.randn(3, 7, 12, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(7) < torch.tensor([[7], [4], [6]])
    own, other = ours(x, mask[:, None, None]), theirs(x, src_key_padding_mask=~mask)
    weights = torch.randn(3, 7, 12, dtype=torch.float64) * mask[..., None]
    gradients = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (own, other)]
    errors = relative_error(own[mask], other[mask]), relative_error(*gradients)
    print(f"{activation}: outputs {errors[0]:.1e} apart, gradients {errors[1]:.1e}")
    assert max(errors) < 1e-12


def test_post_norm_block_drops_only_in_training():
    ours, _ = pair()
    ours.dropout.p = 0.5
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    assert not torch.equal(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))
