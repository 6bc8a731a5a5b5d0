"""seq2seq: recurrent encoder–decoders for translation, with and without attention.

Paper: Dzmitry Bahdanau, Kyunghyun Cho and Yoshua Bengio, "Neural Machine Translation by Jointly Learning
to Align and Translate", 2014, arXiv:1409.0473. Before it: Sutskever, Vinyals and Le, arXiv:1409.3215,
and Cho et al., arXiv:1406.1078; after it: Luong, Pham and Manning, arXiv:1508.04025.

The idea. Sutskever's encoder compresses the sentence into its final state, and the decoder starts from it;
Cho's decoder reads it at every word as well. A fixed-size state cannot hold a long sentence. Bahdanau's
decoder attends, before each word it writes, to the encoder's states of all words: a small network scores
how well each fits, and their mean, weighted by the softmax of the scores, is the context. Luong's scores
are cheaper and come after the recurrence. The attention weights can be drawn, and compared with word
alignments annotated by hand.

    all          h_j = encoder(x_j, h_{j−1}),    P(y_i) = softmax(W_o features_i)
    plain        s_0 = h_m,                      s_i = LSTM(y_{i−1}, s_{i−1}),
                 features s_i
    cho          c = s_0 = h_m,                  s_i = GRU([y_{i−1}, c], s_{i−1}),
                 features [y_{i−1}, s_i, c]
    attention    c_i = Σ_j α_ij h_j,             α_ij = softmax_j(e_ij)
    bahdanau     e_ij = vᵀtanh(W s_{i−1} + U h_j),  s_i = GRU([y_{i−1}, c_i], s_{i−1}),
                 features [s_i, c_i, y_{i−1}]
    luong        e_ij = s_iᵀ W h_j,              s_i = LSTM([y_{i−1}, s̃_{i−1}], s_{i−1}),
                 features s̃_i = tanh(W_c [c_i, s_i])

    source (b, m) → encoder → memory (b, m, read);  target (b, n) → decoder → logits (b, n, vocab_size)

In training the decoder reads the true words, not its own (teacher forcing); with a
`teacher_forcing_ratio` below 1 it reads its own predictions now and then. Where nothing but the word is
fed back into the recurrence (plain, cho, luong without input feeding), a full target goes through the
fused kernels at once.

The plain names are networks published for Multi30k (`published` reads their weights), of 7,853 German and
5,893 English words: 13,898,501, 14,219,781 and 20,518,405 parameters; `seq2seq_luong` is ours, of their
size. `seq2seq_paper` is Sutskever's of 384 million.

What differs from the papers. Bahdanau: torch's GRU (reset after the product), s_0 from the final states of
both directions, as in the published network, and `maxout` units before the softmax only on request. Luong:
the encoder may be bidirectional (half of the units each), dropout is on embeddings and features too, no
local attention. Sutskever: the end token stays last where the source is reversed. All: Adam, a decaying
learning rate, batches by tokens, one vocabulary of subwords for both languages, each with its own
embedding; torch's initialization. From Bahdanau's initialization (standard deviation 0.01, v zero) 120
steps of `smoke` reach 20 % of the letters, from torch's 99 %.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.data.text.parallel import read_pairs
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.recipe_fields import replace_fields
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, ParityCase, count_parameters
from torchstone.parts.recurrent.encoder_decoder import Encoder, EncoderDecoder, EncoderOutput
from torchstone.parts.recurrent.layers import Cell, Recurrent, State, single_step
from torchstone.parts.transformer.token_loss import token_loss
from torchstone.systems import Variant
from torchstone.systems.recurrent import gru, lstm
from torchstone.tasks.text.translate import PAD, predict, train_tokenizer, translate
from torchstone.tasks.text.word_alignment import add_gold_alignments, evaluate

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]

Score = Literal["additive", "concat", "general", "dot"]
SCORES = ("additive", "concat", "general", "dot")


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The architecture of a network; the variant says which decoder."""

    embedding: int = 256  # embedding dimension
    hidden: int = 512  # hidden units per layer
    layers: int = 1  # layers of encoder and decoder each (plain, luong)
    bidirectional: bool = False  # bidirectional encoder (plain, luong)
    score: Score | None = None  # attention score, none for the paper's
    input_feeding: bool = True  # luong: feed the attentional state into the next time step
    maxout: int = 0  # bahdanau: maxout units before the softmax, 0 for none
    teacher_forcing_ratio: float = 1.0  # share of decoder inputs in training that are the true words
    implementation: Literal["fused", "reference"] = "fused"  # torch's kernels or the cell's equations
    dropout: float = 0.5  # dropout probability of embeddings, between layers, and before the softmax


@dataclass(frozen=True)
class Recipe:
    data: str = "gettext"  # gettext, bible, reverse, copy, a folder, FILE,FILE, a .tsv, hf:NAME
    source: str = "de"  # source language: a file's suffix, a column's name
    target: str = "en"  # target language
    variant: str = "seq2seq_luong"  # network variant
    tokenizer: Literal["bpe", "unigram", "wordpiece", "characters"] = "bpe"  # tokenizer of both languages
    vocab_size: int = 2000  # largest vocabulary, shared by both languages
    max_length: int = 128  # largest number of tokens per sentence; longer pairs are not trained on
    network: Seq2SeqConfig = Seq2SeqConfig(
        hidden=256, bidirectional=True, input_feeding=False, dropout=0.2
    )  # architecture
    label_smoothing: float = 0.1  # label smoothing
    steps: int = 2500  # number of updates
    batch_size: int = 1000  # batch size, in target tokens
    optim: OptimConfig = OptimConfig(
        lr=3e-3, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.98
    )  # optimizer, schedule, precision
    beam_size: int = 4  # beam size of test translations; 1 is greedy
    length_penalty: float = 1.0  # length penalty of beam search; larger favors longer translations
    eval_examples: int = 200  # validation sentences translated for BLEU at each evaluation
    seed: int = 0  # seed of weights, data order and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


MARGIN = ("accuracy", 0.4)  # of the copied characters, on the test split

BIBLE = replace_fields(
    Recipe("bible", "grc", variant="seq2seq_bahdanau", vocab_size=3000), {"maxout": 256, "dropout": 0.3}
)
REVERSE = replace_fields(
    Recipe("reverse", variant="seq2seq_bahdanau", vocab_size=268, label_smoothing=0.0, beam_size=1),
    {"embedding": 64, "hidden": 128, "dropout": 0.0, "ema_decay": 0.0},
)
MULTI30K = replace_fields(
    Recipe(vocab_size=8000, batch_size=4000, steps=4000),
    {"hidden": 512, "dropout": 0.5, "lr": 2e-3, "ema_decay": 0.999},
)

RECIPES = {
    "translate": Recipe(),
    # torchstone train seq2seq/bible      Greek verses to English, attention against gold alignments
    "bible": replace(BIBLE, steps=3000),
    # torchstone train seq2seq/reverse    up to 20 letters reversed: 100 % exact
    "reverse": replace(REVERSE, steps=1500),
    # torchstone train seq2seq/multi30k_cpu --data DIR
    "multi30k_cpu": replace_fields(
        Recipe(vocab_size=4000, batch_size=1500, steps=4000), {"dropout": 0.3, "ema_decay": 0.99}
    ),
    # torchstone train seq2seq/multi30k --data DIR     BLEU 28.3 for the public network of this size
    "multi30k": replace(MULTI30K, variant="seq2seq_bahdanau"),
    # torchstone train seq2seq/multi30k_plain --data DIR      the same without attention: BLEU 13.8
    "multi30k_plain": replace_fields(MULTI30K, {"variant": "seq2seq_plain", "layers": 2}),
    # for tests: seconds
    "smoke": replace_fields(
        REVERSE,
        {"data": "copy", "hidden": 64, "batch_size": 600, "steps": 100, "lr": 1e-2, "eval_examples": 20},
    ),
}

Queries = Float[Tensor, "batch queries width"]
Memory = Float[Tensor, "batch words read"]
Scores = Float[Tensor, "batch queries words"]
Words = Float[Tensor, "b n embedding"]
DecoderOutput = tuple[Float[Tensor, "b n features"], State, Float[Tensor, "b n m"] | None]


class AdditiveAttention(nn.Module):
    """e = vᵀ tanh(W s + U h + b) (Bahdanau et al., appendix A.1.2). Without the bias it is Luong's `concat`
    too, vᵀ tanh(W [s; h]) (equation 8), whose matrix is W next to U.

    Args:
        query: width of the decoder's state s; `read`: width of the encoder's state h; `hidden`: units.
    """

    def __init__(self, query: int, read: int, hidden: int, bias: bool = False):
        super().__init__()
        self.W = nn.Linear(query, hidden, bias=bias)
        self.U = nn.Linear(read, hidden, bias=False)
        self.v = nn.Parameter(torch.empty(hidden))
        nn.init.uniform_(self.v, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def keys(self, memory: Memory) -> Float[Tensor, "batch words hidden"]:
        """U h of all words, which is computed once per sentence."""
        return self.U(memory)

    def forward(self, query: Queries, keys: Float[Tensor, "batch words hidden"]) -> Scores:
        # e_ij = vᵀ tanh(W s_i + U h_j)
        return (self.W(query)[:, :, None] + keys[:, None]).tanh() @ self.v


class MultiplicativeAttention(nn.Module):
    """e = sᵀ W h (`general`), or e = sᵀ h (`dot`), which needs equal widths (Luong et al., section 3.1)."""

    def __init__(self, query: int, read: int, general: bool = True):
        super().__init__()
        if not general and query != read:
            raise BadInput(f"dot needs states of one width, not of {query} and {read}")
        self.W = nn.Linear(read, query, bias=False) if general else nn.Identity()

    def keys(self, memory: Memory) -> Float[Tensor, "batch words width"]:
        """W h of all words, which is computed once per sentence."""
        return self.W(memory)

    def forward(self, query: Queries, keys: Float[Tensor, "batch words width"]) -> Scores:
        return query @ keys.transpose(1, 2)


def make_score(
    kind: str, query: int, read: int, hidden: int | None = None, *, bias: bool = False
) -> AdditiveAttention | MultiplicativeAttention:
    """The score named `kind`, of states of widths `query` and `read`; `hidden` units of additive attention
    are by default as many as `query`.

    Raises:
        BadInput: an unknown kind, or `dot` of different widths.
    """
    _check_score(kind)
    if kind in ("additive", "concat"):
        return AdditiveAttention(query, read, hidden or query, bias and kind == "additive")
    return MultiplicativeAttention(query, read, kind == "general")


def _check_score(kind: str | None) -> None:
    if kind not in (None, *SCORES):
        raise BadInput(f"unknown score {kind!r}: {', '.join(SCORES)}")


def attend(
    scores: Scores, memory: Memory, mask: Bool[Tensor, "batch words"] | None = None
) -> tuple[Float[Tensor, "batch queries read"], Scores]:
    """Contexts c_i = Σ_j α_ij h_j and the attention weights α_ij = softmax_j(e_ij).

    Args:
        mask: True where there is a word; padding has weight 0. Where there is no word at all, context
            and weights are zero.
    """
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
    weights = scores.softmax(2)
    if mask is not None:
        weights = weights * mask[:, None]
    return weights @ memory, weights


class PlainDecoder(nn.Module):
    """Sutskever et al.: starts from the encoder's final state. With `context` (Cho et al.) that state is an
    input at every word as well, and of the softmax."""

    def __init__(self, cell: Cell, embedding: int, hidden: int, *, context: bool, **options: Any):
        super().__init__()
        self.recurrent = Recurrent(cell, embedding + hidden * context, hidden, **options)
        self.width, self.context = hidden + (embedding + hidden) * context, context

    def init_state(self, source: EncoderOutput, state: State) -> tuple[EncoderOutput, State]:
        return source._replace(memory=state[0][-1][:, None]), state

    def forward(self, y: Words, source: EncoderOutput, state: State) -> DecoderOutput:
        if not self.context:
            return *self.recurrent(y, state=state), None
        c = source.memory.expand(-1, y.shape[1], -1)
        s, state = self.recurrent(torch.cat([y, c], 2), state=state)
        return torch.cat([y, s, c], 2), state, None


class BahdanauDecoder(nn.Module):
    """Bahdanau et al.: before each word it attends to the source from its last state. With `maxout` units
    the softmax reads the larger one of each pair, else all features."""

    def __init__(self, embedding: int, hidden: int, read: int, score: str, *, maxout: int, **options: Any):
        super().__init__()
        self.start = nn.Linear(read, hidden)
        self.score = make_score(score, hidden, read, hidden, bias=True)
        self.recurrent = Recurrent(gru.CELL, embedding + read, hidden, **options)
        width = hidden + read + embedding
        self.maxout = nn.Linear(width, 2 * maxout) if maxout else None
        self.width = maxout or width

    def init_state(self, source: EncoderOutput, state: State) -> tuple[EncoderOutput, State]:
        return source._replace(keys=self.score.keys(source.memory)), (self.start(state[0]).tanh(),)

    def forward(self, y: Words, source: EncoderOutput, state: State) -> DecoderOutput:
        features, weights = [], []
        for word in y.unbind(1):
            # e_ij = a(s_{i−1}, h_j),  c_i = Σ_j α_ij h_j
            e = self.score(state[0].transpose(0, 1), source.keys)
            c, alpha = attend(e, source.memory, source.mask)
            # s_i = f(s_{i−1}, y_{i−1}, c_i)
            s, state = single_step(self.recurrent, torch.cat([word, c[:, 0]], 1), state)
            features.append(torch.cat([s, c[:, 0], word], 1))
            weights.append(alpha)
        t = torch.stack(features, 1)
        if self.maxout is not None:
            t = self.maxout(t).unflatten(2, (-1, 2)).amax(3)
        return t, state, torch.cat(weights, 1)


class LuongDecoder(nn.Module):
    """Luong et al.: attends to the source after each state; with `input_feeding` the attentional state s̃
    is read with the next word."""

    def __init__(
        self, embedding: int, hidden: int, read: int, score: str, *, input_feeding: bool, **options: Any
    ):
        super().__init__()
        self.score = make_score(score, hidden, read)
        self.combine = nn.Linear(read + hidden, hidden, bias=False)
        inputs = embedding + hidden * input_feeding
        self.recurrent = Recurrent(lstm.CELL, inputs, hidden, **options)
        self.width, self.input_feeding = hidden, input_feeding

    def init_state(self, source: EncoderOutput, state: State) -> tuple[EncoderOutput, State]:
        source = source._replace(keys=self.score.keys(source.memory))
        return source, (*state, torch.zeros_like(state[0][:1])) if self.input_feeding else state

    def forward(self, y: Words, source: EncoderOutput, state: State) -> DecoderOutput:
        if not self.input_feeding:
            s, state = self.recurrent(y, state=state)
            features, alpha = self.attentional_state(s, source)
            return features, state, alpha
        features, weights = [], []
        for word in y.unbind(1):
            state, fed = state[:-1], state[-1]
            s, state = single_step(self.recurrent, torch.cat([word, fed[0]], 1), state)
            fed, alpha = self.attentional_state(s[:, None], source)
            state = (*state, fed.transpose(0, 1))
            features.append(fed)
            weights.append(alpha)
        return torch.cat(features, 1), state, torch.cat(weights, 1)

    def attentional_state(
        self, s: Float[Tensor, "b n hidden"], source: EncoderOutput
    ) -> tuple[Tensor, Tensor]:
        # s̃_i = tanh(W_c [c_i, s_i])
        c, alpha = attend(self.score(s, source.keys), source.memory, source.mask)
        return self.combine(torch.cat([c, s], 2)).tanh(), alpha


def seq2seq(
    source_vocab_size: int = 7853,
    target_vocab_size: int = 5893,
    *,
    decoder: str = "plain",
    reverse_source: bool = False,
    **options: Any,
) -> EncoderDecoder:
    """The network with one of the four decoders.

    A bidirectional encoder of `plain` or `luong` has half of the units in each direction; `bahdanau`'s is
    always bidirectional.

    Args:
        source_vocab_size, target_vocab_size: number of words (or subwords) of either language.
        reverse_source: read the source from the last word to the first.
        options: the fields of `Seq2SeqConfig`. The default score is additive (`bahdanau`) or general
            (`luong`).

    Raises:
        BadInput: options that do not go together.
    """
    _check_score(options.get("score"))
    config = Seq2SeqConfig(**options)
    gated = decoder in ("cho", "bahdanau")
    split = config.bidirectional and decoder in ("plain", "luong")
    embedding, hidden, layers = config.embedding, config.hidden, config.layers
    if gated and layers > 1:
        raise BadInput(f"seq2seq_{decoder} has 1 layer, not {layers}")
    if split and hidden % 2:
        raise BadInput(f"the two directions have half of the hidden units each: {hidden} is odd")
    recurrent: dict[str, Any] = {
        "layers": layers,
        "dropout": config.dropout if layers > 1 else 0.0,
        "implementation": config.implementation,
    }
    both, units = split or decoder == "bahdanau", hidden // 2 if split else hidden
    cell = gru.CELL if gated else lstm.CELL
    encoder = Recurrent(cell, embedding, units, bidirectional=both, **recurrent)
    sizes = embedding, hidden, encoder.width
    if decoder == "bahdanau":
        score = config.score or "additive"
        network: Any = BahdanauDecoder(*sizes, score, maxout=config.maxout, **recurrent)
    elif decoder == "luong":
        score = config.score or "general"
        network = LuongDecoder(*sizes, score, input_feeding=config.input_feeding, **recurrent)
    else:
        network = PlainDecoder(cell, embedding, hidden, context=decoder == "cho", **recurrent)
    return EncoderDecoder(
        Encoder(nn.Embedding(source_vocab_size, embedding), encoder, config.dropout, reverse_source),
        network,
        target_vocab_size,
        dropout=config.dropout,
        teacher_forcing_ratio=config.teacher_forcing_ratio,
        attends=decoder in ("bahdanau", "luong"),
        pad=PAD,
    )


def loss(
    model: Any, batch: tuple[Int64[Tensor, "b m"], Int64[Tensor, "b n"]], label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """−log P(y_i | y_{<i}, x) per target token, with label smoothing, and accuracy."""
    source, target = batch
    logits = model(source, target[:, :-1])  # (b, n − 1, vocab_size): each token from those before it
    return token_loss(logits, target[:, 1:], pad=PAD, label_smoothing=label_smoothing)


PAPER = {
    "source_vocab_size": 160_000,
    "target_vocab_size": 80_000,
    "embedding": 1000,
    "hidden": 1000,
    "layers": 4,
}
SIZES = {
    "plain": {"decoder": "plain", "layers": 2, "reverse_source": True},
    "cho": {"decoder": "cho"},
    "bahdanau": {"decoder": "bahdanau"},
    "luong": {"decoder": "luong", "layers": 2},
    "paper": {"decoder": "plain", "reverse_source": True, "dropout": 0.0, **PAPER},
}
VARIANTS = {f"seq2seq_{n}": Variant(partial(seq2seq, **s), (16,)) for n, s in SIZES.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = read_pairs(recipe.data, recipe.source, recipe.target)
    tokenizer = train_tokenizer(recipe, data)
    size = tokenizer.get_vocab_size()
    model_config = {"source_vocab_size": size, "target_vocab_size": size} | asdict(recipe.network)
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    run = translate(model, recipe, data, tokenizer, loss=loss, model_config=model_config)
    has_gold = recipe.data == "bible" and model.attends
    yield add_gold_alignments(run, recipe, data, tokenizer) if has_gold else run


def count_variant(variant: str) -> int:
    with torch.device("meta"):
        return count_parameters(VARIANTS[variant].make())


FACTS = [
    *(
        Fact(f"{variant}, 7,853 and 5,893 words: parameters", partial(count_variant, variant), count)
        for variant, count in (
            ("seq2seq_plain", 13_898_501),
            ("seq2seq_cho", 14_219_781),
            ("seq2seq_bahdanau", 20_518_405),
        )
    ),
    # biases and all
    Fact("seq2seq_paper: millions of parameters", partial(count_variant, "seq2seq_paper"), 384e6, 5e5),
]


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the names of the networks published for Multi30k to ours."""
    from torchstone.references.seq2seq import convert_names

    return convert_names(tensors)


def reference() -> Iterator[ParityCase]:
    """torch's own modules, one sentence and one word at a time, with random sizes and padding."""
    from torchstone.references.seq2seq import seq2seq_cases

    yield from seq2seq_cases(seq2seq)
