"""Encoder and decoder: one network reads a sentence, another one writes a word at a time.

What the decoder is, and what it looks at, is each system's own.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.decoding.beam_search import beam_search, greedy_search
from torchstone.parts.recurrent.layers import Recurrent, State


class EncoderOutput(NamedTuple):
    """A batch of sentences that was read: the states of its words, what a score makes of them, and
    where there are words."""

    memory: Float[Tensor, "b m read"]
    keys: Float[Tensor, "b m width"]
    mask: Bool[Tensor, "b m"]


class Encoder(nn.Module):
    """Embedding and recurrent layers; `turned` reads the words from the last to the first."""

    def __init__(self, embedding: nn.Embedding, recurrent: Recurrent, dropout: float, turned: bool):
        super().__init__()
        self.embedding, self.recurrent = embedding, recurrent
        self.dropout, self.turned = nn.Dropout(dropout), turned

    def forward(self, tokens: Int64[Tensor, "b m"], pad: int) -> tuple[EncoderOutput, State]:
        """The states of all words, and each layer's at the end, its directions side by side."""
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        lengths = ((tokens != pad) * places).amax(1)
        lengths = lengths.masked_fill(lengths == 0, tokens.shape[1])  # nothing but padding: read it
        last = lengths[:, None]
        if self.turned:
            tokens = tokens.gather(1, torch.where(places < last, last - places, places) - 1)
        memory, state = self.recurrent(self.dropout(self.embedding(tokens)), lengths)
        ways = (each.unflatten(0, (self.recurrent.layers, -1)) for each in state)
        state = tuple(each.transpose(1, 2).flatten(2) for each in ways)
        return EncoderOutput(memory, memory, places <= last), state


class EncoderDecoder(nn.Module):
    """Encoder, decoder, and the softmax over the target's words.

    Args:
        decoder: `begin(source, state)` says what it begins with, given what the encoder leaves;
            `decoder(words (b, n, embedding), source, state)` gives features (b, n, `width`) of the words
            that follow, the state to go on from, and shares of attention (b, n, m) or None. State
            tensors are (…, b, …): rows stand in their second dimension.
        target: number of words (or pieces) there are to write.
        dropout: of embeddings and of what the softmax reads.
        forcing: share of the words given in training that are the target's, not the network's own
            likeliest ones (Bengio et al. 2015, arXiv:1506.03099).
        attends: whether the decoder gives shares.
        longest: words at most, of a source or a target.
        pad: the token that fills up sources, which nothing looks at, and the ends of targets.
    """

    def __init__(
        self, encoder: Encoder, decoder: Any, target: int, *, dropout: float = 0.0,
        forcing: float = 1.0, attends: bool = True, longest: int = 1000, pad: int = 0,
    ):  # fmt: skip
        super().__init__()
        if not 0 <= forcing <= 1:
            raise BadInput(f"forcing is a share, 0 to 1, not {forcing}")
        self.encoder, self.decoder = encoder, decoder
        self.embedding = nn.Embedding(target, encoder.embedding.embedding_dim)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(decoder.width, target)
        self.forcing, self.attends, self.longest, self.pad = forcing, attends, longest, pad

    def forward(
        self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n vocabulary"]:
        """Logits of the token that follows each target token, given those before it and the source."""
        read, state = self.read(source)
        if self.forcing == 1 or not self.training:
            return self.decode(target, read, state)[0]
        given, logits = target[:, :1], []
        for i in range(target.shape[1]):
            each, state, _ = self.decode(given, read, state)
            logits.append(each)
            right = target[:, i + 1 : i + 2]
            own = torch.rand_like(right, dtype=each.dtype) >= self.forcing
            given = torch.where(own, each.argmax(2)[:, : right.shape[1]], right)
        return torch.cat(logits, 1)

    def read(self, source: Int64[Tensor, "b m"]) -> tuple[EncoderOutput, State]:
        """The encoder's states, and what the decoder begins with."""
        return self.decoder.begin(*self.encoder(source, self.pad))

    def decode(
        self, target: Int64[Tensor, "b n"], read: EncoderOutput, state: State
    ) -> tuple[Float[Tensor, "b n vocabulary"], State, Float[Tensor, "b n m"] | None]:
        """Logits, the state to go on from, and how attention was shared out, if there is any."""
        features, state, shares = self.decoder(self.dropout(self.embedding(target)), read, state)
        return self.out(self.dropout(features)), state, shares

    @torch.no_grad()
    def generate(
        self, source: Int64[Tensor, "b m"], max_new_tokens: int, *, start: int, end: int,
        beams: int = 1, penalty: float = 0.0,
    ) -> Int64[Tensor, "b length"]:  # fmt: skip
        """Translations without `start`, filled up with `end`: the likeliest token each time, or the
        best of `beams` followed at once; at most `max_new_tokens`, of which the end counts."""
        read, state = self.read(source)
        read = EncoderOutput(*(each.repeat_interleave(beams, 0) for each in read))
        state = tuple(each.repeat_interleave(beams, 1) for each in state)

        def step(tokens: Tensor, rows: Tensor | None) -> Tensor:
            nonlocal state
            if rows is not None:  # beams of one sentence share what was read
                state = tuple(each[:, rows] for each in state)
            logits, state, _ = self.decode(tokens[:, -1:], read, state)
            return logits[:, 0].log_softmax(-1)

        tokens = torch.full((len(source), 1), start, device=source.device)
        if beams == 1:
            return greedy_search(step, tokens, end=end, most=max_new_tokens)[:, 1:]
        most = max_new_tokens
        found, _ = beam_search(step, tokens, beams=beams, end=end, most=most, penalty=penalty)
        return found[:, 1:]

    @torch.no_grad()
    def looks(self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]) -> Float[Tensor, "b 1 n m"]:
        """How attention is shared out over the source before each token that follows the target's."""
        shares = self.decode(target, *self.read(source))[2]
        if shares is None:
            raise BadInput("a network without attention looks at no word: choose another variant")
        return shares[:, None]
