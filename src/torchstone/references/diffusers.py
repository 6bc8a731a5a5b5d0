"""Networks of diffusers with random configurations."""

import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torchstone.parts.optional_imports import import_optional, import_torchvision


def import_diffusers() -> ModuleType:
    """Import diffusers, whose image code looks for torchvision."""
    import_torchvision()
    return import_optional("diffusers")


def random_unets(count: int, seed: int = 0) -> Iterator[Any]:
    """diffusers' U-Nets sampled with a fixed seed: every kind of block, one to three resolutions."""
    rng = random.Random(seed)
    for number in range(count):
        groups, resolutions = rng.choice([2, 4]), rng.choice([1, 2, 2, 3])
        # at least two channels per group: with one, the bias before a norm has no gradient
        widths = [2 * groups * rng.randint(1, 3) for _ in range(resolutions)]
        heads = rng.choice([None, 1, groups // 2])
        down = ["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
        up = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
        yield import_diffusers().UNet2DModel(
            sample_size=4 * 2 ** (resolutions - 1),
            in_channels=rng.choice([1, 3]),
            out_channels=rng.choice([1, 3]),
            block_out_channels=tuple(widths),
            down_block_types=tuple(rng.choice(down) for _ in widths),
            up_block_types=tuple(rng.choice(up) for _ in widths),
            downsample_type=rng.choice(["conv", "resnet"]),
            upsample_type=rng.choice(["conv", "resnet"]),
            layers_per_block=rng.choice([1, 2]),
            downsample_padding=rng.choice([0, 1]),
            mid_block_scale_factor=rng.choice([1, 2**0.5]),
            norm_num_groups=groups,
            attn_norm_num_groups=rng.choice([None, 1]),
            norm_eps=rng.choice([1e-6, 1e-4]),
            attention_head_dim=heads,
            resnet_time_scale_shift=rng.choice(["default", "scale_shift"]),
            add_attention=rng.random() < 0.8,
            act_fn=rng.choice(["silu", "gelu", "relu"]),
            freq_shift=rng.choice([0, 1]),
            flip_sin_to_cos=rng.random() < 0.5,
            center_input_sample=rng.random() < 0.3,
            time_embedding_dim=rng.choice([None, 20]),
            num_class_embeds=5 if number % 3 == 2 else None,
        )


def random_autoencoders(count: int, seed: int = 0) -> Iterator[Any]:
    """diffusers' `AutoencoderKL` sampled with a fixed seed: one to three resolutions, every switch."""
    rng = random.Random(seed)
    for number in range(count):
        groups, resolutions = rng.choice([2, 4]), 1 + number % 3
        # at least two channels per group: with one, the bias before a norm has no gradient
        widths = [2 * groups * rng.randint(1, 2) for _ in range(resolutions)]
        yield import_diffusers().AutoencoderKL(
            in_channels=rng.choice([1, 3]),
            out_channels=rng.choice([1, 3]),
            down_block_types=("DownEncoderBlock2D",) * resolutions,
            up_block_types=("UpDecoderBlock2D",) * resolutions,
            block_out_channels=tuple(widths),
            layers_per_block=rng.choice([1, 2]),
            act_fn=rng.choice(["silu", "gelu", "relu"]),
            latent_channels=rng.choice([1, 3, 4]),
            norm_num_groups=groups,
            scaling_factor=rng.choice([0.18215, 0.7, 3.0]),
            use_quant_conv=rng.random() < 0.7,
            use_post_quant_conv=rng.random() < 0.7,
            mid_block_add_attention=rng.random() < 0.7,
        )


def random_conditional_unets(count: int, seed: int = 0) -> Iterator[Any]:
    """diffusers' `UNet2DConditionModel` sampled with a fixed seed: both kinds of blocks, one to three
    resolutions, every switch that Stable Diffusion 1 and 2 differ in."""
    rng = random.Random(seed)
    for number in range(count):
        groups, resolutions = rng.choice([2, 4]), 1 + number % 3
        widths = sorted(2 * groups * rng.randint(1, 3) for _ in range(resolutions))
        heads = {width: rng.choice([1, 2, groups]) for width in widths}
        yield import_diffusers().UNet2DConditionModel(
            sample_size=4 * 2 ** (resolutions - 1),
            in_channels=rng.choice([4, 9]),
            out_channels=4,
            block_out_channels=tuple(widths),
            down_block_types=tuple(rng.choice(["DownBlock2D", "CrossAttnDownBlock2D"]) for _ in widths),
            up_block_types=tuple(rng.choice(["UpBlock2D", "CrossAttnUpBlock2D"]) for _ in widths),
            layers_per_block=rng.choice([1, 2]),
            downsample_padding=rng.choice([0, 1]),
            norm_num_groups=groups,
            norm_eps=rng.choice([1e-5, 1e-4]),
            cross_attention_dim=rng.choice([6, 10]),
            attention_head_dim=rng.choice([2, tuple(heads[width] for width in widths)]),
            transformer_layers_per_block=rng.choice([1, 2]),
            use_linear_projection=number % 2 == 1,
            act_fn=rng.choice(["silu", "gelu"]),
            freq_shift=rng.choice([0, 1]),
            flip_sin_to_cos=rng.random() < 0.5,
            center_input_sample=rng.random() < 0.3,
        )


def random_dits(count: int, seed: int = 0) -> Iterator[Any]:
    """diffusers' `DiTTransformer2DModel` sampled with a fixed seed. All blocks share one embedder,
    as in the paper, and the network itself drops no label."""
    rng = random.Random(seed)
    for _ in range(count):
        patch, channels, heads = rng.choice([1, 2, 4]), rng.choice([1, 3, 4]), rng.choice([1, 2, 3])
        net = import_diffusers().DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=4 * rng.randint(1, 3),
            in_channels=channels,
            out_channels=rng.choice([None, channels, 2 * channels]),
            num_layers=rng.choice([1, 2, 3]),
            sample_size=patch * rng.randint(1, 4),
            patch_size=patch,
            num_embeds_ada_norm=rng.choice([2, 5]),
            norm_eps=rng.choice([1e-6, 1e-5, 1e-3]),
        )
        for block in net.transformer_blocks:
            block.norm1.emb = net.transformer_blocks[0].norm1.emb
        net.transformer_blocks[0].norm1.emb.class_embedder.dropout_prob = 0.0
        yield net
