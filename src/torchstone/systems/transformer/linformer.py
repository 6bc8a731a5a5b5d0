"""Linformer: an encoder whose attention projects keys and values to a fixed number of rows.

Paper: Sinong Wang, Belinda Z. Li, Madian Khabsa, Han Fang and Hao Ma, "Linformer: Self-Attention with Linear
Complexity", 2020, arXiv:2006.04768.

The idea. The n × n matrix of attention weights is nearly of low rank: a few of its singular values hold most
of it, and random projections keep what matters (the lemma of Johnson and Lindenstrauss). So mix the n keys to
k of them with a learned k × n matrix E, and the n values with F, before any query looks. Weights are then
n × k: time and memory grow with n, whatever the text. What is paid for it: E and F have a column for each
position, so a text can be no longer than they were made for, and each projected key is a sum over the whole
text, so there is no causal form.

    x₀ = LN(token + position + segment)
    K = E (x W_k),   V = F (x W_v)                         E, F: k × n;  a text of m tokens uses m columns
    y = softmax((x W_q) Kᵀ / √d) V                         for each head;  n × k weights     (equation 7)
    h = LN(x + W_o y),   x = LN(h + W₂ gelu(W₁ h))         L times (post-norm)
    sharing (section 4)        none        each head of each layer has its E and F: 2·L·heads matrices
                               headwise    the heads of a layer share both: 2·L
                               key_value   and E = F: L
                               layerwise   one matrix for all layers, heads, keys and values: 1
    masked language modeling   −log p(wᵢ) for 15 % of the tokens;   p = softmax(T LN(gelu(W h)) + b),
                               T the table of token embeddings
    fine-tuning                softmax(W tanh(W h_<s>)) for a document;  softmax(W hᵢ) for a word

    base 768 wide, 12 layers, 12 heads, k = 256, n = 512

Shapes: tokens (batch, time) -> hidden (batch, time, width); the mask is True where there is a token.

Padding. It is taken out of keys and values before the projection. Masked after it, as scores are elsewhere,
it would be part of every projected key, and a text's output would depend on the rows beside it.

What differs from the paper. Networks are pre-trained from scratch, on a vocabulary over bytes that is learned
from the training texts; `sentiment` does so on masked words of the very texts that it will classify. E and F
begin as means of positions that are k apart (one of the projections of section 4, learned from there on):
from random ones, as in the paper's theorem, short trainings did not get to know which words there are. The
learning rate falls linearly. Another k for each layer, and convolution in place of E, are left out. Narrow
networks are initialized with larger weights.
"""

from collections.abc import Iterator
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
from torchstone.parts.facts import Fact, ParityCase, count_on_meta, on_meta
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.initialization import init_truncated_normal
from torchstone.parts.transformer.low_rank_attention import low_rank_attention
from torchstone.systems import Variant
from torchstone.tasks.text.bert_data import Start, load_encoder, load_matching_weights, prepare
from torchstone.tasks.text.bert_inference import evaluate, predict
from torchstone.tasks.text.finetune import finetune
from torchstone.tasks.text.masked_lm import masked_word_loss, pretrain

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

MARGIN = ("loss", -0.1)  # to give each label its frequency lowers it by 0.07
Sharing = Literal["none", "headwise", "key_value", "layerwise"]


@dataclass(frozen=True)
class Recipe:
    data: str = "sentiment"  # data set: labeled (sentiment, CSV/TSV/JSONL/CoNLL, folder, hf:NAME) or a text
    variant: str = "linformer_tiny"  # network variant
    task: Literal["classify", "masked_lm"] = "classify"  # training task: labeled text or plain text
    weights: str | None = None  # weights to start from instead of pre-training: a run of Linformer
    max_examples: int | None = None  # maximum number of examples (default: all)
    vocab_size: int = 8192  # vocabulary size of the byte-pair tokenizer
    max_length: int = 64  # maximum number of tokens in a row, for which E and F are made
    projected: int | None = None  # projected dimension k (default: the variant's)
    sharing: Sharing = "layerwise"  # sharing of E and F: none, headwise, key_value or layerwise
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
    projected=128,
    steps=1500,
    batch_size=8,
    optim=replace(Recipe.optim, lr=2e-3),
)
RECIPES = {
    "sentiment": Recipe(),
    "masked": MASKED,
    # the paper's (section 5.1), on a text of your own: torchstone train linformer/paper --data DIR
    "paper": replace(
        MASKED,
        variant="linformer_base",
        vocab_size=50_265,
        projected=None,
        steps=250_000,
        batch_size=512,
        optim=replace(MASKED.optim, lr=6e-4, warmup_ratio=0.048, ema_decay=0.0),
    ),
    # for tests: seconds
    "smoke": Recipe(
        max_examples=1600,
        vocab_size=1000,
        max_length=24,
        projected=8,
        pretrain_steps=2,
        pretrain_batch_size=24,
        steps=120,
        batch_size=24,
        optim=replace(Recipe.optim, lr=2e-3, ema_decay=0.0),
    ),
}


@dataclass(frozen=True)
class LinformerConfig:
    """Architecture of the encoder and its head."""

    vocab_size: int = 50_265
    width: int = 768
    layers: int = 12
    heads: int = 12
    d_ff: int = 3072  # width of the feed-forward layers
    projected: int = 256  # k: rows of E and F
    sharing: str = "layerwise"  # of E and F: none, headwise, key_value or layerwise
    max_length: int = 512  # n: columns of E and F, the maximum number of tokens in a row
    num_segments: int = 1
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    eps: float = 1e-5  # of the norms
    pad_id: int = 1  # token whose embedding is not trained
    tie_weights: bool = True  # the token embedding is the output matrix of the masked-word head
    use_pooler: bool = True  # a layer on the first token
    head: str = "none"  # none, masked, sentence or tokens
    num_classes: int = 2  # of the heads `sentence` and `tokens`


class LinformerAttention(nn.Module):
    """Multi-head attention to projected keys and values.

    Args:
        dropout: dropout probability of the attention weights.

    Raises:
        BadInput: the width is no multiple of the number of heads.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise BadInput(f"a width of {width} cannot be divided among {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        e: Float[Tensor, "*own projected max_length"],
        f: Float[Tensor, "*own projected max_length"],
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """`own` is the number of heads where each has its own E and F; else there is no such dimension."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        p = self.dropout if self.training else 0.0
        # softmax(Q (E K)ᵀ / √d) F V
        y = low_rank_attention(q, k, v, e, f, mask=mask, dropout=p)
        return self.out(y.transpose(1, 2).flatten(2))


class LinformerBlock(nn.Module):
    """BERT's layer with the attention above: each half is followed by addition and layer norm."""

    def __init__(self, config: LinformerConfig):
        super().__init__()
        width = config.width
        self.attention = LinformerAttention(width, config.heads, dropout=config.attention_dropout)
        self.norm1 = nn.LayerNorm(width, config.eps)
        self.feed_forward = FeedForward(width, config.d_ff, config.activation)
        self.norm2 = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, e: Tensor, f: Tensor, mask: Tensor | None) -> Tensor:
        # h = LN(x + W_o y),   LN(h + W₂ gelu(W₁ h))
        h = self.norm1(x + self.dropout(self.attention(x, e, f, mask)))
        return self.norm2(h + self.dropout(self.feed_forward(h)))


class Projections(nn.Module):
    """E and F of every layer, as many distinct ones as the sharing leaves (section 4).

    Raises:
        BadInput: an unknown way of sharing; a projection to less than one row.
    """

    def __init__(self, config: LinformerConfig):
        super().__init__()
        sharing = config.sharing
        if sharing not in ("none", "headwise", "key_value", "layerwise"):
            raise BadInput(f"sharing is none, headwise, key_value or layerwise, not {sharing!r}")
        if config.projected < 1:
            raise BadInput(f"keys and values are projected to at least 1 row, not {config.projected}")
        shape = (config.projected, config.max_length)
        shape = (config.heads, *shape) if sharing == "none" else shape
        of_keys = 1 if sharing == "layerwise" else config.layers
        of_values = config.layers if sharing in ("none", "headwise") else 0
        self.e, self.f = (
            nn.ParameterList(torch.empty(shape) for _ in range(number)) for number in (of_keys, of_values)
        )
        # row j begins as the mean of positions j, j + k, j + 2k, …: a text of k tokens has part in each
        position = torch.arange(config.max_length)
        is_pooled = position % config.projected == torch.arange(config.projected)[:, None]
        with torch.no_grad():
            for matrix in self.parameters():
                matrix.copy_((is_pooled / is_pooled.sum(1, keepdim=True).clamp(min=1)).expand(shape))

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """E and F: of shape (projected, max_length), or (heads, projected, max_length)."""
        e = self.e[0 if len(self.e) == 1 else layer]
        return e, self.f[layer] if len(self.f) else e


class Linformer(nn.Module):
    """The encoder, and one of the paper's heads."""

    def __init__(self, config: LinformerConfig):
        super().__init__()
        width, head = config.width, config.head
        self.config, self.head = config, head
        self.token_embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_id)
        self.position_embedding = nn.Embedding(config.max_length, width)
        self.segment_embedding = nn.Embedding(config.num_segments, width)
        self.norm = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.projections = Projections(config)
        self.layers = nn.ModuleList(LinformerBlock(config) for _ in range(config.layers))
        self.pooler = nn.Linear(width, width) if config.use_pooler else None
        if head == "masked":
            self.transform = nn.Linear(width, width)
            self.transform_norm = nn.LayerNorm(width, config.eps)
            self.decoder = nn.Linear(width, config.vocab_size)
        if head == "sentence":
            self.pre_classifier = nn.Linear(width, width)
        if head in ("sentence", "tokens"):
            self.classifier = nn.Linear(width, config.num_classes)
        init_truncated_normal(self, width)
        if config.tie_weights and head == "masked":
            self.decoder.weight = self.token_embedding.weight

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Hidden states.

        Raises:
            BadInput: more tokens than E and F have columns.
        """
        time, max_length = tokens.shape[1], self.config.max_length
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        # x₀ = LN(token + position + segment)
        has_segments = segments is not None and self.config.num_segments > 1
        segment = self.segment_embedding(segments) if has_segments else self.segment_embedding.weight[0]
        x = self.token_embedding(tokens) + self.position_embedding.weight[:time] + segment
        x = self.dropout(self.norm(x))
        for number, layer in enumerate(self.layers):
            x = layer(x, *self.projections.of_layer(number), mask)
        return x

    def pool(self, hidden: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch width"]:
        """tanh(W h_<s>)."""
        assert self.pooler is not None, "created without a pooler"
        return self.pooler(hidden[:, 0]).tanh()

    def token_logits(self, hidden: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n vocab_size"]:
        """T LN(gelu(W h)) + b."""
        return self.decoder(self.transform_norm(F.gelu(self.transform(hidden))))

    def logits(self, tokens: Tensor, mask=None, segments=None, positions: Tensor | None = None):
        """The output of the head.

        `masked`: (batch, n, vocab_size). `sentence`: (batch, classes). `tokens`: (batch, time, classes).
        `none`: hidden states and, if there is a pooler, its output.

        Args:
            positions: Int64 (batch, n), the positions to predict words at; by default all.
        """
        hidden = self(tokens, mask, segments)
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


def make_linformer(**model_config: Any) -> Linformer:
    """A network by the fields of `LinformerConfig`."""
    return Linformer(LinformerConfig(**model_config))


# width, layers, heads, k; d_ff is four times the width
SIZES = {
    "linformer_base": (768, 12, 12, 256),
    "linformer_mini": (256, 4, 4, 128),
    "linformer_tiny": (128, 2, 2, 32),
}


def size_of(variant: str) -> dict[str, int]:
    """The arguments by which a variant differs."""
    width, layers, heads, projected = SIZES[variant]
    return {"width": width, "layers": layers, "heads": heads, "d_ff": 4 * width, "projected": projected}


VARIANTS = {name: Variant(partial(make_linformer, **size_of(name)), (512,)) for name in SIZES}


def find_start(recipe: Recipe) -> Start | None:
    """What the recipe's weights hold.

    Raises:
        BadInput: they are of another system, or of a network that is not what the recipe asks for.
    """
    if recipe.weights is None:
        return None
    start = load_encoder(Path(recipe.weights), "linformer")
    longest, rows = (start.model_config[name] for name in ("max_length", "projected"))
    if recipe.max_length > longest:
        raise BadInput(
            f"max_length is {recipe.max_length}, but E and F of {recipe.weights} are for {longest} tokens at "
            "most: pre-train a longer network"
        )
    if recipe.projected not in (None, rows):
        raise BadInput(f"projected is {recipe.projected}, but E of {recipe.weights} has {rows} rows")
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
    sizes: dict[str, Any] = {**size_of(recipe.variant), "sharing": recipe.sharing}
    if recipe.projected is not None:
        sizes["projected"] = recipe.projected
    setup = prepare(recipe, sizes, "linformer", find_start(recipe))
    model_config, tensors = {**setup.model_config, "use_pooler": False}, setup.tensors
    rng.seed(recipe.seed)
    if tensors is None or recipe.task == "masked_lm":
        model_config |= {"head": "masked"}
        model = load_matching_weights(make_linformer(**model_config), tensors).to(device)
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
    head = "tokens" if dataset.has_word_labels else "sentence"
    model_config = {**model_config, "num_classes": len(dataset.classes), "head": head}
    model = load_matching_weights(make_linformer(**model_config), tensors).to(device)
    yield finetune(model, recipe, setup, model_config=model_config)


def count_projections(sharing: str) -> int:
    """Distinct matrices E and F of the base network: one for each head, where they are not shared."""
    projections = on_meta(VARIANTS["linformer_base"].make, sharing=sharing).projections
    return sum(len(matrix) if matrix.dim() == 3 else 1 for matrix in projections.parameters())


def count_others() -> int:
    """Parameters of the base network without E and F, encoder and pooler."""
    make = VARIANTS["linformer_base"].make
    return count_on_meta(make) - 256 * 512


FACTS = [
    *(
        Fact(f"section 4: distinct projections of 12 layers and 12 heads, {sharing}", measure, count)
        for sharing, count in {"headwise": 24, "key_value": 12, "layerwise": 1}.items()
        for measure in [partial(count_projections, sharing)]
    ),
    # RoBERTa-base has two positions more, 768 wide, which count from that of padding on
    Fact("parameters without E and F: those of RoBERTa-base", count_others, 124_645_632 - 2 * 768),
]


def reference() -> Iterator[ParityCase]:
    """Each text written out by itself, without padding, head by head: every sharing with every head of the
    network; losses as in training."""
    from torchstone.references import randomize_weights
    from torchstone.references.bert import EncoderWithLoss
    from torchstone.references.linformer import TextByText, random_linformers

    for model_config, inputs, dtype in random_linformers():
        ours = make_linformer(**model_config).to(dtype).train()
        randomize_weights(ours, 0.3)  # as created, biases are zero
        pair = EncoderWithLoss(ours, pretraining_loss), TextByText(ours)
        label = f"{model_config['sharing']}, {model_config['head']}, {str(dtype)[6:]}"
        yield ParityCase(*pair, inputs, optimizer=torch.optim.AdamW, label=label)
