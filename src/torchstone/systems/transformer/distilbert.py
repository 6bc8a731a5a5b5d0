"""DistilBERT: a BERT of half the layers that learns from a whole one.

Paper: Victor Sanh, Lysandre Debut, Julien Chaumond and Thomas Wolf, "DistilBERT, a distilled version of BERT:
smaller, faster, cheaper and lighter", 2019, arXiv:1910.01108. Soft targets: Geoffrey Hinton, Oriol Vinyals
and Jeff Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531.

The idea. Of two wrong words one is often nearly right, and a trained network's probabilities say which. A
student that learns them, and not the right word alone, learns more from each example. It begins as every
second layer of its teacher, and its hidden states are to point where the teacher's do.

    student      the teacher's token and position embeddings, masked-word head, and layers 0 2 4 7 9 11 of 12;
                 of n those at (n − 1) i / (k − 1), i < k = ⌈n/2⌉, rounded;   no token types, no pooler
    p, q         softmax(z/T) of the teacher's and the student's logits, T = 2
    ℓ_soft       T² KL(p ‖ q), the mean over all tokens but padding, masked or not
    ℓ_hard       −log softmax(z)ᵢ of the masked words, the mean over them
    ℓ_hidden     1 − cos(h_teacher, h) of the last layer, the mean over all tokens but padding
    ℓ            5 ℓ_soft + 2 ℓ_hard + ℓ_hidden
    labels       softmax(W relu(W' h_[CLS])); from a teacher of labels the same three terms, ℓ_soft and ℓ_hard
                 of the label, ℓ_hidden the mean over a text's tokens, then over texts

Shapes: tokens (batch, time) -> hidden (batch, time, width); the mask is True where there is a token; segments
are accepted, and ignored.

What differs from the paper. A teacher that is not given is trained first, on the same data. The embedding of
the teacher's first segment is added to the positions, not dropped: the embeddings then give what the
teacher's do. Where the teacher is one of labels, the student learns from it while it is fine-tuned, without
general distillation before (the paper's section 3 adds this step). One text a row, without pairs; rows of
similar length are batched together. The paper's batches are 4,000 rows, by accumulation. Narrow networks are
initialized with larger weights.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.text import tokenizers
from torchstone.data.text.mlm_batches import MLMBatch
from torchstone.data.text.sentence_batches import LabeledBatch
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput, did_you_mean
from torchstone.hub import distilbert as hub
from torchstone.hub.distilbert import from_config, match_weights, published, to_config, unpublished
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.old_keys import rename_old_keys
from torchstone.parts.transformer.feed_forward import ACTIVATIONS
from torchstone.parts.transformer.initialization import init_truncated_normal
from torchstone.parts.transformer.post_norm_block import make_block
from torchstone.systems import Variant
from torchstone.systems.transformer import bert
from torchstone.tasks.text.bert_data import BertSetup, Start, load_encoder, load_matching_weights, prepare
from torchstone.tasks.text.bert_inference import evaluate, predict
from torchstone.tasks.text.finetune import finetune, label_loss
from torchstone.tasks.text.masked_lm import HeadModule, masked_word_loss, pretrain, split_output
from torchstone.tasks.transfer import load_weights

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
    data: str = "sentiment"  # data set: labeled (sentiment, CSV/TSV/JSONL, folder, hf:NAME) or a text
    variant: str = "distilbert_mini"  # network variant; with a teacher, half of its layers
    task: Literal["classify", "masked_lm"] = "classify"  # training task: labeled text or plain text
    teacher: str | None = None  # teacher: a run of bert or a Hugging Face folder (default: trained first)
    teacher_variant: str | None = "bert_mini"  # variant of bert trained as the teacher; none: no teacher
    teacher_steps: int = 900  # number of updates of a teacher that is trained first
    weights: str | None = None  # weights to start from: a run of distilbert or a Hugging Face folder
    max_examples: int | None = None  # maximum number of examples (default: all)
    vocab_size: int = (
        8192  # vocabulary size of the WordPiece tokenizer, if neither weights nor teacher has one
    )
    max_length: int = 64  # maximum number of tokens in a row
    pretrain_steps: int = 1500  # number of updates in pre-training of the teacher, or without a teacher
    pretrain_batch_size: int = 64  # batch size in pre-training (rows)
    pretrain_lr: float = 2e-3  # peak learning rate in pre-training
    mask_prob: float = 0.15  # probability of masking a word
    temperature: float = 2.0  # temperature T of the soft targets
    soft_weight: float = 5.0  # weight of the soft targets in the loss
    hard_weight: float = 2.0  # weight of the masked words, or labels, in the loss
    hidden_weight: float = 1.0  # weight of the cosine of hidden states in the loss
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
    teacher_steps=1500,
    steps=1500,
    batch_size=32,
    optim=replace(Recipe.optim, lr=1e-3),
)
RECIPES = {
    # with a teacher that is there: torchstone train distilbert --teacher runs/bert-sentiment, a run of
    # bert/sentiment --variant bert_mini; the same network without a teacher: --teacher-variant none
    "sentiment": Recipe(),
    "masked": MASKED,
    # the paper's, on a text of your own: torchstone train distilbert/paper --data DIR --epochs 3
    # --teacher hf:google-bert/bert-base-uncased
    "paper": replace(
        MASKED,
        variant="distilbert",
        teacher_variant="bert_base",
        vocab_size=30_522,
        max_length=512,
        teacher_steps=1_000_000,
        steps=50_000,
        batch_size=4000,
        optim=replace(MASKED.optim, lr=5e-4, warmup_ratio=0.05, grad_accum_steps=50),
    ),
    # for tests: seconds
    "smoke": Recipe(
        variant="distilbert_tiny",
        teacher_variant="bert_tiny",
        teacher_steps=120,
        max_examples=1600,
        vocab_size=1000,
        max_length=24,
        pretrain_steps=10,
        steps=60,
        batch_size=24,
        optim=replace(Recipe.optim, lr=1e-3, ema_decay=0.0),
    ),
}


@dataclass(frozen=True)
class DistilBertConfig:
    """Architecture of the encoder and its head."""

    vocab_size: int = 30_522
    width: int = 768
    layers: int = 6
    heads: int = 12
    d_ff: int = 3072  # width of the feed-forward layers
    max_length: int = 512  # maximum number of tokens in a row
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.2  # of the head `sentence`
    pad_id: int | None = 0  # token whose embedding is not trained
    tie_weights: bool = True  # the token embedding is the output matrix of the masked-word head
    head: str = "none"  # none, masked, sentence or tokens
    num_classes: int = 2  # of the heads `sentence` and `tokens`
    eps: float = 1e-12  # of the norms


class DistilBert(nn.Module):
    """The encoder, and one of the heads."""

    def __init__(self, config: DistilBertConfig):
        super().__init__()
        width, head = config.width, config.head
        self.config, self.head, self.activation = config, head, ACTIVATIONS[config.activation]
        self.token_embedding = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_id)
        self.position_embedding = nn.Embedding(config.max_length, width)
        self.norm = nn.LayerNorm(width, config.eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(make_block(config) for _ in range(config.layers))
        if head == "masked":
            self.transform = nn.Linear(width, width)
            self.transform_norm = nn.LayerNorm(width, config.eps)
            self.decoder = nn.Linear(width, config.vocab_size)
        if head == "sentence":
            self.pre_classifier = nn.Linear(width, width)
        if head in ("sentence", "tokens"):
            p = config.classifier_dropout if head == "sentence" else config.dropout
            self.classifier_dropout = nn.Dropout(p)
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
        """There are no embeddings of `segments`: they are ignored."""
        time, max_length = tokens.shape[1], self.config.max_length
        if time > max_length:
            raise BadInput(f"{time} tokens are more than the maximum length {max_length} of the network")
        # x₀ = LN(token + position)
        x = self.token_embedding(tokens) + self.position_embedding.weight[:time]
        return self.encode(self.dropout(self.norm(x)), mask)

    def encode(
        self, x: Float[Tensor, "batch time width"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time width"]:
        """The layers alone."""
        # h = LN(x + attention(x)),   x = LN(h + W₂ f(W₁ h))
        attention_mask = None if mask is None else mask[:, None, None]  # (batch, 1, 1, time)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return x

    def logits(self, tokens: Tensor, mask=None, segments=None, positions: Tensor | None = None):
        """The output of the head.

        `masked`: (batch, n, vocab_size). `sentence`: (batch, classes). `tokens`: (batch, time, classes).
        `none`: hidden states.

        Args:
            positions: Int64 (batch, n), the positions to predict words at; by default all.
        """
        return self.apply_head(self(tokens, mask, segments), positions)

    def apply_head(self, hidden: Float[Tensor, "batch time width"], positions: Tensor | None = None):
        """What `logits` makes of the hidden states."""
        if self.head == "none":
            return hidden
        if self.head == "sentence":
            # W relu(W' h_[CLS])
            return self.classifier(self.classifier_dropout(self.pre_classifier(hidden[:, 0]).relu()))
        if self.head == "tokens":
            return self.classifier(self.classifier_dropout(hidden))
        if positions is not None:
            hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))
        # E LN(f(W h)) + b
        return self.decoder(self.transform_norm(self.activation(self.transform(hidden))))


def make_distilbert(**model_config: Any) -> DistilBert:
    """A network by the fields of `DistilBertConfig`."""
    return DistilBert(DistilBertConfig(**model_config))


# width, layers, heads: half the layers of bert_base, bert_mini and bert_tiny; d_ff is four times the width
SIZES = {"distilbert": (768, 6, 12), "distilbert_mini": (256, 2, 4), "distilbert_tiny": (128, 1, 2)}


def size_of(variant: str) -> dict[str, int]:
    """The arguments by which a variant differs."""
    width, layers, heads = SIZES[variant]
    return {"width": width, "layers": layers, "heads": heads, "d_ff": 4 * width}


VARIANTS = {name: Variant(partial(make_distilbert, **size_of(name)), (512,)) for name in SIZES}


# ---- the teacher, and what the student begins with


class Teacher(NamedTuple):
    """A trained BERT, its tokenizer, and its labels if it has learned some."""

    model: bert.Bert
    tokenizer: Any
    classes: list[str] | None
    name: str


def load_teacher(path: str) -> Teacher:
    """The teacher in a run of `bert` or in a Hugging Face folder.

    Raises:
        BadInput: it is another network, or not whole; its tokenizer has another vocabulary than it.
    """
    names = ("recipe.json", "config.json")
    if not path.startswith("hf:") and not any((Path(path) / name).exists() for name in names):
        raise BadInput(
            f"there is no teacher in {path}: give a run of bert, or a folder in Hugging Face layout"
        )
    start = load_encoder(Path(path), "bert")
    model = bert.make_bert(**start.model_config)
    own, tensors = model.state_dict(), rename_old_keys(model, start.tensors)
    tensors = {name: tensor for name, tensor in tensors.items() if name in own}
    load_weights(model, tensors, f"the weights in {path} do not fit its settings")
    count, size = start.tokenizer.get_vocab_size(), start.model_config["vocab_size"]
    if count > size:
        raise BadInput(
            f"the teacher {path} has a tokenizer of {count} tokens, but a network of {size}: give it the "
            "vocabulary that it was trained with"
        )
    return Teacher(model, start.tokenizer, start.classes, path)


def train_teacher(recipe: Recipe) -> Generator[Run, None, Teacher]:
    """Yields the runs that train a BERT on the recipe's data, and returns it."""
    if recipe.teacher_variant not in bert.VARIANTS:
        hint = did_you_mean(str(recipe.teacher_variant), bert.VARIANTS)
        raise BadInput(f"bert has no variant {recipe.teacher_variant!r} for a teacher: {hint}")
    names = [field.name for field in fields(bert.Recipe) if hasattr(recipe, field.name)]
    own = {name: getattr(recipe, name) for name in names}
    own |= {"variant": recipe.teacher_variant, "steps": recipe.teacher_steps}
    runs = []
    for run in bert.build(bert.Recipe(**own)):
        if recipe.task == "classify" and run.metadata.get("has_word_labels"):
            raise BadInput(f"{recipe.data} labels words, which no teacher teaches: --teacher-variant none")
        runs.append(run)
        yield run
    last, state = runs[-1], dict[str, Any](runs[-1].state)
    model = state["ema"].module if "ema" in state else state["model"]
    tokenizer = tokenizers.from_metadata(last.metadata["tokenizer"])
    return Teacher(
        model, tokenizer, last.metadata.get("classes"), f"a {recipe.teacher_variant} trained first"
    )


def teacher_layers(count: int) -> list[int]:
    """Which of a teacher's layers the student begins with, half of them: 0, 2, 4, 7, 9, 11 of 12."""
    return evenly_spaced(count, (count + 1) // 2).tolist()


def student_of(teacher: Teacher, dropout: float) -> Start:
    """Arguments, first weights and tokenizer of the student."""
    config, state = teacher.model.config, teacher.model.state_dict()
    chosen = teacher_layers(config.layers)
    names = ("vocab_size", "width", "heads", "d_ff", "max_length", "activation", "pad_id", "tie_weights")
    model_config = {**hub.DEFAULTS, **{name: getattr(config, name) for name in names}}
    model_config |= {"layers": len(chosen), "dropout": dropout, "attention_dropout": dropout}
    tensors = {}
    for name, tensor in state.items():
        first, _, rest = name.partition(".")
        if first in ("token_embedding", "norm", "transform", "transform_norm", "decoder"):
            tensors[name] = tensor
        elif first == "layers" and (number := int(rest.partition(".")[0])) in chosen:
            tensors[f"layers.{chosen.index(number)}.{rest.partition('.')[2]}"] = tensor
    segment = state["segment_embedding.weight"][0]
    tensors["position_embedding.weight"] = state["position_embedding.weight"] + segment
    return Start(
        model_config, {name: t.detach().cpu().clone() for name, t in tensors.items()}, teacher.tokenizer
    )


def check_teacher(teacher: Teacher, recipe: Recipe, setup: BertSetup) -> None:
    """Refuse a teacher that cannot teach this, in one line.

    Raises:
        BadInput: its vocabulary, its labels or its width are others; it has learned something else.
    """
    head, name = teacher.model.head, teacher.name
    if recipe.task == "masked_lm" and head not in ("masked", "pretraining"):
        raise BadInput(f"the teacher {name} predicts no masked words: give one trained by bert/masked")
    if recipe.task == "classify" and head != "sentence":
        raise BadInput(
            f"the teacher {name} labels no texts: give one trained by bert/sentiment, on these labels"
        )
    theirs, ours = teacher.tokenizer.get_vocab(), setup.tokenizer.get_vocab()
    if theirs != ours:
        other = next((t for t in sorted(theirs.keys() | ours.keys()) if theirs.get(t) != ours.get(t)), "")
        raise BadInput(
            f"the teacher {name} has another vocabulary than the student ({len(theirs)} and {len(ours)} "
            f"tokens; {other!r} differs): start from weights with the teacher's, or leave the weights out"
        )
    width, own = teacher.model.config.width, setup.model_config["width"]
    if width != own:
        raise BadInput(
            f"the teacher {name} is {width} wide, the student {own}: hidden states cannot be compared"
        )
    if recipe.task == "classify":
        known, wanted = teacher.classes or [], list(setup.dataset.classes)  # ty: ignore
        if sorted(known) != sorted(wanted):
            raise BadInput(
                f"the teacher {name} predicts {', '.join(known)}, but {recipe.data} has the labels "
                f"{', '.join(wanted)}"
            )


def reorder_classes(teacher: Teacher, classes: list[str]) -> None:
    """Put the outputs of a teacher of labels into the order of these."""
    assert teacher.classes is not None
    order = [teacher.classes.index(name) for name in classes]
    classifier = teacher.model.classifier
    with torch.no_grad():
        classifier.weight.copy_(classifier.weight[order].clone())
        classifier.bias.copy_(classifier.bias[order].clone())


# ---- the losses


class HiddenAndLogits(nn.Module):
    """A student with its head as one `forward`: hidden states, and logits of all positions."""

    def __init__(self, model: DistilBert):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor, segments: Tensor, positions: Tensor | None = None):
        hidden = self.model(tokens, mask)
        return hidden, self.model.apply_head(hidden)


def weighted_mean(values: Float[Tensor, "batch *n"], weights: Float[Tensor, "batch *n"]) -> Float[Tensor, ""]:
    """Σ w v over the batch, per row: a mean where the weights of all rows add up to their number."""
    return (values * weights).sum() / len(values)


def soft_target_loss(
    student: Float[Tensor, "batch *n size"],
    teacher: Float[Tensor, "batch *n size"],
    weights: Float[Tensor, "batch *n"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T² KL(p ‖ q) of the logits' distributions at temperature T (nats), weighted."""
    log_q, log_p = ((z / temperature).log_softmax(-1) for z in (student, teacher))
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return temperature**2 * weighted_mean(divergence, weights)


def hidden_state_loss(
    student: Float[Tensor, "batch time width"],
    teacher: Float[Tensor, "batch time width"],
    weights: Float[Tensor, "batch time"],
) -> Float[Tensor, ""]:
    """1 − cos of the hidden states, weighted."""
    return weighted_mean(1 - F.cosine_similarity(student, teacher, dim=-1), weights)


@torch.no_grad()
def teach(teacher: bert.Bert, rows: Any) -> tuple[Tensor, Tensor]:
    """The teacher's hidden states and logits."""
    hidden = teacher(*rows)
    logits, _ = split_output(teacher.apply_head(hidden))
    return hidden, logits


def distillation_loss(teacher: bert.Bert, recipe: Recipe, output: Any, batch: Any) -> dict[str, Tensor]:
    """5 ℓ_soft + 2 ℓ_hard + ℓ_hidden, and the three by themselves.

    Args:
        output: of `HiddenAndLogits`.
        batch: of masked words or of labels.
    """
    (hidden, logits), (teacher_hidden, teacher_logits) = output, teach(teacher, batch.rows)
    if isinstance(batch, MLMBatch):
        # means over all tokens but padding
        token_weights = soft_weights = batch.token_weights
        index = batch.positions[..., None].expand(-1, -1, logits.shape[2])
        hard, accuracy = masked_word_loss(logits.gather(1, index), batch)
    else:
        mask = batch.rows.mask
        token_weights, soft_weights = mask / mask.sum(1, keepdim=True), logits.new_ones(len(logits))
        hard, accuracy = F.cross_entropy(logits, batch.labels), label_accuracy(logits, batch)
    soft = soft_target_loss(logits, teacher_logits, soft_weights, recipe.temperature)
    cosine = hidden_state_loss(hidden, teacher_hidden, token_weights)
    loss = recipe.soft_weight * soft + recipe.hard_weight * hard + recipe.hidden_weight * cosine
    terms = {"soft_loss": soft, "cross_entropy": hard, "hidden_loss": cosine}
    return {"loss": loss, **{name: term.detach() for name, term in terms.items()}, "accuracy": accuracy}


def label_accuracy(logits: Tensor, batch: LabeledBatch) -> Tensor:
    return (logits.detach().argmax(1) == batch.labels).float().mean()


def masked_loss(logits: Tensor, batch: MLMBatch) -> dict[str, Tensor]:
    """−log p of the masked words alone: without a teacher."""
    loss, accuracy = masked_word_loss(logits, batch)
    return {"loss": loss, "accuracy": accuracy}


# ---- the stages


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    teacher = None
    if recipe.teacher is not None:
        teacher = load_teacher(recipe.teacher)
    elif recipe.weights is None and recipe.teacher_variant is not None:
        teacher = yield from train_teacher(recipe)
    start = student_of(teacher, recipe.dropout) if teacher and recipe.weights is None else None
    setup = prepare(recipe, size_of(recipe.variant), "distilbert", start)
    if teacher is not None:
        check_teacher(teacher, recipe, setup)
        teacher.model.to(device).eval().requires_grad_(False)
    model_config, tensors, dataset = setup.model_config, setup.tensors, setup.dataset
    rng.seed(recipe.seed)
    if tensors is None or recipe.task == "masked_lm":
        model_config |= {"head": "masked"}
        model = load_matching_weights(make_distilbert(**model_config), tensors).to(device)
        stage = recipe
        if recipe.task == "classify":
            stage = replace(
                recipe,
                steps=recipe.pretrain_steps,
                batch_size=recipe.pretrain_batch_size,
                optim=replace(recipe.optim, lr=recipe.pretrain_lr),
            )
        metadata = {**setup.metadata, "model_config": model_config, "pairs": False}
        loss, forward_module, others = objective(model, teacher, recipe, masked_loss)
        yield pretrain(
            model,
            stage,
            setup.documents,
            setup.special,
            loss,
            metadata=metadata,
            forward_module=forward_module,
            others=others,
        )
        tensors = model.state_dict()
    if recipe.task == "masked_lm":
        return
    assert dataset is not None
    head = "tokens" if dataset.has_word_labels else "sentence"
    model_config = {**model_config, "num_classes": len(dataset.classes), "head": head}
    model = load_matching_weights(make_distilbert(**model_config), tensors).to(device)
    if teacher is not None:
        reorder_classes(teacher, list(dataset.classes))
    loss, forward_module, others = objective(model, teacher, recipe, label_loss)
    run = finetune(
        model,
        recipe,
        setup,
        model_config=model_config,
        loss=loss,
        forward_module=forward_module,
        others=others,
    )
    if teacher is not None:
        measure_gain(run, dataset)
    yield run


def objective(model: Any, teacher: Teacher | None, recipe: Recipe, plain: Any) -> tuple[Any, nn.Module, dict]:
    """Loss, what it is computed of, and the networks to measure beside: with a teacher and without."""
    if teacher is None:
        return plain, HeadModule(model), {}
    loss = partial(distillation_loss, teacher.model, recipe)
    return loss, HiddenAndLogits(model), {"teacher": teacher.model}


def measure_gain(run: Run, dataset: Any) -> None:
    """Let the test say which part of the teacher's gain over the majority class the student has kept."""
    labels, test = torch.as_tensor(dataset.train.labels), run.test
    assert test is not None
    majority = float((torch.as_tensor(dataset.test.labels) == labels.mode().values).double().mean())

    def with_gain() -> dict[str, float]:
        metrics = {name: float(value) for name, value in test().items()} | {"majority_accuracy": majority}
        gain = metrics["teacher_accuracy"] - majority
        return {**metrics, "gain_kept": (metrics["accuracy"] - majority) / gain} if gain > 0 else metrics

    run.test = with_gain


# number of parameters: encoder, and with the masked-word head
COUNTS = {"none": 66_362_880, "masked": 66_985_530}
FACTS = [
    Fact(
        f"distilbert parameters, head {head}",
        partial(count_on_meta, VARIANTS["distilbert"].make, head=head),
        n,
    )
    for head, n in COUNTS.items()
]
FACTS.append(Fact("layers of a teacher of 12", lambda: teacher_layers(12), [0, 2, 4, 7, 9, 11]))


def reference() -> Iterator[ParityCase]:
    """transformers' classes with random settings and padding, in both precisions; losses as in training."""
    from torchstone.references import convert_inside
    from torchstone.references.bert import EncoderWithLoss, TransformersEncoder, random_distilberts
    from torchstone.references.transformers import import_transformers

    for kind, config, theirs, inputs in random_distilberts(import_transformers()):
        ours = make_distilbert(**from_config(config)[1]).to(theirs.dtype).train()
        ours.load_state_dict(published("", theirs.state_dict()))
        pair = EncoderWithLoss(ours, masked_loss), TransformersEncoder(theirs)
        names = convert_inside(partial(published, ""))
        yield ParityCase(*pair, inputs, names, torch.optim.AdamW, f"{kind}, {str(theirs.dtype)[6:]}")
