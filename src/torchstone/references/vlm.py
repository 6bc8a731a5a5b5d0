"""transformers' LLaVA with a CLIP tower and GPT-2 in random configurations, and the losses of both sides."""

from collections.abc import Callable, Iterator
from random import Random
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchstone.references import randomize_weights

PAD_ID = 0
ACTIVATIONS = ("gelu", "quick_gelu", "relu", "silu", "gelu_new")


def random_vlms(
    library: ModuleType, count: int = 10, seed: int = 2023
) -> Iterator[tuple[str, dict, Any, tuple]]:
    """(label, config, network, inputs) in float64 and float32 in turn.

    Inputs are images, tokens of texts of different lengths with the image's tokens in front or after the
    first word, padded behind, and the next tokens where they are of an answer, else padding.
    """
    rng = Random(seed)
    for number in range(count):
        dtype = (torch.float64, torch.float32)[number % 2]
        heads, layers, patch = rng.choice((1, 2, 3)), rng.randint(2, 4), rng.choice((2, 4, 5))
        side, channels, vocab_size = rng.randint(2, 3), rng.choice((1, 3)), rng.randint(20, 60)
        # the last hidden states, those before, and counted from the front; with and without the class token
        layer = (-2, -1, -2, 1, -3)[number % 5] if layers > 2 else -2
        strategy = ("default", "full")[number // 2 % 2]
        patches, words, image_id = side**2 + (strategy == "full"), rng.randint(6, 11), vocab_size - 1
        vision = {
            "model_type": "clip_vision_model",
            "hidden_size": heads * rng.choice((4, 6)),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": rng.randint(8, 40),
            "hidden_act": rng.choice(("quick_gelu", "gelu")),
            "layer_norm_eps": rng.choice((1e-5, 1e-3)),
            "num_channels": channels,
            "image_size": patch * side,
            "patch_size": patch,
        }
        text_heads = rng.choice((1, 2, 3))
        text = {
            "model_type": "gpt2",
            "n_embd": text_heads * rng.choice((4, 6)),
            "n_layer": rng.randint(1, 3),
            "n_head": text_heads,
            "n_positions": patches + words + rng.randint(0, 3),
            "vocab_size": vocab_size,
            "activation_function": rng.choice(("gelu_new", "gelu", "relu")),
            "layer_norm_epsilon": rng.choice((1e-5, 1e-3)),
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
            "tie_word_embeddings": False,  # LLaVA's class looks for tied weights under LLaMA's names
            "bos_token_id": None,
            "eos_token_id": None,
        }
        config = library.LlavaConfig(
            vision_config=library.CLIPVisionConfig(**vision),
            text_config=library.GPT2Config(**text),
            image_token_index=image_id,
            projector_hidden_act=rng.choice(ACTIVATIONS),
            vision_feature_select_strategy=strategy,
            vision_feature_layer=layer,
            multimodal_projector_bias=rng.random() < 0.7,
            attn_implementation="sdpa",
        )
        torch.manual_seed(rng.randrange(2**31))
        theirs = library.LlavaForConditionalGeneration(config).to(dtype).train()
        randomize_weights(theirs, 0.3)  # as created, their biases are zero
        images = torch.randn(3, channels, patch * side, patch * side, dtype=dtype)
        tokens = torch.randint(1, image_id, (3, words))
        lengths = torch.tensor([[words], [words - 1], [rng.randint(3, words - 2)]])
        tokens = tokens.masked_fill(torch.arange(words) >= lengths, PAD_ID)
        first = number % 3 % 2  # words before the image
        image = torch.full((3, patches), image_id)
        tokens = torch.cat([tokens[:, :first], image, tokens[:, first:]], 1)
        targets = F.pad(tokens[:, 1:], (0, 1), value=PAD_ID)
        is_answer = torch.arange(tokens.shape[1]) >= patches + first + 1
        targets = targets.masked_fill(~is_answer, PAD_ID)
        label = f"layer {layer} of {layers}, {strategy}, {str(dtype)[6:]}"
        yield label, config.to_dict(), theirs, (images, tokens, targets)


class OurAnswers(nn.Module):
    """Logits, zero at padding, and `loss`."""

    def __init__(self, model: nn.Module, loss: Callable[..., dict[str, Tensor]]):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: Tensor, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        from torchstone.data.vision.question_batches import QuestionBatch

        logits = self.model(images, tokens)
        loss = self.loss(self.model, QuestionBatch(images, tokens, targets))["loss"]
        return logits * (tokens != PAD_ID)[..., None], loss


class TheirAnswers(nn.Module):
    """The same of transformers: the loss of labels shifted by one, at those that are not padding, in the
    network's precision (`transformers` takes it in float32)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        mask = tokens != PAD_ID
        logits = self.model(input_ids=tokens, pixel_values=images, attention_mask=mask).logits
        labels = F.pad(targets, (1, 0), value=PAD_ID)[:, :-1]
        shifted = logits[:, :-1].flatten(0, 1)
        loss = F.cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=PAD_ID)
        return logits * mask[..., None], loss
