"""AudioLM: speech as tokens, coarse to fine, each kind predicted by a language model from those before it.

Paper: Zalán Borsos, Raphaël Marinier, Damien Vincent et al., "AudioLM: a Language Modeling Approach to
Audio Generation", 2022, arXiv:2209.03143. The codec: Alexandre Défossez, Jade Copet, Gabriel Synnaeve and
Yossi Adi, "High Fidelity Neural Audio Compression" (EnCodec), 2022, arXiv:2210.13438, after Neil Zeghidour et
al., "SoundStream: An End-to-End Neural Audio Codec", 2021, arXiv:2107.03312. Our recipes' codec has the
decoder of Vocos (Hubert Siuzdak, 2023, arXiv:2306.00814), which works at the rate of frames.

The idea. A codec turns a sound into a few codes a frame, from which it can be rebuilt, but a language model
of these babbles: they say how a sound is, not what is spoken. So predict first a much shorter sequence of
semantic tokens, clusters of features; then, given these, the codes of the codec's first codebooks, which hold
the voice; then, given those, the codes of the others, which hold detail.

    s   = argmin_k ‖features − center_k‖                          semantic tokens, by k-means   (III-B)
    y_q = codes of the codec's codebook q: residual quantization                                (III-B)
    p(s)         = Π_t p(s_t | s_<t)                              semantic stage                (III-C)
    p(y_≤Q′ | s) = Π_t Π_{q ≤ Q′} p(y_t^q | s, y_<t, y_t^{<q})    coarse stage: flat, frame by frame
    p(y_>Q′ | y_≤Q′), likewise, in chunks of frames               fine stage

    codec loss  λ_t ‖x − x̂‖₁ + Σ_w (‖log S_w − log Ŝ_w‖₁ + ‖√S_w − √Ŝ_w‖₁) + λ_c commitment, means, where
                S_w is a mel spectrogram of window w;  codebooks by moving averages, started by k-means,
                unused entries moved (`parts/vae/residual_quantizer.py`)

    audiolm_8khz   codec of 8 kHz, hop 80: 100 frames a second, one coarse and two fine codebooks of 256; 64
                   semantic tokens at 25 Hz;  audiolm_tiny for tests
    encodec_24khz, encodec_48khz   the published codec alone: `ts.load` of a transformers folder

A run has four stages: codec, semantic, coarse, fine. Rows are of one recording, or of two by one speaker.
Before each recording's semantic tokens stands its label, or that of an unknown one: `sample --label 7` writes
the label, `sample --prompt voice.wav` goes on after the tokens of a recording, in its voice. `--semantic
false` is the paper's ablation: the coarse stage follows the label at once.

What differs from the paper. Semantic tokens are clusters of log-mel features and their slopes, not of a
self-supervised network's, which would need pretraining; repetitions are kept, so that a semantic token is
exactly four frames. A stage is not given all it depends on at the start of a row: each group of codes follows
its semantic token, or the coarse codes of its frame, and those of the next group. So what it depends on is
always as near, and a short training finds it; what lies further ahead is unknown. The codec has no
discriminators, and its encoder hears powers, not phases.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.audio.codec_batches import IGNORED
from torchstone.data.audio.files import Recording, expand_audio_paths, read_audio, write_wave
from torchstone.data.audio.speech import SpeechDataset, read_speech
from torchstone.engine import rng
from torchstone.engine.console import notify
from torchstone.engine.device import select_device
from torchstone.engine.run import Run
from torchstone.engine.update import OptimConfig
from torchstone.errors import BadInput
from torchstone.hub.encodec import from_config, published, to_config, unpublished
from torchstone.parts.audio.codec import CodecOutput, NeuralCodec
from torchstone.parts.audio.spectrogram import deltas, mel_filterbank, power_spectrogram
from torchstone.parts.facts import Fact, ParityCase, count_on_meta
from torchstone.parts.kmeans import kmeans, nearest
from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import SeedStream, derive_generator
from torchstone.parts.transformer.attention import KVCache, MultiHeadAttention
from torchstone.parts.transformer.feed_forward import FeedForward
from torchstone.parts.transformer.positions import relative_position_buckets
from torchstone.plots.spectrograms import save_spectrograms
from torchstone.systems import Variant
from torchstone.tasks.audio.codec import codec_metrics, pad_to_multiple, signal_to_noise, train_codec
from torchstone.tasks.audio.token_model import (
    Rows,
    TokenLayout,
    continue_tokens,
    count_targets,
    deinterleave,
    interleave,
    make_stream,
    nats,
    train_tokens,
    unigram_nats,
)
from torchstone.tasks.inference import class_index

__all__ = [
    "FACTS",
    "MARGIN",
    "RECIPES",
    "SAMPLES",
    "VARIANTS",
    "Recipe",
    "build",
    "evaluate",
    "from_config",
    "predict",
    "published",
    "reference",
    "sample",
    "to_config",
    "unpublished",
]

MARGIN = ("loss", -0.3)  # of the fine stage, in nats a token
SAMPLES = ("sound", "FILE.wav")  # what `sample` writes, and to which file

# of any length: one signature has several
Wave = Float[Tensor, " _"]
Tokens = Int64[Tensor, " _"]
Codes = Int64[Tensor, "_ _"]  # books, frames
Hidden = Float[Tensor, "batch time width"]
Item = tuple[int | None, Tokens, Codes]  # a recording's label, semantic tokens and codes

WINDOWS = (64, 128, 256, 512)  # of the codec's loss, in samples
LOG_FLOOR = 1e-4  # added to power before the logarithm
SEMANTIC_MELS, SEMANTIC_WINDOW = 40, 1.25  # mel bands of semantic features; window, of their hop
KMEANS_ROWS, KMEANS_DRAW = 40_000, -2  # feature vectors that are clustered; which draw their start is
AHEAD = 1  # what a group of tokens is given reaches so many groups further than itself
DISTANCES, FARTHEST = 64, 256  # biases of relative positions; distances from the latter on share one
INIT_STD = 0.02  # of the language models' initial weights
TEMPERATURES = (0.6, 0.8, 0.6)  # of the semantic, coarse and fine stage in sampling (section IV)
PAUSE = 0.4  # seconds between the samples in one file


@dataclass(frozen=True)
class Recipe:
    data: str = "captcha"  # data set: captcha, captcha/0123, FSDD, or a folder of sounds with transcripts
    variant: str = "audiolm_8khz"  # network variant
    semantic: bool = True  # semantic stage; without it the coarse stage follows the label at once
    tokenizers: str | None = (
        None  # run whose codec, semantic tokens and fine stage are used (default: trained)
    )
    steps: int = 2400  # number of updates of the codec
    batch_size: int = 16  # sounds per update of the codec
    crop_seconds: float = 0.3  # length of the sounds that the codec is trained on
    l1_weight: float = 0.0  # weight λ_t of the waveform's absolute error
    commitment_weight: float = 0.25  # weight λ_c of the commitment loss
    codebook_decay: float = 0.98  # decay of the codebooks' moving averages
    revive_below: float = 0.05  # unused codes: those below this fraction of the average use are moved
    semantic_steps: int = 600  # number of updates of the semantic stage
    coarse_steps: int = 700  # number of updates of the coarse stage
    fine_steps: int = 700  # number of updates of the fine stage
    lm_batch_size: int = 16  # rows per update of a language model
    lm_lr: float = 3e-3  # peak learning rate of the language models
    lm_dropout: float = 0.1  # dropout probability of the language models
    pair_probability: float = 0.4  # probability that a row has two recordings of a speaker, not one
    label_dropout: float = 0.2  # probability that a recording's label is replaced by the unknown one
    optim: OptimConfig = OptimConfig(
        optimizer="adamw",
        lr=2e-3,
        beta1=0.8,
        beta2=0.99,
        weight_decay=0.01,
        warmup_ratio=0.05,
        max_grad_norm=5.0,
    )  # optimizer, schedule, precision
    seed: int = 0  # random seed of weights, data order, crops and dropout
    device: str = "auto"  # device: auto, cpu, cuda or mps


RECIPES = {
    # torchstone train audiolm
    "characters": Recipe(
        steps=400, batch_size=8, semantic_steps=150, coarse_steps=120, fine_steps=100, lm_batch_size=8
    ),
    # torchstone train audiolm/fsdd --data FOLDER
    "fsdd": Recipe(data="fsdd"),
    # torchstone train audiolm/no_semantic --data FOLDER --tokenizers runs/audiolm-fsdd    the ablation
    "no_semantic": Recipe(data="fsdd", semantic=False),
    # for tests: seconds
    "smoke": Recipe(
        data="captcha/0123",
        variant="audiolm_tiny",
        steps=20,
        batch_size=4,
        crop_seconds=0.15,
        semantic_steps=10,
        coarse_steps=10,
        fine_steps=60,
        lm_batch_size=4,
        lm_lr=1e-2,
        lm_dropout=0.0,
    ),
}


# ---- networks


class SemanticTokenizer(nn.Module):
    """Clusters of log-mel features and their slopes, one token every `hop` samples."""

    mean: Float[Tensor, " width"]
    std: Float[Tensor, " width"]
    centers: Float[Tensor, "codes width"]

    def __init__(self, codes: int, sample_rate: int, hop: int):
        super().__init__()
        self.hop, self.sample_rate = hop, sample_rate
        for name, shape in (("mean", ()), ("std", ()), ("centers", (codes,))):
            self.register_buffer(name, torch.ones(*shape, 2 * SEMANTIC_MELS))

    def features(self, wave: Wave) -> Float[Tensor, "frames width"]:
        """Log-mel energies and their deltas, of a sound of whole hops."""
        window = round(SEMANTIC_WINDOW * self.hop)
        size = 2 ** math.ceil(math.log2(window))
        spectrum = power_spectrogram(F.pad(wave, (0, window - self.hop)), window, self.hop, size)
        filters = mel_filterbank(size // 2 + 1, SEMANTIC_MELS, self.sample_rate, 60.0, self.sample_rate / 2)
        log_mels = (spectrum @ filters.to(spectrum) + 1e-3).log()
        return torch.cat([log_mels, 3 * deltas(log_mels, reach=1)], -1)

    def forward(self, wave: Wave) -> Tokens:
        return nearest((self.features(wave) - self.mean) / self.std, self.centers)[0]

    @torch.no_grad()
    def fit(self, waveforms: Sequence[Wave], generator: torch.Generator) -> float:
        """Place the centers by k-means; the mean squared distance to them, in variances.

        Raises:
            BadInput: fewer feature vectors than clusters.
        """
        rows = torch.cat([self.features(wave) for wave in waveforms])
        keep = torch.randperm(len(rows), generator=generator)[:KMEANS_ROWS]
        rows = rows[keep.to(rows.device)]
        self.mean.copy_(rows.mean(0))
        self.std.copy_(rows.std(0).clamp(min=1e-3))
        found = kmeans((rows - self.mean) / self.std, len(self.centers), generator=generator)
        self.centers.copy_(found.centers)
        return found.inertia / rows.shape[1]


@dataclass(frozen=True)
class Sizes:
    """What the token sequences of the stages are made of.

    Args:
        classes: labels of recordings, without the unknown one.
        semantic_codes: clusters.
        codes: entries of a codebook.
        coarse, fine: codebooks of these stages.
        ratio: frames of the codec for a semantic token.
        max_tokens: semantic tokens of a recording, at most; what is longer is cut off.
        chunk_tokens: the fine stage has chunks of as many frames as so many semantic tokens.
        has_semantic: there is a semantic stage.
    """

    classes: int
    semantic_codes: int
    codes: int
    coarse: int = 2
    fine: int = 2
    ratio: int = 4
    max_tokens: int = 20
    chunk_tokens: int = 20
    has_semantic: bool = True

    @property
    def items(self) -> int:
        """Recordings of a row, at most."""
        return 2

    @property
    def chunk(self) -> int:
        """Frames of the fine stage."""
        return self.chunk_tokens * self.ratio

    def layouts(self) -> tuple[TokenLayout, TokenLayout, TokenLayout]:
        """The vocabularies of the semantic, coarse and fine stage. What is predicted comes first."""
        coarse = {f"coarse{q}": self.codes for q in range(self.coarse)}
        fine = {f"fine{q}": self.codes for q in range(self.fine)}
        labels = self.classes + 1  # the last for an unknown one
        return (
            TokenLayout(semantic=self.semantic_codes, end=1, label=labels),
            TokenLayout(**coarse, end=1, label=labels, semantic=self.semantic_codes, pad=1, start=1),
            TokenLayout(**fine, **coarse, pad=1, start=1),
        )

    def predicted(self) -> tuple[int, int, int]:
        """How many tokens of each vocabulary, the first ones, are predicted."""
        return self.semantic_codes + 1, self.coarse * self.codes + 1, self.fine * self.codes

    def contexts(self) -> tuple[int, int, int]:
        """The longest sequence of each stage."""
        frames = self.max_tokens * self.ratio * self.coarse
        given = self.max_tokens + AHEAD if self.has_semantic else 0
        return (
            self.items * (self.max_tokens + 2),
            self.items * (1 + given + frames + 1),
            1 + AHEAD * self.coarse + self.chunk * (self.coarse + self.fine),
        )


def aligned(
    given: Int64[Tensor, "groups given"], predicted: Int64[Tensor, "groups predicted"], padding: int
) -> Tokens:
    """Groups of tokens, each after what it is given: g₀ g₁ p₀ g₂ p₁ … ; with one group ahead, the last ones
    padded."""
    ahead = given.new_full((AHEAD, given.shape[1]), padding)
    given = torch.cat([given, ahead])
    return torch.cat([given[:AHEAD].flatten(), torch.cat([given[AHEAD:], predicted], 1).flatten()])


class TokenBlock(nn.Module):
    """Causal self-attention, then the feed-forward network, each with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, bias=False, dropout=dropout)
        self.mlp = FeedForward(width, 4 * width, "gelu")
        self.dropout = dropout

    def forward(
        self, h: Hidden, bias: Float[Tensor, "1 heads queries keys"], cache: KVCache | None
    ) -> Hidden:
        p, training = self.dropout, self.training
        h = h + F.dropout(self.attention(self.norm1(h), bias=bias, causal=True, cache=cache), p, training)
        return h + F.dropout(self.mlp(self.norm2(h)), p, training)


class TokenTransformer(nn.Module):
    """A decoder-only transformer with T5's relative positions, as in the paper (section IV). So what is
    near is near wherever it stands, in a second recording as in a first.

    Each block has biases of its own. Distances up to 31 have one bias each.

    Args:
        context: the longest sequence that is continued.
    """

    def __init__(
        self, width: int, depth: int, heads: int, vocab_size: int, context: int, dropout: float = 0.0
    ):
        super().__init__()
        self.vocab_size, self.context, self.heads, self.dropout = vocab_size, context, heads, dropout
        self.embedding = nn.Embedding(vocab_size, width)
        self.distances = nn.Embedding(DISTANCES, depth * heads)
        self.blocks = nn.ModuleList([TokenBlock(width, heads, dropout) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                is_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                nn.init.normal_(weight, std=INIT_STD / (2 * depth) ** (0.5 * is_residual))

    def make_cache(self) -> list[KVCache]:
        """An empty cache for `forward`: each block's keys and values."""
        return [KVCache(self.context) for _ in self.blocks]

    def forward(
        self, tokens: Int64[Tensor, "batch time"], cache: list[KVCache] | None = None, last_only: bool = False
    ) -> Float[Tensor, "batch positions vocab"]:
        """Logits of the next token at every position, or (`last_only`) at the last one.

        With a cache, `tokens` continue what was read into it.
        """
        count = tokens.shape[1]
        keys = count + (cache[0].length if cache else 0)
        buckets = relative_position_buckets(
            count,
            keys,
            bidirectional=False,
            num_buckets=DISTANCES,
            max_distance=FARTHEST,
            device=tokens.device,
        )
        biases = self.distances(buckets).permute(2, 0, 1)[None].split(self.heads, 1)
        h = F.dropout(self.embedding(tokens), self.dropout, self.training)
        for i, block in enumerate(self.blocks):
            h = block(h, biases[i], cache[i] if cache else None)
        return self.head(self.norm(h[:, -1:] if last_only else h))


class AudioLMOutput(NamedTuple):
    """What the codec makes of sounds, and the logits of each stage for their own tokens."""

    reconstruction: Float[Tensor, "batch 1 samples"]
    semantic: Float[Tensor, "batch time vocab"]
    coarse: Float[Tensor, "batch time vocab"]
    fine: Float[Tensor, "batch time vocab"]


class AudioLM(nn.Module):
    """Codec, semantic tokenizer, and the language models of three stages.

    Args:
        codec: fields of `CodecConfig`, and of `VocosConfig` (with `hop`) or `SEANetConfig`.
        sizes: fields of `Sizes`.
        lm: `width`, `depth` and `heads` of the coarse network; the others have `small_depth` blocks.
        dropout: of the language models.
    """

    def __init__(
        self,
        codec: dict[str, Any],
        sizes: dict[str, Any],
        lm: dict[str, int],
        dropout: float = 0.0,
        num_classes: int = 0,
        has_semantic: bool = True,
        codebook: dict[str, float] | None = None,
    ):
        super().__init__()
        self.codec = NeuralCodec.from_kwargs(**codec, **(codebook or {}))
        config = self.codec.config
        self.sizes = Sizes(num_classes, codes=config.num_codes, has_semantic=has_semantic, **sizes)
        if config.num_books != self.sizes.coarse + self.sizes.fine:
            raise BadInput(
                f"{self.sizes.coarse} coarse and {self.sizes.fine} fine books are not {config.num_books}"
            )
        self.hop = config.network.hop * self.sizes.ratio
        self.semantic = SemanticTokenizer(self.sizes.semantic_codes, config.sample_rate, self.hop)
        self.layouts = self.sizes.layouts()
        depths = (lm["small_depth"], lm["depth"], lm["small_depth"])
        networks = [
            TokenTransformer(lm["width"], depth, lm["heads"], layout.size, context, dropout)
            for layout, context, depth in zip(self.layouts, self.sizes.contexts(), depths, strict=True)
        ]
        self.semantic_lm, self.coarse_lm, self.fine_lm = networks

    def tokenize(self, wave: Wave) -> tuple[Tokens, Codes]:
        """Semantic tokens and codes of a sound: silence fills up its last token, what is over `max_tokens` is
        cut off."""
        wave = pad_to_multiple(wave[: self.hop * self.sizes.max_tokens], self.hop)
        return self.semantic(wave), self.codec.encode_frames(wave[None, None])[0]

    def forward(self, waveforms: Float[Tensor, "batch 1 samples"]) -> AudioLMOutput:
        rows: list[list[Tensor]] = [[], [], []]
        for wave in waveforms:
            item = (None, *self.tokenize(wave[0].detach()))
            for stage, (tokens, _) in enumerate((self.semantic_row([item]), self.coarse_row([item]))):
                rows[stage].append(tokens)
            rows[2].append(self.fine_row(item[2][:, : self.sizes.chunk])[0])
        networks = (self.semantic_lm, self.coarse_lm, self.fine_lm)
        logits = [lm(torch.stack(each)) for lm, each in zip(networks, rows, strict=True)]
        return AudioLMOutput(self.codec(waveforms).reconstruction, *logits)

    def label_token(self, stage: int, label: int | None) -> int:
        return self.layouts[stage].token("label", self.sizes.classes if label is None else label)

    def semantic_row(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Label, semantic tokens, end, of each recording; labels have no loss."""
        layout, parts = self.layouts[0], []
        for label, semantic, _ in items:
            first = semantic.new_tensor([self.label_token(0, label)])
            last = semantic.new_tensor([layout.token("end")])
            parts += [first, layout.tokens("semantic", semantic), last]
        return self.shifted(0, parts)

    def coarse_row(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """Of each recording start, and the codes of the coarse books, frame by frame, in groups that each
        follow a semantic token. Without a semantic stage label, codes, end."""
        layout, parts = self.layouts[1], []
        for label, semantic, codes in items:
            coarse = interleave(layout, "coarse", codes[: self.sizes.coarse])
            if self.sizes.has_semantic:
                groups = coarse.view(len(semantic), -1)
                parts += [coarse.new_tensor([layout.token("start")]), self.after_semantic(semantic, groups)]
            else:
                first, last = self.label_token(1, label), layout.token("end")
                parts += [coarse.new_tensor([first]), coarse, coarse.new_tensor([last])]
        return self.shifted(1, parts)

    def after_semantic(self, semantic: Tokens, groups: Int64[Tensor, "groups predicted"]) -> Tokens:
        """Groups of coarse tokens, each after its semantic token; those after the last are padded."""
        layout = self.layouts[1]
        given = groups.new_full((len(groups), 1), layout.token("pad"))
        given[: len(semantic), 0] = layout.tokens("semantic", semantic)
        return aligned(given, groups, layout.token("pad"))

    def fine_row(self, codes: Codes) -> tuple[Tensor, Tensor]:
        """Start; of each frame of a chunk the fine codes, after its coarse ones."""
        layout = self.layouts[2]
        fine = interleave(layout, "fine", codes[self.sizes.coarse :]).view(codes.shape[1], -1)
        row = self.after_coarse(codes[: self.sizes.coarse], fine)
        return self.shifted(2, [row.new_tensor([layout.token("start")]), row])

    def after_coarse(self, coarse: Codes, groups: Int64[Tensor, "groups predicted"]) -> Tokens:
        """Groups of fine tokens, each after the coarse ones of its frame; those after the last are padded."""
        layout = self.layouts[2]
        given = groups.new_full((len(groups), len(coarse)), layout.token("pad"))
        given[: coarse.shape[1]] = interleave(layout, "coarse", coarse).view(coarse.shape[1], -1)
        return aligned(given, groups, layout.token("pad"))

    def shifted(self, stage: int, parts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """A row's tokens, and for each the next one; those that the stage is given have no loss."""
        row = torch.cat([*parts])
        return row[:-1], row[1:].masked_fill(row[1:] >= self.sizes.predicted()[stage], IGNORED)


# ---- losses


def spectra(waveforms: Float[Tensor, "batch 1 samples"], window: int, sample_rate: int) -> Tensor:
    """Mel spectrograms of power, a sinusoid of full scale at about 1."""
    x = F.pad(waveforms[:, 0], (window // 2, window // 2))
    filters = mel_filterbank(window // 2 + 1, window // 16, sample_rate, 0.0, sample_rate / 2).to(x)
    return power_spectrogram(x, window, window // 4, window) @ filters / (3 / 8 * window)


def codec_loss(
    waveforms: Tensor, output: CodecOutput, recipe: Recipe, sample_rate: int = 8000
) -> dict[str, Tensor]:
    """The equation above."""
    l1 = F.l1_loss(output.reconstruction, waveforms)
    spectral = waveforms.new_zeros(())
    for window in WINDOWS:
        a, b = (spectra(x, window, sample_rate) for x in (waveforms, output.reconstruction))
        spectral = spectral + F.l1_loss((b + LOG_FLOOR).log(), (a + LOG_FLOOR).log()) / len(WINDOWS)
        # the root's slope at 0 has no limit
        spectral = spectral + F.l1_loss((b + 1e-9).sqrt(), (a + 1e-9).sqrt()) / len(WINDOWS)
    commitment = output.quantized.commitment_loss
    loss = recipe.l1_weight * l1 + spectral + recipe.commitment_weight * commitment
    return {"loss": loss, "l1_loss": l1, "spectral_loss": spectral, "commitment_loss": commitment}


# ---- training


def tokenize_all(model: AudioLM, recordings: Sequence[Recording], classes: Sequence[str]) -> list[Item]:
    """Label, semantic tokens and codes of each recording, on the CPU."""
    device, items = next(model.parameters()).device, []
    with eval_mode(model), torch.no_grad():
        for each in recordings:
            semantic, codes = model.tokenize(each.wave.to(device))
            label = classes.index(each.text) if each.text in classes else None
            items.append((label, semantic.cpu(), codes.cpu()))
    return items


def chunks(model: AudioLM, codes: Codes) -> list[Codes]:
    return list(codes.split(model.sizes.chunk, 1))


def rows_of(model: AudioLM, items: Sequence[Item], stage: str) -> Rows:
    """The rows of one recording each, or for the fine stage of each chunk: what is evaluated on."""
    if stage == "fine":
        return [model.fine_row(chunk) for _, _, codes in items for chunk in chunks(model, codes)]
    row = model.semantic_row if stage == "semantic" else model.coarse_row
    return [row([item]) for item in items]


STAGES = ("semantic", "coarse", "fine")


def stages_of(model: AudioLM) -> dict[str, tuple[TokenTransformer, TokenLayout]]:
    """Network and vocabulary of each stage that the model has."""
    networks = (model.semantic_lm, model.coarse_lm, model.fine_lm)
    pairs = dict(zip(STAGES, zip(networks, model.layouts, strict=True), strict=True))
    return {name: pair for name, pair in pairs.items() if name != "semantic" or model.sizes.has_semantic}


def stage_loss(model: AudioLM, items: Sequence[Item], stage: str) -> float:
    """−log p in nats a token."""
    rows = rows_of(model, items, stage)
    return float(nats(stages_of(model)[stage][0], rows).sum()) / max(1, count_targets(rows))


def stage_metrics(model: AudioLM, train: Sequence[Item], items: Sequence[Item]) -> dict[str, float]:
    """Of each stage `loss` in nats a token, `unigram`, that of a token by its frequency in training within
    its codebook, and the `gain`, their difference."""
    metrics = {}
    for stage, (_, layout) in stages_of(model).items():
        loss = stage_loss(model, items, stage)
        unigram = unigram_nats(
            layout, rows_of(model, train, stage), rows_of(model, items, stage), layout.sections().tolist()
        )
        metrics |= {f"{stage}_loss": loss, f"{stage}_unigram": unigram, f"{stage}_gain": unigram - loss}
    return metrics


def build(recipe: Recipe) -> Iterator[Run]:
    device = select_device(recipe.device)
    if "codec" not in VARIANT_CONFIGS.get(recipe.variant, {}):
        known = ", ".join(VARIANT_CONFIGS)
        raise BadInput(f"{recipe.variant} is a codec alone: the variants to train are {known}")
    sample_rate = VARIANT_CONFIGS[recipe.variant]["codec"]["sample_rate"]
    data = read_speech(recipe.data, sample_rate)
    # of sentences each text would be a class of its own
    classes = sorted({r.text for r in data.train}) if data.is_isolated else []
    if not recipe.semantic and not classes:
        raise BadInput("without a semantic stage something else has to tell what is spoken: data with labels")
    model_config = {
        "num_classes": len(classes),
        "has_semantic": recipe.semantic,
        "dropout": recipe.lm_dropout,
        "codebook": {"decay": recipe.codebook_decay, "revive_below": recipe.revive_below},
    }
    rng.seed(recipe.seed)
    model: AudioLM = VARIANTS[recipe.variant].make(**model_config).to(device)
    metadata = {
        "task": "audio_lm",
        "variant": recipe.variant,
        "model_config": model_config,
        "classes": classes,
        "sample_rate": sample_rate,
        "data": data.description,
    }
    waveforms, val_waveforms = ([r.wave for r in part] for part in (data.train, data.val))
    objective = partial(codec_loss, sample_rate=sample_rate)
    if recipe.tokenizers is None:
        generator = derive_generator(recipe.seed, SeedStream.CODEBOOK, KMEANS_DRAW)
        padded = [pad_to_multiple(wave, model.hop).to(device) for wave in waveforms]
        model.semantic.fit(padded, generator)
        yield train_codec(model, recipe, waveforms, val_waveforms, objective, metadata)
    else:
        load_tokenizers(model, recipe)
    yield from train_stages(model, recipe, data, metadata)


def train_stages(
    model: AudioLM, recipe: Recipe, data: SpeechDataset, metadata: dict[str, Any]
) -> Iterator[Run]:
    """The Runs of the language models, on tokens of the trained codec."""
    device, classes = next(model.parameters()).device, metadata["classes"]
    train, val = (tokenize_all(model, part, classes) for part in (data.train, data.val))
    speakers = [r.speaker or r.name for r in data.train]
    steps = {"semantic": recipe.semantic_steps, "coarse": recipe.coarse_steps, "fine": recipe.fine_steps}

    def dropped(index: Sequence[int], generator: torch.Generator) -> list[Item]:
        """Recordings, some without their label."""
        unknown = torch.rand(len(index), generator=generator) < recipe.label_dropout
        return [
            (None if drop else train[i][0], *train[i][1:])
            for i, drop in zip(index, unknown.tolist(), strict=True)
        ]

    def fine(index: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        codes = train[index[0]][2]
        last = max(0, codes.shape[1] - model.sizes.chunk)
        first = int(torch.randint(last + 1, (), generator=generator))
        return model.fine_row(codes[:, first : first + model.sizes.chunk])

    # what depends on the codec alone is the same in both runs
    names = [name for name in stages_of(model) if name != "fine" or recipe.tokenizers is None]
    builders = {
        "semantic": lambda index, generator: model.semantic_row(dropped(index, generator)),
        "coarse": lambda index, generator: model.coarse_row(dropped(index, generator)),
        "fine": fine,
    }
    for stage in names:
        lm, _ = stages_of(model)[stage]
        pairs = 0.0 if stage == "fine" else recipe.pair_probability
        run = train_tokens(
            model,
            lm,
            make_stream(speakers, builders[stage], recipe, device, pairs),
            recipe,
            steps=steps[stage],
            evaluate=lambda stage=stage: {"loss": stage_loss(model, val, stage)},
            val=len(val),
            metadata=metadata,
        )
        if stage == names[-1]:

            def test() -> dict[str, float]:
                items = tokenize_all(model, data.test, classes)
                objective = partial(codec_loss, sample_rate=metadata["sample_rate"])
                of_codec = codec_metrics(model.codec, [r.wave for r in data.test], objective, recipe)
                of_stages = stage_metrics(model, train, items)
                of_sounds = {name: value for name, value in of_codec.items() if name != "loss"}
                return {"loss": of_stages[f"{names[-1]}_loss"]} | of_sounds | of_stages

            run.test = test
            run.report = partial(report, model, metadata, data.test)
        yield run


def load_tokenizers(model: AudioLM, recipe: Recipe) -> None:
    """Take codec, semantic tokens and fine stage from a run.

    Raises:
        BadInput: it is no run of such a network.
    """
    from torchstone.engine import checkpoint
    from torchstone.tasks.transfer import load_weights

    path = Path(str(recipe.tokenizers))
    if not (path / "recipe.json").exists():
        raise BadInput(f"there is no run in {path}: give the folder of a run of audiolm to --tokenizers")
    found, meta, _ = checkpoint.find(path / "checkpoint")
    if meta["system"] != "audiolm" or meta["metadata"]["variant"] != recipe.variant:
        raise BadInput(f"{path} is no run of audiolm with the variant {recipe.variant}")
    tensors, _ = checkpoint.weights(found, meta)
    own = model.state_dict()
    chosen = {n: t for n, t in tensors.items() if n.startswith(("codec.", "semantic.", "fine_lm."))}
    load_weights(model, {**own, **chosen}, f"the codec in {path} does not fit {recipe.variant}")


# ---- sampling


def sample_semantic(
    model: AudioLM, before: Sequence[Item], label: int | None, count: int, options: dict[str, Any]
) -> list[Tokens]:
    """Semantic tokens of a new recording with `label` after those before it."""
    layout, device = model.layouts[0], next(model.parameters()).device
    end = layout.token("end")
    first = torch.tensor([model.label_token(0, label)])
    parts = [first]
    if before:
        row, _ = model.semantic_row(before)
        parts = [row.cpu(), torch.tensor([end]), first]
    prefix = torch.cat(parts).to(device).expand(count, -1)
    known = torch.full((count, model.sizes.max_tokens), -1, device=device)
    found = continue_tokens(
        model.semantic_lm,
        prefix,
        known,
        # at least three tokens, 0.12 s
        lambda t: [layout.span("semantic")] + [layout.span("end")] * (t > 2),
        stop=end,
        **options,
    )
    return [row[: int((row != end).sum())] for row in found]


def sample_groups(
    lm: TokenTransformer,
    prefix: Int64[Tensor, "batch time"],
    known: Int64[Tensor, "batch new"],
    spans: Sequence[tuple[int, int]],
    given: int,
    groups: int,
    options: dict[str, Any],
) -> Int64[Tensor, "batch predicted"]:
    """The tokens of `aligned` groups that are −1 in `known`.

    Args:
        spans: of the books, which the tokens of a group are of in turn.
        given: known tokens of a group.
        groups: their number.
    """
    first = AHEAD * given
    size = (known.shape[1] - first) // groups

    def allowed(t: int) -> list[tuple[int, int]]:
        return [spans[max(0, (t - first) % size - given) % len(spans)]]

    found = continue_tokens(lm, prefix, known, allowed, **options)
    return found[:, first:].unflatten(1, (groups, size))[:, :, given:].flatten(1)


def sample_coarse(
    model: AudioLM, before: Sequence[Item], semantic: Sequence[Tokens], options: dict[str, Any]
) -> list[Codes]:
    """Coarse codes of a new recording with these semantic tokens."""
    layout, books, ratio = model.layouts[1], model.sizes.coarse, model.sizes.ratio
    device, groups = next(model.parameters()).device, max(map(len, semantic))
    unknown = torch.full((groups, ratio * books), -1, device=device)
    known = torch.stack([model.after_semantic(each.to(device), unknown) for each in semantic])
    prefix = known.new_tensor([layout.token("start")])
    if before:
        row, targets = model.coarse_row(before)
        prefix = torch.cat([row.to(device), targets[-1:].to(device), prefix])
    prefix = prefix.expand(len(semantic), -1)
    spans = [layout.span(f"coarse{q}") for q in range(books)]
    found = sample_groups(model.coarse_lm, prefix, known, spans, 1, groups, options)
    return [
        deinterleave(layout, "coarse", row[: len(each) * ratio * books], books)
        for row, each in zip(found, semantic, strict=True)
    ]


def sample_coarse_at_once(
    model: AudioLM, before: Sequence[Item], label: int | None, count: int, options: dict[str, Any]
) -> list[Codes]:
    """Coarse codes of a new recording with `label`, without semantic tokens."""
    layout, books, device = model.layouts[1], model.sizes.coarse, next(model.parameters()).device
    end = layout.token("end")
    first = torch.tensor([model.label_token(1, label)])
    parts = [first]
    if before:
        row, _ = model.coarse_row(before)
        parts = [row.cpu(), torch.tensor([end]), first]
    prefix = torch.cat(parts).to(device).expand(count, -1)
    longest = model.sizes.max_tokens * model.sizes.ratio * books
    known = torch.full((count, longest), -1, device=device)
    shortest = 3 * model.sizes.ratio * books

    def allowed(t: int) -> list[tuple[int, int]]:
        may_end = t >= shortest and t % books == 0  # after whole frames only
        return [layout.span(f"coarse{t % books}")] + [layout.span("end")] * may_end

    found = continue_tokens(model.coarse_lm, prefix, known, allowed, stop=end, **options)
    return [deinterleave(layout, "coarse", row[: int((row != end).sum())], books) for row in found]


def sample_fine(model: AudioLM, coarse: Sequence[Codes], options: dict[str, Any]) -> list[Codes]:
    """All codes, given the coarse ones, chunk by chunk."""
    layout, books, device = model.layouts[2], model.sizes.fine, next(model.parameters()).device
    parts = [chunk.to(device) for each in coarse for chunk in chunks(model, each)]
    groups = max(chunk.shape[1] for chunk in parts)
    unknown = torch.full((groups, books), -1, device=device)
    known = torch.stack([model.after_coarse(chunk, unknown) for chunk in parts])
    prefix = known.new_tensor([[layout.token("start")]]).expand(len(parts), -1)
    spans = [layout.span(f"fine{q}") for q in range(books)]
    found = sample_groups(model.fine_lm, prefix, known, spans, model.sizes.coarse, groups, options)
    fine = [
        deinterleave(layout, "fine", row[: chunk.shape[1] * books], books)
        for row, chunk in zip(found, parts, strict=True)
    ]
    joined, number = [], 0
    for each in coarse:
        count = len(chunks(model, each))
        joined.append(torch.cat([each.to(device), torch.cat(fine[number : number + count], 1)]))
        number += count
    return joined


def sample_sounds(
    model: AudioLM,
    labels: Sequence[int | None],
    *,
    before: Sequence[Item] = (),
    seed: int = 0,
    temperature: float | None = None,
    top_k: int | None = None,
) -> list[Wave]:
    """A new recording of each label, on the CPU.

    Args:
        before: a recording that they go on after, in its voice.
    """
    options = [
        {
            "generator": derive_generator(seed, SeedStream.SOUND_TOKENS, stage),
            "temperature": usual if temperature is None else temperature,
            "top_k": top_k,
        }
        for stage, usual in enumerate(TEMPERATURES)
    ]
    coarse: list[Codes] = []
    # those of one label have the same tokens before them
    for label in dict.fromkeys(labels):
        count = list(labels).count(label)
        if model.sizes.has_semantic:
            semantic = sample_semantic(model, before, label, count, options[0])
            coarse += sample_coarse(model, before, semantic, options[1])
        else:
            coarse += sample_coarse_at_once(model, before, label, count, options[1])
    codes = sample_fine(model, coarse, options[2])
    with eval_mode(model), torch.no_grad():
        waveforms = [model.codec.decode_frames(each[None])[0, 0].cpu() for each in codes]
    # back into the order that was asked for
    order = sorted(range(len(labels)), key=lambda i: list(dict.fromkeys(labels)).index(labels[i]))
    found: list[Wave] = [waveforms[0]] * len(waveforms)
    for i, wave in zip(order, waveforms, strict=True):
        found[i] = wave
    return found


def sample(
    model: AudioLM,
    metadata: dict[str, Any],
    *,
    num_samples: int = 1,
    seed: int = 0,
    label: str | int | None = None,
    prompt: str | Path | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    out: str | Path | None = None,
) -> list:
    """Sounds, float32 of ±1 at the metadata's `sample_rate`; or the name of the file that they were written
    to, one after another.

    Args:
        label: what is spoken, a class; without one, and without a prompt, each class in turn.
        prompt: a sound file to go on after in its voice; it comes first in the file.
        temperature: of the tokens' distributions; below 1 samples are likelier and less diverse. By default
            the paper's, 0.6, 0.8 and 0.6 for the semantic, coarse and fine stage.
        top_k: only the k likeliest tokens.
        out: a `.wav` file.

    Raises:
        BadInput: a number out of range, an unknown label, a prompt that cannot be read.
    """
    classes = metadata["classes"]
    if num_samples < 1:
        raise BadInput(f"give a number of samples of at least 1, not {num_samples}")
    if label is not None and not classes:
        raise BadInput("this model knows no labels: train it on recordings of single words or characters")
    labels: list[int | None] = [i % len(classes) if classes else None for i in range(num_samples)]
    if label is not None or prompt is not None:
        labels = [None if label is None else class_index(label, classes)] * num_samples
    before, own = [], []
    if prompt is not None:
        wave = read_audio(prompt, metadata["sample_rate"])
        longest = model.hop * model.sizes.max_tokens
        if len(wave) > longest:
            seconds = longest / metadata["sample_rate"]
            notify(f"{prompt} is long: its last {seconds:.1f} s are gone on after")
        before = tokenize_all(model, [Recording(wave[-longest:], "", "", "")], ())
        own = [wave]
    waveforms = sample_sounds(model, labels, before=before, seed=seed, temperature=temperature, top_k=top_k)
    if out is None:
        return waveforms
    pause = torch.zeros(round(PAUSE * metadata["sample_rate"]))
    joined = [piece for wave in waveforms for piece in ([*own, wave, pause])][:-1]
    return [str(write_wave(torch.cat(joined), out, metadata["sample_rate"]))]


def report(model: AudioLM, metadata: dict[str, Any], recordings: Sequence[Recording], folder: Path) -> None:
    """Spectrograms of recordings, what the codec makes of them, and samples; and the sounds of these."""
    classes, rate = metadata["classes"], metadata["sample_rate"]
    firsts = {r.text: r for r in recordings}
    chosen = [firsts[text] for text in list(firsts)[:4]]
    device = next(model.parameters()).device
    rebuilt = []
    with eval_mode(model), torch.no_grad():
        for each in chosen:
            _, codes = model.tokenize(each.wave.to(device))
            rebuilt.append(model.codec.decode_frames(codes[None])[0, 0].cpu())
    labels = [classes.index(r.text) if r.text in classes else None for r in chosen]
    samples = sample_sounds(model, labels)
    columns = [
        [
            (f"{name} {r.text[:20]}", wave)
            for name, wave in zip(("recorded", "coded", "sampled"), each, strict=True)
        ]
        for r, *each in zip(chosen, [r.wave for r in chosen], rebuilt, samples, strict=True)
    ]
    save_spectrograms([list(row) for row in zip(*columns, strict=True)], rate, folder / "spectrograms.png")
    pause = torch.zeros(round(PAUSE * rate))
    for name, each in (("recorded", [r.wave for r in chosen]), ("coded", rebuilt), ("sampled", samples)):
        joined = torch.cat([piece for wave in each for piece in (wave, pause)])
        write_wave(joined, folder / f"{name}.wav", rate)


# ---- use


def evaluate(model: AudioLM, metadata: dict[str, Any], spec: str, *, held_out: bool) -> dict[str, Any]:
    """What the run's test measures, on `spec`: its test split if `held_out`, else all of its recordings. The
    unigrams are those of its own training split.

    Raises:
        BadInput: a data set that cannot be read.
    """
    data = read_speech(spec, metadata["sample_rate"])
    part = data.test if held_out else [*data.train, *data.val, *data.test]
    train, items = (tokenize_all(model, each, metadata["classes"]) for each in (data.train, part))
    objective = partial(codec_loss, sample_rate=metadata["sample_rate"])
    of_codec = codec_metrics(model.codec, [r.wave for r in part], objective, Recipe())
    of_stages = stage_metrics(model, train, items)
    of_sounds = {name: value for name, value in of_codec.items() if name != "loss"}
    return {"loss": of_stages["fine_loss"]} | of_sounds | of_stages | {"recordings": len(part)}


def predict(model: AudioLM, metadata: dict[str, Any], inputs: Sequence[Path | str]) -> list[dict[str, Any]]:
    """What is spoken in each recording, by Bayes' rule: the `label` under which its tokens are likeliest,
    with its `probability` where all are as likely before; `log_prob` of the tokens in nats without a label,
    and the codec's `snr` in dB.

    Args:
        inputs: sound files, or folders of them.

    Raises:
        BadInput: a file is missing, or is no sound.
    """
    stage = "semantic" if model.sizes.has_semantic else "coarse"
    lm = stages_of(model)[stage][0]
    row, answers = getattr(model, f"{stage}_row"), []
    for file in expand_audio_paths(inputs):
        wave = read_audio(file, metadata["sample_rate"])
        ((_, *tokens),) = tokenize_all(model, [Recording(wave, "", "", "")], ())
        labels = [None, *range(len(metadata["classes"]))]
        log_prob = -nats(lm, [row([(label, *tokens)]) for label in labels])
        answer: dict[str, Any] = {"input": str(file)}
        if metadata["classes"]:
            posterior = log_prob[1:].softmax(0)
            best = int(posterior.argmax())
            answer |= {"label": metadata["classes"][best], "probability": float(posterior[best])}
        with eval_mode(model), torch.no_grad():
            x = pad_to_multiple(wave, model.hop)[None, None].to(next(model.parameters()).device)
            snr = float(signal_to_noise(x, model.codec(x).reconstruction))
        answers.append({**answer, "log_prob": float(log_prob[0]), "snr": snr})
    return answers


# ---- variants, facts, reference

CODEC_8KHZ = {
    "sample_rate": 8000,
    "hop": 80,
    "dim": 32,
    "num_books": 3,
    "num_codes": 256,
    "bandwidths": [0.8, 2.4],
}
CODEC_TINY = {
    **CODEC_8KHZ,
    "dim": 8,
    "num_books": 4,
    "num_codes": 16,
    "width": 32,
    "inner": 64,
    "encoder_blocks": 1,
    "decoder_blocks": 2,
    "bandwidths": [0.8, 1.6],
}
VARIANT_CONFIGS: dict[str, dict[str, Any]] = {
    "audiolm_8khz": {
        "codec": CODEC_8KHZ,
        "sizes": {"semantic_codes": 64, "coarse": 1, "fine": 2},
        "lm": {"width": 96, "depth": 3, "small_depth": 2, "heads": 4},
    },
    "audiolm_tiny": {
        "codec": CODEC_TINY,
        "sizes": {"semantic_codes": 16, "max_tokens": 10, "chunk_tokens": 5},
        "lm": {"width": 16, "depth": 1, "small_depth": 1, "heads": 2},
    },
}
ENCODEC: dict[str, dict[str, Any]] = {
    "encodec_24khz": {},
    "encodec_48khz": {
        "channels": 2,
        "sample_rate": 48_000,
        "norm": "time_group_norm",
        "causal": False,
        "num_books": 16,
        "bandwidths": [3.0, 6.0, 12.0, 24.0],
        "normalize": True,
        "chunk_seconds": 1.0,
        "overlap": 0.01,
    },
}
VARIANTS = {
    name: Variant(partial(AudioLM, **config), (1, 4 * 320)) for name, config in VARIANT_CONFIGS.items()
} | {
    name: Variant(partial(NeuralCodec.from_kwargs, **config), (config.get("channels", 1), 3200))
    for name, config in ENCODEC.items()
}

FACTS = [
    Fact("EnCodec's parameters at 24 kHz", lambda: count_on_meta(VARIANTS["encodec_24khz"].make), 14_851_810),
    Fact("EnCodec's parameters at 48 kHz", lambda: count_on_meta(VARIANTS["encodec_48khz"].make), 14_856_294),
    Fact("codebooks at 6 kbit/s", lambda: NeuralCodec.from_kwargs().config.books_at(6.0), 8),
    Fact("frames a second at 24 kHz", lambda: NeuralCodec.from_kwargs().config.frame_rate, 75),
]


def reference() -> Iterator[ParityCase]:
    """transformers' EnCodec with residual quantization in plain loops, and its gradient straight through."""
    from torchstone.references.encodec import cases

    yield from cases()
