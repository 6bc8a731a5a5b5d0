"""Longformer: an encoder for whole documents, whose tokens attend within a window and to a few global tokens.

Paper: Iz Beltagy, Matthew E. Peters and Arman Cohan, "Longformer: The Long-Document Transformer", 2020,
arXiv:2004.05150.

The idea. In dense attention every token attends to all n, which takes n² time and memory: BERT stops at 512
tokens. Most of what a token needs stands beside it, and what stands further away comes layer by layer. So let
each attend to w/2 tokens on either side only; and let a few, such as the one that a classifier reads, attend
to all and be attended to by all. Time and memory grow with n. The window is cheap to learn, because a trained
RoBERTa already has it: its weights are taken over, and its 512 positions repeated.

    x₀ = LN(token + position + segment)                    positions are counted from that of padding on
    qᵢ, kⱼ, vⱼ = W x                                       a ∈ attend(i):  |i − a| ≤ w/2, or a is global
    yᵢ = Σ_a softmax_a(qᵢ·kₐ / √d) vₐ                      with dilation s: i − a = 0, ±s, …, ±s·w/2
    qᵢ, kⱼ, vⱼ = W_g x   and   a ∈ all tokens              where i is a global token; W_g begins as W
    h  = LN(x + W_o y),   x = LN(h + W₂ gelu(W₁ h))        L times (post-norm)
    masked language modeling    −log p(wᵢ) for 15 % of the tokens;   p = softmax(E LN(gelu(W h)) + b), E tied
    fine-tuning                 softmax(W tanh(W h_<s>)) for a document, <s> global; softmax(W hᵢ) for a word

    base 768 wide, 12 layers, 12 heads · large 1024, 24, 16 · w = 512, which is 256 to each side

Shapes: tokens (batch, time) -> hidden (batch, time, width); masks are True where there is a token, and where
it is global.

What differs from the paper. Without weights to start from, networks are pre-trained from scratch, on a
vocabulary over bytes that is learned from the training texts; `sentiment` does so on masked words of the
very texts that it will classify. While no token is global, as in pre-training, W_g and W are one and the
same: they part in fine-tuning. Where a document is classified, only <s> is read of the last layer, so its W
stays as it is. Two segments are divided by one `</s>`. The learning rate falls linearly. The character
language model of the paper's section 4, with dilation in some heads only, is left out; dilation is stated
for a whole layer. Narrow networks are initialized with larger weights.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.text.mlm_batches import MLMBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.longformer import (
    DEFAULTS,
    from_config,
    match_weights,
    published,
    to_config,
    unpublished,
    windows_of,
)
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.global_tokens import GlobalTokens, attend_to_projected, check_global_tokens
from torchstone.parts.transformer.initialization import init_truncated_normal
from torchstone.parts.transformer.sliding_window_attention import sliding_window_attention
from torchstone.systems import Variant
from torchstone.tasks.text.bert_data import Start, load_encoder, load_matching_weights, prepare
from torchstone.tasks.text.bert_inference import evaluate, predict
from torchstone.tasks.text.finetune import finetune
from torchstone.tasks.text.masked_lm import masked_word_loss, pretrain

__all__ = [
    "FACTS",
    "RECIPES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "from_config",
    "match_weights",
    "predict",
    "published",
    "reference",
    "to_config",
    "unpublished",
]

MARGIN = ("accuracy", 0.12)


@dataclass(frozen=True)
class Recipe:
    data: str = "sentiment"  # data set: labeled (sentiment, CSV/TSV/JSONL/CoNLL, folder, hf:NAME) or a text
    variant: str = "longformer_tiny"  # network variant
    task: Literal["classify", "masked_lm"] = "classify"  # training task: labeled text or plain text
    weights: str | None = None  # weights to start from: a run or folder of Longformer, RoBERTa or BERT
    max_examples: int | None = None  # maximum number of examples (default: all)
    vocab_size: int = 8192  # vocabulary size of the byte-pair tokenizer
    max_length: int = 64  # maximum number of tokens in a row
    attention_window: int | None = None  # attention window, both sides together (default: the variant's)
    pretrain_steps: int = 1500  # number of updates in pre-training
    pretrain_batch_size: int = 64  # batch size in pre-training (rows)
    pretrain_lr: float = 2e-3  # peak learning rate in pre-training
    mask_prob: float = 0.15  # probability of masking a token in pre-training
    steps: int = 900  # number of updates
    batch_size: int = 64  # batch size (rows)
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        lr=5e-4,
        weight_decay=0.01,
        lr_schedule="linear",
        warmup_ratio=0.1,
        max_grad_norm=1.0,
        ema_decay=0.99,
    )  # optimizer, schedule, precision
    dropout: float = 0.1  # dropout probability of layer outputs and attention weights
    seed: int = 0  # random seed of weights, data order, masks and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


MASKED = Recipe(
    data="shakespeare",
    task="masked_lm",
    max_length=512,
    steps=1500,
    batch_size=8,
    optim=replace(Recipe.optim, lr=2e-3),
)
RECIPES = {
    "sentiment": Recipe(),
    "masked": MASKED,
    # the paper's (section 5), which begins with RoBERTa, on a text of your own:
    # torchstone train longformer/paper --weights hf:FacebookAI/roberta-base --data DIR
    "paper": replace(
        MASKED,
        variant="longformer_base",
        vocab_size=50_265,
        max_length=4096,
        steps=65_000,
        batch_size=64,
        optim=replace(MASKED.optim, lr=3e-5, warmup_ratio=0.0077, ema_decay=0.0),
    ),
    # for tests: seconds
    "smoke": Recipe(
        max_examples=1600,
        vocab_size=2000,
        max_length=32,
        attention_window=8,
        pretrain_steps=10,
        steps=120,
        batch_size=24,
        optim=replace(Recipe.optim, lr=1e-3, ema_decay=0.0),
    ),
}


@dataclass(frozen=True)
class LongformerConfig:
    """Architecture of the encoder and its head."""

    vocab_size: int = 50_265
    width: int = 768
    layers: int = 12
    heads: int = 12
    d_ff: int = 3072  # width of the feed-forward layers
    attention_window: int | Sequence[int] = 512  # both sides together; one for all layers, or one for each
    dilation: int | Sequence[int] = 1  # distance of neighboring keys in the window, likewise
    max_length: int = 4096  # maximum number of tokens in a row
    num_segments: int = 1
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    eps: float = 1e-5  # of the norms
    pad_id: int = 1  # token whose embedding is not trained, and from whose number positions are counted on
    tie_weights: bool = True  # the token embedding is the output matrix of the masked-word head
    tie_global: bool = False  # global tokens use the projections of the others
    use_pooler: bool = True  # a layer on the first token
    head: str = "none"  # none, masked, sentence or tokens
    num_classes: int = 2  # of the heads `sentence` and `tokens`


class LongformerAttention(nn.Module):
    """Sliding-window attention whose global tokens have projections of their own (section 3.1).

    Args:
        window: both sides together.
        dilation: distance of neighboring keys in the window.
        dropout: dropout probability of the attention weights.
    """

    def __init__(self, width: int, heads: int, *, window: int, dilation: int = 1, dropout: float = 0.0):
        super().__init__()
        self.heads, self.window, self.dilation, self.dropout = heads, window, dilation, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.global_projection = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width)})
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time"] | None = None,
        global_tokens: GlobalTokens | None = None,
    ) -> Float[Tensor, "batch time width"]:
        q, k, v = self._split_heads(self.qkv(x), 3)
        y = sliding_window_attention(
            q,
            k,
            v,
            window=self.window // 2,
            dilation=self.dilation,
            mask=mask,
            global_tokens=global_tokens,
            global_rows=None if global_tokens is None else self._attend_to_all(x, mask, global_tokens),
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out(y.transpose(1, 2).flatten(2))

    def _attend_to_all(
        self, x: Tensor, mask: Tensor | None, global_tokens: GlobalTokens
    ) -> Float[Tensor, "batch heads tokens head_dim"]:
        """What the global tokens find among all, by W_g."""
        linear: Any = self.global_projection["qkv"]
        width, dropout = x.shape[2], self.dropout if self.training else 0.0
        projections = list(zip(linear.weight.split(width), linear.bias.split(width), strict=True))
        (q,) = self._split_heads(F.linear(global_tokens.gather(x), *projections[0]), 1)
        if q.shape[2] < q.shape[3] // 2:  # few: all tokens need not be projected for them
            return attend_to_projected(q, x, *projections[1:], mask=mask, dropout=dropout)
        k, v = self._split_heads(F.linear(x, linear.weight[width:], linear.bias[width:]), 2)
        return global_tokens.attend_to_all(q, k, v, mask=mask, scale=None, dropout=dropout)

    def _split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return tuple(part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in x.chunk(parts, 2))


class LongformerBlock(nn.Module):
    """BERT's layer with the attention above: each half is followed by addition and layer norm."""

    def __init__(self, config: LongformerConfig, window: int, dilation: int):
        super().__init__()
        width, p = config.width, config.attention_dropout
        self.attention = LongformerAttention(width, config.heads, window=window, dilation=dilation, dropout=p)
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.feed_forward = FeedForward(width, config.d_ff, config.activation)
        self.norm2 = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, global_tokens: GlobalTokens | None) -> Tensor:
        # h = LN(x + W_o y),   LN(h + W₂ f(W₁ h))
        h = self.norm1(x + self.dropout(self.attention(x, mask, global_tokens)))
        return self.norm2(h + self.dropout(self.feed_forward(h)))


class Longformer(nn.Module):
    """The encoder, and one of the paper's heads.

    Raises:
        BadInput: a window is odd, or there are not as many windows or dilations as layers.
    """

    def __init__(self, config: LongformerConfig):
        super().__init__()
        width, head, layers = config.width, config.head, config.layers
        self.config, self.head = config, head
        windows = windows_of(config.attention_window, layers)
        dilations = dilations_of(config.dilation, layers)
        self.token_embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_id)
        positions = config.max_length + config.pad_id + 1
        self.position_embedding = nn.Embedding(positions, width, padding_idx=config.pad_id)
        self.segment_embedding = nn.Embedding(config.num_segments, width)
        self.norm = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            LongformerBlock(config, *each) for each in zip(windows, dilations, strict=True)
        )
        self.pooler = nn.Linear(width, width) if config.use_pooler else None
        if head == "masked":
            self.transform = nn.Linear(width, width)
            self.transform_norm = nn.LayerNorm(width, config.eps)
            self.decoder = nn.Linear(width, config.vocab_size)
        if head == "sentence":
            self.pre_classifier = nn.Linear(width, width)
        if head in ("sentence", "tokens"):
            self.classifier = nn.Linear(width, config.num_classes)
        self.init_weights()
        if config.tie_weights and head == "masked":
            self.decoder.weight = self.token_embedding.weight

    def init_weights(self) -> None:
        """Truncated normal; narrow networks get larger weights. W_g begins as W."""
        init_truncated_normal(self, self.config.width)
        for layer in self.layers:
            attention: Any = layer.attention
            if self.config.tie_global:
                attention.global_projection["qkv"] = attention.qkv
            else:
                attention.global_projection["qkv"].load_state_dict(attention.qkv.state_dict())

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        global_mask: Bool[Tensor, "texts positions"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Hidden states.

        Args:
            global_mask: True for tokens that attend to all, and to which all attend.

        Raises:
            BadInput: more tokens than the network has positions; a global token that is not in the text.
        """
        return self.encode(tokens, mask, segments, check_global_tokens(tokens, mask, global_mask))

    def encode(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None,
        segments: Int64[Tensor, "batch time"] | None,
        global_tokens: GlobalTokens | None,
    ) -> Float[Tensor, "batch time width"]:
        """Hidden states, where the global tokens are found already."""
        time, max_length, pad_id = tokens.shape[1], self.config.max_length, self.config.pad_id
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        # x₀ = LN(token + position + segment)
        is_word = tokens != pad_id
        position = is_word.cumsum(1) * is_word + pad_id
        has_segments = segments is not None and self.config.num_segments > 1
        segment = self.segment_embedding(segments) if has_segments else self.segment_embedding.weight[0]
        x = self.token_embedding(tokens) + self.position_embedding(position) + segment
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = layer(x, mask, global_tokens)
        return x

    def pool(self, hidden: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch width"]:
        """tanh(W h_<s>)."""
        assert self.pooler is not None, "created without a pooler"
        return self.pooler(hidden[:, 0]).tanh()

    def token_logits(self, hidden: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n vocab_size"]:
        """E LN(gelu(W h)) + b."""
        return self.decoder(self.transform_norm(F.gelu(self.transform(hidden))))

    def logits(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        global_mask: Tensor | None = None,
    ):
        """The output of the head.

        `masked`: (batch, n, vocab_size). `sentence`: (batch, classes). `tokens`: (batch, time, classes).
        `none`: hidden states and, if there is a pooler, its output.

        Args:
            positions: Int64 (batch, n), the positions to predict words at; by default all.
            global_mask: True for global tokens; by default none, or the first where a document is classified.
        """
        if global_mask is None and self.head == "sentence":
            hidden = self.encode(tokens, mask, segments, first_tokens(tokens))
        else:
            hidden = self(tokens, mask, global_mask, segments)
        if self.head == "none":
            return hidden if self.pooler is None else (hidden, self.pool(hidden))
        if self.head == "tokens":
            return self.classifier(self.dropout(hidden))
        if self.head == "sentence":
            # softmax(W tanh(W h_<s>))
            features = self.pre_classifier(self.dropout(hidden[:, 0])).tanh()
            return self.classifier(self.dropout(features))
        if positions is not None:
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))
        return self.token_logits(hidden)


def dilations_of(dilation: int | Sequence[int], layers: int) -> list[int]:
    """The dilation of each layer."""
    dilations = [dilation] * layers if isinstance(dilation, int) else list(dilation)
    if len(dilations) != layers or min(dilations, default=1) < 1:
        raise BadInput(f"dilation must be one number of at least 1, or {layers} for the layers: {dilation}")
    return dilations


def first_tokens(tokens: Int64[Tensor, "batch time"]) -> GlobalTokens:
    """The first token of each text as its global one: nothing has to be looked for."""
    text = torch.arange(len(tokens), device=tokens.device)
    zeros = torch.zeros_like(text)
    return GlobalTokens(zeros[:, None], torch.ones_like(zeros[:, None], dtype=torch.bool), text, zeros, zeros)


def make_longformer(**model_config: Any) -> Longformer:
    """A network by the fields of `LongformerConfig`."""
    return Longformer(LongformerConfig(**model_config))


# width, layers, heads, attention window; d_ff is four times the width
SIZES = {
    "longformer_base": (768, 12, 12, 512),
    "longformer_large": (1024, 24, 16, 512),
    "longformer_mini": (256, 4, 4, 128),
    "longformer_tiny": (128, 2, 2, 32),
}


def size_of(variant: str) -> dict[str, int]:
    """The arguments by which a variant differs."""
    width, layers, heads, window = SIZES[variant]
    sizes = {"width": width, "layers": layers, "heads": heads, "d_ff": 4 * width}
    return {**sizes, "attention_window": window}


VARIANTS = {name: Variant(partial(make_longformer, **size_of(name)), (512,)) for name in SIZES}


def lengthen(start: Start, max_length: int, window: int) -> Start:
    """RoBERTa or BERT as a Longformer (section 5): its positions are repeated up to `max_length`, and its
    projections are those of global tokens too.

    Raises:
        BadInput: the weights lack one of these.
    """
    config, tensors = dict(start.model_config), dict(start.tensors)
    # RoBERTa's positions begin after that of padding, BERT's at once
    first = len(tensors.get("position_embedding.weight", ())) - config["max_length"]
    if first < 0:
        raise BadInput("the weights lack position_embedding.weight: use complete ones")
    pad_id = config["pad_id"] or 0
    learned = tensors["position_embedding.weight"][first:]
    max_length = max(max_length, len(learned))
    rows = learned.repeat(-(-max_length // len(learned)), 1)[:max_length]
    tensors["position_embedding.weight"] = torch.cat([rows.new_zeros(pad_id + 1, rows.shape[1]), rows])
    for name in [name for name in tensors if ".attention.qkv." in name]:
        copy = name.replace(".attention.qkv.", ".attention.global_projection.qkv.")
        tensors[copy] = tensors[name].clone()
    names = (*DEFAULTS, "vocab_size", "width", "layers", "heads", "d_ff")
    arguments = {name: config[name] for name in names if name in config}
    arguments |= {"pad_id": pad_id, "max_length": max_length, "attention_window": window, "tie_global": True}
    return Start(arguments, tensors, start.tokenizer, start.classes)


def find_start(recipe: Recipe, window: int) -> Start | None:
    """What the recipe's weights hold, as a Longformer."""
    if recipe.weights is None:
        return None
    start = load_encoder(Path(recipe.weights), "longformer", also=("bert", "roberta"))
    if "attention_window" not in start.model_config:
        return lengthen(start, recipe.max_length, window)
    local = {name: t for name, t in start.tensors.items() if ".attention.qkv." in name}
    start.model_config["tie_global"] = all(
        torch.equal(t, start.tensors[name.replace(".qkv.", ".global_projection.qkv.")])
        for name, t in local.items()
    )
    if recipe.attention_window is not None:
        start.model_config["attention_window"] = window
    return start


def pretraining_loss(output: Tensor, batch: MLMBatch) -> dict[str, Tensor]:
    """−log p of the masked words, averaged over all of them.

    Args:
        output: of the head `masked`, at the masked positions.
    """
    # −log p(wᵢ)
    loss, accuracy = masked_word_loss(output, batch)
    return {"loss": loss, "accuracy": accuracy}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    sizes = size_of(recipe.variant)
    if recipe.attention_window is not None:
        sizes["attention_window"] = recipe.attention_window
    windows_of(sizes["attention_window"], 1)
    start = find_start(recipe, sizes["attention_window"])
    setup = prepare(recipe, {**sizes, "num_segments": 1, "tie_global": True}, "longformer", start)
    model_config, tensors = {"tie_global": False, **setup.model_config, "use_pooler": False}, setup.tensors
    rng.seed(recipe.seed)
    if tensors is None or recipe.task == "masked_lm":
        model_config |= {"head": "masked"}
        model: Any = load_matching_weights(make_longformer(**model_config), tensors).to(device)
        if not model_config["tie_global"]:  # of published weights: no token is global here, so they stay
            for layer in model.layers:
                layer.attention.global_projection.requires_grad_(False)
        stage = recipe
        if recipe.task == "classify":
            stage = replace(
                recipe,
                steps=recipe.pretrain_steps,
                batch_size=recipe.pretrain_batch_size,
                optim=replace(recipe.optim, lr=recipe.pretrain_lr),
            )
        metadata = {**setup.metadata, "model_config": model_config, "pairs": False}
        yield pretrain(model, stage, setup.documents, setup.special, pretraining_loss, metadata=metadata)
        tensors = model.state_dict()
    if recipe.task == "masked_lm":
        return
    dataset: Any = setup.dataset
    has_word_labels = dataset.has_word_labels
    model_config = {
        **model_config,
        "num_classes": len(dataset.classes),
        "head": "tokens" if has_word_labels else "sentence",
        "tie_global": has_word_labels,  # where words are labeled no token is global
    }
    model: Any = load_matching_weights(make_longformer(**model_config), tensors).to(device)
    if not has_word_labels:  # no more than <s> is read of the last layer, by W_g
        model.layers[-1].attention.qkv.requires_grad_(False)
    yield finetune(model, recipe, setup, model_config=model_config)


# number of parameters: encoder and pooler; with the masked-word head, without the pooler
COUNTS = {"longformer_base": (148_659_456, 148_711_257), "longformer_large": (434_600_960, None)}
FACTS = [
    Fact(
        f"{variant} parameters, head {head}",
        partial(count_on_meta, VARIANTS[variant].make, head=head, use_pooler=head != "masked"),
        count,
    )
    for variant, counts in COUNTS.items()
    for head, count in zip(("none", "masked"), counts, strict=True)
    if count is not None
]


def reference() -> Iterator[ParityCase]:
    """transformers' classes with random settings, padding and global tokens, in both precisions; losses as in
    training."""
    from torchstone.references import convert_inside
    from torchstone.references.bert import EncoderWithLoss, TransformersEncoder
    from torchstone.references.longformer import random_longformers
    from torchstone.references.transformers import import_transformers

    for kind, config, theirs, inputs in random_longformers(import_transformers()):
        ours = make_longformer(**from_config(config)[1]).to(theirs.dtype).train()
        ours.load_state_dict(published("", theirs.state_dict()))
        pair = EncoderWithLoss(ours, pretraining_loss), TransformersEncoder(theirs)
        names = convert_inside(partial(published, ""))
        yield ParityCase(*pair, inputs, names, torch.optim.AdamW, f"{kind}, {str(theirs.dtype)[6:]}")
