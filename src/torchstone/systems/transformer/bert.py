"""BERT: a transformer that reads both ways learns from hidden words, then does what is asked of it.

Paper: Jacob Devlin, Ming-Wei Chang, Kenton Lee and Kristina Toutanova, "BERT: Pre-training of Deep
Bidirectional Transformers for Language Understanding", 2018, arXiv:1810.04805.

The idea. A network that predicts the next word may only look back. Hide some words instead and let it
look everywhere: to fill the gaps it has to understand both sides, and needs no labels. What it has
learnt then serves any task: one linear layer on top, and all weights go on learning for minutes.

    x₀ = LN(word + place + segment)                        rows [CLS] A [SEP] or [CLS] A [SEP] B [SEP]
    h  = LN(x + attention(x)),   x = LN(h + W₂ gelu(W₁ h))         L layers (post-norm)
    masked language modelling   −log p(wᵢ) for 15 % of the words: 80 % of them show [MASK], 10 %
                                any word, 10 % themselves;   p = softmax(E LN(gelu(W h)) + b), E tied
    next sentence               does B follow A?   2 classes on tanh(W h_[CLS]); half of the time not
    fine-tuning                 softmax(W tanh(W h_[CLS])) a sentence or pair; softmax(W hᵢ) a word

    tiny 128 wide, 2 layers · mini 256, 4 · small 512, 4 · medium 512, 8 · base 768, 12 · large 1024, 24

Shapes: tokens (batch, time) -> hidden (batch, time, width); the mask is True where there is a token.
The smaller sizes are of Turc et al. 2019 (arXiv:1908.08962); `_cased` tells capitals apart.

What differs from the paper. Rows are as long as they may be from the start (the paper: 128 for 90 % of
the steps); those of like length are batched together. `sentiment` learns from hidden words of the very
texts it is to label, a text a row, without next sentences. The vector of padding does not learn.
Narrow networks start with wider weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.bert import from_config, published, match_weights, to_config, unpublished
from torchstone.parts.facts import Fact, ParityCase, parameters
from torchstone.parts.transformer.attention import MultiHeadAttention
from torchstone.parts.transformer.feed_forward import ACTIVATIONS, FeedForward
from torchstone.references import bert as oracle
from torchstone.references.bert_objective import Judged
from torchstone.systems import Variant
from torchstone.tasks.text.bert_data import prepare, load_matching_weights
from torchstone.tasks.text.bert_inference import evaluate, predict
from torchstone.tasks.text.finetune import finetune
from torchstone.tasks.text.masked_lm import pretrain

# fmt: off
__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "from_config", "predict", "published", "reference", "suited", "to_config", "unpublished"]
# fmt: on

MARGIN = ("accuracy", 0.12)


@dataclass(frozen=True)
class Recipe:
    data: str = "sentiment"  # labelled: sentiment, CSV/TSV/JSONL/CoNLL, a folder, hf:NAME; or text
    variant: str = "bert_tiny"  # which network
    goal: Literal["labels", "words"] = "labels"  # or stop at words: data is then plain text
    weights: str | None = None  # a run or folder to begin with instead of pre-training
    most: int | None = None  # examples at most, none for all
    vocabulary: int = 8192  # word pieces learnt from the text
    length: int = 64  # tokens a row may have
    pretrain: int = 1500  # updates on hidden words
    pretrain_batch: int = 64  # rows of one of them
    pretrain_lr: float = 2e-3  # highest learning rate
    pairs: bool = False  # learn next sentences too
    hidden: float = 0.15  # share of words to be told
    steps: int = 900  # updates on labels
    batch_size: int = 64  # rows of one of them
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        lr=5e-4,
        weight_decay=0.01,
        lr_schedule="linear",
        warmup_ratio=0.1,
        max_grad_norm=1.0,
        ema_decay=0.99,
    )  # optimizer, schedule, precision
    dropout: float = 0.1  # share dropped after every layer, and of attention weights
    seed: int = 0  # of weights, order, hidden words and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


WORDS = Recipe(
    data="shakespeare",
    goal="words",
    pairs=True,
    steps=1500,
    batch_size=32,
    optim=replace(Recipe.optim, lr=2e-3),
)
RECIPES = {
    "sentiment": Recipe(),
    "masked": WORDS,
    # the paper's (section A.2), on a text of your own: torchstone train bert/paper --data DIR
    "paper": replace(
        WORDS,
        variant="bert_base",
        vocabulary=30_522,
        length=512,
        steps=1_000_000,
        batch_size=256,
        optim=replace(WORDS.optim, lr=1e-4, warmup_ratio=0.01),
    ),
    # for tests: seconds
    "smoke": Recipe(
        most=1600,
        vocabulary=1000,
        length=24,
        pretrain=10,
        steps=100,
        batch_size=24,
        optim=replace(Recipe.optim, lr=1e-3, ema_decay=0.0),
    ),
}


class Layer(nn.Module):
    """Attention, then the position-wise network, each added and normalised."""

    def __init__(
        self, width: int, heads: int, inner: int, activation: str, dropout: float,
        attention_dropout: float, eps: float,
    ):  # fmt: skip
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, dropout=attention_dropout)
        self.norm1 = nn.LayerNorm(width, eps)
        self.feed_forward = FeedForward(width, inner, activation)
        self.norm2 = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "b t width"], mask: Bool[Tensor, "b 1 1 t"] | None
    ) -> Float[Tensor, "b t width"]:
        # h = LN(x + attention(x)),   LN(h + W₂ f(W₁ h))
        h = self.norm1(x + self.dropout(self.attention(x, mask=mask)))
        return self.norm2(h + self.dropout(self.feed_forward(h)))


class Bert(nn.Module):
    """The encoder, and on it one of the paper's heads.

    Args:
        places: the most tokens a row may have.
        segments: kinds of spans that are told apart.
        pad: the token whose vector is not learnt.
        tied: the head for words uses the vectors of words.
        pooler: the layer on [CLS]; the heads `pretraining` and `sentence` need it.
        head: `none`, `masked` (words), `pretraining` (words and next sentence), `sentence`, `tokens`.
        num_classes: of the heads `sentence` and `tokens`.
    """

    def __init__(
        self,
        vocabulary: int = 30522,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        inner: int = 3072,
        *,
        places: int = 512,
        segments: int = 2,
        activation: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        classifier_dropout: float | None = None,
        eps: float = 1e-12,
        pad: int | None = 0,
        tied: bool = True,
        pooler: bool = True,
        head: str = "none",
        num_classes: int = 2,
    ):
        super().__init__()
        self.head, self.activation = head, ACTIVATIONS[activation]
        self.word = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.place = nn.Embedding(places, width)
        self.segment = nn.Embedding(segments, width)
        self.norm = nn.LayerNorm(width, eps)
        self.dropout = nn.Dropout(dropout)
        settings = (activation, dropout, attention_dropout, eps)
        self.layers = nn.ModuleList(Layer(width, heads, inner, *settings) for _ in range(layers))
        self.pooler = nn.Linear(width, width) if pooler else None
        if head in ("masked", "pretraining"):
            self.transform = nn.Linear(width, width)
            self.transform_norm = nn.LayerNorm(width, eps)
            self.decoder = nn.Linear(width, vocabulary)
        if head == "pretraining":
            self.follows = nn.Linear(width, 2)
        if head in ("sentence", "tokens"):
            self.last = nn.Dropout(dropout if classifier_dropout is None else classifier_dropout)
            self.classifier = nn.Linear(width, num_classes)
        self.initialise()
        if tied and head in ("masked", "pretraining"):
            self.decoder.weight = self.word.weight

    def initialise(self) -> None:
        """Normal, cut at two deviations: 0.02, and in layers of width w 0.02 √(768/w), so that narrow
        ones pass on as much; biases and padding zero."""
        for module in self.modules():
            std = 0.02 * (768 / self.norm.weight.numel()) ** (isinstance(module, nn.Linear) / 2)
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if self.word.padding_idx is not None:
            nn.init.zeros_(self.word.weight[self.word.padding_idx])

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        time, most = tokens.shape[1], self.place.num_embeddings
        if time > most:
            raise BadInput(f"{time} tokens are more than the {most} places the network has")
        kind = self.segment.weight[0] if segments is None else self.segment(segments)
        x = self.word(tokens) + kind + self.place.weight[:time]
        x = self.dropout(self.norm(x))
        seen = None if mask is None else mask[:, None, None]
        for layer in self.layers:
            x = layer(x, seen)
        return x

    def pool(self, hidden: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch width"]:
        """tanh(W h_[CLS])."""
        assert self.pooler is not None, "made without a pooler"
        return self.pooler(hidden[:, 0]).tanh()

    def words(self, hidden: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n vocabulary"]:
        """E LN(gelu(W h)) + b, logits."""
        return self.decoder(self.transform_norm(self.activation(self.transform(hidden))))

    def logits(self, tokens: Tensor, mask=None, segments=None, places: Tensor | None = None):
        """What the head makes of a row: `masked` (batch, n, vocabulary); `pretraining` these, and
        (batch, 2) whose class 1 says that the second span is from elsewhere; `sentence` (batch,
        classes); `tokens` (batch, time, classes); `none` hidden states and, if it has one, its pooler's.

        Args:
            places: Int64 (batch, n), where words are wanted; by default everywhere.
        """
        hidden = self(tokens, mask, segments)
        if self.head == "none":
            return hidden if self.pooler is None else (hidden, self.pool(hidden))
        if self.head in ("sentence", "tokens"):
            return self.classifier(self.last(self.pool(hidden) if self.head == "sentence" else hidden))
        follows = self.follows(self.pool(hidden)) if self.head == "pretraining" else None
        if places is not None:
            hidden = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        return self.words(hidden) if follows is None else (self.words(hidden), follows)


# width, layers, heads, vocabulary; inner layers are four times as wide
SIZES = {
    "bert_base": (768, 12, 12, 30_522),
    "bert_base_cased": (768, 12, 12, 28_996),
    "bert_large": (1024, 24, 16, 30_522),
    "bert_large_cased": (1024, 24, 16, 28_996),
    "bert_medium": (512, 8, 8, 30_522),
    "bert_small": (512, 4, 8, 30_522),
    "bert_mini": (256, 4, 4, 30_522),
    "bert_tiny": (128, 2, 2, 30_522),
}


def sized(variant: str) -> dict[str, int]:
    """The arguments that make a variant."""
    width, layers, heads, vocabulary = SIZES[variant]
    sizes = {"vocabulary": vocabulary, "width": width, "layers": layers}
    return {**sizes, "heads": heads, "inner": 4 * width}


VARIANTS = {name: Variant(partial(Bert, **sized(name)), (512,)) for name in SIZES}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    start = prepare(recipe, sized(recipe.variant))
    model_config, tensors = start.model_config, start.tensors
    rng.seed(recipe.seed)
    if tensors is None or recipe.goal == "words":
        model_config |= {"head": "pretraining" if recipe.pairs else "masked", "pooler": recipe.pairs}
        model = load_matching_weights(Bert(**model_config), tensors).to(device)
        own: dict[str, Any] = {"steps": recipe.pretrain, "batch_size": recipe.pretrain_batch}
        own["optim"] = replace(recipe.optim, lr=recipe.pretrain_lr)
        first = replace(recipe, **(own if recipe.goal == "labels" else {}))
        metadata = {**start.metadata, "model_config": model_config, "pairs": recipe.pairs}
        yield pretrain(model, first, start.documents, start.frame, metadata=metadata)
        tensors = model.state_dict()
    if recipe.goal == "words":
        return
    data: Any = start.labelled
    own: dict[str, Any] = {"pooler": not data.words, "num_classes": len(data.classes)}
    own["head"] = "tokens" if data.words else "sentence"
    model_config = {**model_config, **own}
    model = load_matching_weights(Bert(**model_config), tensors).to(device)
    yield finetune(model, recipe, start, model_config=model_config)


# encoder and pooler; pre-training heads; head for words alone
COUNTS = {
    "bert_base": (109_482_240, 110_106_428, 109_514_298),
    "bert_base_cased": (108_310_272, 108_932_934, 108_340_804),
    "bert_large": (335_141_888, 336_226_108),
    "bert_large_cased": (333_579_264, 334_661_958),
    "bert_medium": (41_373_184,),
    "bert_small": (28_763_648,),
    "bert_mini": (11_170_560,),
    "bert_tiny": (4_385_920,),
}


def counted(variant: str, head: str) -> int:
    """Parameters, without memory for them."""
    with torch.device("meta"):
        return parameters(VARIANTS[variant].make(head=head, pooler=head != "masked"))


FACTS = [
    Fact(f"{variant} parameters, head {head}", partial(counted, variant, head), count)
    for variant, counts in COUNTS.items()
    for head, count in zip(("none", "pretraining", "masked"), counts, strict=False)
]


def reference():
    """transformers' classes with random settings, padding, both precisions; losses as recipes have."""
    from torchstone.references import transformers

    for kind, config, theirs, inputs in oracle.drawn(transformers()):
        ours = Bert(**from_config(config)[1]).to(theirs.dtype).train()
        ours.load_state_dict(published("", theirs.state_dict()))
        both, said = (Judged(ours), oracle.Asked(theirs)), f"{kind}, {str(theirs.dtype)[6:]}"
        yield ParityCase(*both, inputs, oracle.renamed, torch.optim.AdamW, said)
