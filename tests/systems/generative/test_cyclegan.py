"""CycleGAN: updates against the authors' equations, gradients that stay their own, and a pool that is resumed."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from torchstone.engine.recipe_fields import replace_fields
from torchstone.errors import BadInput
from torchstone.references import randomize_weights
from torchstone.references.image_translation import Patches, ResNet, freeze_shifts, train_cyclegan
from torchstone.systems.generative import cyclegan
from torchstone.systems.generative.cyclegan import (
    CycleGan,
    Discriminators,
    cyclegan_update,
    published,
    same_weights,
)

WIDTH, SIDE = 3, 16


def recipe_of(**fields):
    return replace_fields(cyclegan.RECIPES["smoke"], {"device": "cpu", "ema_decay": 0.0, **fields})


def batches(count: int, batch: int, seed: int = 0) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [
        cyclegan.UnpairedBatch(
            *(torch.rand(batch, 3, SIDE, SIDE, generator=generator).double() * 2 - 1 for _ in range(2)),
            torch.rand(batch, 2, 2, generator=generator),
        )
        for _ in range(count)
    ]


def networks(blocks: int, layers: int) -> tuple[CycleGan, Discriminators, dict]:
    """Ours, and the reference's with the same weights, in double precision."""
    theirs = {name: randomize_weights(ResNet(WIDTH, blocks)) for name in ("G", "F")}
    theirs |= {name: randomize_weights(Patches(3, WIDTH, layers)) for name in ("D_A", "D_B")}
    model, discriminators = CycleGan("resnet", blocks, WIDTH), Discriminators(WIDTH, layers)
    pairs = [(model.to_b, "G"), (model.to_a, "F"), (discriminators.a, "D_A"), (discriminators.b, "D_B")]
    for net, name in pairs:
        same_weights(net, theirs[name])
    for net in (model, discriminators, *theirs.values()):
        freeze_shifts(net.double())
    return model, discriminators, theirs


@pytest.mark.parametrize(
    ("fields", "blocks", "layers", "batch"),
    [
        ({"pool_size": 3, "cycle_weight": 10.0, "identity_weight": 5.0}, 1, 1, 2),
        pytest.param({"pool_size": 0, "cycle_weight": 3.0}, 2, 1, 1, marks=pytest.mark.sweep),
        pytest.param({"pool_size": 1, "lr": 1e-3}, 1, 2, 3, marks=pytest.mark.sweep),
        pytest.param({"pool_size": 50, "identity_weight": 0.1}, 1, 1, 2, marks=pytest.mark.sweep),
    ],
)
def test_updates_are_those_of_the_plain_equations(fields, blocks, layers, batch):
    steps, stream = 6, batches(6, batch, seed=blocks + layers)
    recipe = recipe_of(steps=steps, **fields)
    model, discriminators, theirs = networks(blocks, layers)
    update, *_ = cyclegan_update(model, discriminators, recipe)
    rows = [update(each) for each in stream]
    expected = train_cyclegan(theirs, stream, steps=steps, recipe=recipe)
    for row, wanted in zip(rows, expected, strict=True):
        for name, value in wanted.items():
            assert abs(float(row[name]) - value) <= 1e-10 * max(1, abs(value)), name
    ours = [*model.to_b.parameters(), *model.to_a.parameters(), *discriminators.parameters()]
    others = [p for name in ("G", "F", "D_A", "D_B") for p in theirs[name].parameters()]
    for a, b in zip(ours, others, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_every_player_s_gradient_stays_its_own():
    """When one player steps, the other has the gradients that it had before."""
    model, discriminators, _ = networks(1, 1)
    update, state, _ = cyclegan_update(model, discriminators, recipe_of(steps=2, pool_size=1))
    for players in (model, discriminators):
        for p in players.parameters():
            p.grad = torch.full_like(p, 7.0)
    seen = []

    def look(*_):
        seen.append(all(bool((p.grad == 7).all()) for p in discriminators.parameters()))

    state["optimizer"].register_step_pre_hook(look)
    own = [p for p in model.parameters() if p.requires_grad]
    state["discriminator_optimizer"].register_step_pre_hook(
        lambda *_: seen.append(all(torch.equal(a, p.grad) for a, p in zip(held, own, strict=True)))
    )
    held: list = []
    state["optimizer"].register_step_post_hook(lambda *_: held.extend(p.grad.clone() for p in own))
    update(batches(1, 2)[0])
    assert seen == [True, True]
    assert all(bool(grad.any()) for grad in held)


class Copies(NamedTuple):
    """Players, their update and its state; all that a checkpoint holds of it."""

    update: Any
    state: dict

    def saved(self) -> dict:
        return copy.deepcopy({name: item.state_dict() for name, item in self.state.items()})

    def load(self, saved: dict) -> None:
        for name, item in self.state.items():
            item.load_state_dict(saved[name])


@pytest.mark.parametrize("forgotten", [None, "images", "order"])
def test_the_pool_is_part_of_what_is_resumed(forgotten):
    """Five updates, saved, loaded by others, and five more: the bits of ten. A pool that is lost, or whose
    images have other slots, is seen."""
    stream, recipe = batches(10, 2), recipe_of(steps=10, pool_size=6)

    def fresh() -> Copies:
        torch.manual_seed(0)
        nets = CycleGan("resnet", 1, WIDTH).double(), Discriminators(WIDTH, 1).double()
        update, state, _ = cyclegan_update(*nets, recipe)
        return Copies(update, state)

    whole, cut, resumed = fresh(), fresh(), fresh()
    for batch in stream:
        whole.update(batch)
    for batch in stream[:5]:
        cut.update(batch)
    saved = cut.saved()
    (pools,) = saved["pools"]["processes"]
    if forgotten == "images":
        pools[0]["images"] = None
    elif forgotten == "order":
        pools[0]["images"] = pools[0]["images"].flip(0)
    resumed.load(saved)
    for batch in stream[5:]:
        resumed.update(batch)
    ends = [tree_leaves(each.saved()["discriminators"]) for each in (whole, resumed)]
    assert (forgotten is None) == all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_micro_batches_give_the_same_update():
    """Instance norm and means over the batch: two halves are the whole."""
    model, discriminators, _ = networks(1, 1)
    results = []
    for micro in (1, 2):
        nets = copy.deepcopy((model, discriminators))
        update, *_ = cyclegan_update(*nets, recipe_of(steps=2, pool_size=0, grad_accum_steps=micro))
        rows = [update(each) for each in batches(2, 2)]
        results.append((rows, [p.detach() for net in nets for p in net.parameters()]))
    (rows, plain), (rows_, halves) = results
    assert tree_map(lambda x: round(float(x), 8), rows) == tree_map(lambda x: round(float(x), 8), rows_)
    assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(plain, halves, strict=True))


def test_bad_input_is_one_line():
    for fields, message in (
        ({"variant": "resnet9_generator"}, "one direction of a CycleGAN"),
        ({"size": 24, "variant": "cyclegan_unet"}, "sides that 16 divides, not 24"),
        ({"size": 18, "variant": "cyclegan_small"}, "sides that 4 divides, not 18"),
        ({"discriminator_layers": 3}, "images of at least 24 pixels, not 16"),
    ):
        with pytest.raises(BadInput, match=message):
            next(cyclegan.build(recipe_of(**fields)))
    with pytest.raises(BadInput, match="hold one generator"):
        published("cyclegan_unet", {})
