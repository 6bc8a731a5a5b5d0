"""Encoder–decoder: one recurrent network encodes a source sentence, another one writes the target.

The decoder, with or without attention, is the system's own.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from torchstone.errors import BadInput
from torchstone.parts.decoding.beam_search import search
from torchstone.parts.recurrent.layers import Recurrent, State


class EncoderOutput(NamedTuple):
    """A batch of encoded sentences: the encoder's states, the keys that a decoder computes from them,
    and True where there is a token."""

    memory: Float[Tensor, "b m read"]
    keys: Float[Tensor, "b m width"]
    mask: Bool[Tensor, "b m"]


class Encoder(nn.Module):
    """Embedding and recurrent layers; with `reverse_source` the words are read last to first."""

    def __init__(self, embedding: nn.Embedding, recurrent: Recurrent, dropout: float, reverse_source: bool):
        super().__init__()
        self.embedding, self.recurrent = embedding, recurrent
        self.dropout, self.reverse_source = nn.Dropout(dropout), reverse_source

    def forward(self, tokens: Int64[Tensor, "b m"], pad: int) -> tuple[EncoderOutput, State]:
        """The states of all tokens, and each layer's final state, its directions concatenated."""
        positions = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        lengths = ((tokens != pad) * positions).amax(1)
        lengths = lengths.masked_fill(lengths == 0, tokens.shape[1])  # nothing but padding: read it
        last = lengths[:, None]
        if self.reverse_source:
            tokens = tokens.gather(1, torch.where(positions < last, last - positions, positions) - 1)
        memory, state = self.recurrent(self.dropout(self.embedding(tokens)), lengths)
        by_layer = (each.unflatten(0, (self.recurrent.layers, -1)) for each in state)
        state = tuple(each.transpose(1, 2).flatten(2) for each in by_layer)
        return EncoderOutput(memory, memory, positions <= last), state


class EncoderDecoder(nn.Module):
    """Encoder, decoder, and the softmax over the target vocabulary.

    Args:
        decoder: `init_state(source, state)` gives its initial state from the encoder's final one;
            `decoder(words (b, n, embedding), source, state)` gives features (b, n, `width`) of the next
            words, the state to continue from, and attention weights (b, n, m) or None. State tensors
            are (…, b, …): the batch is their second dimension.
        target_vocab_size: number of target tokens.
        dropout: dropout probability of embeddings and of the softmax's input.
        teacher_forcing_ratio: share of the decoder's inputs in training that are the target's words,
            not the model's own predictions (scheduled sampling, Bengio et al. 2015, arXiv:1506.03099).
        attends: whether the decoder gives attention weights.
        max_length: most tokens of a source or a target.
        pad: the padding token, which is masked in sources and ends targets.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Any,
        target_vocab_size: int,
        *,
        dropout: float = 0.0,
        teacher_forcing_ratio: float = 1.0,
        attends: bool = True,
        max_length: int = 1000,
        pad: int = 0,
    ):
        super().__init__()
        if not 0 <= teacher_forcing_ratio <= 1:
            raise BadInput(f"teacher_forcing_ratio must be 0 to 1, not {teacher_forcing_ratio}")
        self.encoder, self.decoder = encoder, decoder
        self.embedding = nn.Embedding(target_vocab_size, encoder.embedding.embedding_dim)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(decoder.width, target_vocab_size)
        self.teacher_forcing_ratio, self.attends = teacher_forcing_ratio, attends
        self.max_length, self.pad = max_length, pad

    def forward(
        self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b n vocab_size"]:
        """Logits of the token that follows each target token, given those before it and the source."""
        encoded, state = self.encode(source)
        if self.teacher_forcing_ratio == 1 or not self.training:
            return self.decode(target, encoded, state)[0]
        word, logits = target[:, :1], []
        for i in range(target.shape[1]):
            each, state, _ = self.decode(word, encoded, state)
            logits.append(each)
            truth = target[:, i + 1 : i + 2]
            own = torch.rand_like(truth, dtype=each.dtype) >= self.teacher_forcing_ratio
            word = torch.where(own, each.argmax(2)[:, : truth.shape[1]], truth)
        return torch.cat(logits, 1)

    def encode(self, source: Int64[Tensor, "b m"]) -> tuple[EncoderOutput, State]:
        """The encoder's states, and the decoder's initial state."""
        return self.decoder.init_state(*self.encoder(source, self.pad))

    def decode(
        self, target: Int64[Tensor, "b n"], encoded: EncoderOutput, state: State
    ) -> tuple[Float[Tensor, "b n vocab_size"], State, Float[Tensor, "b n m"] | None]:
        """Logits, the state to continue from, and the attention weights, if there are any."""
        features, state, weights = self.decoder(self.dropout(self.embedding(target)), encoded, state)
        return self.out(self.dropout(features)), state, weights

    @torch.no_grad()
    def generate(
        self,
        source: Int64[Tensor, "b m"],
        max_new_tokens: int,
        *,
        bos: int,
        eos: int,
        beam_size: int = 1,
        length_penalty: float = 0.0,
    ) -> Int64[Tensor, "b length"]:
        """Translations without `start`, padded with `end`: by greedy decoding, or by beam search with
        `beam_size` hypotheses; at most `max_new_tokens`, the end token included."""
        encoded, state = self.encode(source)
        encoded = EncoderOutput(*(each.repeat_interleave(beam_size, 0) for each in encoded))
        state = tuple(each.repeat_interleave(beam_size, 1) for each in state)

        def step(tokens: Tensor, rows: Tensor | None) -> Tensor:
            nonlocal state
            if rows is not None:  # beams of one sentence share its encoding
                state = tuple(each[:, rows] for each in state)
            logits, state, _ = self.decode(tokens[:, -1:], encoded, state)
            return logits[:, 0].log_softmax(-1)

        tokens = torch.full((len(source), 1), bos, device=source.device)
        return search(
            step,
            tokens,
            beam_size=beam_size,
            eos=eos,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
        )

    @torch.no_grad()
    def attention_weights(
        self, source: Int64[Tensor, "b m"], target: Int64[Tensor, "b n"]
    ) -> Float[Tensor, "b 1 n m"]:
        """Attention over the source at the prediction of each token that follows the target's."""
        weights = self.decode(target, *self.encode(source))[2]
        if weights is None:
            raise BadInput("a network without attention looks at no word: choose another variant")
        return weights[:, None]
