"""Attention rollout against its definition, path by path, and its figure."""

import itertools

import pytest
import torch
from matplotlib.image import imread

from torchstone.errors import BadInput
from torchstone.interpret.attention_rollout import draw, explain, relevance, rollout
from torchstone.systems.transformer.vit import ViT

METADATA = {
    "picture": {"size": 16, "channels": 1, "ink": False, "mean": [0.5], "std": [0.5]},
    "classes": ["a", "b", "c"],
}


def model() -> ViT:
    torch.manual_seed(0)
    sizes = {"width": 12, "depth": 3, "heads": 2, "image_size": 16, "patch_size": 4}
    net = ViT.from_kwargs(**sizes, channels=1, num_classes=3, position_std=1.0)
    with torch.no_grad():
        for block in net.blocks:
            block.attention.qkv.weight.mul_(4)
    return net.eval()


def test_rollout_equals_sum_over_all_paths():
    """Each path through the layers adds the product of its weights; half of each step is the residual."""
    torch.manual_seed(0)
    layers, heads, tokens = 3, 2, 4
    maps = [torch.rand(1, heads, tokens, tokens).double().softmax(-1) for _ in range(layers)]
    mixed = rollout(maps)[0]
    expected = torch.zeros(tokens, tokens, dtype=torch.float64)
    for path in itertools.product(range(tokens), repeat=layers + 1):
        weight = 1.0
        for layer, (before, after) in enumerate(itertools.pairwise(path)):
            mean = sum(float(maps[layer][0, h, after, before]) for h in range(heads)) / heads
            weight *= (mean + (before == after)) / 2
        expected[path[-1], path[0]] += weight
    print((mixed - expected).abs().max())
    assert torch.allclose(mixed, expected, atol=1e-14)
    assert torch.allclose(mixed.sum(1), torch.ones(tokens, dtype=torch.float64))


def test_rollout_depends_on_layer_order():
    torch.manual_seed(0)
    maps = [(3 * torch.randn(1, 1, 5, 5)).softmax(-1) for _ in range(3)]
    assert not torch.allclose(rollout(maps), rollout(maps[::-1]), atol=1e-3)
    with pytest.raises(ValueError, match="no layer"):
        rollout([])


def test_attention_maps_are_those_of_the_forward_pass():
    """Values mixed by them, block by block, give the network's own output."""
    net, images = model(), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        z = net.embed(images)
        for block, weights in zip(net.blocks, net.attention_maps(images), strict=True):
            _, _, v = block.attention.project(block.attention_norm(z))
            z = z + block.attention.out((weights @ v).transpose(1, 2).flatten(2))
            z = z + block.mlp(block.mlp_norm(z))
        error = float((net.final_norm(z) - net.encode(images)).abs().max())
    print(error)
    assert error < 1e-5


def test_relevance_is_laid_out_like_the_image():
    """A token that all attend to has its relevance at its own position in the image."""
    net = model()
    maps = [torch.zeros(1, 2, 17, 17) for _ in range(3)]
    for each in maps:
        each[..., 1 + 4 * 2 + 3] = 1.0  # third row, fourth column
    net.attention_maps = lambda images: maps
    heat = relevance(net, torch.zeros(1, 1, 16, 16))[0]
    print(heat)
    assert heat.shape == (4, 4)
    assert int(heat.argmax()) == 4 * 2 + 3
    assert float(heat.sum()) == pytest.approx(1)


def test_draw_is_bright_where_the_map_is(tmp_path):
    heat = torch.zeros(1, 4, 4)
    heat[0, 0, 3] = 1.0
    draw(torch.full((1, 1, 16, 16), 0.5), heat, ["gray"], tmp_path / "r.png")
    figure = imread(tmp_path / "r.png")[..., :3].sum(-1)
    height, width = figure.shape
    right = figure[int(0.35 * height) : int(0.85 * height), int(0.55 * width) : int(0.9 * width)]
    rows, columns = right.shape
    corner, below = right[: rows // 6, -columns // 6 :], right[rows // 2 :, : columns // 2]
    print(corner.mean(), below.mean())
    assert corner.mean() > below.mean() + 0.5


def test_explain_captions_predictions_and_rejects_missing_images(tmp_path):
    from PIL import Image

    Image.new("L", (20, 20), 90).save(tmp_path / "one.png")
    explain(model(), METADATA, [tmp_path / "one.png"], tmp_path / "out.png")
    assert imread(tmp_path / "out.png").shape[0] > 100
    with pytest.raises(BadInput, match="1 to 24 image files"):
        explain(model(), METADATA, [], tmp_path / "none.png")
    with pytest.raises(BadInput, match=r"missing\.png"):
        explain(model(), METADATA, [tmp_path / "missing.png"], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
