"""Attention rollout against its definition, path by path; and its picture."""

import itertools

import pytest
import torch
from matplotlib.image import imread

from torchstone.errors import BadInput
from torchstone.interpret.attention_rollout import draw, explain, relevance, rollout
from torchstone.systems.transformer.vit import ViT

CARD = {
    "picture": {"size": 16, "channels": 1, "ink": False, "mean": [0.5], "std": [0.5]},
    "classes": ["a", "b", "c"],
}


def model() -> ViT:
    torch.manual_seed(0)
    net = ViT(12, 3, 2, size=16, patch=4, channels=1, num_classes=3, place=1.0)
    with torch.no_grad():
        for layer in net.layers:
            layer.attention.qkv.weight.mul_(4)
    return net.eval()


def test_rollout_is_the_sum_over_all_paths():
    """Every way through the layers, its weights multiplied; half of each step stays where it is."""
    torch.manual_seed(0)
    layers, heads, tokens = 3, 2, 4
    maps = [torch.rand(1, heads, tokens, tokens).double().softmax(-1) for _ in range(layers)]
    said = rollout(maps)[0]
    wanted = torch.zeros(tokens, tokens, dtype=torch.float64)
    for path in itertools.product(range(tokens), repeat=layers + 1):
        share = 1.0
        for layer, (before, after) in enumerate(itertools.pairwise(path)):
            mean = sum(float(maps[layer][0, h, after, before]) for h in range(heads)) / heads
            share *= (mean + (before == after)) / 2
        wanted[path[-1], path[0]] += share
    print((said - wanted).abs().max())
    assert torch.allclose(said, wanted, atol=1e-14)
    assert torch.allclose(said.sum(1), torch.ones(tokens, dtype=torch.float64))


def test_the_order_of_the_layers_matters():
    torch.manual_seed(0)
    maps = [(3 * torch.randn(1, 1, 5, 5)).softmax(-1) for _ in range(3)]
    assert not torch.allclose(rollout(maps), rollout(maps[::-1]), atol=1e-3)
    with pytest.raises(ValueError, match="no layer"):
        rollout([])


def test_the_maps_are_those_the_network_computes_with():
    """Values mixed by them, layer by layer, give the network's own output."""
    net, images = model(), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        z = net.embed(images)
        for layer, weights in zip(net.layers, net.attention_maps(images), strict=True):
            _, _, v = layer.attention.project(layer.attention_norm(z))
            z = z + layer.attention.out((weights @ v).transpose(1, 2).flatten(2))
            z = z + layer.feed(layer.feed_norm(z))
        wrong = float((net.norm(z) - net.encode(images)).abs().max())
    print(wrong)
    assert wrong < 1e-5


def test_relevance_lies_as_the_picture_does():
    """A token that all attend to is where it stands in the picture."""
    net = model()
    maps = [torch.zeros(1, 2, 17, 17) for _ in range(3)]
    for each in maps:
        each[..., 1 + 4 * 2 + 3] = 1.0  # third row, fourth column
    net.attention_maps = lambda images: maps
    found = relevance(net, torch.zeros(1, 1, 16, 16))[0]
    print(found)
    assert found.shape == (4, 4)
    assert int(found.argmax()) == 4 * 2 + 3
    assert float(found.sum()) == pytest.approx(1)


def test_the_picture_is_bright_where_the_map_is(tmp_path):
    heat = torch.zeros(1, 4, 4)
    heat[0, 0, 3] = 1.0
    draw(torch.full((1, 1, 16, 16), 0.5), heat, ["grey"], tmp_path / "r.png")
    drawn = imread(tmp_path / "r.png")[..., :3].sum(-1)
    height, width = drawn.shape
    right = drawn[int(0.35 * height) : int(0.85 * height), int(0.55 * width) : int(0.9 * width)]
    rows, columns = right.shape
    corner, below = right[: rows // 6, -columns // 6 :], right[rows // 2 :, : columns // 2]
    print(corner.mean(), below.mean())
    assert corner.mean() > below.mean() + 0.5


def test_explain_names_answers_and_refuses_nothing_and_no_pictures(tmp_path):
    from PIL import Image

    Image.new("L", (20, 20), 90).save(tmp_path / "one.png")
    explain(model(), CARD, [tmp_path / "one.png"], tmp_path / "out.png")
    assert imread(tmp_path / "out.png").shape[0] > 100
    with pytest.raises(BadInput, match="1 to 24 image files"):
        explain(model(), CARD, [], tmp_path / "none.png")
    with pytest.raises(BadInput, match=r"missing\.png"):
        explain(model(), CARD, [tmp_path / "missing.png"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
