"""DDPM: a network that tells the noise in a picture, and draws pictures by taking it away step by step.

Paper: Jonathan Ho, Ajay Jain and Pieter Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020,
arXiv:2006.11239. With it: Song, Meng and Ermon, DDIM, 2020, arXiv:2010.02502 (fewer steps, without
chance); Nichol and Dhariwal, 2021, arXiv:2102.09672 (cosine schedule); Dhariwal and Nichol, 2021,
arXiv:2105.05233 (a classifier's guidance); Ho and Salimans, 2022, arXiv:2207.12598 (guidance without one).

The idea. Noise is put into a picture in a thousand small steps until nothing else is left; each step
alone is so small that its way back is a Gaussian too, and a network can tell its mean from the noisy
picture. Trained at all noise levels at once, it turns pure noise into new pictures, step by step.

    q(x_t | x₀) = N(√ᾱ_t x₀, (1 − ᾱ_t) I),  ᾱ_t = Π (1 − β_s)             put in      (equation 4)
    L = E ‖ε − ε_θ(√ᾱ_t x₀ + √(1 − ᾱ_t) ε, t)‖²                           learn       (14)
    x_{t−1} = (x_t − β_t / √(1 − ᾱ_t) ε_θ) / √(1 − β_t) + σ_t z           take out    (algorithm 2)
    x_s = √ᾱ_s x̂₀ + √(1 − ᾱ_s − σ²) ε_θ + σ z,  σ from η                  DDIM        (its 12, 16)
    ε̃ = (1 + w) ε_c − w ε_∅ = ε_∅ + s (ε_c − ε_∅),  s = 1 + w             guidance

Guidance is counted both ways in the literature: Ho and Salimans' w is 0 without any, the s of diffusers
and Stable Diffusion is 1. Here it is s, `--guidance`. What is told of a picture (its label, its caption)
is kept back now and then in training, so that one network learns ε_c and ε_∅.

The U-Net goes down over grids of half the side with residual blocks (`parts/diffusion/unet_blocks.py`), and up again
beside what it kept on the way; attention mixes all places on a middle grid; time, as waves, is added in
every block. Captions are read by a small transformer, whose tokens the attention sees too. It also
makes a coarse sketch of what its words stand for, which the U-Net sees beside the noisy picture; as in
Grad-TTS (Popov et al. 2021, arXiv:2105.06337) the sketch has a squared error of its own in the loss.

    ddpm_cifar10, ddpm_lsun256   Ho et al.'s two networks, as published (appendix B)
    ddpm_mnist, ddpm_digits      small ones for 28 × 28 and 8 × 8
    ddpm_emoji                   for 32 × 32 in colour, with a reader of captions

What differs from the paper. The small networks fold 2 × 2 pixels into channels first (`patch`), which
costs a quarter, and tell v (Salimans and Ho 2022, arXiv:2202.00512) along the cosine schedule, which
short training bears better than ε. They draw by DDIM, guided. Validation and the bound are measured on
the averaged weights; samples are judged as those of the other families (`metrics/classifier_features.py`).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from torchstone import references
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.diffusers import from_config, published, unpublished
from torchstone.parts.diffusion.noise_schedule import Noise, schedule
from torchstone.parts.diffusion.process import Process
from torchstone.parts.diffusion.text_encoder import Reader, Sketch, mean
from torchstone.parts.diffusion.unet_blocks import Attend, Block, waves
from torchstone.parts.diffusion.unet_stages import downwards, upwards
from torchstone.parts.facts import Fact, ParityCase, macs, parameters
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.systems import Variant
from torchstone.systems.convolutional import lenet5
from torchstone.tasks.diffusion import inference
from torchstone.tasks.diffusion.conditioning import material
from torchstone.tasks.diffusion.train import diffuse

# fmt: off
__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "UNet", "build", "evaluate", "from_config", "published", "reference", "sample", "unpublished"]
# fmt: on

MARGIN = ("loss", -0.3)
sample = partial(inference.sample, classifier=lenet5)
evaluate = partial(inference.evaluate, classifier=lenet5)


@dataclass(frozen=True)
class Recipe:
    data: str = "mnist5k"  # mnist5k, digits, a folder, hf:NAME; of text: openmoji, a folder
    variant: str = "ddpm_mnist"  # which network
    condition: Literal["none", "label", "text"] = "label"  # what the network is told of a picture
    drop: float = 0.1  # share of pictures of which it is told nothing
    noise: Literal["linear", "cosine", "scaled_linear"] = "cosine"  # how noise grows with the level
    levels: int = 1000  # noise levels
    told: Literal["epsilon", "x0", "v"] = "v"  # what the network says
    dropout: float = 0.0  # share of numbers dropped in training
    augment: str = "none"  # such as flip or crop4
    steps: int = 1000  # updates
    batch_size: int = 32  # pictures an update
    optim: OptimConfig = OptimConfig(
        lr=2e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    sampler: Literal["ddpm", "ddim"] = "ddim"  # way of drawing
    sampled: int = 25  # steps of that way
    guidance: float = 2.0  # s of guidance in drawing, 1 for none
    judged: int = 200  # pictures that are drawn and judged at the end
    surveyed: int = 0  # for each scale of guidance and both samplers, then
    seed: int = 0  # of weights, order and noise
    device: str = "auto"  # auto, cpu, cuda, mps


PAPER = Recipe(
    data="cifar10", variant="ddpm_cifar10", condition="none", noise="linear", told="epsilon",
    dropout=0.1, augment="flip", guidance=1.0, steps=800_000, batch_size=128, optim=replace(Recipe.optim, lr=2e-4, beta2=0.999, lr_schedule="constant", warmup_ratio=0.00625, ema_decay=0.9999, precision="bf16", compile=True), sampler="ddpm", sampled=1000)  # fmt: skip
EMOJI = Recipe(
    data="openmoji", variant="ddpm_emoji", condition="text", steps=5600, optim=replace(Recipe.optim, ema_decay=0.999, precision="auto"), guidance=2.0)  # fmt: skip
RECIPES = {
    # torchstone train ddpm            11 min of a slow core   93 % of samples told surely (data 97 %)
    "mnist5k": Recipe(),
    # torchstone train ddpm/half_hour  2,012 s of a core      99.6 %; then guidance by its scale, DDIM by DDPM
    "half_hour": Recipe(
        steps=2000, batch_size=64, optim=replace(Recipe.optim, ema_decay=0.995), judged=500, surveyed=200
    ),
    # torchstone train ddpm/mnist
    "mnist": Recipe(
        data="hf:ylecun/mnist",
        steps=10_000,
        batch_size=128,
        optim=replace(Recipe.optim, ema_decay=0.999),
        judged=2000,
    ),
    # torchstone train ddpm/emoji_text 43 min of 2 cores      match 1.00 (100 min of 2 without bfloat16)
    "emoji_text": EMOJI,
    # torchstone train ddpm/cifar10 --data FOLDER   the paper's setting
    "cifar10": PAPER,
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="ddpm_digits",
        levels=100,
        steps=60,
        optim=replace(Recipe.optim, ema_decay=0.9),
        sampled=5,
        judged=60,
    ),
}


class UNet(nn.Module):
    """Down over smaller and smaller grids, and up again beside what was kept on the way.

    Args:
        widths: channels on each grid, the finest first; `depth` blocks on each down, one more up.
        attention: whether there is attention on each grid; `up_attention`, if other on the way up.
        convolve: whether each grid becomes the next by a convolution, or by a block.
        head_width: of attention; by default one head. `middle_groups`: of the norm of the middle's.
        inner: width of what is known of time and condition, by default 4 × the first width.
        shift, cosine_first: of the waves; `padding`: of the convolutions that halve.
        centred: pictures come as 0..1, and are made −1..1 here.
        patch: pixels a side that are folded into channels first, and unfolded at the end.
        classes: classes to be told in `context`; with `null` one more, which tells nothing.
        reader: the arguments of `Reader`, which reads a text told in `context`.
        sketch: hidden units of a `Sketch` of the text, seen beside the noisy picture; 0 for none.
        process: numbers of the `Process` this network is for, if they are not Ho et al.'s.

    Raises:
        ValueError: numbers that do not go together.
    """

    def __init__(
        self, widths: Sequence[int], attention: Sequence[bool], depth: int = 2, *, channels: int = 3,
        outputs: int | None = None, size: int | Sequence[int] = 32, patch: int = 1,
        head_width: int | None = None, groups: int = 32, eps: float = 1e-6, activation: str = "silu",
        dropout: float = 0.0, inner: int | None = None, padding: int = 0, scale_shift: bool = False,
        convolve: Sequence[bool] | None = None, up_attention: Sequence[bool] | None = None,
        up_convolve: Sequence[bool] | None = None, divisor: float = 1.0,
        middle_attention: bool = True, middle_groups: int | None = 0, shift: float = 1.0,
        cosine_first: bool = False, centred: bool = False, classes: int = 0, null: bool = False,
        reader: Sequence[Any] | None = None, sketch: int = 0, process: dict[str, Any] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.process = Process(**(process or {}))
        self.shape = (channels, *((size, size) if isinstance(size, int) else size))
        self.patch, self.centred = patch, centred
        self.shift, self.cosine_first = shift, cosine_first
        self.classes, self.null, self.activation = classes, null, ACTIVATIONS[activation]
        self.first, inner = widths[0], inner or 4 * widths[0]
        block = partial(
            Block, inner=inner, groups=groups, eps=eps, activation=activation, dropout=dropout,
            scale_shift=scale_shift,
        )  # fmt: skip
        context = reader[2] if reader else 0
        attend = partial(Attend, head_width=head_width, groups=groups, eps=eps, context=context)
        self.time = nn.Sequential(nn.Linear(self.first, inner), nn.SiLU(), nn.Linear(inner, inner))
        self.labels = nn.Embedding(classes + null, inner) if classes else None
        self.reader = Reader(*reader) if reader else None
        self.summary = nn.Linear(context, inner) if reader else None
        coarse = (channels, *(side // patch for side in self.shape[1:]))
        self.sketch = Sketch(context, sketch, coarse) if sketch else None
        seen = channels * (patch**2 + bool(sketch))
        self.conv_in = nn.Conv2d(seen, self.first, 3, padding=1)

        convolve = convolve or [True] * len(widths)
        self.down, kept = downwards(widths, attention, convolve, depth, block, attend, padding)
        width, middle = widths[-1], groups if middle_groups == 0 else middle_groups
        self.middle_before = block(width, width, divisor=divisor)
        self.middle_attention = None
        if middle_attention:
            self.middle_attention = attend(width, groups=middle, divisor=divisor)
        self.middle_after = block(width, width, divisor=divisor)
        up = up_attention or attention[::-1], up_convolve or convolve[::-1]
        self.up = upwards(widths[::-1], *up, kept, depth, block, attend)
        self.norm = nn.GroupNorm(groups, self.first, eps)
        self.conv_out = nn.Conv2d(
            self.first, (channels if outputs is None else outputs) * patch**2, 3, padding=1
        )
        self.initialise()

    def initialise(self) -> None:
        """Uniform by the fans (Glorot and Bengio 2010); what is added to a stream starts at zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.conv2.weight)
            elif isinstance(module, Attend):
                for each in (module.attention, module.text):
                    if each is not None:
                        nn.init.zeros_(each.out.weight)
        nn.init.zeros_(self.conv_out.weight)

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        t: Shaped[Tensor, " batch"],
        context: Int64[Tensor, "batch *places"] | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        x = 2 * x - 1 if self.centred else x
        turns = waves(t, self.first, shift=self.shift, cosine_first=self.cosine_first)
        e = self.time(turns.to(x.dtype))
        text = mask = said = None
        if self.labels is not None:
            e = e + self.labels(self.nothing(len(x)) if context is None else context)
        elif self.reader is not None and self.summary is not None:
            text, mask = self.reader(self.nothing(len(x)) if context is None else context)
            said = mean(text, mask)
            e = e + self.summary(said)
        e = self.activation(e)
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        x = self.conv_in(x if self.sketch is None else torch.cat([x, self.sketch(said)], 1))
        skips = [x]
        for stage in self.down:
            x = stage(x, e, skips, text, mask)
        x = self.middle_before(x, e)
        if self.middle_attention is not None:
            x = self.middle_attention(x, text, mask)
        x = self.middle_after(x, e)
        for stage in self.up:
            x = stage(x, e, skips, text, mask)
        x = self.conv_out(F.silu(self.norm(x)))
        return F.pixel_shuffle(x, self.patch) if self.patch > 1 else x

    def nothing(self, count: int) -> Int64[Tensor, "count *places"]:
        """The context that tells nothing, `count` times.

        Raises:
            BadInput: the network was not made to be told nothing.
        """
        device = self.conv_in.weight.device
        if self.reader is not None:
            return self.reader.empty(count, device)
        if not self.null:
            raise BadInput("this network has to be told a class for each picture")
        return torch.full((count,), self.classes, device=device)


def sized(*, channels: int = 3, size: int = 32, **model_config: Any) -> Variant:
    make = partial(UNet, channels=channels, size=size, **model_config)
    return Variant(make, (channels, size, size))


SECOND = (False, True)
VARIANTS = {
    "ddpm_cifar10": sized(widths=(128, 256, 256, 256), attention=(False, True, False, False), dropout=0.1),
    "ddpm_lsun256": sized(widths=(128, 128, 256, 256, 512, 512), attention=(*[False] * 4, True, False), size=256),
    "ddpm_mnist": sized(widths=(48, 96), attention=SECOND, depth=1, channels=1, size=28, patch=2, groups=8),
    "ddpm_digits": sized(widths=(32, 64), attention=SECOND, depth=1, channels=1, size=8, groups=8),
    "ddpm_emoji": sized(widths=(64, 128), attention=SECOND, patch=2, head_width=32, scale_shift=True, reader=(2000, 10, 128, 1, 4, 0.1, 0.2), sketch=512),
}  # fmt: skip


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    make: Any = VARIANTS[recipe.variant].make
    given = material(recipe, make.keywords, device)
    rng.seed(recipe.seed)
    model = make(**given.model_config).to(device)
    yield diffuse(model, recipe, given, lenet5)


def count(variant: str, of: Callable[[nn.Module], int] = parameters) -> int:
    with torch.device("meta"):  # counted without memory for the weights
        return of(VARIANTS[variant].make())


def kept(level: int) -> float:
    """ᾱ after so many levels of the linear schedule."""
    return float(Noise(schedule("linear", 1000)).table[level])


FACTS = [
    Fact("ddpm_cifar10 parameters", lambda: count("ddpm_cifar10"), 35_746_307),
    Fact("ddpm_lsun256 parameters", lambda: count("ddpm_lsun256"), 113_673_219),
    Fact(
        "ddpm_cifar10 multiply-accumulates",
        lambda: count("ddpm_cifar10", partial(macs, shape=(1, 3, 32, 32))),
        6_221_856_768,
    ),
    Fact("ᾱ of level 500, linear", lambda: kept(500), 0.0785872, 1e-7),
    Fact("ᾱ of level 1000, linear", lambda: kept(1000), 4.03583e-5, 1e-9),
]


def reference() -> Iterator[ParityCase]:
    """diffusers' class, in configurations drawn with a fixed seed."""
    torch.manual_seed(0)
    names = references.unwrap_names(published)
    for number, net in enumerate(references.unets(8)):
        theirs = references.OutputAdapter(net, lambda net, *inputs: net(*inputs).sample).eval()
        for parameter in theirs.parameters():
            nn.init.normal_(parameter, std=0.2)
        _, model_config = from_config(json.loads(net.to_json_string()))
        ours = UNet(**model_config).eval()
        ours.load_state_dict(names(theirs.state_dict()))
        dtype = torch.float32 if number >= 6 else torch.float64
        inputs: tuple[Tensor, ...] = (torch.randn(2, *ours.shape).to(dtype), torch.tensor([7, 800]))
        if ours.classes:
            inputs += (torch.tensor([0, ours.classes - 1]),)
        yield ParityCase(ours.to(dtype), theirs.to(dtype), inputs, names, torch.optim.AdamW, f"{number}")
