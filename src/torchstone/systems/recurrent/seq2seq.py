"""seq2seq: a recurrent network reads a sentence, and another one writes its translation.

Paper: Dzmitry Bahdanau, Kyunghyun Cho and Yoshua Bengio, "Neural Machine Translation by Jointly Learning
to Align and Translate", 2014, arXiv:1409.0473. Before it: Sutskever, Vinyals and Le, arXiv:1409.3215,
and Cho et al., arXiv:1406.1078; after it: Luong, Pham and Manning, arXiv:1508.04025.

The idea. Sutskever's encoder presses the sentence into its last state, and the decoder starts from that;
Cho's decoder is shown it at every word. Long sentences do not fit into it. Bahdanau's decoder looks
back, before each word it writes, at the encoder's states of all words read: a small network scores how
well each fits, and their mean, so weighted, is what it goes on from. Luong's scores are cheaper and come
after the recurrence. What was looked at can be drawn, and held against word alignments told by hand.

    all          h_j = encoder(x_j, h_{j−1}),   P(y_i) = softmax(W_o features_i)
    plain        s_0 = h_m,                     s_i = LSTM(y_{i−1}, s_{i−1}),         features s_i
    cho          c = s_0 = h_m,                 s_i = GRU([y_{i−1}, c], s_{i−1}),     features [y_{i−1}, s_i, c]
    attention    c_i = Σ_j α_ij h_j,            α_ij = softmax_j(e_ij)
    bahdanau     e_ij = vᵀtanh(W s_{i−1} + U h_j),  s_i = GRU([y_{i−1}, c_i], s_{i−1}),  features [s_i, c_i, y_{i−1}]
    luong        e_ij = s_iᵀ W h_j,  s_i = LSTM([y_{i−1}, s̃_{i−1}], s_{i−1}),  features s̃_i = tanh(W_c [c_i, s_i])

    source (b, m) → encoder → memory (b, m, read);  target (b, n) → decoder → logits (b, n, vocabulary)

While it learns, the decoder is given the words that are right, not its own (teacher forcing); `forcing`
below 1 gives it its own now and then. Where nothing written comes back into the recurrence but the word
(plain, cho, luong without input feeding), a whole target then goes through the fused kernels at once.

The plain names are networks published for Multi30k (`published` reads their weights), of 7,853 German and
5,893 English words: 13,898,501, 14,219,781 and 20,518,405 parameters; `seq2seq_luong` is ours, of their
size. `seq2seq_paper` is Sutskever's of 384 million.

What differs from the papers. Bahdanau: torch's GRU (reset after the product), s_0 from both directions'
last states, as in the published network, and `maxout` units before the softmax only where asked for. Luong: the encoder may read
from both ends (half of the units each), dropout is on embeddings and features too, no local attention.
Sutskever: the end of the sentence stays last where its words are turned round. All: Adam, a falling rate,
batches by tokens, one vocabulary of pieces for both languages, each with its own embedding; weights start
as torch draws them. From Bahdanau's start (deviation 0.01, v zero) 120 steps of `smoke` reach 20 % of
the letters, from torch's 99 %.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torchstone.data.text.parallel import read_pairs
from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.parts.facts import Fact, parameters
from torchstone.parts.recurrent import seq2seq_attention
from torchstone.parts.recurrent.encoder_decoder import Encoder, EncoderOutput, EncoderDecoder
from torchstone.parts.recurrent.layers import Cell, Recurrent, State
from torchstone.parts.recurrent.seq2seq_attention import attend
from torchstone.parts.recurrent.single_step import single_step
from torchstone.references.seq2seq import seq2seq_cases, convert_names
from torchstone.systems import Variant
from torchstone.systems.recurrent import gru, lstm
from torchstone.tasks.text.translate import PAD, learn_tokens, predict, translate
from torchstone.tasks.text.word_alignment import evaluate, add_gold_alignments

__all__ = ["FACTS", "RECIPES", "VARIANTS", "Recipe", "build", "evaluate", "predict", "reference"]


@dataclass(frozen=True)
class Recipe:
    data: str = "gettext"  # gettext, bible, reverse, copy, a folder, FILE,FILE, a .tsv, hf:NAME
    source: str = "de"  # language translated from: a file's suffix, a column's name
    target: str = "en"  # language translated to
    variant: str = "seq2seq_luong"  # which network
    tokenizer: Literal["bpe", "unigram", "wordpiece", "characters"] = "bpe"  # of both languages
    vocabulary: int = 2000  # its tokens at most
    longest: int = 128  # tokens of a sentence at most; longer pairs are not trained on
    embedding: int = 256  # numbers a word
    hidden: int = 256  # units of a layer
    layers: int = 1  # of encoder and decoder each (plain, luong)
    bidirectional: bool = True  # the encoder reads from the end as well (plain, luong)
    score: Literal["additive", "concat", "general", "dot"] | None = None  # none for the paper's
    feeding: bool = False  # luong: what was looked at goes into the next moment (input feeding)
    maxout: int = 0  # bahdanau: units between what was looked at and the softmax, 0 for none
    forcing: float = 1.0  # share of the words in training that are the right ones, not its own
    path: Literal["fast", "written"] = "fast"  # fused kernels, or the equations
    dropout: float = 0.2  # of embeddings, between layers, and of what the softmax reads
    smoothing: float = 0.1  # share of the label's probability spread over the vocabulary
    steps: int = 2500  # updates
    batch_size: int = 1000  # target tokens an update
    optim: OptimConfig = OptimConfig(
        lr=3e-3, warmup_ratio=0.05, max_grad_norm=1.0, ema_decay=0.98
    )  # optimizer, schedule, precision
    beams: int = 4  # translations followed at once when testing; 1 is greedy
    penalty: float = 1.0  # how much longer translations are favoured
    judged: int = 200  # validation sentences translated for BLEU at each evaluation
    seed: int = 0  # of weights, order and dropout
    device: str = "auto"  # auto, cpu, cuda, mps


MARGIN = ("accuracy", 0.4)  # of the copied characters, on the test split

BIBLE = Recipe("bible", "grc", variant="seq2seq_bahdanau", vocabulary=3000, maxout=256)
REVERSE = Recipe("reverse", variant="seq2seq_bahdanau", vocabulary=268, embedding=64, hidden=128)
MULTI30K = Recipe(
    vocabulary=8000,
    hidden=512,
    dropout=0.5,
    batch_size=4000,
    optim=replace(Recipe.optim, lr=2e-3, ema_decay=0.999),
)
EXACT = replace(REVERSE, dropout=0.0, smoothing=0.0, beams=1, optim=replace(REVERSE.optim, ema_decay=0.0))

RECIPES = {
    "translate": Recipe(),
    # torchstone train seq2seq/bible      Greek verses to English, attention against gold alignments
    "bible": replace(BIBLE, dropout=0.3, steps=3000),
    # torchstone train seq2seq/reverse    up to 20 letters turned round: 100 % exact
    "reverse": replace(EXACT, steps=1500),
    # torchstone train seq2seq/multi30k_cpu --data DIR
    "multi30k_cpu": Recipe(
        vocabulary=4000, dropout=0.3, batch_size=1500, steps=4000, optim=replace(Recipe.optim, ema_decay=0.99)
    ),
    # torchstone train seq2seq/multi30k --data DIR     BLEU 28.3 for the public network of this size
    "multi30k": replace(MULTI30K, variant="seq2seq_bahdanau", steps=4000),
    # torchstone train seq2seq/multi30k_plain --data DIR      the same without attention: BLEU 13.8
    "multi30k_plain": replace(MULTI30K, variant="seq2seq_plain", layers=2, steps=4000),
    # for tests: seconds
    "smoke": replace(
        EXACT,
        data="copy",
        hidden=64,
        batch_size=600,
        steps=100,
        optim=replace(EXACT.optim, lr=1e-2),
        judged=20,
    ),
}

Words = Float[Tensor, "b n embedding"]
DecoderOutput = tuple[Float[Tensor, "b n features"], State, Float[Tensor, "b n m"] | None]


class PlainDecoder(nn.Module):
    """Sutskever et al.: the encoder's last state is all there is to start from. With `context` (Cho et
    al.) it is shown at every word as well, and to the softmax."""

    def __init__(self, cell: Cell, embedding: int, hidden: int, *, context: bool, **how):
        super().__init__()
        self.recurrent = Recurrent(cell, embedding + hidden * context, hidden, **how)
        self.width, self.context = hidden + (embedding + hidden) * context, context

    def begin(self, source: EncoderOutput, state: State) -> tuple[EncoderOutput, State]:
        return source._replace(memory=state[0][-1][:, None]), state

    def forward(self, y: Words, source: EncoderOutput, state: State) -> DecoderOutput:
        if not self.context:
            return *self.recurrent(y, state=state), None
        c = source.memory.expand(-1, y.shape[1], -1)
        s, state = self.recurrent(torch.cat([y, c], 2), state=state)
        return torch.cat([y, s, c], 2), state, None


class BahdanauDecoder(nn.Module):
    """Bahdanau et al.: before each word, from the state before it, what was read is looked at. With
    `maxout` units the softmax reads the larger of each two sums, else all features."""

    def __init__(self, embedding: int, hidden: int, read: int, score: str, *, maxout: int, **how):
        super().__init__()
        self.start = nn.Linear(read, hidden)
        self.score = seq2seq_attention.make_score(score, hidden, read, hidden, bias=True)
        self.recurrent = Recurrent(gru.CELL, embedding + read, hidden, **how)
        width = hidden + read + embedding
        self.maxout = nn.Linear(width, 2 * maxout) if maxout else None
        self.width = maxout or width

    def begin(self, source: EncoderOutput, state: State) -> tuple[EncoderOutput, State]:
        return source._replace(keys=self.score.keys(source.memory)), (self.start(state[0]).tanh(),)

    def forward(self, y: Words, source: EncoderOutput, state: State) -> DecoderOutput:
        features, looks = [], []
        for word in y.unbind(1):
            # e_ij = a(s_{i−1}, h_j),  c_i = Σ_j α_ij h_j
            e = self.score(state[0].transpose(0, 1), source.keys)
            c, share = attend(e, source.memory, source.mask)
            # s_i = f(s_{i−1}, y_{i−1}, c_i)
            s, state = single_step(self.recurrent, torch.cat([word, c[:, 0]], 1), state)
            features.append(torch.cat([s, c[:, 0], word], 1))
            looks.append(share)
        t = torch.stack(features, 1)
        if self.maxout is not None:
            t = self.maxout(t).unflatten(2, (-1, 2)).amax(3)
        return t, state, torch.cat(looks, 1)


class LuongDecoder(nn.Module):
    """Luong et al.: after each state what was read is looked at; with `feeding`, what came of that is
    read with the next word."""

    def __init__(
        self, embedding: int, hidden: int, read: int, score: str, *, feeding: bool, **how
    ):  # fmt: skip
        super().__init__()
        self.score = seq2seq_attention.make_score(score, hidden, read)
        self.combine = nn.Linear(read + hidden, hidden, bias=False)
        inputs = embedding + hidden * feeding
        self.recurrent = Recurrent(lstm.CELL, inputs, hidden, **how)
        self.width, self.feeding = hidden, feeding

    def begin(self, source: EncoderOutput, state: State) -> tuple[EncoderOutput, State]:
        source = source._replace(keys=self.score.keys(source.memory))
        return source, (*state, torch.zeros_like(state[0][:1])) if self.feeding else state

    def forward(self, y: Words, source: EncoderOutput, state: State) -> DecoderOutput:
        if not self.feeding:
            s, state = self.recurrent(y, state=state)
            features, shares = self.attended(s, source)
            return features, state, shares
        features, looks = [], []
        for word in y.unbind(1):
            state, fed = state[:-1], state[-1]
            s, state = single_step(self.recurrent, torch.cat([word, fed[0]], 1), state)
            fed, share = self.attended(s[:, None], source)
            state = (*state, fed.transpose(0, 1))
            features.append(fed)
            looks.append(share)
        return torch.cat(features, 1), state, torch.cat(looks, 1)

    def attended(self, s: Float[Tensor, "b n hidden"], source: EncoderOutput) -> tuple[Tensor, Tensor]:
        # s̃_i = tanh(W_c [c_i, s_i])
        c, shares = attend(self.score(s, source.keys), source.memory, source.mask)
        return self.combine(torch.cat([c, s], 2)).tanh(), shares


def seq2seq(
    source: int = 7853, target: int = 5893, *, decoder: str = "plain", embedding: int = 256,
    hidden: int = 512, layers: int = 1, bidirectional: bool = False, score: str | None = None,
    feeding: bool = True, turned: bool = False, forcing: float = 1.0, dropout: float = 0.5,
    maxout: int = 0, path: Literal["fast", "written"] = "fast",
) -> EncoderDecoder:  # fmt: skip
    """The network with one of the four decoders.

    Args:
        source, target: number of words (or pieces) of either language.
        layers: of encoder and decoder each; `bidirectional`: the encoder reads from the end as well,
            with half of the units in each direction. Both are `plain`'s and `luong`'s to choose.
        score: of `bahdanau` (none: additive) and `luong` (none: general).
        maxout: units between `bahdanau`'s features and the softmax, 0 for none.
        turned: the encoder reads the words from the last to the first.

    Raises:
        BadInput: what does not go together.
    """
    gated, split = decoder in ("cho", "bahdanau"), bidirectional and decoder in ("plain", "luong")
    if gated and layers > 1:
        raise BadInput(f"seq2seq_{decoder} has 1 layer, not {layers}")
    if split and hidden % 2:
        raise BadInput(f"two directions share the hidden units evenly: {hidden} is odd")
    how: dict[str, Any] = {
        "layers": layers,
        "dropout": dropout if layers > 1 else 0.0,
        "path": path,
    }
    both, units = split or decoder == "bahdanau", hidden // 2 if split else hidden
    cell = gru.CELL if gated else lstm.CELL
    reader = Recurrent(cell, embedding, units, bidirectional=both, **how)
    sizes = embedding, hidden, reader.width
    if decoder == "bahdanau":
        writer = BahdanauDecoder(*sizes, score or "additive", maxout=maxout, **how)
    elif decoder == "luong":
        writer = LuongDecoder(*sizes, score or "general", feeding=feeding, **how)
    else:
        writer = PlainDecoder(cell, embedding, hidden, context=decoder == "cho", **how)
    return EncoderDecoder(
        Encoder(nn.Embedding(source, embedding), reader, dropout, turned), writer, target,
        dropout=dropout, forcing=forcing, attends=decoder in ("bahdanau", "luong"), pad=PAD,
    )  # fmt: skip


PAPER = {"source": 160_000, "target": 80_000, "embedding": 1000, "hidden": 1000, "layers": 4}
SIZES = {
    "plain": {"decoder": "plain", "layers": 2, "turned": True},
    "cho": {"decoder": "cho"},
    "bahdanau": {"decoder": "bahdanau"},
    "luong": {"decoder": "luong", "layers": 2},
    "paper": {"decoder": "plain", "turned": True, "dropout": 0.0, **PAPER},
}

# fields of a recipe that are arguments of the network
FIELDS = ("embedding", "hidden", "layers", "bidirectional", "score", "feeding")
FIELDS += ("maxout", "forcing", "dropout", "path")

VARIANTS = {f"seq2seq_{n}": Variant(partial(seq2seq, **s), (16,)) for n, s in SIZES.items()}


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = read_pairs(recipe.data, recipe.source, recipe.target)
    tokenizer = learn_tokens(recipe, data)
    size = tokenizer.get_vocab_size()
    model_config = {"source": size, "target": size} | {n: getattr(recipe, n) for n in FIELDS}
    rng.seed(recipe.seed)
    model = VARIANTS[recipe.variant].make(**model_config).to(device)
    run = translate(model, recipe, data, tokenizer, model_config=model_config)
    told = recipe.data == "bible" and model.attends
    yield add_gold_alignments(run, recipe, data, tokenizer) if told else run


def count_parameters(variant: str) -> int:
    with torch.device("meta"):
        return parameters(VARIANTS[variant].make())


FACTS = [
    *(
        Fact(f"{variant}, 7,853 and 5,893 words: parameters", partial(count_parameters, variant), wanted)
        for variant, wanted in (
            ("seq2seq_plain", 13_898_501),
            ("seq2seq_cho", 14_219_781),
            ("seq2seq_bahdanau", 20_518_405),
        )
    ),
    # biases and all
    Fact("seq2seq_paper: millions of parameters", partial(count_parameters, "seq2seq_paper"), 384e6, 5e5),
]


def published(variant: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of the networks published for Multi30k to ours."""
    return convert_names(tensors)


def reference():
    """torch's own modules, a sentence and a word at a time, sizes drawn at random, with padding."""
    yield from seq2seq_cases(seq2seq)
