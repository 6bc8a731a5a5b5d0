"""Networks of transformers (and ViTs of torchvision and timm) with random configurations and weights."""

import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.optional_imports import import_optional, import_torchvision
from torchstone.references import randomize_weights
from torchstone.references.vision import import_timm


def import_transformers() -> ModuleType:
    """Import transformers, whose image code looks for torchvision."""
    import_torchvision()
    return import_optional("transformers")


def random_vits(count: int, seed: int = 0) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """Vision transformers sampled with a fixed seed: torchvision's, timm's, and transformers' with and
    without a classifier, in turn; each with its config (transformers') or our arguments."""
    rng = random.Random(seed)
    for number in range(count):
        heads, depth, patch = rng.choice([1, 2, 3, 5]), rng.randint(1, 3), rng.choice([2, 4, 7])
        width, size, num_classes = heads * rng.choice([4, 8]), patch * rng.randint(2, 4), number % 5 + 2
        inner, bias = rng.choice([2, 3]) * width, rng.random() < 0.5
        shape = {"width": width, "depth": depth, "heads": heads, "mlp_dim": inner, "image_size": size}
        shape |= {"patch_size": patch, "num_classes": num_classes}
        if number % 4 == 0:
            make = import_torchvision().models.VisionTransformer
            yield make(size, patch, depth, heads, width, inner, num_classes=num_classes), shape
        elif number % 4 == 1:
            options = {"embed_dim": width, "depth": depth, "num_heads": heads, "qkv_bias": bias}
            make = import_timm().models.VisionTransformer
            net = make(size, patch, 3, num_classes, mlp_ratio=inner / width, **options)
            yield net, {**shape, "qkv_bias": bias}
        else:
            name = "ViTModel" if number % 4 == 2 else "ViTForImageClassification"
            config = import_transformers().ViTConfig(
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=inner,
                hidden_act=rng.choice(["gelu", "relu", "gelu_new", "silu"]),
                image_size=size,
                patch_size=patch,
                qkv_bias=bias,
                num_labels=num_classes,
                architectures=[name],
            )
            pooler = {"add_pooling_layer": False} if number % 4 == 2 else {}
            yield getattr(import_transformers(), name)(config, **pooler), config.to_dict()


def random_gpts(count: int, seed: int = 0) -> Iterator[Any]:
    """transformers' GPT-2 and GPT-1 with their language-model heads, sampled with a fixed seed, in turn."""
    rng = random.Random(seed)
    for number in range(count):
        heads, vocab_size = rng.choice([1, 2, 3, 5]), rng.randint(11, 60)
        common: dict[str, Any] = {
            "n_head": heads,
            "n_embd": heads * rng.choice([4, 6, 8]),
            "n_layer": rng.randint(1, 3),
            "n_positions": rng.randint(8, 20),
            "vocab_size": vocab_size,
            "layer_norm_epsilon": rng.choice([1e-5, 1e-4]),
            "bos_token_id": None,
            "eos_token_id": None,
        }
        if number % 3 == 2:
            activation = rng.choice(["gelu", "relu", "silu"])
            config = import_transformers().OpenAIGPTConfig(**common, afn=activation)
            yield import_transformers().OpenAIGPTLMHeadModel(config)
        else:
            config = import_transformers().GPT2Config(
                **common,
                activation_function=rng.choice(["gelu_new", "gelu", "relu", "silu", "tanh"]),
                n_inner=rng.choice([None, 3 * common["n_embd"] + 1]),
                tie_word_embeddings=rng.random() < 0.5,
                scale_attn_weights=rng.random() < 0.7,
                scale_attn_by_inverse_layer_idx=rng.random() < 0.5,
            )
            yield import_transformers().GPT2LMHeadModel(config)


class _ExactRMSNorm(nn.Module):
    """T5's norm in the precision of its input; transformers' class takes the mean square in float32."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()


def random_t5s(count: int, exact: int, seed: int = 0) -> Iterator[Any]:
    """transformers' T5 sampled with a fixed seed: versions 1.0 and 1.1 in turn, the first `exact` in float64.

    Version 1.1 gets the output matrix of its own that this class no longer makes.
    """
    rng = random.Random(seed)
    for number in range(count):
        is_v1_1 = number % 3 > 0
        config = import_transformers().T5Config(
            vocab_size=rng.randint(11, 60),
            d_model=rng.choice([8, 12, 20]),
            d_kv=rng.choice([3, 4, 8]),
            d_ff=rng.choice([16, 30]),
            num_layers=rng.randint(1, 3),
            num_decoder_layers=rng.randint(1, 3),
            num_heads=rng.choice([1, 2, 3, 5]),
            relative_attention_num_buckets=rng.choice([8, 32]),
            relative_attention_max_distance=rng.choice([20, 128]),
            layer_norm_epsilon=rng.choice([1e-6, 1e-4]),
            feed_forward_proj=rng.choice(["gated-gelu", "gated-silu"]) if is_v1_1 else "relu",
            tie_word_embeddings=not is_v1_1,
            decoder_start_token_id=rng.choice([0, 3]),
            dropout_rate=0.0,
        )
        net = import_transformers().T5ForConditionalGeneration(config)
        if is_v1_1 and number % 2:
            net.lm_head.weight = nn.Parameter(torch.empty_like(net.lm_head.weight))
        randomize_weights(net, 0.3)
        if number < exact:
            for module in list(net.modules()):
                for name, child in list(module.named_children()):
                    if type(child).__name__ == "T5LayerNorm":
                        setattr(module, name, _ExactRMSNorm(child))
            net = net.double()
        yield net
