"""DALL-E 3: a diffusion model that follows its prompt, since a captioner wrote what it is trained on.

Paper: James Betker, Gabriel Goh, Li Jing et al., "Improving Image Generation with Better Captions", OpenAI
2023. The captioner is that of Liu et al., "Visual Instruction Tuning", 2023, arXiv:2304.08485, which has the
form of the paper's; the decoder that of Ho, Jain and Abbeel, 2020, arXiv:2006.11239.

The idea. What is written beside an image names its subject at most, and leaves out what else can be seen. A
model that is trained on such captions learns to ignore the details of a prompt. So a captioner, a language
model that reads images, is trained on a few images with descriptions. It describes all others. The model of
images is trained on these descriptions, and now and then on the caption that was there.

    L(captioner) = −Σ_j log p(c_j | c_1 … c_{j−1}, F(x))                                         (equation 2)
    c(x) = the captioner's likeliest token, one after another                           the synthetic caption
    caption of a draw = c(x) with probability r, else the short one;  r = 0.95                  (section 3.4)
    L(decoder) = E ‖x₀ − x_θ(x_t, t, caption)‖²,  the caption dropped in a tenth of the draws
    prompt → "details: prompt"                                                    upsampling    (section 3.5)

A model of long captions wants long prompts. The paper has GPT-4 rewrite a short one. Here the captioner does,
which has learned to answer a short caption without an image too (a blank one): it writes the details, and the
words of the prompt follow. `sample --upsample never` leaves it out.

    dalle3_emoji   16 × 16 in color: a U-Net of two resolutions over 8 × 8 folds of 2 × 2 pixels, a text
                   encoder of one layer; captioner of 16 patches, two blocks of vision and two of language
    dalle3_tiny    8 × 8, for tests

Three stages of one run: the captioner, the captions (`captions.tsv` in the run's folder, to be read), the
decoder. At the end samples are made for held-out descriptions, and classifiers that were trained on real
images say which color and category they see: `attribute_accuracy`, beside that of real images (`real_…`).
`benchmarks/recaptioning.py` trains 0, 50 and 95 % of synthetic captions side by side.

The paper's own figures are of its data and its judges, and have no counterpart here (table 1; DALL-E 3,
DALL-E 2, SDXL): CLIP score of MSCOCO captions 32.0, 31.4, 30.5; DrawBench by GPT-4V with short captions 70.4,
49.0, 46.9 %, with long ones 81.0, 52.4, 51.1 %.

What differs from the paper. Descriptions to train the captioner on come from the drawings' own colors and
Unicode's groups, not from people; the captioner is trained from random weights, on these alone. The decoder
works on pixels and has a text encoder of its own, trained with it, in place of latents and T5-XXL. It
predicts x₀, whose samples are clean after few updates. An auxiliary head predicts a coarse image from the
caption, as in `ddpm`. The consistency decoder is left out.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from torchstone.data.text.tokenizers import to_metadata
from torchstone.data.vision.captioned import split_words
from torchstone.data.vision.descriptions import load_described
from torchstone.data.vision.diffusion_batches import DiffusionBatch
from torchstone.data.vision.question_batches import PAD_ID, Conversations, QuestionBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.diffusion.process import DiffusionProcess, NoiseSchedule
from torchstone.parts.facts import Fact, ParityCase, on_meta
from torchstone.parts.transformer.token_loss import token_loss
from torchstone.systems import Variant
from torchstone.systems.generative import CLASSIFIER
from torchstone.systems.generative.ddpm import p_sample, q_sample, unet
from torchstone.systems.transformer.t5 import VARIANTS as T5_VARIANTS
from torchstone.systems.transformer.vlm import make_vlm
from torchstone.tasks.diffusion import recaption
from torchstone.tasks.diffusion.recaption import Captions, Setup, predict
from torchstone.tasks.transfer import load_run_weights, load_weights

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "predict",
    "reference",
    "sample",
]

MARGIN = ("loss", -0.1)
# what of the paper is written out here
STORY = ("captioner_loss", "draw_captions", "decoder_loss")


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set of images with short captions and descriptions: openmoji, shapes
    variant: str = "dalle3_emoji"  # network variant
    synthetic_caption_ratio: float = (
        0.95  # share of the draws with the captioner's caption, not the short one
    )
    captioner: str | None = None  # captioner to use: a run of dalle3 (default: a new one is trained)
    captioner_steps: int = 200  # number of updates of the captioner
    captioner_batch_size: int = 64  # images per update of the captioner, half of them blank
    captioner_lr: float = 2e-3  # learning rate of the captioner
    captioner_augment: str = "flip"  # augmentation of the captioner's images
    cond_drop_prob: float = 0.1  # probability of dropping the caption (classifier-free guidance)
    beta_schedule: Literal["linear", "cosine", "scaled_linear"] = "cosine"  # noise schedule
    timesteps: int = 1000  # number of timesteps T
    prediction_type: Literal["epsilon", "x0", "v"] = "x0"  # prediction target: epsilon, x0 or v
    dropout: float = 0.0  # dropout probability of the decoder's residual blocks
    augment: str = "none"  # augmentation of the decoder's images, such as flip
    steps: int = 200  # number of updates of the decoder
    batch_size: int = 32  # images per update of the decoder
    optim: OptimConfig = OptimConfig(
        lr=2e-3, beta2=0.99, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.99
    )  # optimizer, schedule, precision
    sampler: Literal["ddpm", "ddim"] = "ddim"  # sampler: ddpm (ancestral) or ddim
    sampling_steps: int = 8  # number of sampling steps
    guidance_scale: float = 2.0  # guidance scale s of samples, 1 for no guidance
    eval_prompts: int = 140  # number of held-out prompts evaluated at the end (0: none)
    seed: int = 0  # random seed of weights, data order, captions drawn and noise
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train dalle3                  about a minute of a core   attribute_accuracy 0.43 (real 0.90)
    "openmoji": Recipe(),
    # the same with half of the captions, and none, by the captioner: 0.26 and 0.14
    "half": Recipe(synthetic_caption_ratio=0.5),
    "short_captions": Recipe(synthetic_caption_ratio=0.0),
    # for tests: seconds
    "smoke": Recipe(
        data="shapes",
        variant="dalle3_tiny",
        captioner_steps=60,
        captioner_batch_size=32,
        captioner_lr=5e-3,
        captioner_augment="none",
        timesteps=100,
        steps=60,
        optim=replace(Recipe.optim, ema_decay=0.9),
        sampling_steps=3,
        eval_prompts=0,
    ),
}


class Output(NamedTuple):
    """What the decoder predicts, and the captioner's logits at the tokens of the image."""

    prediction: Float[Tensor, "batch channel height width"]
    caption_logits: Float[Tensor, "batch patches vocab"]


class DALLE3(nn.Module):
    """Captioner and decoder.

    Args:
        captioner: arguments of `vlm.make_vlm`.
        decoder: those of `ddpm.unet`.
    """

    def __init__(self, captioner: Mapping[str, Any], decoder: Mapping[str, Any]):
        super().__init__()
        self.captioner, self.decoder = make_vlm(**captioner), unet(**decoder)
        self.shape = self.decoder.shape

    def forward(
        self,
        x: Float[Tensor, "batch channel height width"],
        t: Shaped[Tensor, " batch"],
        context: Int64[Tensor, "batch tokens"] | None = None,
    ) -> Output:
        return Output(self.decoder(x, t, context), self.captioner(x))


def captioner_loss(net: Any, batch: QuestionBatch) -> dict[str, Tensor]:
    """−log p(c_j | c_1 … c_{j−1}, F(x)), the mean over the captions' tokens in nats (equation 2).

    The image and what is asked about it are read, not predicted: their targets are padding.
    """
    logits = net(batch.images, batch.tokens)  # (B, T, V)
    metrics = token_loss(logits, batch.targets, pad=PAD_ID)
    return {"loss": metrics["loss"], "token_accuracy": metrics["accuracy"], "weight": metrics["weight"]}


def draw_captions(
    labels: Int64[Tensor, " batch"], u: Float[Tensor, " batch"], count: int, ratio: float
) -> Int64[Tensor, " batch"]:
    """The caption of each image of a batch: row i is the short one of image i, row `count` + i the synthetic
    one, which is taken with probability `ratio` (section 3.4). Whether a caption is dropped for guidance is
    another draw, which has no part in it.

    Args:
        u: uniform on 0..1.
    """
    return labels + count * (u < ratio)


def decoder_loss(
    net: Callable[..., Tensor], process: DiffusionProcess, schedule: NoiseSchedule, batch: DiffusionBatch
) -> Tensor:
    """The mean squared error of the prediction given the caption drawn, here of x₀."""
    x0, t, epsilon, captions = batch
    prediction = net(q_sample(schedule, x0, t, epsilon), t, captions)
    return F.mse_loss(prediction, schedule.training_target(process.prediction_type, x0, epsilon, t))


sample = partial(recaption.sample, p_sample=p_sample)
evaluate = partial(recaption.evaluate, p_sample=p_sample, training_loss=decoder_loss, classifier=CLASSIFIER)


CONFIGS: dict[str, dict[str, Any]] = {
    "dalle3_emoji": {
        "captioner": {
            "vision": {
                **{"width": 64, "layers": 3, "heads": 4, "d_ff": 128, "image_size": 16, "patch_size": 4},
                **{"stem": [16, 32], "activation": "gelu"},
            },
            "language": {"width": 64, "depth": 2, "heads": 4, "vocab_size": 100, "context": 64, "d_ff": 128},
        },
        "decoder": {
            **{"widths": (32, 64), "attention": (False, True), "depth": 1, "groups": 8, "channels": 3},
            **{"size": 16, "patch": 2, "head_width": 32, "scale_shift": True, "coarse_head": 256},
            "text_encoder": {
                **{"vocab_size": 2000, "max_length": 28, "width": 96, "depth": 1, "heads": 4},
                **{"dropout": 0.1, "word_dropout": 0.1},
            },
        },
    },
    "dalle3_tiny": {
        "captioner": {
            "vision": {
                **{"width": 32, "layers": 2, "heads": 2, "d_ff": 64, "image_size": 8, "patch_size": 4},
                **{"stem": [16], "activation": "gelu"},
            },
            "language": {"width": 32, "depth": 1, "heads": 2, "vocab_size": 40, "context": 32, "d_ff": 64},
        },
        "decoder": {
            **{"widths": (16, 32), "attention": (False, True), "depth": 1, "groups": 8, "channels": 3},
            **{"size": 8, "scale_shift": True, "coarse_head": 32},
            "text_encoder": {
                **{"vocab_size": 40, "max_length": 12, "width": 32, "depth": 1, "heads": 2},
                **{"dropout": 0.1, "word_dropout": 0.1},
            },
        },
    },
}
VARIANTS = {
    name: Variant(partial(DALLE3, **config), (3, *[config["decoder"]["size"]] * 2))
    for name, config in CONFIGS.items()
}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    config = CONFIGS[recipe.variant]
    data = load_described(recipe.data, size=config["decoder"]["size"], device=device)
    tokenizer = recaption.caption_tokenizer(data)
    vision = config["captioner"]["vision"]
    conversations = Conversations(tokenizer, (vision["image_size"] // vision["patch_size"]) ** 2)
    longest = max(len(tokenizer.encode(text).ids) for text in data.long)
    captions = Captions(conversations, longest + 1)
    # every word that a caption of the decoder's can have
    words = {word for row in data.train.labels.tolist() for word in split_words(tokenizer, data.short[row])}
    text_encoder = config["decoder"]["text_encoder"]
    model_config = {
        "captioner": {
            "vision": vision,
            "language": {
                **config["captioner"]["language"],
                "vocab_size": tokenizer.get_vocab_size(),
                "context": conversations.image_tokens + recaption.longest_turn(data, conversations),
            },
        },
        "decoder": {
            **config["decoder"],
            "text_encoder": {**text_encoder, "vocab_size": 3 + len(words | set(tokenizer.get_vocab()))},
            "dropout": recipe.dropout,
            "process": {
                "beta_schedule": recipe.beta_schedule,
                "timesteps": recipe.timesteps,
                "prediction_type": recipe.prediction_type,
            },
        },
    }
    rng.seed(recipe.seed)
    model = DALLE3(**model_config).to(device)
    setup = Setup(model, recipe, data, captions, model_config, CLASSIFIER)
    if recipe.captioner is None:
        yield recaption.train_captioner(setup, captioner_loss)
    else:
        load_captioner(setup, recipe.captioner)
    run, writer = recaption.write_captions(setup)
    yield run
    mixed = recaption.mix_captions(setup, writer)
    draw = partial(draw_captions, count=len(data.short), ratio=recipe.synthetic_caption_ratio)
    yield recaption.train_decoder(setup, mixed, draw, decoder_loss, p_sample)


def load_captioner(setup: Setup, path: str) -> None:
    """The captioner of another run into `setup`'s model.

    Raises:
        BadInput: it is no run of dalle3, or its captioner has another vocabulary or size.
    """
    if not Path(path, "recipe.json").exists():
        raise BadInput(f"there is no captioner in {path}: give a run of dalle3")
    tensors, metadata = load_run_weights(Path(path))
    saved = metadata.get("captioner")
    if not isinstance(saved, dict):
        raise BadInput(f"{path} holds a {metadata['variant']}, which has no captioner: give a run of dalle3")
    if saved["tokenizer"] != to_metadata(setup.captions.conversations.tokenizer):
        raise BadInput(f"the captioner in {path} knows other words than those of {setup.data.name}")
    prefix = "captioner."
    own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    load_weights(setup.model.captioner, own, f"the captioner in {path} does not fit {setup.recipe.variant}")


def count_t5_xxl_encoder() -> int:
    """Parameters of the encoder of T5 1.1 XXL with its embedding: what the paper conditions on."""
    fields = {"width": 4096, "layers": 24, "heads": 64, "d_ff": 10_240}
    model = on_meta(partial(T5_VARIANTS["t5_v1_1_large"].make, **fields))
    decoder = sum(p.numel() for name, p in model.named_parameters() if not is_of_encoder(name))
    return sum(p.numel() for p in model.parameters()) - decoder


def is_of_encoder(name: str) -> bool:
    return name.startswith(("encoder", "token_embedding"))


FACTS = [
    Fact("share of synthetic captions", lambda: RECIPES["openmoji"].synthetic_caption_ratio, 0.95),
    Fact("parameters of the T5-XXL encoder, which is replaced", count_t5_xxl_encoder, 4_762_310_656),
]


def reference() -> Iterator[ParityCase]:
    """Each image alone: its caption without padding, a text encoder and a U-Net in plain operations."""
    from torchstone.references.dalle3 import cases

    yield from cases(DALLE3, captioner_loss, decoder_loss)
