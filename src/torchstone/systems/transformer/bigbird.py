"""BigBird: an encoder for whole documents, whose blocks of tokens attend to near, random and global ones.

Paper: Manzil Zaheer, Guru Guruganesh, Avinava Dubey et al., "Big Bird: Transformers for Longer Sequences",
NeurIPS 2020, arXiv:2007.14062.

The idea. Attention is a graph of n tokens with all n² edges. A random graph with few edges still has a short
path between any two tokens; a window keeps the neighbors, which matter most in language; and a few tokens
that are joined to all make a star, with which the network can compute whatever the dense one can (section 3).
So let each token attend to its neighbors, to a few random ones and to a few global ones, by blocks of b
tokens, since hardware likes blocks. Time and memory grow with n.

    x₀ = LN(token + segment + position)
    qᵢ, kⱼ, vⱼ = W x          block I = ⌊i/b⌋, n_b blocks
    A(I) = {I−1, I, I+1} ∪ {0, n_b−1} ∪ R(I)    I = 1 … n_b−2;   R(I): r random blocks, others in each head
    A(0) = A(n_b−1) = all blocks                the global ones
    yᵢ = Σ_j softmax_j(qᵢ·kⱼ / √d) vⱼ           j in the blocks A(I), or a global token
    h  = LN(x + W_o y),   x = LN(h + W₂ gelu(W₁ h))        L times (post-norm)
    masked language modeling    −log p(wᵢ) for 15 % of the tokens;   p = softmax(E LN(gelu(W h)) + b), E tied
    fine-tuning                 softmax(W gelu(W h_[CLS])) for a document; softmax(W hᵢ) for a word

    base 768 wide, 12 layers, 12 heads · large 1024, 24, 16 · b = 64, r = 3

Shapes: tokens (batch, time) -> hidden (batch, time, width); masks are True where there is a token, and where
it is global.

Which random blocks. `random_pattern="stored"`: R is chosen once, by a generator of its own, is stored in the
checkpoint, and is the same in training and evaluation. The last block is that of the text, whatever its
padding, which changes no output. Of up to 4 + r blocks a block attends to all: then dense attention is
called, at each call anew.

`random_pattern="transformers"` is the behavior of the most used implementation, with which a folder of it is
loaded, so that its outputs are those that it has there. No global generator is seeded meanwhile.

    evaluation   R is r times block 0, which then counts 1 + r times, in I = 1 … n_b−2
    training     R is drawn at each call by NumPy's generator, seeded with the layer's number: among the
                 first 5 + 2r blocks; at 1,024, 3,072 and 4,096 tokens, among the first 1,024 tokens
    padding      the last block is that of the batch, so that padding changes a text's output
    short texts  up to (5 + 2r) b tokens, padding included, turn the network to full attention for good
    dropout      weights of sparse attention are not dropped out

What differs from the paper. Without weights to start from, networks are pre-trained from scratch, on a
vocabulary over bytes that is learned from the training texts; `sentiment` does so on masked words of the very
texts that it will classify. Of the paper's two constructions this is the internal one (ITC), whose global
tokens are of the text; other tokens are made global by a mask. The learning rate falls linearly. The decoder
of section 4.1 is left out. Narrow networks are initialized with larger weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from torchstone.hub.bigbird import (
    DEFAULTS,
    check_blocks,
    from_config,
    is_full,
    match_weights,
    published,
    to_config,
    transformers_blocks,
    unpublished,
)
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.seeding import SeedStream, derive_seed
from torchstone.parts.transformer.attention import attention
from torchstone.parts.transformer.block_sparse_attention import (
    RandomBlocks,
    block_sparse_attention,
    text_blocks,
)
from torchstone.parts.transformer.feed_forward import ACTIVATIONS, FeedForward
from torchstone.parts.transformer.global_tokens import GlobalTokens, check_global_tokens
from torchstone.parts.transformer.initialization import init_truncated_normal
from torchstone.systems import Variant
from torchstone.tasks.text.bert_data import Start, load_encoder, load_matching_weights, prepare
from torchstone.tasks.text.bert_inference import evaluate, predict
from torchstone.tasks.text.finetune import finetune
from torchstone.tasks.text.masked_lm import masked_word_loss, pretrain, split_output

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
    variant: str = "bigbird_tiny"  # network variant
    task: Literal["classify", "masked_lm"] = "classify"  # training task: labeled text or plain text
    weights: str | None = None  # weights to start from: a run or folder of BigBird, RoBERTa or BERT
    max_examples: int | None = None  # maximum number of examples (default: all)
    vocab_size: int = 8192  # vocabulary size of the byte-pair tokenizer
    max_length: int = 64  # maximum number of tokens in a row
    block_size: int | None = None  # tokens of a block (default: the variant's, or that of the weights)
    random_blocks: int | None = None  # random blocks that a block attends to (default: likewise)
    random_pattern: Literal["stored", "transformers"] = (
        "stored"  # random blocks: stored, or transformers' behavior
    )
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
    seed: int = 0  # random seed of weights, random blocks, data order, masks and dropout
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
    # the paper's, which begins with RoBERTa, on a text of your own; the number of steps is ours:
    # torchstone train bigbird/paper --weights hf:FacebookAI/roberta-base --data DIR
    "paper": replace(
        MASKED,
        variant="bigbird_base",
        vocab_size=50_358,
        max_length=4096,
        steps=500_000,
        batch_size=256,
        optim=replace(MASKED.optim, lr=1e-4, warmup_ratio=0.02, ema_decay=0.0),
    ),
    # for tests: seconds
    "smoke": Recipe(
        max_examples=1600,
        vocab_size=2000,
        max_length=32,
        block_size=4,
        random_blocks=1,
        pretrain_steps=10,
        steps=120,
        batch_size=24,
        optim=replace(Recipe.optim, lr=1e-3, ema_decay=0.0),
    ),
}


@dataclass(frozen=True)
class BigBirdConfig:
    """Architecture of the encoder and its head."""

    vocab_size: int = 50_358
    width: int = 768
    layers: int = 12
    heads: int = 12
    d_ff: int = 3072  # width of the feed-forward layers
    block_size: int = 64
    random_blocks: int = 3  # that a block attends to
    random_pattern: str = "stored"  # stored, or transformers: which random blocks
    random_seed: int = 0  # of the random blocks that are stored
    attention_type: str = "block_sparse"  # or original_full
    max_length: int = 4096  # maximum number of tokens in a row
    num_segments: int = 2
    activation: str = "gelu_new"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None  # by default `dropout`
    eps: float = 1e-12  # of the norms
    pad_id: int | None = 0  # token whose embedding is not trained
    use_bias: bool = True  # of queries, keys and values
    rescale_embeddings: bool = False  # token embeddings times √width
    tie_weights: bool = True  # the token embedding is the output matrix of the masked-word head
    use_pooler: bool = True  # a layer on the first token; the head `pretraining` needs it
    head: str = "none"  # none, masked, pretraining (masked and next sentence), sentence or tokens
    num_classes: int = 2  # of the heads `sentence` and `tokens`


class Layout(NamedTuple):
    """What the attention of all layers shares in one call."""

    mask: Bool[Tensor, "batch time"] | None
    global_blocks: Int64[Tensor, "batch 2"] | None  # of each text; None for full attention
    global_tokens: GlobalTokens | None


class TransformersBlocks(nn.Module):
    """The random blocks of transformers: block 0 in evaluation, and a fixed choice in training."""

    def __init__(self, layer: int, config: BigBirdConfig):
        super().__init__()
        self.layer, self.config = layer, config

    def forward(
        self, global_blocks: Int64[Tensor, "batch 2"], blocks: int
    ) -> Int64[Tensor, "1 heads blocks random"]:
        heads, size, count = self.config.heads, self.config.block_size, self.config.random_blocks
        if not self.training:
            return torch.zeros(1, heads, blocks, count, dtype=torch.int64, device=global_blocks.device)
        found = transformers_blocks(self.layer, heads, blocks, size, count, self.config.max_length)
        return found[None].to(global_blocks.device)


class BigBirdAttention(nn.Module):
    """Block-sparse attention (section 2, appendix D), or full attention where it is the same.

    Args:
        layer: number of the layer, each of which has random blocks of its own.
    """

    def __init__(self, config: BigBirdConfig, layer: int):
        super().__init__()
        width, heads, size = config.width, config.heads, config.block_size
        self.heads, self.block_size = heads, size
        self.qkv = nn.Linear(width, 3 * width, bias=config.use_bias)
        self.out = nn.Linear(width, width)
        self.dropout = self.sparse_dropout = config.attention_dropout
        self.random_blocks: nn.Module | None = None
        if config.random_pattern == "transformers":
            self.random_blocks, self.sparse_dropout = TransformersBlocks(layer, config), 0.0
        elif config.random_blocks:
            seed = derive_seed(config.random_seed, SeedStream.RANDOM_BLOCKS, layer)
            longest = -(-config.max_length // size)
            self.random_blocks = RandomBlocks(heads, longest, config.random_blocks, seed=seed)

    def forward(
        self, x: Float[Tensor, "batch time width"], layout: Layout
    ) -> Float[Tensor, "batch time width"]:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        mask, ends, global_tokens = layout
        if ends is None:
            visible = None if mask is None else mask[:, None, None]
            y = attention(q, k, v, mask=visible, dropout=self.dropout if self.training else 0.0)
        else:
            blocks = -(-x.shape[1] // self.block_size)
            y = block_sparse_attention(
                q,
                k,
                v,
                block_size=self.block_size,
                random_blocks=None if self.random_blocks is None else self.random_blocks(ends, blocks),
                mask=mask,
                global_blocks=ends,
                global_tokens=global_tokens,
                dropout=self.sparse_dropout if self.training else 0.0,
            )
        return self.out(y.transpose(1, 2).flatten(2))


class BigBirdBlock(nn.Module):
    """BERT's layer with the attention above: each half is followed by addition and layer norm."""

    def __init__(self, config: BigBirdConfig, layer: int):
        super().__init__()
        self.attention = BigBirdAttention(config, layer)
        self.norm1 = nn.LayerNorm(config.width, config.eps)
        self.feed_forward = FeedForward(config.width, config.d_ff, config.activation)
        self.norm2 = nn.LayerNorm(config.width, config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        # h = LN(x + W_o y),   LN(h + W₂ f(W₁ h))
        h = self.norm1(x + self.dropout(self.attention(x, layout)))
        return self.norm2(h + self.dropout(self.feed_forward(h)))


class BigBird(nn.Module):
    """The encoder, and one of the heads.

    Raises:
        BadInput: the blocks are of no token, or their number is below 0.
    """

    def __init__(self, config: BigBirdConfig):
        super().__init__()
        check_blocks(config.block_size, config.random_blocks)
        width, head = config.width, config.head
        self.config, self.head, self.activation = config, head, ACTIVATIONS[config.activation]
        self.is_full = config.attention_type == "original_full"
        self.token_embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_id)
        self.position_embedding = nn.Embedding(config.max_length, width)
        self.segment_embedding = nn.Embedding(config.num_segments, width)
        self.norm = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(BigBirdBlock(config, layer) for layer in range(config.layers))
        self.pooler = nn.Linear(width, width) if config.use_pooler else None
        if head in ("masked", "pretraining"):
            self.transform = nn.Linear(width, width)
            self.transform_norm = nn.LayerNorm(width, config.eps)
            self.decoder = nn.Linear(width, config.vocab_size)
        if head == "pretraining":
            self.next_sentence = nn.Linear(width, 2)
        if head == "sentence":
            self.pre_classifier = nn.Linear(width, width)
        if head in ("sentence", "tokens"):
            p = config.dropout if config.classifier_dropout is None else config.classifier_dropout
            self.classifier_dropout = nn.Dropout(p)
            self.classifier = nn.Linear(width, config.num_classes)
        self.init_weights()
        if config.tie_weights and head in ("masked", "pretraining"):
            self.decoder.weight = self.token_embedding.weight

    def init_weights(self) -> None:
        """Truncated normal; narrow networks get larger weights."""
        init_truncated_normal(self, self.config.width)

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        global_mask: Bool[Tensor, "texts positions"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Hidden states.

        Args:
            global_mask: True for tokens that are global besides the first and the last block.

        Raises:
            BadInput: more tokens than the network has positions; a global token that is not in the text.
        """
        time, max_length, width = tokens.shape[1], self.config.max_length, self.config.width
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        layout = self.lay_out(tokens, mask, check_global_tokens(tokens, mask, global_mask))
        # x₀ = LN(token + segment + position)
        has_segments = segments is not None and self.config.num_segments > 1
        segment = self.segment_embedding(segments) if has_segments else self.segment_embedding.weight[0]
        x = self.token_embedding(tokens) * (width**0.5 if self.config.rescale_embeddings else 1)
        x = self.norm(self.dropout(x + segment + self.position_embedding.weight[:time]))
        for layer in self.layers:
            x = layer(x, layout)
        return x

    def lay_out(self, tokens: Tensor, mask: Tensor | None, global_tokens: GlobalTokens | None) -> Layout:
        """Full attention or sparse, and which blocks are global."""
        batch, time = tokens.shape
        size, count = self.config.block_size, self.config.random_blocks
        blocks = -(-time // size)
        if self.config.random_pattern == "transformers":
            if is_full(time, size, count):
                self.is_full = True  # for good
            ends = tokens.new_tensor([0, blocks - 1]).expand(batch, 2)
        else:
            ends = text_blocks(torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask, size)
        # {I−1, I, I+1}, the two ends and r more are all blocks that there are; of I = 1 four are listed
        is_same = self.config.random_pattern == "stored" and blocks <= 4 + count
        return Layout(mask, None if self.is_full or is_same else ends, global_tokens)

    def pool(self, hidden: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch width"]:
        """tanh(W h_[CLS])."""
        assert self.pooler is not None, "created without a pooler"
        return self.pooler(hidden[:, 0]).tanh()

    def token_logits(self, hidden: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n vocab_size"]:
        """E LN(gelu(W h)) + b."""
        return self.decoder(self.transform_norm(self.activation(self.transform(hidden))))

    def logits(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        global_mask: Tensor | None = None,
    ):
        """The output of the head.

        `masked`: (batch, n, vocab_size). `pretraining`: these, and (batch, 2), whose class 1 means that the
        second span is a random one. `sentence`: (batch, classes). `tokens`: (batch, time, classes). `none`:
        hidden states and, if there is a pooler, its output.

        Args:
            positions: Int64 (batch, n), the positions to predict words at; by default all.
        """
        hidden = self(tokens, mask, global_mask, segments)
        if self.head == "none":
            return hidden if self.pooler is None else (hidden, self.pool(hidden))
        if self.head == "tokens":
            return self.classifier(self.classifier_dropout(hidden))
        if self.head == "sentence":
            # softmax(W gelu(W h_[CLS]))
            features = self.activation(self.pre_classifier(self.classifier_dropout(hidden[:, 0])))
            return self.classifier(self.classifier_dropout(features))
        next_logits = self.next_sentence(self.pool(hidden)) if self.head == "pretraining" else None
        if positions is not None:
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))
        logits = self.token_logits(hidden)
        return logits if next_logits is None else (logits, next_logits)


def make_bigbird(**model_config: Any) -> BigBird:
    """A network by the fields of `BigBirdConfig`."""
    return BigBird(BigBirdConfig(**model_config))


# width, layers, heads, tokens of a block, random blocks; d_ff is four times the width
SIZES = {
    "bigbird_base": (768, 12, 12, 64, 3),
    "bigbird_large": (1024, 24, 16, 64, 3),
    "bigbird_mini": (256, 4, 4, 32, 3),
    "bigbird_tiny": (128, 2, 2, 8, 2),
}


def size_of(variant: str) -> dict[str, int]:
    """The arguments by which a variant differs."""
    width, layers, heads, block_size, random_blocks = SIZES[variant]
    sizes = {"width": width, "layers": layers, "heads": heads, "d_ff": 4 * width}
    return {**sizes, "block_size": block_size, "random_blocks": random_blocks}


VARIANTS = {name: Variant(partial(make_bigbird, **size_of(name)), (512,)) for name in SIZES}


def lengthen(start: Start, max_length: int) -> Start:
    """RoBERTa or BERT as a BigBird: its positions are repeated up to `max_length`.

    Raises:
        BadInput: the weights lack their positions.
    """
    config, tensors = dict(start.model_config), dict(start.tensors)
    # RoBERTa's positions begin after that of padding, BERT's at once
    first = len(tensors.get("position_embedding.weight", ())) - config["max_length"]
    if first < 0:
        raise BadInput("the weights lack position_embedding.weight: use complete ones")
    learned = tensors["position_embedding.weight"][first:]
    max_length = max(max_length, len(learned))
    rows = learned.repeat(-(-max_length // len(learned)), 1)[:max_length]
    tensors["position_embedding.weight"] = rows
    names = {*DEFAULTS, "vocab_size", "width", "layers", "heads", "d_ff"} - {"block_size", "random_blocks"}
    arguments = {name: value for name, value in config.items() if name in names}
    return Start({**arguments, "max_length": max_length}, tensors, start.tokenizer, start.classes)


def find_start(recipe: Recipe, sizes: dict[str, int]) -> Start | None:
    """What the recipe's weights hold, as a BigBird with its blocks, or with those of `sizes`."""
    if recipe.weights is None:
        return None
    start = load_encoder(Path(recipe.weights), "bigbird", also=("bert", "roberta"))
    if "block_size" not in start.model_config:
        start = lengthen(start, recipe.max_length)
    blocks = {name: start.model_config.get(name, sizes[name]) for name in ("block_size", "random_blocks")}
    return start._replace(model_config={**start.model_config, **blocks})


def load_start(model: BigBird, tensors: dict[str, Tensor] | None) -> BigBird:
    """Load weights, and of random blocks those of the same sizes: others stay as chosen."""
    own = {name: value for name, value in model.state_dict().items() if name.endswith(".uniform")}
    if tensors is not None:
        fits = {n: t for n, t in tensors.items() if not n.endswith(".uniform") or t.shape == own[n].shape}
        tensors = {**own, **fits}
    load_matching_weights(model, tensors)
    return model


def pretraining_loss(output: Any, batch: MLMBatch) -> dict[str, Tensor]:
    """−log p of the masked words, averaged over all of them, plus that of the next sentence if there is one.

    Args:
        output: of the head `masked` or `pretraining`, at the masked positions.
    """
    logits, next_logits = split_output(output)
    # −log p(wᵢ)
    loss, accuracy = masked_word_loss(logits, batch)
    if next_logits is not None:
        loss = loss + F.cross_entropy(next_logits, batch.is_random_next)
    return {"loss": loss, "accuracy": accuracy}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    sizes = size_of(recipe.variant)
    stated = {name: getattr(recipe, name) for name in ("block_size", "random_blocks")}
    stated = {name: value for name, value in stated.items() if value is not None}
    sizes |= stated
    check_blocks(sizes["block_size"], sizes["random_blocks"])
    start = find_start(recipe, sizes)
    setup = prepare(recipe, sizes, "bigbird", start)
    chosen = {**stated, "random_pattern": recipe.random_pattern, "use_pooler": False}
    model_config, tensors = {**setup.model_config, **chosen}, setup.tensors
    if start is None or start.model_config.get("random_pattern") != "stored":
        model_config["random_seed"] = recipe.seed
    rng.seed(recipe.seed)
    if tensors is None or recipe.task == "masked_lm":
        model_config |= {"head": "masked"}
        model = load_start(make_bigbird(**model_config), tensors).to(device)
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
    model_config = {
        **model_config,
        "num_classes": len(dataset.classes),
        "head": "tokens" if dataset.has_word_labels else "sentence",
    }
    model = load_start(make_bigbird(**model_config), tensors).to(device)
    yield finetune(model, recipe, setup, model_config=model_config)


# number of parameters: encoder and pooler; with the masked-word head
COUNTS = {"bigbird_base": (127_468_800, 128_111_286)}
FACTS = [
    Fact(
        f"{variant} parameters, head {head}", partial(count_on_meta, VARIANTS[variant].make, head=head), count
    )
    for variant, counts in COUNTS.items()
    for head, count in zip(("none", "masked"), counts, strict=True)
]


def reference() -> Iterator[ParityCase]:
    """transformers' classes with random settings and padding, in training and evaluation, in both precisions;
    losses as in training."""
    from torchstone.references import convert_inside
    from torchstone.references.bert import EncoderWithLoss, TransformersEncoder
    from torchstone.references.bigbird import random_bigbirds
    from torchstone.references.transformers import import_transformers

    for kind, config, theirs, inputs in random_bigbirds(import_transformers()):
        arguments = from_config(config)[1]
        ours = make_bigbird(**arguments).to(theirs.dtype).train(theirs.training)
        ours.load_state_dict(published("", theirs.state_dict()))
        if ours.pooler is not None and ours.head not in ("none", "pretraining"):
            ours.pooler.requires_grad_(False)  # which neither uses
        pair = EncoderWithLoss(ours, pretraining_loss), TransformersEncoder(theirs)
        names = convert_inside(partial(published, ""))
        mode = "training" if theirs.training else "evaluation"
        message = f"{kind}, {str(theirs.dtype)[6:]}, {mode}"
        yield ParityCase(*pair, inputs, names, torch.optim.AdamW, message)
