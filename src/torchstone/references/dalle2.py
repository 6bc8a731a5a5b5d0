"""diffusers' prior of DALL-E 2 with random configurations, and its scheduler."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.diffusion.process import DiffusionProcess
from torchstone.parts.facts import ParityCase
from torchstone.references import randomize_weights
from torchstone.references.bert import softmax_in_own_precision
from torchstone.references.diffusers import import_diffusers


def random_priors(count: int = 8, seed: int = 2022) -> Iterator[tuple[str, dict[str, Any], Any, tuple]]:
    """(label, config, network, inputs): in float64, and each fourth in float32; in evaluation mode and in
    training with dropout in turn; texts padded behind or in front. Inputs are x_t, t, the text's embedding,
    its hidden states and its mask."""
    rng = Random(seed)
    for number in range(count):
        dtype = torch.float32 if number % 4 == 3 else torch.float64
        is_training, is_left = number % 2 == 1, number // 2 % 2 == 1
        heads, dim, time = rng.choice((1, 2, 3)), rng.choice((6, 10)), rng.randint(3, 7)
        theirs = import_diffusers().PriorTransformer(
            num_attention_heads=heads,
            attention_head_dim=rng.choice((4, 6)),
            num_layers=rng.randint(1, 3),
            embedding_dim=dim,
            num_embeddings=time,
            dropout=0.3 * is_training,
            time_embed_act_fn=rng.choice(("silu", "gelu")),
            norm_in_type=rng.choice((None, "layer")),
            embedding_proj_norm_type=rng.choice((None, "layer")),
            time_embed_dim=rng.choice((None, 14)),
        )
        torch.manual_seed(rng.randrange(2**31))
        randomize_weights(theirs.to(dtype), 0.4).train(is_training)
        mask = torch.ones(3, time, dtype=torch.bool)
        for row in (1, 2):
            padding = rng.randint(1, time - 1)
            mask[row, :padding] = False
            mask[row] = mask[row] if is_left else mask[row].flip(0)
        t = torch.tensor([0, 17, 999])
        floats = (torch.randn(3, dim), torch.randn(3, dim), torch.randn(3, time, dim))
        x, embedding, text = (each.to(dtype) for each in floats)
        label = f"{'training' if is_training else 'evaluation'}, padded {'in front' if is_left else 'behind'}"
        config = json.loads(theirs.to_json_string())
        yield f"{label}, {str(dtype)[6:]}", config, theirs, (x, t, embedding, text, mask)


class TheirPrior(nn.Module):
    """Their network: x̂₀, and the embedding that it stands for."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.__name__ = model, type(model).__name__

    def forward(
        self, x: Tensor, t: Tensor, embedding: Tensor, text: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        model: Any = self.model
        with softmax_in_own_precision():
            predicted = model(x, t, embedding, text, mask).predicted_image_embedding
        return predicted, model.post_process_latents(predicted)


class DenormalizedPrior(nn.Module):
    """Our network: the same."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        predicted = model(*inputs)
        return predicted, model.denormalize(predicted)


def chains(process: DiffusionProcess, p_sample: Callable[..., tuple[Tensor, Tensor]]) -> Iterator[ParityCase]:
    """Every x of ancestral sampling by `UnCLIPScheduler` without clamping, from the same noise, where the
    network is a function. Both compute in float64: in float32 their last step multiplies x̂₀ by 0.9995, which
    is β₀ / (1 − ᾱ₀) where 1 − ᾱ₀ is a rounded difference."""
    schedule = process.noise_schedule().to_float64()

    def predict(x: Tensor, t: int) -> Tensor:
        return (x * (1 + t / 1000)).sin() * 3

    for steps in (2, 7, 25, 64, 1000):

        def ours(x: Tensor, steps: int = steps) -> tuple[Tensor, ...]:
            generator, visited = torch.Generator().manual_seed(steps), []
            for t, s in process.timestep_pairs(steps):
                pair = (torch.full((len(x),), each) for each in (t, s))
                x, x0 = p_sample(lambda x, t: predict(x, int(t[0])), process, schedule, x, *pair, generator)
                visited += [x, x0]
            return tuple(visited)

        def theirs(x: Tensor, steps: int = steps) -> tuple[Tensor, ...]:
            scheduler = import_diffusers().UnCLIPScheduler(
                prediction_type="sample", clip_sample=False, num_train_timesteps=process.timesteps
            )
            scheduler.betas = scheduler.betas.double()
            scheduler.alphas = 1 - scheduler.betas
            scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
            scheduler.set_timesteps(steps)
            generator, visited = torch.Generator().manual_seed(steps), []
            times = scheduler.timesteps.tolist()
            for t, s in zip(times, [*times[1:], None], strict=True):
                step = scheduler.step(predict(x, t), t, x, prev_timestep=s, generator=generator)
                x, x0 = step.prev_sample, step.pred_original_sample
                visited += [x, x0]
            return tuple(visited)

        x_T = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        yield ParityCase(ours, theirs, x_T, label=f"{steps} steps")
