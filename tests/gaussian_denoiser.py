"""The best denoiser of Gaussian pixels: what samplers and bounds do with it is known in closed form."""

import torch
from torch import nn

from torchstone.parts.diffusion.process import DiffusionProcess

TIMESTEPS = 200


class GaussianDenoiser(nn.Module):
    """The best denoiser of independent pixels N(mean, std²); class k has the mean k − 1 beyond, and without
    a class the pixels are one Gaussian."""

    def __init__(self, *, std=0.5, mean=0.0, shape=(1, 2, 2), **process):
        super().__init__()
        default = {
            "beta_schedule": "cosine",
            "timesteps": TIMESTEPS,
            "clip_sample_range": None,
            "sampler": "ddim",
        }
        self.process = DiffusionProcess(**(default | process))
        self.schedule, self.shape, self.num_classes = self.process.noise_schedule(), shape, 3
        self.std, self.mean = std, mean
        self.weight = nn.Parameter(torch.zeros(1))  # says which device this is on

    def forward(self, x, t, context=None):
        alpha_bar = self.schedule.alpha_bar(t, x).double()
        mean, x = torch.full_like(alpha_bar, self.mean), x.double()
        if context is not None:
            labels = context.view(mean.shape)
            mean = torch.where(labels == self.num_classes, mean, mean + labels - 1)
        variance = alpha_bar * self.std**2 + 1 - alpha_bar
        epsilon = (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / variance
        x0 = mean + alpha_bar.sqrt() * self.std**2 * (x - alpha_bar.sqrt() * mean) / variance
        outputs = {
            "epsilon": epsilon,
            "x0": x0,
            "v": alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * x0,
        }
        return outputs[self.process.prediction_type].float()

    def null_context(self, count):
        return torch.full((count,), self.num_classes)


def noise(count, model, seed=0):
    return torch.randn(count, *model.shape, generator=torch.Generator().manual_seed(seed))
