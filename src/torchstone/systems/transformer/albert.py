"""ALBERT: a BERT whose layers are one layer used again and again, with a factorized embedding.

Paper: Zhenzhong Lan, Mingda Chen, Sebastian Goodman, Kevin Gimpel, Piyush Sharma and Radu Soricut, "ALBERT: A
Lite BERT for Self-supervised Learning of Language Representations", 2019, arXiv:1909.11942.

The idea. BERT's parameters are mostly L layers and a table of V × H. Let all layers share their weights, and
look words up in a narrow table that one matrix widens: BERT-large's depth and width in a nineteenth of its
parameters. The time of a step stays; memory, and what processes send each other, shrink. And ask of two
segments not whether they belong together, which their topics tell, but in which order they stand: that takes
coherence.

    x₀ = W LN(token + position + segment)                  E = 128 wide, W widens it to H
    h  = LN(x + attention(x)),   x = LN(h + W₂ f(W₁ h))    L times with the same weights; f gelu by tanh
    ∂ℓ/∂W₁ = Σ_l of its L uses
    masked language modeling    −log p(wᵢ) for 15 % of the tokens, by n-grams of whole words,
                                p(n) = (1/n) / Σ_k (1/k), n ≤ 3;   p = softmax(E LN(f(W h)) + b), E the table
    sentence-order prediction   have the segments changed places?   2 classes on tanh(W h_[CLS]); half have

    base 768 wide, 12 uses, 12 heads · large 1024, 24, 16 · xlarge 2048, 24, 16 · xxlarge 4096, 12, 64

Shapes: tokens (batch, time) -> hidden (batch, time, width); the mask is True where there is a token. With
`groups` the uses are divided among so many layers of their own, each of `group_layers` layers in turn
(section 4.5; both are 1 in every published network).

What differs from the paper. AdamW in place of LAMB. The tokenizer's vocabulary is learned on the training
texts, by SentencePiece's unigram model. A segment is part of a span and need not end with a sentence, but
ends with a word; rows have their full length from the start (the paper: shorter ones in one of ten); rows of
similar length are batched together. `sentiment` pre-trains on masked words of the very texts that it will
classify, one text a row, without sentence order. Dropout also follows the feed-forward network, as in the
authors' code, not as in transformers; where it is 0, as in the second release, they are the same. Narrow
networks are initialized with larger weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
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
from torchstone.hub.albert import from_config, match_weights, published, to_config, unpublished
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.parts.transformer.initialization import init_truncated_normal
from torchstone.parts.transformer.post_norm_block import make_block
from torchstone.systems import Variant
from torchstone.tasks.text.bert_data import load_matching_weights, prepare
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
    variant: str = "albert_tiny"  # network variant
    task: Literal["classify", "masked_lm"] = "classify"  # training task: labeled text or plain text
    weights: str | None = None  # weights to start from instead of pre-training: a run or Hugging Face folder
    max_examples: int | None = None  # maximum number of examples (default: all)
    vocab_size: int = 8192  # vocabulary size of the unigram tokenizer
    max_length: int = 64  # maximum number of tokens in a row
    pretrain_steps: int = 1500  # number of updates in pre-training
    pretrain_batch_size: int = 64  # batch size in pre-training (rows)
    pretrain_lr: float = 2e-3  # peak learning rate in pre-training
    sentence_order: bool = False  # sentence-order prediction in pre-training, besides masked words
    mask_prob: float = 0.15  # probability of masking a word in pre-training
    max_ngram: int = 3  # maximum number of words that are masked together
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
    sentence_order=True,
    steps=1500,
    batch_size=32,
    optim=replace(Recipe.optim, lr=2e-3),
    dropout=0.0,  # as in the second release: shared layers hardly overfit
)
RECIPES = {
    "sentiment": Recipe(),
    "masked": MASKED,
    # the paper's (section 4.1) but for LAMB, on a text of your own: torchstone train albert/paper --data DIR
    "paper": replace(
        MASKED,
        variant="albert_base",
        vocab_size=30_000,
        max_length=512,
        steps=125_000,
        batch_size=4096,
        optim=replace(MASKED.optim, lr=1e-3, warmup_ratio=0.025),
        dropout=0.1,
    ),
    # for tests: seconds
    "smoke": Recipe(
        max_examples=1600,
        vocab_size=1000,
        max_length=24,
        pretrain_steps=10,
        steps=200,
        batch_size=24,
        optim=replace(Recipe.optim, lr=1e-3, ema_decay=0.0),
        dropout=0.0,
    ),
}


@dataclass(frozen=True)
class AlbertConfig:
    """Architecture of the encoder and its head."""

    vocab_size: int = 30_000
    embedding_size: int = 128  # width of the embeddings
    width: int = 768
    layers: int = 12  # how often a group is used
    groups: int = 1  # of layers with weights of their own
    group_layers: int = 1  # layers of a group
    heads: int = 12
    d_ff: int = 3072  # width of the feed-forward layers
    max_length: int = 512  # maximum number of tokens in a row
    num_segments: int = 2
    activation: str = "gelu_new"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    classifier_dropout: float | None = 0.1  # of every head on [CLS]; None: `dropout`
    eps: float = 1e-12  # of the norms
    pad_id: int | None = 0  # token whose embedding is not trained
    tie_weights: bool = True  # the token embedding is the output matrix of the masked-word head
    use_pooler: bool = True  # a layer on [CLS]; the heads `pretraining` and `sentence` need it
    head: str = "none"  # none, masked, pretraining (masked and sentence order), sentence or tokens
    num_classes: int = 2  # of the heads `sentence` and `tokens`


class Albert(nn.Module):
    """The encoder, and one of the paper's heads."""

    def __init__(self, config: AlbertConfig):
        super().__init__()
        size, width, head = config.embedding_size, config.width, config.head
        self.config, self.head, self.activation = config, head, ACTIVATIONS[config.activation]
        self.token_embedding = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_id)
        self.position_embedding = nn.Embedding(config.max_length, size)
        self.segment_embedding = nn.Embedding(config.num_segments, size)
        self.norm = nn.LayerNorm(size, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(size, width)  # V × E and E × H in place of V × H
        self.groups = nn.ModuleList(
            nn.ModuleList(make_block(config) for _ in range(config.group_layers))
            for _ in range(config.groups)
        )
        self.pooler = nn.Linear(width, width) if config.use_pooler else None
        p = config.dropout if config.classifier_dropout is None else config.classifier_dropout
        self.classifier_dropout = nn.Dropout(p)
        if head in ("masked", "pretraining"):
            self.transform = nn.Linear(width, size)
            self.transform_norm = nn.LayerNorm(size, config.eps)
            self.decoder = nn.Linear(size, config.vocab_size)
        if head == "pretraining":
            self.sentence_order = nn.Linear(width, 2)
        if head in ("sentence", "tokens"):
            self.classifier = nn.Linear(width, config.num_classes)
        init_truncated_normal(self, width)
        if config.tie_weights and head in ("masked", "pretraining"):
            self.decoder.weight = self.token_embedding.weight

    def group_of(self, use: int) -> Any:
        """The group of layers that is used as the `use`-th of `layers`."""
        return self.groups[int(use / (self.config.layers / self.config.groups))]

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        time, max_length = tokens.shape[1], self.config.max_length
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        # x₀ = W LN(token + position + segment)
        segment = self.segment_embedding.weight[0] if segments is None else self.segment_embedding(segments)
        x = self.token_embedding(tokens) + segment + self.position_embedding.weight[:time]
        x = self.project(self.dropout(self.norm(x)))
        # h = LN(x + attention(x)),   x = LN(h + W₂ f(W₁ h)),   again and again
        attention_mask = None if mask is None else mask[:, None, None]  # (batch, 1, 1, time)
        for use in range(self.config.layers):
            for layer in self.group_of(use):
                x = layer(x, attention_mask)
        return x

    def pool(self, hidden: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch width"]:
        """tanh(W h_[CLS])."""
        assert self.pooler is not None, "created without a pooler"
        return self.pooler(hidden[:, 0]).tanh()

    def token_logits(self, hidden: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n vocab_size"]:
        """E LN(f(W h)) + b."""
        return self.decoder(self.transform_norm(self.activation(self.transform(hidden))))

    def logits(self, tokens: Tensor, mask=None, segments=None, positions: Tensor | None = None):
        """The output of the head.

        `masked`: (batch, n, vocab_size). `pretraining`: these, and (batch, 2), whose class 1 means that the
        two segments have changed places. `sentence`: (batch, classes). `tokens`: (batch, time, classes).
        `none`: hidden states and, if there is a pooler, its output.

        Args:
            positions: Int64 (batch, n), the positions to predict words at; by default all.
        """
        hidden = self(tokens, mask, segments)
        if self.head == "none":
            return hidden if self.pooler is None else (hidden, self.pool(hidden))
        if self.head in ("sentence", "tokens"):
            features = self.pool(hidden) if self.head == "sentence" else hidden
            return self.classifier(self.classifier_dropout(features))
        is_pair_head = self.head == "pretraining"
        order = self.sentence_order(self.classifier_dropout(self.pool(hidden))) if is_pair_head else None
        if positions is not None:
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))
        logits = self.token_logits(hidden)
        return logits if order is None else (logits, order)


def make_albert(**model_config: Any) -> Albert:
    """A network by the fields of `AlbertConfig`."""
    return Albert(AlbertConfig(**model_config))


# width of the embeddings, width, uses of the layer, heads; d_ff is four times the width
SIZES = {
    "albert_base": (128, 768, 12, 12),
    "albert_large": (128, 1024, 24, 16),
    "albert_xlarge": (128, 2048, 24, 16),
    "albert_xxlarge": (128, 4096, 12, 64),
    "albert_mini": (128, 256, 4, 4),
    "albert_tiny": (64, 128, 2, 2),
}


def size_of(variant: str) -> dict[str, int]:
    """The arguments by which a variant differs."""
    embedding_size, width, layers, heads = SIZES[variant]
    sizes = {"embedding_size": embedding_size, "width": width, "layers": layers, "heads": heads}
    return {**sizes, "d_ff": 4 * width}


VARIANTS = {name: Variant(partial(make_albert, **size_of(name)), (512,)) for name in SIZES}


def pretraining_loss(output: Any, batch: MLMBatch) -> dict[str, Tensor]:
    """−log p of the masked words, averaged over all of them, plus that of the order of the two segments.

    Args:
        output: of the head `masked` or `pretraining`, at the masked positions.
    """
    logits, order = split_output(output)
    # −log p(wᵢ)
    loss, accuracy = masked_word_loss(logits, batch)
    if order is None:
        return {"loss": loss, "accuracy": accuracy}
    is_swapped = batch.is_random_next
    order_accuracy = (order.detach().argmax(1) == is_swapped).float().mean()
    metrics = {"accuracy": accuracy, "cross_entropy": loss.detach(), "order_accuracy": order_accuracy}
    return {"loss": loss + F.cross_entropy(order, is_swapped), **metrics}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    setup = prepare(recipe, size_of(recipe.variant), "albert")
    model_config, tensors = setup.model_config, setup.tensors
    rng.seed(recipe.seed)
    if tensors is None or recipe.task == "masked_lm":
        head = "pretraining" if recipe.sentence_order else "masked"
        model_config |= {"head": head, "use_pooler": recipe.sentence_order}
        model = load_matching_weights(make_albert(**model_config), tensors).to(device)
        stage = recipe
        if recipe.task == "classify":
            stage = replace(
                recipe,
                steps=recipe.pretrain_steps,
                batch_size=recipe.pretrain_batch_size,
                optim=replace(recipe.optim, lr=recipe.pretrain_lr),
            )
        metadata = {**setup.metadata, "model_config": model_config, "pairs": recipe.sentence_order}
        metadata |= {"pair_task": "order", "max_ngram": recipe.max_ngram}
        yield pretrain(model, stage, setup.documents, setup.special, pretraining_loss, metadata=metadata)
        tensors = model.state_dict()
    if recipe.task == "masked_lm":
        return
    dataset: Any = setup.dataset
    model_config = {
        **model_config,
        "use_pooler": not dataset.has_word_labels,
        "num_classes": len(dataset.classes),
        "head": "tokens" if dataset.has_word_labels else "sentence",
    }
    model = load_matching_weights(make_albert(**model_config), tensors).to(device)
    yield finetune(model, recipe, setup, model_config=model_config)


# number of parameters: encoder and pooler; with the masked-word head, without the pooler
COUNTS = {
    "albert_base": (11_683_584, 11_221_680),
    "albert_large": (17_683_968, 16_795_824),
    "albert_xlarge": (58_724_864, 54_821_040),
    "albert_xxlarge": (222_595_584, 206_368_944),
}
FACTS = [
    Fact(
        f"{variant} parameters, head {head}",
        partial(count_on_meta, VARIANTS[variant].make, head=head, use_pooler=head != "masked"),
        count,
    )
    for variant, counts in COUNTS.items()
    for head, count in zip(("none", "masked"), counts, strict=True)
]


def reference() -> Iterator[ParityCase]:
    """transformers' classes with random settings and padding, in both precisions; losses as in training."""
    from torchstone.references import convert_inside
    from torchstone.references.bert import EncoderWithLoss, TransformersEncoder, random_alberts
    from torchstone.references.transformers import import_transformers

    for kind, config, theirs, inputs in random_alberts(import_transformers()):
        ours = make_albert(**from_config(config)[1]).to(theirs.dtype).train()
        ours.load_state_dict(published("", theirs.state_dict()))
        pair = EncoderWithLoss(ours, pretraining_loss), TransformersEncoder(theirs)
        names = convert_inside(partial(published, ""))
        yield ParityCase(*pair, inputs, names, torch.optim.AdamW, f"{kind}, {str(theirs.dtype)[6:]}")
