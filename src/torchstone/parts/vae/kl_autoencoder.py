"""The autoencoder of latent diffusion: images to a small grid of latents and back.

Rombach et al. 2021 (arXiv:2112.10752), section 3.1 and appendix G; the layers are those of Esser, Rombach
and Ommer 2020 (VQGAN, arXiv:2012.09841), with a diagonal Gaussian (Kingma and Welling 2013) for the codebook.

    mean, log σ² = quant_conv(encoder(x))        z = mean + σ ε        x̂ = decoder(post_quant_conv(z))

Residual blocks at each resolution, self-attention of one head at the coarsest; the sides are halved between
resolutions. A diffusion model sees `latent_scale` · z, whose standard deviation is one (appendix G).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.parts.diffusion.unet_blocks import AttentionBlock, Downsample, ResnetBlock, Upsample
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.parts.vae.elbo import kl_to_prior

Images = Float[Tensor, "batch channel height width"]
Latents = Float[Tensor, "batch latent_channel rows columns"]
Reconstructions = Float[Tensor, "batch out_channel out_height out_width"]


@dataclass(frozen=True)
class KLAutoencoderConfig:
    """The architecture of a `KLAutoencoder`; the defaults are Stable Diffusion's.

    Args:
        widths: channels at each resolution, the finest first.
        depth: residual blocks per resolution of the encoder; the decoder has one more.
        channels, out_channels: of the image, and of the reconstruction if they differ.
        latent_channels: channels of z.
        groups: of each group norm.
        activation: of the residual blocks.
        mid_attention: whether there is attention at the coarsest resolution.
        quant_conv, post_quant_conv: whether there is a 1 × 1 convolution before and after sampling.
    """

    widths: Sequence[int] = (128, 256, 512, 512)
    depth: int = 2
    channels: int = 3
    out_channels: int | None = None
    latent_channels: int = 4
    groups: int = 32
    activation: str = "silu"
    mid_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True

    @property
    def downsampling(self) -> int:
        """Pixels a side of one latent."""
        return 2 ** (len(self.widths) - 1)


class DiagonalGaussian(NamedTuple):
    """N(mean, exp(logvar)) of every latent."""

    mean: Latents
    logvar: Latents

    def sample(self, epsilon: Latents) -> Latents:
        """mean + σ ε."""
        return self.mean + (0.5 * self.logvar).exp() * epsilon

    def kl(self) -> Float[Tensor, " batch"]:
        """KL to N(0, I), in nats an image."""
        return kl_to_prior(self.mean.flatten(1), self.logvar.flatten(1)).sum(1)


class Resolution(nn.Module):
    """Residual blocks, then perhaps resampling."""

    def __init__(self, blocks: Iterable[ResnetBlock], resize: nn.Module | None):
        super().__init__()
        self.blocks, self.resize = nn.ModuleList(blocks), resize

    def forward(self, x: Images) -> Reconstructions:
        for block in self.blocks:
            x = block(x)
        return x if self.resize is None else self.resize(x)


def _block_maker(config: KLAutoencoderConfig) -> partial[ResnetBlock]:
    return partial(ResnetBlock, embed_dim=None, groups=config.groups, activation=config.activation)


class Middle(nn.Module):
    """Residual block, self-attention, residual block, at the coarsest resolution."""

    attention: AttentionBlock | None

    def __init__(self, config: KLAutoencoderConfig):
        super().__init__()
        make_block, width = _block_maker(config), config.widths[-1]
        self.before = make_block(width, width)
        self.attention = AttentionBlock(width, groups=config.groups) if config.mid_attention else None
        self.after = make_block(width, width)

    def forward(self, h: Images) -> Images:
        h = self.before(h)
        return self.after(h if self.attention is None else self.attention(h))


class Encoder(nn.Module):
    """Images to the 2 × `latent_channels` numbers of each latent's Gaussian, before `quant_conv`."""

    def __init__(self, config: KLAutoencoderConfig):
        super().__init__()
        widths, make_block = config.widths, _block_maker(config)
        self.conv_in = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise([widths[0], *widths])):
            blocks = [make_block(*each) for each in pairwise([before, *[width] * config.depth])]
            self.down.append(Resolution(blocks, Downsample(width) if i < len(widths) - 1 else None))
        self.middle = Middle(config)
        self.norm = nn.GroupNorm(config.groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Images) -> Float[Tensor, "batch moments rows columns"]:
        h = self.conv_in(x)
        for resolution in self.down:
            h = resolution(h)
        return self.conv_out(ACTIVATIONS["silu"](self.norm(self.middle(h))))


class Decoder(nn.Module):
    """Latents, after `post_quant_conv`, to images."""

    def __init__(self, config: KLAutoencoderConfig):
        super().__init__()
        widths, make_block = tuple(reversed(config.widths)), _block_maker(config)
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.middle = Middle(config)
        self.up = nn.ModuleList()
        for i, (before, width) in enumerate(pairwise([widths[0], *widths])):
            blocks = [make_block(*each) for each in pairwise([before, *[width] * (config.depth + 1)])]
            self.up.append(Resolution(blocks, Upsample(width) if i < len(widths) - 1 else None))
        self.norm = nn.GroupNorm(config.groups, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels or config.channels, 3, padding=1)

    def forward(self, z: Latents) -> Reconstructions:
        h = self.middle(self.conv_in(z))
        for resolution in self.up:
            h = resolution(h)
        return self.conv_out(ACTIVATIONS["silu"](self.norm(h)))


class KLAutoencoder(nn.Module):
    """Encoder, diagonal Gaussian, decoder.

    `latent_scale`, 1 / (standard deviation of z), belongs to the weights: it is a buffer, measured by
    `measure_latent_scale` or read from a published folder, and 1 until then. No constant stands for it: that
    of another autoencoder is wrong by any factor.
    """

    quant_conv: nn.Conv2d | None
    post_quant_conv: nn.Conv2d | None
    latent_scale: Tensor

    def __init__(self, config: KLAutoencoderConfig = KLAutoencoderConfig()):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        latent = config.latent_channels
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1) if config.quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent, latent, 1) if config.post_quant_conv else None
        self.register_buffer("latent_scale", torch.ones(()))

    def encode(self, x: Images) -> DiagonalGaussian:
        """The distribution of the latents of images in −1..1."""
        moments = self.encoder(x)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, 1)
        return DiagonalGaussian(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Latents) -> Reconstructions:
        """Images in −1..1 of unscaled latents."""
        return self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))

    def forward(self, x: Images, epsilon: Latents | None = None) -> tuple[Reconstructions, DiagonalGaussian]:
        """The reconstruction of z = mean + σ ε (of the mean without ε), and the distribution of z."""
        posterior = self.encode(x)
        return self.decode(posterior.mean if epsilon is None else posterior.sample(epsilon)), posterior

    @torch.no_grad()
    def measure_latent_scale(self, x: Images, epsilon: Latents) -> None:
        """Set `latent_scale` to 1 / (standard deviation of the sampled latents of `x`, over all of them)."""
        self.latent_scale.copy_(1 / self.encode(x).sample(epsilon).std(correction=0))

    def to_latents(self, x: Images, epsilon: Latents | None = None) -> Latents:
        """What a diffusion model sees of images in −1..1: `latent_scale` · z."""
        posterior = self.encode(x)
        return self.latent_scale * (posterior.mean if epsilon is None else posterior.sample(epsilon))

    def from_latents(self, z: Latents) -> Reconstructions:
        """Images in −1..1 of what a diffusion model has generated."""
        return self.decode(z / self.latent_scale)
