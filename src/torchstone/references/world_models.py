"""World Models' V and M by torch's own LSTM, mixtures and divergences, one frame and one step at a time."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal, kl_divergence

from torchstone.parts.facts import ParityCase


class WithLoss(nn.Module):
    """Ours: all metrics of a loss, as one forward pass."""

    def __init__(self, network: nn.Module, loss: Callable[..., dict[str, Tensor]]):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.loss(self.network, *inputs).values())


class PlainRNN(nn.Module):
    """M with `nn.LSTM`, whose second bias stays 0."""

    def __init__(self, latent_dim: int, dims: int, units: int, components: int, has_end: bool):
        super().__init__()
        self.sizes, self.has_end = (3, latent_dim, components), has_end
        self.lstm = nn.LSTM(latent_dim + dims + has_end, units, batch_first=True)
        bias: Any = self.lstm.bias_hh_l0
        bias.requires_grad_(False).zero_()
        self.head = nn.Linear(units, 3 * latent_dim * components + has_end)

    def forward(
        self, z: Tensor, action: Tensor, restart: Tensor, goes_on: Tensor, end: Tensor
    ) -> tuple[Tensor, ...]:
        columns = [z[:, :-1], action] + ([restart[..., None]] if self.has_end else [])
        outputs = self.head(self.lstm(torch.cat(columns, -1))[0])
        losses, ends = [], []
        for row in range(len(z)):
            for t in range(action.shape[1]):
                y = outputs[row, t]
                if self.has_end:
                    ends.append(-Bernoulli(logits=y[-1]).log_prob(end[row, t]))
                if not goes_on[row, t]:
                    continue
                logits, mean, log_std = y[: len(y) - self.has_end].reshape(self.sizes)
                mixture = MixtureSameFamily(Categorical(logits=logits), Normal(mean, log_std.exp()))
                losses.append(-mixture.log_prob(z[row, t + 1]).mean())
        nll = torch.stack(losses).mean()
        if not self.has_end:
            return nll, nll
        end_loss = torch.stack(ends).mean()
        return nll + end_loss, nll, end_loss


class PlainVAE(nn.Module):
    """V of two or three convolutions, its loss pixel by pixel."""

    def __init__(self, theirs: Any, tolerance: float):
        super().__init__()
        self.encoder, self.heads = theirs.encoder, nn.ModuleList([theirs.mean, theirs.logvar])
        self.decoder, self.tolerance = theirs.decoder, tolerance

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        errors, divergences, penalties = [], [], []
        for image, e in zip(x, noise, strict=True):
            features = self.encoder(image[None])
            mean, logvar = (head(features)[0] for head in self.heads)
            q = Normal(mean, logvar.exp().sqrt())
            pixels = self.decoder((q.mean + q.stddev * e)[None])[0]
            errors.append(sum((a - b) ** 2 for a, b in zip(pixels.flatten(), image.flatten(), strict=True)))
            kl = kl_divergence(q, Normal(0.0 * mean, 1.0 + 0.0 * mean)).sum()
            divergences.append(kl)
            floor = self.tolerance * len(mean)
            penalties.append(kl if kl > floor else kl.new_tensor(floor))
        error, kl = (torch.stack(each).mean() for each in (errors, divergences))
        return error + torch.stack(penalties).mean(), error, kl


def cases(
    make_config: Callable[..., Any],
    vae: Callable[..., Any],
    rnn: Callable[..., Any],
    vae_loss: Callable[..., dict[str, Tensor]],
    rnn_loss: Callable[..., dict[str, Tensor]],
    make_batch: Callable[..., Any],
) -> Iterator[ParityCase]:
    """Eight networks M of random sizes and three V, in float64; the last of each in float32."""
    sizes = torch.Generator().manual_seed(0)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=sizes))

    for seed in range(8):
        torch.manual_seed(seed)
        dtype = torch.float32 if seed == 7 else torch.float64
        dims, has_end, batch, time = number(1, 4), seed % 3 > 0, number(1, 5), number(2, 9)
        fields = {"latent_dim": number(1, 7), "hidden": number(2, 12), "components": number(1, 6)}
        theirs = PlainRNN(fields["latent_dim"], dims, fields["hidden"], fields["components"], has_end)
        ours = rnn(make_config(**fields, has_end=has_end), dims)
        trained = (p for p in theirs.parameters() if p.requires_grad)
        for own, other in zip(ours.parameters(), trained, strict=True):
            own.data.copy_(other)
        z, action = torch.randn(batch, time + 1, fields["latent_dim"]), torch.randn(batch, time, dims)
        flags = (torch.rand(3, batch, time) < 0.4).to(dtype)
        flags[1, :, 0] = 1
        yield ParityCase(
            WithLoss(ours.to(dtype), lambda network, *columns: rnn_loss(network, make_batch(*columns))),
            theirs.to(dtype),
            (z.to(dtype), action.to(dtype), *flags),
            optimizer=torch.optim.AdamW,
            label=f"M of {fields}, end {has_end}, {dtype}",
        )
    for seed, (size, channels, kernels, dtype) in enumerate(
        (
            (10, (3, 4), (4, 4), torch.float64),
            (16, (2, 5), (6, 6), torch.float64),
            (22, (2, 3, 4), (4, 4, 4), torch.float32),
        )
    ):
        torch.manual_seed(seed)
        tolerance, latent_dim = (0.0, 0.02, 5.0)[seed], number(2, 6)
        config = make_config(
            observation_shape=(number(1, 4), size, size),
            latent_dim=latent_dim,
            channels=channels,
            kernels=kernels,
        )
        ours = vae(config).to(dtype)
        x, noise = torch.rand(2, *config.observation_shape, dtype=dtype), torch.randn(2, latent_dim)
        yield ParityCase(
            WithLoss(ours, lambda net, x, noise, tolerance=tolerance: vae_loss(net, x, noise, tolerance)),
            PlainVAE(ours, tolerance),
            (x, noise.to(dtype)),
            optimizer=torch.optim.AdamW,
            label=f"V of {size} × {size}, tolerance {tolerance:g}",
        )
