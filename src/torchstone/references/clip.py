"""transformers' CLIP with random configurations and weights, and the losses of both sides."""

from collections.abc import Iterator
from random import Random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.data.vision.image_text_batches import OLD_END_ID
from torchstone.parts.contrastive_loss import symmetric_contrastive_loss
from torchstone.references import randomize_weights
from torchstone.references.bert import softmax_in_own_precision


def random_clips(
    library: ModuleType, count: int = 10, seed: int = 2021
) -> Iterator[tuple[str, dict, Any, tuple]]:
    """(label, config, network, inputs) in float64 and float32 in turn.

    Inputs are images, tokens and mask of as many texts of different lengths, padded behind or in front. Texts
    end with the config's end-of-text token, of which some have two, or, where that is 2, anywhere.
    """
    rng = Random(seed)
    for number in range(count):
        dtype = (torch.float64, torch.float32)[number % 2]
        is_old, is_left = number // 2 % 2 == 1, number // 4 % 2 == 1
        activation = rng.choice(("quick_gelu", "gelu")) if number > 1 else ("quick_gelu", "gelu")[number]
        time, vocab_size, patch = rng.randint(6, 12), rng.randint(20, 60), rng.choice((2, 4, 5))
        eps = rng.choice((1e-5, 1e-3))

        def tower(activation: str = activation, eps: float = eps) -> dict[str, Any]:
            heads = rng.choice((1, 2, 3))
            return {
                "hidden_size": heads * rng.choice((4, 6)),
                "num_hidden_layers": rng.randint(1, 3),
                "num_attention_heads": heads,
                "intermediate_size": rng.randint(8, 40),
                "hidden_act": activation,
                "layer_norm_eps": eps,
                "attn_implementation": "eager",
            }

        eos_id = OLD_END_ID if is_old else rng.randint(3, vocab_size - 1)
        config = library.CLIPConfig(
            vision_config={
                **tower(),
                "num_channels": rng.choice((1, 3)),
                "image_size": patch * rng.randint(2, 4),
                "patch_size": patch,
            },
            text_config={
                **tower(),
                "vocab_size": vocab_size,
                "max_position_embeddings": time + rng.randint(0, 3),
                "eos_token_id": eos_id,
                "bos_token_id": 0,
                "pad_token_id": 1,
            },
            projection_dim=rng.randint(5, 20),
        )
        torch.manual_seed(rng.randrange(2**31))
        theirs = library.CLIPModel(config).to(dtype).train()
        randomize_weights(theirs, 0.3)  # as created, biases are zero
        images = torch.randn(4, config.vision_config.num_channels, *[config.vision_config.image_size] * 2)
        tokens, mask = random_texts(rng, 4, time, vocab_size, eos_id, is_left=is_left)
        label = f"{activation}, {'old' if is_old else 'new'} end of text, {str(dtype)[6:]}"
        stated = {**theirs.config.to_dict(), "architectures": ["CLIPModel"]}
        yield label, stated, theirs, (images.to(dtype), tokens, mask)


def random_texts(
    rng: Random, count: int, time: int, vocab_size: int, eos_id: int, *, is_left: bool
) -> tuple[Tensor, Tensor]:
    """Tokens and mask (count, time): the first text is of full length, the last two have two ends."""
    tokens = torch.randint(3, vocab_size, (count, time))
    tokens[tokens == eos_id] = 3 if eos_id != 3 else 4
    mask = torch.zeros(count, time, dtype=torch.bool)
    for row in range(count):
        length = time if row == 0 else rng.randint(3, time)
        span = slice(time - length, time) if is_left else slice(0, length)
        mask[row, span] = True
        if eos_id != OLD_END_ID:
            tokens[row, span.stop - 1] = eos_id
            if row > 1:
                tokens[row, span.stop - 2] = eos_id
    return tokens.masked_fill(~mask, 1), mask


class TransformersPairs(nn.Module):
    """Their network: loss, logits of images and texts, embeddings."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.__name__ = model, type(model).__name__

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        with softmax_in_own_precision():
            out = model(input_ids=tokens, pixel_values=images, attention_mask=mask.long(), return_loss=True)
        return out.loss, out.logits_per_image, out.image_embeds, out.text_embeds


class PairsWithLoss(nn.Module):
    """Our network: the same."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        model: Any = self.model
        logits = model(images, tokens, mask)
        return (
            symmetric_contrastive_loss(logits),
            logits,
            model.encode_images(images),
            model.encode_texts(tokens, mask),
        )
