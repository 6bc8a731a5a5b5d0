"""The text encoder against torch's encoder layers, and the coarse image head by hand."""

import torch
import torch.nn.functional as F
from torch import nn

from torchstone.parts.diffusion.text_encoder import (
    PAD,
    START,
    UNKNOWN,
    CoarseImageHead,
    TextEncoder,
    masked_mean,
)


def randomize(net: nn.Module) -> nn.Module:
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.double()


def test_text_encoder_matches_torch_encoder_layers():
    torch.manual_seed(0)
    net = randomize(TextEncoder(11, 6, 8, 2, 2)).eval()
    ids = torch.tensor([[START, 5, 9, 3, 2, 4], [START, 7, PAD, PAD, PAD, PAD]])
    hidden, mask = net(ids)
    assert torch.equal(mask, ids != PAD)
    layer = nn.TransformerEncoderLayer(
        8, 2, 32, 0.0, F.gelu, batch_first=True, norm_first=True, dtype=torch.float64
    )
    h = net.token_embedding(ids) + net.position_embedding.weight
    for ours in net.layers:
        layer.self_attn.in_proj_weight.data = ours.attention.qkv.weight.data
        layer.self_attn.in_proj_bias.data = ours.attention.qkv.bias.data
        layer.self_attn.out_proj.load_state_dict(ours.attention.out.state_dict())
        layer.linear1.load_state_dict(ours.mlp.up.state_dict())
        layer.linear2.load_state_dict(ours.mlp.down.state_dict())
        layer.norm1.load_state_dict(ours.norm1.state_dict())
        layer.norm2.load_state_dict(ours.norm2.state_dict())
        h = layer.train()(h, src_key_padding_mask=~mask)
    expected = net.norm(h)
    print((hidden - expected)[mask].abs().max())
    assert torch.allclose(hidden[mask], expected[mask], atol=1e-10)
    empty = net.empty(2, torch.device("cpu"))
    assert empty.tolist() == [[START, *[PAD] * 5]] * 2


def test_text_encoder_dropout_in_both_branches_in_training_only():
    torch.manual_seed(0)
    net, ids = TextEncoder(11, 6, 8, 1, 2, dropout=1.0), torch.tensor([[START, 5, 9, 3]])
    embedded = net.token_embedding(ids) + net.position_embedding.weight[:4]
    dropped, hidden = net(ids)[0], net.eval()(ids)[0]
    assert torch.equal(dropped, net.norm(embedded)), "with all dropped nothing is added"
    assert (hidden - dropped).abs().max() > 0.01


def test_text_encoder_word_dropout_replaces_words_by_unknown():
    torch.manual_seed(0)
    net = TextEncoder(11, 4, 8, 1, 2, word_dropout=0.999)
    ids = torch.tensor([[START, 5, 9, PAD]])
    unknown = torch.tensor([[START, UNKNOWN, UNKNOWN, PAD]])
    assert torch.equal(net.train()(ids)[0], net(unknown)[0])
    assert not torch.allclose(net.eval()(ids)[0], net(unknown)[0])


def test_text_encoder_loads_old_keys():
    net = TextEncoder(11, 4, 8, 1, 2)
    names = {"token_embedding.": "tokens.", "position_embedding.": "places.", ".mlp.": ".feed."}
    old = {}
    for key, tensor in net.state_dict().items():
        for new_name, old_name in names.items():
            key = key.replace(new_name, old_name)
        old[key] = tensor + 1
    assert old.keys() != net.state_dict().keys()
    net.load_state_dict(old)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), old.values(), strict=True))


def test_coarse_image_head_takes_the_mean_of_tokens_without_padding():
    torch.manual_seed(0)
    text, mask = torch.randn(2, 4, 3, dtype=torch.float64), torch.ones(2, 4, dtype=torch.bool)
    mask[1, 2:] = False
    mean = masked_mean(text, mask)
    expected = torch.stack([text[0].mean(0), (text[1, 0] + text[1, 1]) / 2])
    net = randomize(CoarseImageHead(3, 5, (2, 4, 6)))
    image = net(mean)
    h = expected @ net.hidden.weight.T + net.hidden.bias
    by_hand = (h * h.sigmoid()) @ net.out.weight.T + net.out.bias
    print((mean - expected).abs().max(), (image.flatten(1) - by_hand).abs().max())
    assert torch.allclose(mean, expected, atol=1e-12)
    assert image.shape == (2, 2, 4, 6)
    assert torch.allclose(image.flatten(1), by_hand, atol=1e-12)
