"""CycleGAN and pix2pix by the equations: networks as nested sequences of torch's layers, one pass after the
other, a pool that is a list, Adam by its formula. Slow, and written for reading.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase


def conv_norm(kind: type, inputs: int, outputs: int, norm: str, *sizes: int) -> list[nn.Module]:
    """A convolution with bias and instance norm, or without and batch norm."""
    if norm == "batch":
        return [kind(inputs, outputs, *sizes, bias=False), nn.BatchNorm2d(outputs)]
    return [kind(inputs, outputs, *sizes), nn.InstanceNorm2d(outputs)]


class Residual(nn.Module):
    def __init__(self, channels: int, norm: str, has_dropout: bool):
        super().__init__()
        layers = [nn.ReflectionPad2d(1), *conv_norm(nn.Conv2d, channels, channels, norm, 3), nn.ReLU()]
        layers += [nn.Dropout(0.5)] if has_dropout else []
        layers += [nn.ReflectionPad2d(1), *conv_norm(nn.Conv2d, channels, channels, norm, 3)]
        self.conv_block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResNet(nn.Module):
    """Names of parameters are those of the published files."""

    def __init__(self, width: int, blocks: int, norm: str = "instance", has_dropout: bool = False):
        super().__init__()
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), *conv_norm(nn.Conv2d, 3, width, norm, 7), nn.ReLU()]
        for channels in (width, 2 * width):
            layers += [*conv_norm(nn.Conv2d, channels, 2 * channels, norm, 3, 2, 1), nn.ReLU()]
        layers += [Residual(4 * width, norm, has_dropout) for _ in range(blocks)]
        for channels in (4 * width, 2 * width):
            layers += conv_norm(nn.ConvTranspose2d, channels, channels // 2, norm, 3, 2, 1, 1)
            layers.append(nn.ReLU())
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Level(nn.Module):
    """A level of a U-Net around the coarser ones: down, what is inside, up, and beside it the input."""

    def __init__(self, down: list[nn.Module], inside: list[nn.Module], up: list[nn.Module], has_skip: bool):
        super().__init__()
        self.model, self.has_skip = nn.Sequential(*down, *inside, *up), has_skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.model(x)], 1) if self.has_skip else self.model(x)


class UNet(nn.Module):
    """Names of parameters are those of the published files."""

    def __init__(self, width: int, depth: int, norm: str = "batch", has_dropout: bool = True):
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(depth)]
        inside: list[nn.Module] = []
        for i in range(depth - 1, 0, -1):
            is_inner = i == depth - 1
            conv, *norms = conv_norm(nn.Conv2d, widths[i - 1], widths[i], norm, 4, 2, 1)
            down = [nn.LeakyReLU(0.2), conv, *([] if is_inner else norms)]
            inputs = widths[i] if is_inner else 2 * widths[i]
            up = [nn.ReLU(), *conv_norm(nn.ConvTranspose2d, inputs, widths[i - 1], norm, 4, 2, 1)]
            up += [nn.Dropout(0.5)] if has_dropout and 4 <= i < depth - 1 else []
            inside = [Level(down, inside, up, True)]
        first = nn.Conv2d(3, width, 4, 2, 1, bias=norm == "instance")
        up: list[nn.Module] = [nn.ReLU(), nn.ConvTranspose2d(2 * width, 3, 4, 2, 1), nn.Tanh()]
        self.model = Level([first], inside, up, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Patches(nn.Module):
    def __init__(self, inputs: int, width: int, layers: int, norm: str = "instance"):
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            narrow, wide = (width * min(2**n, 8) for n in (i - 1, i))
            parts += conv_norm(nn.Conv2d, narrow, wide, norm, 4, 2 if i < layers else 1, 1)
            parts.append(nn.LeakyReLU(0.2))
        self.model = nn.Sequential(*parts, nn.Conv2d(wide, 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Pool:
    """A list of images. While it is not full the new one is kept and returned; then, with a coin above ½, one
    that is stored is returned and the new one put there."""

    def __init__(self, size: int):
        self.size, self.images = size, []

    def query(self, images: Tensor, chance: Tensor) -> Tensor:
        answers = []
        for image, (coin, which) in zip(images, chance.tolist(), strict=True):
            if self.size == 0:
                answers.append(image)
            elif len(self.images) < self.size:
                self.images.append(image.clone())
                answers.append(image)
            elif coin > 0.5:
                slot = int(which * self.size)
                answers.append(self.images[slot])
                self.images[slot] = image.clone()
            else:
                answers.append(image)
        return torch.stack([answer.detach() for answer in answers])


class Adam:
    """Kingma and Ba 2015, algorithm 1."""

    def __init__(self, parameters: Sequence[Tensor], beta1: float, beta2: float = 0.999):
        self.parameters, self.betas, self.t = list(parameters), (beta1, beta2), 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float) -> None:
        self.t += 1
        beta1, beta2 = self.betas
        for p, g, (m, v) in zip(self.parameters, gradients, self.moments, strict=True):
            m.copy_(beta1 * m + (1 - beta1) * g)
            v.copy_(beta2 * v + (1 - beta2) * g * g)
            p -= lr * (m / (1 - beta1**self.t)) / ((v / (1 - beta2**self.t)).sqrt() + 1e-8)


def trained(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def lr_factor(step: int, steps: int) -> float:
    """Constant for the first half of the steps, then a straight line to zero."""
    return 1.0 if step < steps / 2 else (steps - step) / (steps / 2)


def cyclegan_generator_losses(G: Any, F: Any, D_A: Any, D_B: Any, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Equations 1 to 3 with least squares, and the identity loss, one pass after the other; and what was
    translated."""
    fake_b, fake_a = G(a), F(b)
    adversarial = ((D_B(fake_b) - 1) ** 2).mean() + ((D_A(fake_a) - 1) ** 2).mean()
    cycle = (F(fake_b) - a).abs().mean() + (G(fake_a) - b).abs().mean()
    identity = (G(b) - b).abs().mean() + (F(a) - a).abs().mean()
    return {
        "adversarial": adversarial,
        "cycle": cycle,
        "identity": identity,
        "fake_b": fake_b,
        "fake_a": fake_a,
    }


def cyclegan_discriminator_loss(D: Any, real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (((D(real) - 1) ** 2).mean() + (D(fake) ** 2).mean())


def train_cyclegan(
    networks: dict[str, nn.Module], batches: Sequence[Any], *, steps: int, recipe: Any
) -> list[dict[str, float]]:
    """Updates of G, F, D_A and D_B in place, and the losses of each.

    Args:
        batches: (a, b, chance) of each update.
        steps: over how many the learning rate is scheduled.
        recipe: weights of the losses, pool_size, and of `optim` lr and beta1.
    """
    G, F, D_A, D_B = (networks[name] for name in ("G", "F", "D_A", "D_B"))
    of_generators = [*trained(G), *trained(F)]
    of_discriminators = [*trained(D_A), *trained(D_B)]
    adam_g, adam_d = (Adam(each, recipe.optim.beta1) for each in (of_generators, of_discriminators))
    pool_a, pool_b = Pool(recipe.pool_size), Pool(recipe.pool_size)
    rows = []
    for step, (a, b, chance) in enumerate(batches):
        lr = recipe.optim.lr * lr_factor(step, steps)
        found = cyclegan_generator_losses(G, F, D_A, D_B, a, b)
        loss = found["adversarial"] + recipe.cycle_weight * found["cycle"]
        loss = loss + recipe.identity_weight * found["identity"]
        adam_g.step(torch.autograd.grad(loss, of_generators), lr)
        fake_a, fake_b = (
            pool_a.query(found["fake_a"], chance[:, 0]),
            pool_b.query(found["fake_b"], chance[:, 1]),
        )
        loss_d = cyclegan_discriminator_loss(D_A, a, fake_a) + cyclegan_discriminator_loss(D_B, b, fake_b)
        adam_d.step(torch.autograd.grad(loss_d, of_discriminators), lr)
        rows.append({"loss": loss.item(), "discriminator_loss": loss_d.item()})
    return rows


def train_pix2pix(
    networks: dict[str, nn.Module], batches: Sequence[Any], *, steps: int, recipe: Any
) -> list[dict[str, float]]:
    """Updates of G and D in place, and the losses of each: equation 4, with −log D for the generator.

    Args:
        batches: (a, b) of each update.
        recipe: l1_weight, and of `optim` lr and beta1.
    """
    G, D = networks["G"], networks["D"]
    adam_g, adam_d = (Adam(trained(net), recipe.optim.beta1) for net in (G, D))
    rows = []
    for step, (a, b) in enumerate(batches):
        lr = recipe.optim.lr * lr_factor(step, steps)
        fake = G(a)
        real_p = torch.sigmoid(D(torch.cat([a, b], 1)))
        fake_p = torch.sigmoid(D(torch.cat([a, fake.detach()], 1)))
        loss_d = -0.5 * (real_p.log().mean() + (1 - fake_p).log().mean())
        adam_d.step(torch.autograd.grad(loss_d, trained(D)), lr)
        fooled = torch.sigmoid(D(torch.cat([a, fake], 1)))
        loss = -fooled.log().mean() + recipe.l1_weight * (b - fake).abs().mean()
        adam_g.step(torch.autograd.grad(loss, trained(G)), lr)
        rows.append({"loss": loss.item(), "discriminator_loss": loss_d.item()})
    return rows


def freeze_shifts(network: nn.Module) -> nn.Module:
    """Biases that an instance norm removes are not trained: their gradient is rounding error."""
    for module in network.modules():
        for layer, norm in itertools.pairwise(module.children()):
            if (
                isinstance(norm, nn.InstanceNorm2d | nn.GroupNorm)
                and getattr(layer, "bias", None) is not None
            ):
                layer.bias.requires_grad_(False)
    return network


def generator_case(
    ours: nn.Module, theirs: nn.Module, names: Callable, side: int, label: str, *, training: bool = True
) -> ParityCase:
    """Ours with the weights of theirs, random ones, on two images."""
    from torchstone.references import randomize_weights

    theirs = randomize_weights(theirs.double()).train(training)
    ours = ours.double().train(training)
    ours.load_state_dict(names(theirs.state_dict()))
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    both = (freeze_shifts(net) for net in (ours, theirs))
    return ParityCase(*both, images, names, torch.optim.AdamW, label)


class PlainLosses(nn.Module):
    """The four losses of CycleGAN, of generators in training and of given translations out of the pools."""

    def __init__(self, width: int, blocks: int, layers: int):
        super().__init__()
        self.G, self.F = (ResNet(width, blocks) for _ in range(2))
        self.D_A, self.D_B = (Patches(3, width, layers) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor, fake_a: Tensor, fake_b: Tensor) -> tuple[Tensor, ...]:
        found = cyclegan_generator_losses(self.G, self.F, self.D_A, self.D_B, a, b)
        of_discriminators = cyclegan_discriminator_loss(self.D_A, a, fake_a)
        of_discriminators = of_discriminators + cyclegan_discriminator_loss(self.D_B, b, fake_b)
        return found["adversarial"], found["cycle"], found["identity"], of_discriminators
