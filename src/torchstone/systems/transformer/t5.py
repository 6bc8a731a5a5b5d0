"""T5: every task is text to text.

Paper: Colin Raffel, Noam Shazeer, Adam Roberts, Katherine Lee, Sharan Narang, Michael Matena, Yanqi
Zhou, Wei Li and Peter J. Liu, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", 2019, arXiv:1910.10683.

The idea. Translation, questions, even classification: all inputs and outputs can be written as text, so one
network and one loss serve all tasks. It is pre-trained by span corruption: spans of a text are each replaced
by a sentinel, and the decoder writes the sentinels followed by what was removed.

    source    Thank you <X> me to your party <Y> week </s>
    target    <X> for inviting <Y> last <Z> </s>                                     (figure 2)

The network is the encoder-decoder of 2017 with three changes (section 2.1):

    norm      x / √(mean x² + ε) · g, without mean or bias, before each sublayer, outside of the sum
    attention softmax(QKᵀ + B) V, not divided by √d; B from one table of 32 distances for all layers
    elsewhere no biases at all; the output is the embedding's transpose times d^(−1/2)

v1.0 (`t5_small` … `t5_11b`) has ReLU. v1.1 (`t5_v1_1_…`) has a gate, W₂ (gelu(W_g x) ⊙ W₁x), an
output matrix of its own that is not scaled, and had no dropout in pre-training. `t5_mini` and
`t5_tiny`, for short texts, have v1.1's layers and v1.0's output.

What differs from the paper. Adafactor is replaced by Adam. A target ends as in figure 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.t5 import from_config, match_weights, published, to_config, unpublished
from torchstone.parts.decoding.beam_search import search
from torchstone.parts.facts import ParityCase, parameter_facts
from torchstone.parts.old_keys import accept_old_keys
from torchstone.parts.transformer.attention import KVCache, MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import relative_position_buckets
from torchstone.parts.transformer.token_loss import token_loss
from torchstone.systems import Variant
from torchstone.tasks.text import text_to_text
from torchstone.tasks.text.text_to_text import predict
from torchstone.tasks.text.text_to_text_data import PAD, load_data

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


@dataclass(frozen=True)
class Recipe:
    data: str = "shakespeare"  # data set: a text, text pairs (.tsv, folder, gettext), or grammar
    task: Literal["denoise", "texts"] = "denoise"  # training task: span corruption or text pairs
    variant: str = "t5_mini"  # network variant
    tokenizer: Literal["unigram", "bpe", "wordpiece", "characters"] = "unigram"  # tokenizer type
    vocab_size: int = 2000  # maximum vocabulary size
    max_length: int = 64  # tokens of a text; of pairs: maximum tokens of either side
    noise_density: float = 0.15  # share of the tokens in removed spans
    mean_span_length: float = 3.0  # mean number of tokens in a removed span
    dropout: float = 0.0  # dropout probability of embeddings, attention weights and sublayer outputs
    steps: int = 1200  # number of updates
    batch_size: int = 32  # batch size (texts)
    optim: OptimConfig = OptimConfig(
        optimizer="adamw", lr=3e-3, warmup_ratio=0.1, max_grad_norm=1.0
    )  # optimizer, schedule, precision
    beam_size: int = 1  # beam size of generation; 1 is greedy
    eval_samples: int = 100  # number of answers generated in an evaluation, for `exact_match`
    seed: int = 0  # random seed of weights, data order and spans
    device: str = "auto"  # device: auto, cpu, cuda or mps


MARGIN = ("accuracy", 0.3)  # of the target's tokens
GRAMMAR = Recipe("grammar", variant="t5_tiny", tokenizer="characters", vocab_size=64, max_length=40)
RECIPES = {
    "denoise": Recipe(),
    "texts": Recipe("gettext", "texts", max_length=48, dropout=0.1),  # or --data FILE.tsv
    "grammar": replace(GRAMMAR, steps=2500),
    # for tests: seconds
    "smoke": replace(
        GRAMMAR, steps=100, optim=replace(GRAMMAR.optim, lr=5e-3), batch_size=16, eval_samples=0
    ),
}

Hidden = Float[Tensor, "batch n width"]
Memory = Float[Tensor, "batch m width"]
Bias = Float[Tensor, "#batch heads queries keys"]
PaddingBias = Float[Tensor, "batch 1 1 m"]  # −∞ where the source is padding


@dataclass(frozen=True)
class T5Config:
    """Architecture of the encoder-decoder."""

    width: int
    layers: int
    heads: int
    decoder_layers: int | None = None  # by default `layers`
    head_dim: int = 64  # of each head, independent of `width`
    d_ff: int = 2048  # width of the feed-forward layers
    vocab_size: int = 32_128
    activation: str = "relu"
    gated: bool = False  # feed-forward layers with a gate
    tie_weights: bool = True  # the embedding is the output matrix too
    scale_logits: bool | None = None  # multiply the decoder's output by width^(−1/2); by default if tied
    num_buckets: int = 32  # of relative distances
    max_distance: int = 128  # from where on all distances share a bucket
    eps: float = 1e-6  # of the norms
    dropout: float = 0.1
    start_id: int = 0  # first token of the decoder's input
    pad_id: int = 0  # padding of the source
    end_id: int = 1  # last token of source and target


class Block(nn.Module):
    """Self-attention, in the decoder also cross-attention to the encoder's output, then the feed-forward
    network; each is added to its input."""

    def __init__(self, config: T5Config, is_decoder: bool):
        super().__init__()
        self.attention_norm, self.attention = _norm(config), _attention(config)
        if is_decoder:
            self.cross_norm, self.cross = _norm(config), _attention(config)
        self.feed_forward_norm = _norm(config)
        self.feed_forward = FeedForward(
            config.width,
            config.d_ff,
            config.activation,
            gated=config.gated,
            bias=False,
            dropout=config.dropout,
        )
        self.dropout = nn.Dropout(config.dropout)
        accept_old_keys(self, {"feed.": "feed_forward.", "feed_norm.": "feed_forward_norm."})

    def forward(
        self,
        x: Hidden,
        bias: Bias,
        memory: Memory | None = None,
        padding_bias: PaddingBias | None = None,
        cache: KVCache | None = None,
        cross_cache: KVCache | None = None,
    ) -> Hidden:
        """With caches, `x` continues from the last call, and the memory's keys and values are reused."""
        x = x + self.dropout(self.attention(self.attention_norm(x), bias=bias, cache=cache))
        if memory is not None:
            y = self.cross(self.cross_norm(x), memory, bias=padding_bias, cache=cross_cache)
            x = x + self.dropout(y)
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


def _norm(config: T5Config) -> nn.RMSNorm:
    return nn.RMSNorm(config.width, config.eps)


def _attention(config: T5Config) -> MultiHeadAttention:
    return MultiHeadAttention(
        config.width, config.heads, head_dim=config.head_dim, scale=1.0, bias=False, dropout=config.dropout
    )


class T5(nn.Module):
    """Encoder and decoder over one vocabulary."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config, self.width, self.vocab_size = config, config.width, config.vocab_size
        is_scaled = config.tie_weights if config.scale_logits is None else config.scale_logits
        self.scale = config.width**-0.5 if is_scaled else 1.0
        self.start_id, self.pad_id, self.end_id = config.start_id, config.pad_id, config.end_id
        decoder_layers = config.layers if config.decoder_layers is None else config.decoder_layers
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.encoder_position_bias = nn.Embedding(config.num_buckets, config.heads)
        self.decoder_position_bias = nn.Embedding(config.num_buckets, config.heads)
        self.encoder = nn.ModuleList(Block(config, is_decoder=False) for _ in range(config.layers))
        self.decoder = nn.ModuleList(Block(config, is_decoder=True) for _ in range(decoder_layers))
        self.encoder_norm, self.decoder_norm = _norm(config), _norm(config)
        self.head = None
        if not config.tie_weights:
            self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.init_weights()
        accept_old_keys(
            self,
            {
                "tokens.": "token_embedding.",
                "encoder_places.": "encoder_position_bias.",
                "decoder_places.": "decoder_position_bias.",
            },
        )

    def init_weights(self) -> None:
        """Variance 1 / fan-in; for the query projection also divided by the head width, instead of
        attention's 1/√d."""
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                is_table = name.endswith("_position_bias.weight")
                nn.init.normal_(weight, std=(self.width if is_table else weight.shape[1]) ** -0.5)
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                with torch.no_grad():
                    module.qkv.weight[: module.inner_dim] *= module.head_dim**-0.5
        nn.init.normal_(self.token_embedding.weight)

    def forward(
        self, source: Int64[Tensor, "batch m"], target: Int64[Tensor, "batch n"]
    ) -> Float[Tensor, "batch n vocab_size"]:
        """Logits of the token after each target token, given the source and the tokens up to there."""
        return self.unembed(self.decode(target, *self.encode(source)))

    def encode(self, source: Int64[Tensor, "batch m"]) -> tuple[Memory, PaddingBias]:
        """The encoder's output, and the bias that hides padding from attention to it."""
        is_token = source != self.pad_id
        is_token = is_token | ~is_token.any(1, keepdim=True)  # a row of padding alone attends to itself
        x = self.dropout(self.token_embedding(source))
        zeros = torch.zeros_like(is_token, dtype=x.dtype)
        padding_bias = zeros.masked_fill(~is_token, -torch.inf)[:, None, None]
        length = source.shape[1]
        bias = self.position_bias(self.encoder_position_bias, length, bidirectional=True) + padding_bias
        for layer in self.encoder:
            x = layer(x, bias)
        return self.dropout(self.encoder_norm(x)), padding_bias

    def decode(
        self,
        target: Int64[Tensor, "batch n"],
        memory: Memory,
        padding_bias: PaddingBias,
        caches: list[tuple[KVCache, KVCache]] | None = None,
    ) -> Hidden:
        """Hidden states of the decoder.

        Args:
            caches: of each layer, for targets that continue from the last call.
        """
        x = self.dropout(self.token_embedding(target))
        new, past = target.shape[1], caches[0][0].length if caches else 0
        length = past + new
        bias = self.position_bias(self.decoder_position_bias, length, bidirectional=False)[:, :, past:]
        is_future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        bias = bias.masked_fill(is_future[past:], -torch.inf)
        for i, layer in enumerate(self.decoder):
            x = layer(x, bias, memory, padding_bias, *(caches[i] if caches else ()))
        return self.dropout(self.decoder_norm(x))

    def position_bias(self, table: nn.Embedding, length: int, *, bidirectional: bool) -> Bias:
        """B: a learned number for each head and bucket of relative distance."""
        buckets = relative_position_buckets(
            length,
            length,
            bidirectional=bidirectional,
            num_buckets=self.config.num_buckets,
            max_distance=self.config.max_distance,
            device=table.weight.device,
        )
        return table(buckets).permute(2, 0, 1)[None]

    def unembed(self, x: Hidden) -> Float[Tensor, "batch n vocab_size"]:
        return F.linear(x * self.scale, (self.token_embedding if self.head is None else self.head).weight)

    @torch.no_grad()
    def generate(
        self,
        source: Int64[Tensor, "batch m"],
        max_new_tokens: int,
        *,
        beam_size: int = 1,
        length_penalty: float = 0.0,
        use_cache: bool = True,
    ) -> Int64[Tensor, "batch length"]:
        """Generate answers by greedy or beam search, without `start_id`, padded with `end_id`.

        The end counts among `max_new_tokens`. Without `use_cache` every step recomputes all keys and
        values, with the same result.

        Raises:
            BadInput: an empty source, or a token id outside of the vocabulary.
        """
        if not source.numel():
            raise BadInput("empty source: give at least one token")
        for token in source[(source < 0) | (source >= self.vocab_size)].tolist()[:1]:
            last = self.vocab_size - 1
            raise BadInput(f"token id {token} is outside of the vocabulary, 0 to {last}")
        memory, padding_bias = (each.repeat_interleave(beam_size, 0) for each in self.encode(source))
        caches = None
        if use_cache:
            caches = [(KVCache(max_new_tokens), KVCache(source.shape[1])) for _ in self.decoder]

        def step(tokens: Tensor, rows: Tensor | None) -> Tensor:
            if caches and rows is not None:  # the memory is the same for all beams of a source
                for cache, _ in caches:
                    cache.reorder(rows)
            new = tokens[:, caches[0][0].length :] if caches else tokens
            x = self.decode(new, memory, padding_bias, caches)[:, -1:]
            return self.unembed(x)[:, 0].log_softmax(-1)

        tokens = torch.full((len(source), 1), self.start_id, device=source.device)
        return search(
            step,
            tokens,
            beam_size=beam_size,
            eos=self.end_id,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
        )


def make_t5(**model_config: Any) -> T5:
    """A network by the fields of `T5Config`."""
    return T5(T5Config(**model_config))


def _variant(width: int, layers: int, heads: int, d_ff: int, **model_config: Any) -> Variant:
    sizes = {"width": width, "layers": layers, "heads": heads, "d_ff": d_ff}
    return Variant(partial(make_t5, **sizes, **model_config), (64,))


V1_1 = {"activation": "gelu_new", "gated": True, "tie_weights": False}
SMALL = {**V1_1, "tie_weights": True, "scale_logits": True, "dropout": 0.0}
VARIANTS = {
    "t5_small": _variant(512, 6, 8, 2048),
    "t5_base": _variant(768, 12, 12, 3072),
    "t5_large": _variant(1024, 24, 16, 4096),
    "t5_3b": _variant(1024, 24, 32, 16_384, head_dim=128),
    "t5_11b": _variant(1024, 24, 128, 65_536, head_dim=128),
    "t5_v1_1_small": _variant(512, 8, 6, 1024, **V1_1),
    "t5_v1_1_base": _variant(768, 12, 12, 2048, **V1_1),
    "t5_v1_1_large": _variant(1024, 24, 16, 2816, **V1_1),
    "t5_mini": _variant(128, 3, 4, 256, head_dim=32, vocab_size=2000, **SMALL),
    "t5_tiny": _variant(64, 2, 4, 128, head_dim=16, vocab_size=64, **SMALL),
}


def loss(net: Any, source: Tensor, target: Tensor, start_id: int) -> dict[str, Tensor]:
    """−log p(target | source) per token, with teacher forcing."""
    # the decoder reads the target one position later
    decoder_input = torch.cat([torch.full_like(target[:, :1], start_id), target[:, :-1]], 1)
    return token_loss(net(source, decoder_input), target, pad=PAD)


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    data = load_data(recipe)
    make: Any = VARIANTS[recipe.variant].make
    model_config = {
        **make.keywords,
        "vocab_size": data.tokenizer.get_vocab_size(),
        "dropout": recipe.dropout,
        **data.special_ids,
    }
    rng.seed(recipe.seed)
    model = make(**model_config).to(device)
    yield text_to_text.text_to_text(model, recipe, data, loss, model_config=model_config)


def evaluate(model: Any, metadata: dict, spec: str, *, held_out: bool) -> dict:
    """Loss, accuracy and exact match on `spec`: its test split if `held_out`, else all of it."""
    return text_to_text.evaluate(model, metadata, spec, loss, held_out=held_out)


COUNTS = {
    "t5_small": 60_506_624,
    "t5_base": 222_903_552,
    "t5_large": 737_668_096,
    "t5_3b": 2_851_598_336,
    "t5_11b": 11_307_321_344,
    "t5_v1_1_small": 76_961_152,
    "t5_v1_1_base": 247_577_856,
    "t5_v1_1_large": 783_150_080,
}
FACTS = parameter_facts(VARIANTS, {name: (count,) for name, count in COUNTS.items()})


def reference() -> Iterator[ParityCase]:
    """transformers' class, in configurations sampled with a fixed seed, on sources with padding."""
    from torchstone.references import OutputAdapter, unwrap_names
    from torchstone.references.transformers import random_t5s

    torch.manual_seed(0)
    names = unwrap_names(published)
    for number, net in enumerate(random_t5s(9, exact=6)):
        model_config = match_weights(from_config(net.config.to_dict())[1], net.state_dict())
        theirs = OutputAdapter(net, _logits)
        ours = make_t5(**model_config).to(net.dtype)
        ours.load_state_dict(names(theirs.state_dict()))
        source, target = torch.randint(2, model_config["vocab_size"], (2, 3, 7 + 9 * number))
        source[1, 4:], source[2, 2:] = model_config["pad_id"], model_config["pad_id"]
        inputs, label = (source, target[:, : 5 + number]), f"{list(model_config.values())}"
        yield ParityCase(ours.eval(), theirs.eval(), inputs, names, torch.optim.AdamW, label)


def _logits(net: Any, source: Tensor, target: Tensor) -> Tensor:
    return net(source, source != net.config.pad_token_id, target).logits
