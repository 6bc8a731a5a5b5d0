"""VLM: a language model that reads an image's patches as tokens, and answers questions about it.

Paper: Haotian Liu, Chunyuan Li, Qingyang Wu and Yong Jae Lee, "Visual Instruction Tuning" (LLaVA), 2023,
arXiv:2304.08485; the projector of two layers: Liu, Li, Li and Lee, "Improved Baselines with Visual
Instruction Tuning" (LLaVA-1.5), 2023, arXiv:2310.03744. GPT-4 (OpenAI, 2023, arXiv:2303.08774) takes images
too; its network is not published.

The idea. A language model reads embeddings, whatever they come from. Let a vision encoder turn an image into
one vector a patch, project these to the width of the word embeddings, and put them before the question: the
answer is then the continuation, as of any text. Training is next-token prediction on the answers alone, over
conversations of several questions about one image.

    Z = g(image)                           CLIP's hidden states before its last block, class token dropped
    H = W₂ gelu(W₁ Z)                      the projector: a linear layer in LLaVA, two in LLaVA-1.5
    h = [H₁ … H_N, E(q₁), …, E(a₁), …]     embeddings of tokens, N of them the image's; GPT reads h
    L = −Σ log p(xᵢ | image, x before i)   over the tokens of answers and their ends (equations 2 and 3)

    vlm_emoji       16 patches of 8 × 8 pixels through a convolutional stem, width 96, 2 blocks + 2 blocks
    vlm_l_14_gpt2   CLIP L/14 at 336 × 336 pixels (576 patches), projector, GPT-2

Shapes: images (batch, channels, height, width) and tokens (batch, time), N of each row the image's, ->
logits (batch, time, vocabulary).

What differs from the paper. The language model is GPT, not LLaMA; its positions are learned. Nothing is
pre-trained unless `--vision` names a run of `clip`: encoder, projector and language model are trained
together from the first step, on questions whose answers are known or measured (the paper's are GPT-4's). The
paper's first stage, the projector alone on captions, is left out. Words are tokens, those of the training
questions; a question with another word is refused. Blocks that are not read are kept, so that weights fit
CLIP's, and not trained.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.vision.question_batches import IMAGE_ID, PAD_ID, QuestionBatch, question_tokenizer
from torchstone.data.vision.questions import load_questions
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.vlm import from_config, published
from torchstone.parts.facts import Fact, ParityCase, on_meta
from torchstone.parts.transformer.attention import KVCache
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.parts.transformer.token_loss import token_loss
from torchstone.systems import Variant
from torchstone.systems.transformer.clip import (
    CLIPVisionConfig,
    CLIPVisionTower,
    init_blocks,
    init_vision_embeddings,
)
from torchstone.systems.transformer.gpt import GPT, GPTConfig
from torchstone.tasks.optimization import decay_matrices_only
from torchstone.tasks.transfer import freeze, load_run_weights, load_weights
from torchstone.tasks.vision.answer import evaluate, longest_conversation, predict, train_to_answer

__all__ = ["FACTS", "MARGIN", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

MARGIN = ("accuracy", 0.3)


@dataclass(frozen=True)
class Recipe:
    data: str = "openmoji"  # data set: openmoji, digits, or a folder with questions.tsv
    variant: str = "vlm_emoji"  # network
    vision: str | None = None  # vision encoder to start from: a run of clip (default: random weights)
    freeze: Literal["none", "vision"] = "none"  # what is not trained: none, or the vision encoder
    dropout: float = 0.1  # dropout probability of residual branches and attention
    augment: str = "affine6-0.15-0.1+jitter0.2-0.01"  # augmentation: none, or operations joined by +
    steps: int = 1500  # number of training steps
    batch_size: int = 64  # batch size, in images, each with all of its questions
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=2e-3, weight_decay=0.05, warmup_ratio=0.05, max_grad_norm=1.0
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, order, augmentation and dropout
    device: str = "auto"  # device: auto, cpu, cuda, mps


RECIPES = {
    "openmoji": Recipe(),
    # for tests: seconds
    "smoke": Recipe(
        data="digits",
        variant="vlm_tiny",
        dropout=0.0,
        augment="none",
        steps=100,
        batch_size=32,
        optim=replace(Recipe.optim, lr=5e-3),
    ),
}


@dataclass(frozen=True)
class VLMConfig:
    """The architecture: an encoder of images, a language model, and what connects them."""

    vision: CLIPVisionConfig = CLIPVisionConfig()
    language: GPTConfig = GPTConfig()
    vision_layer: int = -2  # whose hidden states are read: −1 after the last block, −2 before it
    class_token: bool = False  # the class token is read too, before the patches
    image_id: int = IMAGE_ID  # token in whose place an image's vectors are put
    projector_activation: str = "gelu"
    projector_bias: bool = True


class Projector(nn.Module):
    """H = W₂ f(W₁ Z): from hidden states of the encoder to embeddings of the language model."""

    def __init__(self, config: VLMConfig):
        super().__init__()
        width, bias = config.language.width, config.projector_bias
        self.up = nn.Linear(config.vision.width, width, bias=bias)
        self.down = nn.Linear(width, width, bias=bias)
        self.activation = ACTIVATIONS[config.projector_activation]

    def forward(self, z: Float[Tensor, "batch patches z"]) -> Float[Tensor, "batch patches width"]:
        return self.down(self.activation(self.up(z)))


@torch.no_grad()
def init_language(language: nn.Module, width: int) -> None:
    """GPT-2's deviations times √(768/width): at 0.02 the attention of a narrow network is uniform for most of
    a short training, and the image is not looked at."""
    for weight in language.parameters():
        if weight.dim() > 1:
            weight *= (768 / width) ** 0.5


class VLM(nn.Module):
    """Vision encoder, projector and language model.

    Raises:
        BadInput: the encoder has no such layer.
    """

    def __init__(self, config: VLMConfig):
        super().__init__()
        self.config = config
        layers, layer = config.vision.layers, config.vision_layer
        depth = layer if layer >= 0 else layers + 1 + layer  # blocks that are read
        if not 0 <= depth <= layers:
            raise BadInput(
                f"an encoder of {layers} blocks has no hidden states {layer}: −{layers + 1} to {layers}"
            )
        self.vision = CLIPVisionTower(config.vision)
        self.projector = Projector(config)
        self.language = GPT(config.language)
        self.vocab_size, self.context = config.language.vocab_size, config.language.context
        # back from the last block, as the tower counts
        self.layer = depth - layers - 1
        rows, columns = self.vision.grid_size
        self.image_tokens = rows * columns + config.class_token
        init_blocks(self.vision)
        init_vision_embeddings(self.vision)
        init_language(self.language, config.language.width)
        # what is not read gets no gradient
        for unread in (*self.vision.layers[depth:], self.vision.post_norm):
            unread.requires_grad_(False)
        self.vision.class_token.requires_grad_(depth > 0 or config.class_token)

    def forward(
        self, images: Float[Tensor, "batch channels h w"], tokens: Int64[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time vocab"]:
        """Logits of the next token at every position.

        Args:
            tokens: `image_tokens` of each row are `image_id`; by default there are no others.

        Raises:
            BadInput: image tokens and patches differ in number; more tokens than the context holds.
        """
        if tokens is None:
            tokens = torch.full((len(images), self.image_tokens), self.config.image_id, device=images.device)
        return self.read(tokens, self.encode(images))

    def encode(self, images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch patches width"]:
        """H: an image as embeddings of the language model."""
        z = self.vision(images, self.layer)  # Z = g(image)
        return self.projector(z if self.config.class_token else z[:, 1:])

    def read(
        self,
        tokens: Int64[Tensor, "batch time"],
        patches: Float[Tensor, "batch patches width"] | None = None,
        cache: list[KVCache] | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch positions vocab"]:
        """Logits of the next token at every position, or (`last_only`) at the last one.

        With a cache, `tokens` continue what was read into it.

        Args:
            patches: what `encode` gives, for the image tokens; None where there are none.
        """
        h = self.language.token_embedding(tokens)
        if patches is not None:
            is_image = tokens == self.config.image_id
            self.check_count(is_image, patches)
            h = h.masked_scatter(is_image[..., None], patches.to(h.dtype))
        return self.language.read(h, cache, last_only)

    def check_count(self, is_image: Tensor, patches: Tensor) -> None:
        """Refuse rows whose image tokens are not as many as the vectors of an image."""
        if torch.compiler.is_compiling():  # looking at numbers breaks the graph
            return
        counts = is_image.sum(1)
        if bool((counts != patches.shape[1]).any()):
            wrong = int(counts[counts != patches.shape[1]][0])
            raise BadInput(
                f"{wrong} image tokens in a row, but an image has {patches.shape[1]} vectors: repeat the "
                f"token {self.config.image_id} so many times"
            )

    def make_cache(self) -> list[KVCache]:
        """An empty cache for `read`."""
        return self.language.make_cache()


def make_vlm(vision: Mapping[str, Any] = {}, language: Mapping[str, Any] = {}, **model_config: Any) -> VLM:
    """A network by the fields of `CLIPVisionConfig`, `GPTConfig` and `VLMConfig`."""
    return VLM(VLMConfig(CLIPVisionConfig(**vision), GPTConfig(**language), **model_config))


def loss(net: Any, batch: QuestionBatch) -> dict[str, Tensor]:
    """−log p of the answers' tokens and their ends, the mean over them (nats), and their accuracy.

    Questions and image are read, not predicted: their targets are padding.
    """
    logits = net(batch.images, batch.tokens)  # (B, T, V)
    metrics = token_loss(logits, batch.targets, pad=PAD_ID)
    return {"loss": metrics["loss"], "token_accuracy": metrics["accuracy"], "weight": metrics["weight"]}


SMALL_VISION = {"width": 96, "layers": 3, "heads": 4, "d_ff": 192, "image_size": 32, "activation": "gelu"}
CONFIGS: dict[str, dict[str, Any]] = {
    "vlm_emoji": {
        "vision": {**SMALL_VISION, "patch_size": 8, "stem": [16, 32, 64]},
        "language": {"width": 96, "depth": 2, "heads": 4, "vocab_size": 100, "context": 64, "d_ff": 192},
    },
    "vlm_tiny": {
        "vision": {
            **{"width": 32, "layers": 2, "heads": 2, "d_ff": 64, "image_size": 8, "patch_size": 4},
            **{"stem": [16], "activation": "gelu"},
        },
        "language": {"width": 32, "depth": 1, "heads": 2, "vocab_size": 40, "context": 32, "d_ff": 64},
    },
    "vlm_l_14_gpt2": {
        "vision": {
            **{"width": 1024, "layers": 24, "heads": 16, "d_ff": 4096},
            **{"image_size": 336, "patch_size": 14},
        }
    },
}
VARIANTS = {
    name: Variant(partial(make_vlm, **config), (3, *[config["vision"]["image_size"]] * 2))
    for name, config in CONFIGS.items()
}


def load_vision(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of the vision encoder in a run of `clip`.

    Raises:
        BadInput: it is no such run.
    """
    if not Path(path, "recipe.json").exists():
        raise BadInput(f"there is no vision encoder in {path}: give a run of clip")
    tensors, metadata = load_run_weights(Path(path))
    vision = metadata.get("model_config", {}).get("vision")
    if not isinstance(vision, dict):
        raise BadInput(
            f"{path} holds a {metadata['variant']}, which has no vision encoder: give a run of clip"
        )
    prefix = "vision."
    own = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
    return asdict(CLIPVisionConfig(**vision)), own


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    config, tensors = CONFIGS[recipe.variant], {}
    vision = config["vision"]
    if recipe.vision is not None:
        vision, tensors = load_vision(recipe.vision)
    elif recipe.freeze == "vision":
        raise BadInput("freeze vision needs a trained encoder: say which with --vision")
    data = load_questions(recipe.data, size=vision["image_size"], device=device)
    tokenizer = question_tokenizer(data.train.questions)
    image_tokens = (vision["image_size"] // vision["patch_size"]) ** 2
    language = {
        "vocab_size": tokenizer.get_vocab_size(),
        "context": image_tokens + longest_conversation(data, tokenizer),
        "dropout": recipe.dropout,
    }
    model_config = {
        **config,
        "vision": {**vision, "dropout": recipe.dropout},
        "language": {**config.get("language", {}), **language},
    }
    rng.seed(recipe.seed)
    model = make_vlm(**model_config).to(device)
    if tensors:
        load_weights(model.vision, tensors, f"{recipe.vision} does not fit {recipe.variant}")
    if recipe.freeze == "vision":
        freeze(model, ("projector.", "language."))
    yield train_to_answer(
        model,
        recipe,
        data,
        tokenizer,
        loss,
        parameters=decay_matrices_only(model, recipe.optim),
        model_config=model_config,
    )


# of LLaVA-1.5-7B: 7,062,902,784 parameters, of which LLaMA has 6,738,415,616; its projector; 24 × 24 patches
BESIDE_LANGUAGE = 7_062_902_784 - 6_738_415_616


def count_parts(*parts: str, **language: Any) -> int:
    """Parameters of parts of `vlm_l_14_gpt2`, those that are not read included."""
    config = {**CONFIGS["vlm_l_14_gpt2"], "language": language}
    model = on_meta(make_vlm, **config)
    return sum(p.numel() for name in parts for p in getattr(model, name).parameters())


FACTS = [
    Fact(
        "LLaVA-1.5-7B parameters without LLaMA",
        lambda: count_parts("vision", "projector", width=4096, depth=0, heads=32),
        BESIDE_LANGUAGE,
    ),
    Fact("of its projector", lambda: count_parts("projector", width=4096, depth=0, heads=32), 20_979_712),
    Fact("image tokens at 336 pixels", lambda: on_meta(VARIANTS["vlm_l_14_gpt2"].make).image_tokens, 576),
    Fact("vlm_l_14_gpt2 parameters", lambda: count_parts("vision", "projector", "language"), 429_325_056),
]


def reference() -> Iterator[ParityCase]:
    """transformers' LLaVA with a CLIP tower and GPT-2, in random configurations from a fixed seed."""
    from torchstone.references import convert_inside
    from torchstone.references.transformers import import_transformers
    from torchstone.references.vlm import OurAnswers, TheirAnswers, random_vlms

    for label, config, theirs, inputs in random_vlms(import_transformers()):
        ours = make_vlm(**from_config(config)).to(theirs.dtype).train()
        ours.load_state_dict(published("", theirs.state_dict()))
        names = convert_inside(partial(published, ""))
        yield ParityCase(
            OurAnswers(ours, loss), TheirAnswers(theirs), inputs, names, torch.optim.AdamW, label
        )
