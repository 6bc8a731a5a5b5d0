"""seq2seq of torch's own modules, a sentence at a time and a word at a time, to hold ours against.

The weights bear the names of the networks published for Multi30k (bentrevett/pytorch-seq2seq), as far
as those go.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.references import OutputAdapter, convert_inside, randomize_weights
from torchstone.references.transformer import default_dtype, logits_and_loss

NAMES = {
    "encoder.rnn.": "encoder.recurrent.",
    "encoder.fc.": "decoder.start.",
    "decoder.embedding.": "embedding.",
    "decoder.rnn.": "decoder.recurrent.",
    "decoder.fc_out.": "out.",
    "decoder.attention.attn.bias": "decoder.score.W.bias",
    "decoder.attention.": "decoder.score.",
}


def convert_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published names to ours; the matrix that reads [s; h] becomes the two that read s and h."""
    found = {}
    for key, tensor in tensors.items():
        if key == "decoder.attention.attn.weight":
            hidden = len(tensor)
            found["decoder.score.W.weight"] = tensor[:, :hidden]
            found["decoder.score.U.weight"] = tensor[:, hidden:]
        elif key == "decoder.attention.v.weight":
            found["decoder.score.v"] = tensor[0]
        else:
            old = next((name for name in NAMES if key.startswith(name)), "")
            found[NAMES.get(old, "") + key.removeprefix(old)] = tensor
    return found


class TorchSeq2Seq(nn.Module):
    """Any of the four; the arguments are those of ours."""

    encoder: Any
    decoder: Any

    def __init__(
        self,
        source: int,
        target: int,
        decoder: str,
        embedding: int,
        hidden: int,
        layers: int = 1,
        bidirectional: bool = False,
        score: str = "general",
        input_feeding: bool = False,
        reverse_source: bool = False,
        maxout: int = 0,
    ):
        super().__init__()
        self.kind, self.score = decoder, score
        self.input_feeding, self.reverse_source = input_feeding, reverse_source
        cell = nn.LSTM if decoder in ("plain", "luong") else nn.GRU
        units = hidden // 2 if bidirectional else hidden
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.embedding = nn.Embedding(source, embedding)
        self.encoder.rnn = cell(
            embedding, units, layers, bidirectional=bidirectional or decoder == "bahdanau"
        )
        read = 2 * hidden if decoder == "bahdanau" else hidden
        self.decoder.embedding = nn.Embedding(target, embedding)
        attention: Any = nn.Module()
        self.decoder.attention = attention
        inputs, width = embedding, hidden
        if decoder == "cho":
            inputs, width = embedding + hidden, embedding + 2 * hidden
        elif decoder == "bahdanau":
            inputs, width = embedding + read, embedding + hidden + read
            self.encoder.fc = nn.Linear(read, hidden)
            if maxout:
                self.decoder.maxout = nn.Linear(width, 2 * maxout)
                width = maxout
        elif decoder == "luong":
            inputs = embedding + hidden * input_feeding
            self.decoder.combine = nn.Linear(read + hidden, hidden, bias=False)
        if decoder == "bahdanau" or score == "concat":
            bias = decoder == "bahdanau"
            attention.attn = nn.Linear(hidden + read, hidden, bias=bias)
            attention.v = nn.Linear(hidden, 1, bias=False)
        elif decoder == "luong" and score == "general":
            attention.W = nn.Linear(read, hidden, bias=False)
        self.decoder.rnn = cell(inputs, hidden, layers)
        self.decoder.fc_out = nn.Linear(width, target)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        rows = zip(source, target, strict=True)
        return torch.stack([self.one(a[: int(a.nonzero().max()) + 1], b) for a, b in rows])

    def one(self, words: Tensor, given: Tensor) -> Tensor:
        """Logits (n, vocabulary) of one sentence."""
        if self.reverse_source:
            words = torch.cat([words[:-1].flip(0), words[-1:]])
        memory, last = self.encoder.rnn(self.encoder.embedding(words))
        last = last if isinstance(last, tuple) else (last,)
        layers = self.decoder.rnn.num_layers
        ways = len(last[0]) // layers
        state = tuple(
            torch.stack([each[i * ways : (i + 1) * ways].flatten() for i in range(layers)]) for each in last
        )
        if self.kind == "bahdanau":
            state = (self.encoder.fc(state[0]).tanh(),)
        context, fed, logits = state[0][0], torch.zeros_like(state[0][0]), []
        for token in given:
            y = self.decoder.embedding(token)
            if self.kind == "plain":
                features, state = self.step(y, state)
            elif self.kind == "cho":
                s, state = self.step(torch.cat([y, context]), state)
                features = torch.cat([y, s, context])
            elif self.kind == "bahdanau":
                c = self.attend(state[0][0], memory)
                s, state = self.step(torch.cat([y, c]), state)
                features = torch.cat([s, c, y])
                if hasattr(self.decoder, "maxout"):
                    sums = self.decoder.maxout(features)
                    features = torch.maximum(sums[0::2], sums[1::2])
            else:
                s, state = self.step(torch.cat([y, fed]) if self.input_feeding else y, state)
                features = self.decoder.combine(torch.cat([self.attend(s, memory), s])).tanh()
                fed = features
            logits.append(self.decoder.fc_out(features))
        return torch.stack(logits)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        out, state = self.decoder.rnn(x[None], state if len(state) > 1 else state[0])
        return out[0], state if isinstance(state, tuple) else (state,)

    def attend(self, s: Tensor, memory: Tensor) -> Tensor:
        """Σ exp(e_j) h_j / Σ exp(e_j), a word at a time."""
        terms = [self.alignment_score(s, h).exp() for h in memory]
        return sum(e * h for e, h in zip(terms, memory, strict=True)) / sum(terms)

    def alignment_score(self, s: Tensor, h: Tensor) -> Tensor:
        attention = self.decoder.attention
        if hasattr(attention, "attn"):
            return attention.v(attention.attn(torch.cat([s, h])).tanh())[0]
        return (s * (attention.W(h) if self.score == "general" else h)).sum()


# decoder, layers, whether the encoder reads both ways, and what else
CASES = (
    ("plain", 2, False, {"reverse_source": True}),
    ("plain", 3, True, {}),
    ("cho", 1, False, {}),
    ("bahdanau", 1, False, {}),
    ("bahdanau", 1, False, {"maxout": 5}),
    ("luong", 2, False, {"input_feeding": True}),
    ("luong", 1, True, {"score": "concat", "input_feeding": True}),
    ("luong", 2, True, {"score": "dot", "input_feeding": False}),
    ("luong", 1, False, {"score": "general", "input_feeding": False}),
)


def seq2seq_cases(make: Callable[..., nn.Module]) -> Iterator[ParityCase]:
    """Networks of sizes drawn at random on sentences of several lengths, padded.

    Args:
        make: takes `Reference`'s arguments, `dropout` and `implementation`.
    """
    generator = torch.Generator().manual_seed(2014)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    for number, (decoder, layers, both, more) in enumerate(CASES):
        dtype = torch.float32 if number in (4, 8) else torch.float64
        implementation = "reference" if number % 3 == 1 else "fused"
        sizes: list[Any] = [int(draw(low, high)) for low, high in ((9, 30), (9, 30), (3, 12), (2, 8))]
        source, target = (draw(1, size, 3, int(draw(5, 10))) for size in sizes[:2])
        for tokens in (source, target):
            lengths = draw(2, tokens.shape[1] + 1, 3)
            lengths[0] = tokens.shape[1]
            tokens[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
        settings: dict[str, Any] = {"decoder": decoder, "embedding": sizes[2], "hidden": 2 * sizes[3]}
        settings |= {"layers": layers, "bidirectional": both, **more}
        with default_dtype(dtype):
            theirs = TorchSeq2Seq(*sizes[:2], **settings)
            ours = make(*sizes[:2], dropout=0.0, implementation=implementation, **settings)
        randomize_weights(theirs, 0.3, add=True, generator=generator)
        ours.load_state_dict(convert_names(theirs.state_dict()))
        output = ", ".join([decoder, f"{layers} layers", *(f"{k} {v}" for k, v in more.items())])
        both_ways = ", both ways" if both else ""
        calls = (OutputAdapter(net, logits_and_loss) for net in (ours, theirs))
        label = f"{output}{both_ways}, {implementation}, {dtype}"
        yield ParityCase(*calls, (source, target), convert_inside(convert_names), torch.optim.Adam, label)
