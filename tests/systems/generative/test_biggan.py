"""BigGAN: where class and latents enter, what is normalized, the penalty, truncation, and published files."""

import pytest
import torch
from PIL import Image
from torch import nn

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.parts.gan.losses import GAN_LOSSES
from torchstone.references.biggan import PlainDeepGenerator, PlainGenerator, randomize
from torchstone.systems.generative import biggan
from torchstone.systems.generative.biggan import (
    NETWORKS,
    DeepDiscriminator,
    DeepGenerator,
    Discriminator,
    Generator,
    filters,
    generator_loss,
    latents,
    measured,
    sample,
)

SMALL = {"widths": (1, 1, 1), "base_channels": 8, "channels": 1, "num_classes": 3}
MAKE = {
    "generator": lambda: Generator(**SMALL, chunk_dim=2, shared_dim=3, attention_block=0),
    "cifar": lambda: Generator(**SMALL, chunk_dim=4, shared_dim=0, attention_block=None),
    "deep generator": lambda: DeepGenerator(**SMALL, latent_dim=4, attention_block=1, tables=3),
    "discriminator": lambda: Discriminator(**SMALL, downsamples=2, attention_block=0),
    "deep discriminator": lambda: DeepDiscriminator(**SMALL, attention_block=1),
}
METADATA = {
    "variant": "biggan_digits",
    "classes": list("abc"),
    "picture": {"size": 16, "channels": 1, "mean": [0.5], "std": [0.5], "ink": True},
}


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = MAKE[name]()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim < 2:
                weight.add_(0.3 * torch.randn_like(weight))
    return net.eval()


def inputs(net: nn.Module, count: int = 4) -> torch.Tensor:
    return torch.randn(count, net.latent_dim) if hasattr(net, "latent_dim") else torch.randn(count, 1, 16, 16)


@pytest.mark.parametrize("name", MAKE)
def test_biggan_label_changes_own_output_only(name):
    net = make(name)
    x = inputs(net)
    before, after = (net(x, torch.tensor(labels)).flatten(1 if "gen" in name or name == "cifar" else 0)
                     for labels in ([0, 1, 2, 0], [0, 1, 1, 0]))  # fmt: skip
    changed = (before - after).abs().flatten(1).amax(1) if before.ndim > 1 else (before - after).abs()
    assert (changed > 1e-4).tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", MAKE)
def test_biggan_distribution_over_classes_is_a_label(name):
    net = make(name)
    x = inputs(net, 3)
    one_hot = torch.eye(3)[[2, 0, 1]]
    assert torch.allclose(net(x, one_hot), net(x, torch.tensor([2, 0, 1])), atol=1e-6)
    assert torch.allclose(net(x), net(x, torch.full((3, 3), 1 / 3)), atol=1e-6)


def test_biggan_each_block_has_a_chunk_of_its_own():
    """z_i reaches the output of block i and of those after it, and none before."""
    net = make("generator")
    outputs: list[torch.Tensor] = []
    for layer in (net.first, *net.blocks):
        layer.register_forward_hook(lambda module, args, output: outputs.append(output.detach()))
    z, labels = torch.randn(1, 6), torch.tensor([1])
    net(z, labels)
    before, outputs[:] = list(outputs), []
    for chunk in range(3):
        changed = z.clone()
        changed[:, 2 * chunk : 2 * chunk + 2] += 1
        net(changed, labels)
        moved = [not torch.equal(a, b) for a, b in zip(before, outputs, strict=True)]
        outputs.clear()
        assert moved == [False] * chunk + [True] * (3 - chunk)


def normalized_layers(net: nn.Module) -> list[nn.Module]:
    return [
        m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear) and hasattr(m, "parametrizations")
    ]


@pytest.mark.parametrize("name", MAKE)
def test_biggan_spectral_norm_is_the_largest_singular_value(name):
    net = make(name).train()
    x = inputs(net, 2)
    for _ in range(60):
        net(x, torch.tensor([0, 1]))
    net.eval()
    largest = [float(torch.linalg.svdvals(m.weight.detach().flatten(1))[0]) for m in normalized_layers(net)]
    assert largest == pytest.approx([1] * len(largest), abs=1e-3)
    plain = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    plain -= {n for n, m in net.named_modules() if m in normalized_layers(net)}
    if name == "cifar":  # tables of each layer
        assert all(each.endswith(("scale", "shift")) for each in plain)
    else:
        assert plain <= {"shared"}


def test_biggan_generator_loss_is_hinge_and_penalty_of_filters():
    net = make("generator")
    logits = torch.tensor([0.3, -1.2])
    names = [name for name, p in net.named_parameters() if any(p is each for each in filters(net))]
    assert "shared.weight" not in names
    assert "blocks.1.norm2.scale.parametrizations.weight.original" in names
    assert len(names) == 4 + 1 + 1 + 2 * 7  # attention, first, last, and of each block three and four
    penalty = 0.0
    for weight in filters(net):
        gram = weight.flatten(1) @ weight.flatten(1).T
        penalty += float((gram * (1 - torch.eye(len(gram)))).square().sum())
    loss = generator_loss(logits, GAN_LOSSES["hinge"], net, 0.01)
    assert penalty > 1
    assert float(loss.detach()) == pytest.approx(0.45 + 0.01 * penalty, rel=1e-5)
    assert float(generator_loss(logits, GAN_LOSSES["hinge"], net, 0.0)) == pytest.approx(0.45)


def test_biggan_standing_statistics_are_of_what_is_sampled():
    net = make("generator").train()
    for _ in range(3):
        net(5 + torch.randn(8, 6), torch.zeros(8, dtype=torch.int64))
    net.eval()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    outputs: list[torch.Tensor] = []
    with measured(net):
        net.norm.norm.register_forward_hook(lambda module, args, output: outputs.append(output))
        net(torch.randn(600, 6), torch.arange(600) % 3)
    # samples are normalized like a batch of them
    assert outputs[0].mean((0, 2, 3)).abs().max() < 0.1
    assert outputs[0].var((0, 2, 3)).sub(1).abs().max() < 0.2
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    # the published generators' own statistics count
    with measured(net, {}):
        assert torch.equal(net.norm.norm.running_mean, before["norm.norm.running_mean"])
    with measured(net, {"has_standing_statistics": True}, 0.2):
        assert not torch.allclose(net.norm.norm.running_mean, before["norm.norm.running_mean"], atol=1e-3)


def test_biggan_truncated_samples_obey_the_seed():
    net, trained = make("generator"), METADATA | {"has_standing_statistics": True}
    images = [
        torch.stack(sample(net, trained, num_samples=6, truncation=0.3, seed=seed)) for seed in (0, 0, 1)
    ]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    z = latents(6, net.latent_dim, 0.3, torch.Generator().manual_seed(1))
    with measured(net, trained, 0.3), torch.no_grad():  # with the statistics of such latents
        by_hand = (net(z, torch.arange(6) % 3, 0.3) * 127.5 + 127.5).round().byte()
    assert (by_hand.int() - images[2].int()).abs().max() <= 1
    with measured(net, trained), torch.no_grad():
        assert (net(z, torch.arange(6) % 3) * 127.5 + 127.5 - images[2]).abs().max() > 5
    wide = torch.stack(sample(net, METADATA, num_samples=90)).double()
    narrow = torch.stack(sample(net, METADATA, num_samples=90, truncation=0.1)).double()
    assert narrow.var(0).mean() < 0.5 * wide.var(0).mean()
    one = torch.stack(sample(net, METADATA, num_samples=3, label="b", truncation=0))
    assert torch.equal(one[0], one[1])


def test_biggan_deep_uses_the_row_of_the_truncation():
    net = make("deep generator")
    z, labels = torch.randn(2, 4), torch.tensor([0, 1])
    outputs = [net(z, labels, truncation) for truncation in (0.0, 0.5, 1.0)]
    assert torch.equal(outputs[0], outputs[2])  # as they are initialized
    for module in net.modules():
        if hasattr(module, "running_mean"):
            module.running_mean[1] += 1
    assert torch.equal(net(z, labels, 0.0), outputs[0])
    assert not torch.allclose(net(z, labels, 0.5), outputs[1], atol=1e-4)
    assert torch.equal(net(z, labels), outputs[2])


def test_biggan_path_between_classes_has_both_ends(tmp_path):
    net = make("generator")
    path = sample(net, METADATA, num_samples=2, from_label="a", to_label="c", seed=4)
    ends = [sample(net, METADATA, num_samples=2, label=label, seed=4) for label in "ac"]
    for row in range(2):
        for column, end in ((0, ends[0]), (8, ends[1])):
            assert (path[9 * row + column].int() - end[row].int()).abs().max() <= 1
    assert not torch.equal(path[4], path[0])
    (file,) = sample(net, METADATA, from_label="a", to_label="b", out=tmp_path / "path.png")
    width, height = Image.open(file).size
    assert width > height  # nine columns, eight rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": 1.5}, "from 0 .* to 1"),
        ({"truncation": -0.1}, "from 0 .* to 1"),
        ({"label": "7"}, "no label '7'"),
        ({"num_samples": 0}, "at least 1"),
        ({"from_label": "a"}, "from_label and to_label"),
        ({"from_label": "a", "to_label": "x"}, "no label 'x'"),
        ({"from_label": "a", "to_label": "b", "label": "c"}, "no label"),
    ],
)
def test_biggan_sample_refuses(options, message):
    with pytest.raises(BadInput, match=message):
        sample(make("generator"), METADATA, **options)


def plain(name: str, cls: type[nn.Module], **extra) -> nn.Module:
    """A reference network, named and laid out as in files, of a variant's shape."""
    torch.manual_seed(1)
    net = cls(**NETWORKS[name].arguments | extra)
    randomize(net, is_settled=False)
    return net.eval()


@pytest.mark.parametrize("wrapper", ["plain", "data parallel"])
def test_biggan_loads_the_authors_file(tmp_path, wrapper):
    """`G_ema.pth`: one vector of spectral norm, of any length; statistics by their names."""
    theirs = plain("biggan_digits", PlainGenerator)
    state = theirs.state_dict()
    if wrapper == "data parallel":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    file = tmp_path / "G_ema.pth"
    torch.save(state, file)
    ours = ts.create("biggan_digits", weights=file).eval()
    z, labels = torch.randn(5, 16), torch.arange(5)
    assert torch.allclose(ours(z, labels), theirs(z, labels), atol=1e-5)


def test_biggan_loads_a_file_of_batch_norm_across_devices(tmp_path):
    theirs = plain("biggan_digits", PlainGenerator)
    state = {name.replace(".stored_", ".bn.stored_"): each for name, each in theirs.state_dict().items()}
    state["blocks.0.0.bn1.bn.accumulation_counter"] = torch.zeros(1)
    torch.save(state, tmp_path / "G_ema.pth")
    ours = ts.create("biggan_digits", weights=tmp_path / "G_ema.pth").eval()
    z = torch.randn(2, 16)
    assert torch.allclose(ours(z, torch.tensor([3, 4])), theirs(z, torch.tensor([3, 4])), atol=1e-5)


def test_biggan_deep_loads_hugging_faces_file(tmp_path):
    theirs = plain("biggan_deep_digits", PlainDeepGenerator)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    ours = ts.create("biggan_deep_digits", weights=tmp_path / "pytorch_model.bin").eval()
    z, labels = torch.randn(3, 8), torch.tensor([9, 0, 4])
    metadata = biggan.published_metadata("biggan_deep_digits", ours)
    (image,) = sample(ours, metadata, num_samples=1, label="9", truncation=0.4)
    noise = latents(1, 8, 0.4, torch.Generator().manual_seed(0))
    pixels = (theirs(noise, torch.tensor([9]), 0.4)[0] * 127.5 + 127.5).clamp(0, 255)
    assert (image - pixels).abs().max() <= 1
    for truncation in (0.0, 0.37, 1.0):
        assert torch.allclose(ours(z, labels, truncation), theirs(z, labels, truncation), atol=1e-5)


def test_biggan_refuses_another_networks_file(tmp_path):
    torch.save(plain("biggan_deep_digits", PlainDeepGenerator).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match="does not fit biggan_digits"):
        ts.create("biggan_digits", weights=tmp_path / "pytorch_model.bin")
    state = plain("biggan_digits", PlainGenerator).state_dict()
    state["linear.weight"] = state["linear.weight"][:, :-1]
    torch.save(state, tmp_path / "G_ema.pth")
    with pytest.raises(BadInput, match="of another shape"):
        ts.create("biggan_digits", weights=tmp_path / "G_ema.pth")


def test_biggan_default_recipe_is_the_papers_where_a_core_allows():
    recipe = biggan.Recipe()
    assert (recipe.loss, recipe.discriminator_steps, recipe.ortho_weight) == ("hinge", 2, 1e-4)
    assert recipe.optim.beta1 == 0
    assert recipe.optim.ema_decay > 0
