"""A training step of CycleGAN beside the authors' loop written plainly with torch, with the same weights.

    python benchmarks/cyclegan.py [--side 32] [--batch 4] [--width 32] [--blocks 3] [--layers 2] [--pairs 7]

One process, one thread, in turn; seconds of CPU. The result is the median of the ratios, pair by pair (theirs / ours:
above 1 we are faster). The plain loop has one pass for each term, `nn.InstanceNorm2d`, `torch.optim.Adam`, and
freezes the discriminators while the generators learn, as the authors' does. Its losses are compared with ours first.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from torchstone.data.vision.domain_batches import UnpairedBatch
from torchstone.engine.recipe_fields import replace_fields
from torchstone.references.image_translation import (
    Patches,
    Pool,
    ResNet,
    cyclegan_discriminator_loss,
    cyclegan_generator_losses,
)
from torchstone.systems.generative.cyclegan import (
    RECIPES,
    CycleGan,
    Discriminators,
    cyclegan_update,
    same_weights,
)


def plain_step(nets: dict[str, Any], recipe: Any) -> Callable[[UnpairedBatch], tuple[float, float]]:
    optim = {"lr": recipe.optim.lr, "betas": (recipe.optim.beta1, 0.999)}
    generators, discriminators = (("G", "F"), ("D_A", "D_B"))
    of_g, of_d = (
        torch.optim.Adam(itertools.chain(*(nets[name].parameters() for name in names)), **optim)
        for names in (generators, discriminators)
    )
    pools = [Pool(recipe.pool_size) for _ in range(2)]

    def step(batch: UnpairedBatch) -> tuple[float, float]:
        a, b, chance = batch
        for name in discriminators:
            nets[name].requires_grad_(False)
        of_g.zero_grad()
        found = cyclegan_generator_losses(*(nets[name] for name in (*generators, *discriminators)), a, b)
        loss = found["adversarial"] + recipe.cycle_weight * found["cycle"]
        loss = loss + recipe.identity_weight * found["identity"]
        loss.backward()
        of_g.step()
        for name in discriminators:
            nets[name].requires_grad_(True)
        of_d.zero_grad()
        fakes = [pools[i].query(found[f"fake_{d}"], chance[:, i]) for i, d in enumerate("ab")]
        losses = []
        for name, real, fake in zip(discriminators, (a, b), fakes, strict=True):
            losses.append(cyclegan_discriminator_loss(nets[name], real, fake))
            losses[-1].backward()
        of_d.step()
        return loss.item(), float(sum(each.item() for each in losses))

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"side": 32, "batch": 4, "width": 32, "blocks": 3, "layers": 2, "pairs": 7}
    for name, number in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = replace_fields(RECIPES["openmoji"], {"ema_decay": 0.0, "lr_schedule": "constant"})
    model, players = CycleGan("resnet", args.blocks, args.width), Discriminators(args.width, args.layers)
    nets: dict[str, Any] = {name: ResNet(args.width, args.blocks) for name in ("G", "F")}
    nets |= {name: Patches(3, args.width, args.layers) for name in ("D_A", "D_B")}
    for name, net in zip(nets, (model.to_b, model.to_a, players.a, players.b), strict=True):
        same_weights(nets[name], net)
    ours = cyclegan_update(model, players, recipe).update
    theirs = plain_step(nets, recipe)

    def batch() -> UnpairedBatch:
        images = (torch.rand(args.batch, 3, args.side, args.side) * 2 - 1 for _ in range(2))
        return UnpairedBatch(*images, torch.rand(args.batch, 2, 2))

    first = batch()
    mine, other = ours(first), theirs(first)
    pairs = zip((mine["loss"].item(), mine["discriminator_loss"].item()), other, strict=True)
    print(f"losses {max(abs(a - b) / b for a, b in pairs):.1e} apart")
    times = []
    for pair in range(args.pairs):
        now, elapsed = batch(), {}
        for step in (ours, theirs) if pair % 2 else (theirs, ours):
            began = time.process_time()
            step(now)
            elapsed[step] = time.process_time() - began
        times.append((elapsed[ours], elapsed[theirs]))
    ratios = sorted(other / mine for mine, other in times)
    mine, other = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"training step: {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"ours {mine:.0f} ms, the plain loop {other:.0f} ms"
    )


if __name__ == "__main__":
    main()
