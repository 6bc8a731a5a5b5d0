"""BERT: a bidirectional transformer encoder, pre-trained on masked words and fine-tuned on labels.

Paper: Jacob Devlin, Ming-Wei Chang, Kenton Lee and Kristina Toutanova, "BERT: Pre-training of Deep
Bidirectional Transformers for Language Understanding", 2018, arXiv:1810.04805.

The idea. A network that predicts the next word may only attend to the left. Mask some words instead and
let it attend to both sides: to predict the masked words it has to use both, and needs no labels. What it has
learned then serves any task: add one linear layer, and fine-tune all weights for minutes.

    x₀ = LN(token + position + segment)                    rows [CLS] A [SEP] or [CLS] A [SEP] B [SEP]
    h  = LN(x + attention(x)),   x = LN(h + W₂ gelu(W₁ h))         L layers (post-norm)
    masked language modeling    −log p(wᵢ) for 15 % of the words: 80 % of them are replaced by [MASK],
                                10 % by a random word, 10 % stay;   p = softmax(E LN(gelu(W h)) + b), E tied
    next-sentence prediction    does B follow A?   2 classes on tanh(W h_[CLS]); half of the time not
    fine-tuning                 softmax(W tanh(W h_[CLS])) for a sentence or pair; softmax(W hᵢ) for a word

    tiny 128 wide, 2 layers · mini 256, 4 · small 512, 4 · medium 512, 8 · base 768, 12 · large 1024, 24

Shapes: tokens (batch, time) -> hidden (batch, time, width); the mask is True where there is a token.
The smaller sizes are those of Turc et al. 2019 (arXiv:1908.08962); `_cased` vocabularies are case-sensitive.

What differs from the paper. Rows have their full length from the start (the paper: 128 tokens for 90 % of
the steps); rows of similar length are batched together. `sentiment` pre-trains on masked words of the very
texts that it will classify, one text a row, without next sentences. The embedding of padding is not trained.
Narrow networks are initialized with larger weights.
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
from torchstone.hub.bert import from_config, match_weights, published, to_config, unpublished
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.old_keys import accept_old_keys
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
    variant: str = "bert_tiny"  # network variant
    task: Literal["classify", "masked_lm"] = "classify"  # training task: labeled text or plain text
    weights: str | None = None  # weights to start from instead of pre-training: a run or Hugging Face folder
    max_examples: int | None = None  # maximum number of examples (default: all)
    vocab_size: int = 8192  # vocabulary size of the WordPiece tokenizer
    max_length: int = 64  # maximum number of tokens in a row
    pretrain_steps: int = 1500  # number of updates in pre-training
    pretrain_batch_size: int = 64  # batch size in pre-training (rows)
    pretrain_lr: float = 2e-3  # peak learning rate in pre-training
    next_sentence: bool = False  # next-sentence prediction in pre-training, besides masked words
    mask_prob: float = 0.15  # probability of masking a word in pre-training
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
    next_sentence=True,
    steps=1500,
    batch_size=32,
    optim=replace(Recipe.optim, lr=2e-3),
)
RECIPES = {
    "sentiment": Recipe(),
    "masked": MASKED,
    # the paper's (section A.2), on a text of your own: torchstone train bert/paper --data DIR
    "paper": replace(
        MASKED,
        variant="bert_base",
        vocab_size=30_522,
        max_length=512,
        steps=1_000_000,
        batch_size=256,
        optim=replace(MASKED.optim, lr=1e-4, warmup_ratio=0.01),
    ),
    # for tests: seconds
    "smoke": Recipe(
        max_examples=1600,
        vocab_size=1000,
        max_length=24,
        pretrain_steps=10,
        steps=100,
        batch_size=24,
        optim=replace(Recipe.optim, lr=1e-3, ema_decay=0.0),
    ),
}


@dataclass(frozen=True)
class BertConfig:
    """Architecture of the encoder and its head."""

    vocab_size: int = 30_522
    width: int = 768
    layers: int = 12
    heads: int = 12
    d_ff: int = 3072  # width of the feed-forward layers
    max_length: int = 512  # maximum number of tokens in a row
    num_segments: int = 2
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None  # by default `dropout`
    eps: float = 1e-12  # of the norms
    pad_id: int | None = 0  # token whose embedding is not trained
    tie_weights: bool = True  # the token embedding is the output matrix of the masked-word head
    use_pooler: bool = True  # a layer on [CLS]; the heads `pretraining` and `sentence` need it
    head: str = "none"  # none, masked, pretraining (masked and next sentence), sentence or tokens
    num_classes: int = 2  # of the heads `sentence` and `tokens`


class Bert(nn.Module):
    """The encoder, and one of the paper's heads."""

    def __init__(self, config: BertConfig):
        super().__init__()
        width, head = config.width, config.head
        self.config, self.head, self.activation = config, head, ACTIVATIONS[config.activation]
        self.token_embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_id)
        self.position_embedding = nn.Embedding(config.max_length, width)
        self.segment_embedding = nn.Embedding(config.num_segments, width)
        self.norm = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(make_block(config) for _ in range(config.layers))
        self.pooler = nn.Linear(width, width) if config.use_pooler else None
        if head in ("masked", "pretraining"):
            self.transform = nn.Linear(width, width)
            self.transform_norm = nn.LayerNorm(width, config.eps)
            self.decoder = nn.Linear(width, config.vocab_size)
        if head == "pretraining":
            self.next_sentence = nn.Linear(width, 2)
        if head in ("sentence", "tokens"):
            p = config.dropout if config.classifier_dropout is None else config.classifier_dropout
            self.classifier_dropout = nn.Dropout(p)
            self.classifier = nn.Linear(width, config.num_classes)
        self.init_weights()
        if config.tie_weights and head in ("masked", "pretraining"):
            self.decoder.weight = self.token_embedding.weight
        accept_old_keys(
            self,
            {
                "word.": "token_embedding.",
                "place.": "position_embedding.",
                "segment.": "segment_embedding.",
                "follows.": "next_sentence.",
            },
        )

    def init_weights(self) -> None:
        """Truncated normal; narrow networks get larger weights."""
        init_truncated_normal(self, self.config.width)

    def forward(
        self,
        tokens: Int64[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        segments: Int64[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch time width"]:
        time, max_length = tokens.shape[1], self.config.max_length
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        # x₀ = LN(token + position + segment)
        segment = self.segment_embedding.weight[0] if segments is None else self.segment_embedding(segments)
        x = self.token_embedding(tokens) + segment + self.position_embedding.weight[:time]
        x = self.dropout(self.norm(x))
        # h = LN(x + attention(x)),   x = LN(h + W₂ f(W₁ h))
        attention_mask = None if mask is None else mask[:, None, None]  # (batch, 1, 1, time)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return x

    def pool(self, hidden: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch width"]:
        """tanh(W h_[CLS])."""
        assert self.pooler is not None, "created without a pooler"
        return self.pooler(hidden[:, 0]).tanh()

    def token_logits(self, hidden: Float[Tensor, "batch n width"]) -> Float[Tensor, "batch n vocab_size"]:
        """E LN(gelu(W h)) + b."""
        return self.decoder(self.transform_norm(self.activation(self.transform(hidden))))

    def logits(self, tokens: Tensor, mask=None, segments=None, positions: Tensor | None = None):
        """The output of the head.

        `masked`: (batch, n, vocab_size). `pretraining`: these, and (batch, 2), whose class 1 means that the
        second span is a random one. `sentence`: (batch, classes). `tokens`: (batch, time, classes). `none`:
        hidden states and, if there is a pooler, its output.

        Args:
            positions: Int64 (batch, n), the positions to predict words at; by default all.
        """
        return self.apply_head(self(tokens, mask, segments), positions)

    def apply_head(self, hidden: Float[Tensor, "batch time width"], positions: Tensor | None = None):
        """What `logits` makes of the hidden states."""
        if self.head == "none":
            return hidden if self.pooler is None else (hidden, self.pool(hidden))
        if self.head in ("sentence", "tokens"):
            features = self.pool(hidden) if self.head == "sentence" else hidden
            return self.classifier(self.classifier_dropout(features))
        next_logits = self.next_sentence(self.pool(hidden)) if self.head == "pretraining" else None
        if positions is not None:
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))
        logits = self.token_logits(hidden)
        return logits if next_logits is None else (logits, next_logits)


def make_bert(**model_config: Any) -> Bert:
    """A network by the fields of `BertConfig`."""
    return Bert(BertConfig(**model_config))


# width, layers, heads, vocabulary size; d_ff is four times the width
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


def size_of(variant: str) -> dict[str, int]:
    """The arguments by which a variant differs."""
    width, layers, heads, vocab_size = SIZES[variant]
    return {"vocab_size": vocab_size, "width": width, "layers": layers, "heads": heads, "d_ff": 4 * width}


VARIANTS = {name: Variant(partial(make_bert, **size_of(name)), (512,)) for name in SIZES}


def pretraining_loss(output: Any, batch: MLMBatch) -> dict[str, Tensor]:
    """−log p of the masked words, averaged over all of them, plus that of the next sentence.

    Args:
        output: of the head `masked` or `pretraining`, at the masked positions.
    """
    logits, next_logits = split_output(output)
    # −log p(wᵢ)
    mlm_loss, accuracy = masked_word_loss(logits, batch)
    loss, metrics = mlm_loss, {"accuracy": accuracy}
    if next_logits is not None:
        metrics["cross_entropy"] = mlm_loss.detach()
        loss = mlm_loss + F.cross_entropy(next_logits, batch.is_random_next)
        is_correct = next_logits.detach().argmax(1) == batch.is_random_next
        metrics["next_accuracy"] = is_correct.float().mean()
    return {"loss": loss, **metrics}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    setup = prepare(recipe, size_of(recipe.variant))
    model_config, tensors = setup.model_config, setup.tensors
    rng.seed(recipe.seed)
    if tensors is None or recipe.task == "masked_lm":
        head = "pretraining" if recipe.next_sentence else "masked"
        model_config |= {"head": head, "use_pooler": recipe.next_sentence}
        model = load_matching_weights(make_bert(**model_config), tensors).to(device)
        stage = recipe
        if recipe.task == "classify":
            stage = replace(
                recipe,
                steps=recipe.pretrain_steps,
                batch_size=recipe.pretrain_batch_size,
                optim=replace(recipe.optim, lr=recipe.pretrain_lr),
            )
        metadata = {**setup.metadata, "model_config": model_config, "pairs": recipe.next_sentence}
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
    model = load_matching_weights(make_bert(**model_config), tensors).to(device)
    yield finetune(model, recipe, setup, model_config=model_config)


# number of parameters: encoder and pooler; with the pre-training heads; with the masked-word head alone
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
FACTS = [
    Fact(
        f"{variant} parameters, head {head}",
        partial(count_on_meta, VARIANTS[variant].make, head=head, use_pooler=head != "masked"),
        count,
    )
    for variant, counts in COUNTS.items()
    for head, count in zip(("none", "pretraining", "masked"), counts, strict=False)
]


def reference() -> Iterator[ParityCase]:
    """transformers' classes with random settings and padding, in both precisions; losses as in training."""
    from torchstone.references import convert_inside
    from torchstone.references.bert import EncoderWithLoss, TransformersEncoder, random_berts
    from torchstone.references.transformers import import_transformers

    for kind, config, theirs, inputs in random_berts(import_transformers()):
        ours = make_bert(**from_config(config)[1]).to(theirs.dtype).train()
        ours.load_state_dict(published("", theirs.state_dict()))
        pair = EncoderWithLoss(ours, pretraining_loss), TransformersEncoder(theirs)
        names = convert_inside(partial(published, ""))
        yield ParityCase(*pair, inputs, names, torch.optim.AdamW, f"{kind}, {str(theirs.dtype)[6:]}")
