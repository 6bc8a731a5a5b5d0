"""Music: training a recurrent network to predict the next frame of a piano roll; sampling and prediction."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from torchstone.data.music import midi
from torchstone.data.music.batches import PieceBatches, pad_pieces
from torchstone.data.music.dataset import load_music, read_piece
from torchstone.data.music.midi import KEYS, Frames
from torchstone.engine import parallel
from torchstone.engine.run import Examples, Run
from torchstone.errors import BadInput
from torchstone.parts.modes import eval_mode
from torchstone.parts.recurrent.layers import Cell
from torchstone.parts.recurrent.sequence_model import SequenceModel
from torchstone.plots import piano_roll
from torchstone.tasks.optimization import gradient_update
from torchstone.tasks.recurrent import build_network

INPUT_SCALE = 5.0  # about the inverse standard deviation of a key that sounds in one frame of twenty
EVAL_BATCH = 32  # pieces
PLOTTED_FRAMES = 96
TEMPO = 90.0  # quarter notes per minute


def build(recipe: Any, cell: Cell) -> Run:
    """A Run that trains a network to predict which of 88 keys sound next, independently of each other.

    `loss` is the negative log-likelihood of a frame in nats, summed over its keys and averaged over
    frames (Boulanger-Lewandowski et al. 2012, arXiv:1206.6392, section 6); the first frame of a piece
    counts, and is predicted from silence. Training cuts pieces longer than `recipe.seq_len`; evaluation
    does not.

    Raises:
        BadInput: what `load_music` rejects; a bidirectional network, which would see the next frame.
    """
    if recipe.network.bidirectional:
        raise BadInput("a bidirectional network sees the next frame, which it is to predict")
    music = load_music(recipe.data, recipe.frame_beats)
    model, model_config = build_network(recipe, cell, inputs=KEYS, outputs=KEYS, tokens=False, pool="each")
    init_output_bias(model, music.train)
    update, state, eval_model = gradient_update(model, recipe.optim, loss, steps=recipe.steps)
    parts = [part for piece in music.train for part in piece.split(recipe.seq_len)]
    stream = PieceBatches(
        parts,
        recipe.batch_size,
        seed=recipe.seed,
        transpose=recipe.transpose,
        device=next(model.parameters()).device,
        **parallel.share(),
    )
    return Run(
        stream=stream,
        update=update,
        evaluate=lambda: {"loss": measure(eval_model, music.val)},
        best_metric="loss",
        examples=Examples(
            recipe.batch_size,
            len(parts),
            len(music.val),
            "pieces",
            # whole pieces are longer than the parts that are trained on
            evaluation=sum(map(len, music.val)) * len(parts) / sum(map(len, parts)),
        ),
        state={**state, "stream": stream},
        steps=recipe.steps,
        test=lambda: {"loss": measure(eval_model, music.test)},
        report=lambda folder: report(eval_model, music.test[0], music.frame_beats, folder),
        metadata={
            "task": "music",
            "variant": recipe.variant,
            "model_config": model_config,
            "frame_beats": music.frame_beats,
            "data": music.description,
        },
    )


@torch.no_grad()
def init_output_bias(model: SequenceModel, pieces: Sequence[Frames]) -> None:
    """Initialize the output bias with the log-odds of each key."""
    sounds = torch.cat(list(pieces)).float()
    frequency = (sounds.sum(0) + 1) / (len(sounds) + 2)
    model.head.bias.copy_(frequency.logit())


def loss(
    net: Any, batch: tuple[Float[Tensor, "pieces time 88"], Int64[Tensor, " pieces"]]
) -> dict[str, Tensor]:
    """Nats per frame, and the number of frames. Padding is read after all frames that count, so that it
    does not change them."""
    frames, lengths = batch
    nats = frame_nll(net, frames)
    valid = torch.arange(frames.shape[1], device=frames.device) < lengths.to(frames.device)[:, None]
    count = valid.sum()
    return {"loss": (nats * valid).sum() / count, "weight": count}


def frame_nll(net: Any, frames: Float[Tensor, "pieces time 88"]) -> Float[Tensor, "pieces time"]:
    """−log p of each frame given all before it: the sum over keys, each of them Bernoulli."""
    logits = net(shift_frames(frames))
    return F.binary_cross_entropy_with_logits(logits, frames, reduction="none").sum(-1)


def shift_frames(frames: Float[Tensor, "pieces time 88"]) -> Float[Tensor, "pieces time 88"]:
    """The network's input: at each frame the one before it, at the first one silence; scaled."""
    return F.pad(frames[:, :-1], (0, 0, 1, 0)) * INPUT_SCALE


@torch.no_grad()
def measure(model: nn.Module, pieces: Sequence[Frames]) -> float:
    """Mean nats per frame, over all frames of the pieces."""
    device, total = next(model.parameters()).device, 0.0
    with eval_mode(model):
        for first in range(0, len(pieces), EVAL_BATCH):
            frames, lengths = pad_pieces(pieces[first : first + EVAL_BATCH])
            nats = frame_nll(model, frames.to(device)).cpu().double()
            total += float(nats[torch.arange(nats.shape[1]) < lengths[:, None]].sum())
    return total / sum(map(len, pieces))


def evaluate(model: nn.Module, metadata: dict, spec: str, *, held_out: bool) -> dict[str, float]:
    """Nats per frame: of the test split where `held_out`, else of all pieces."""
    music = load_music(spec, metadata["frame_beats"])
    pieces = music.test if held_out else music.train + music.val + music.test
    return {"loss": measure(model, pieces), "pieces": len(pieces), "frames": sum(map(len, pieces))}


def predict(model: nn.Module, metadata: dict, inputs: Sequence[str | Path]) -> list[dict]:
    """The likelihood of each MIDI file under the model, as nats per frame."""
    answers = []
    for file in map(str, inputs):
        piece, _ = read_piece(Path(file), metadata["frame_beats"])
        nats = measure(model, [piece])
        text = f"{file}: {nats:.3f} nats per frame, {len(piece)} frames"
        answers.append({"input": file, "loss": nats, "frames": len(piece), "text": text})
    return answers


def sample(
    model: nn.Module,
    metadata: dict,
    *,
    prompt: str | Path | None = None,
    num_samples: int = 1,
    seed: int = 0,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    tempo: float = TEMPO,
    out: str | Path | None = None,
) -> list[str]:
    """Generate pieces: note names, one line per frame, or MIDI files and their names.

    Args:
        prompt: a MIDI file that the pieces continue.
        max_new_tokens: number of new frames.
        tempo: quarter notes per minute.
        out: the file, or for several pieces the files NAME-1.mid, NAME-2.mid …

    Raises:
        BadInput: an option out of its range; a prompt that is no MIDI file.
    """
    if num_samples < 1 or max_new_tokens < 1 or temperature <= 0:
        raise BadInput(
            "num_samples and max_new_tokens must be at least 1, and temperature is above 0: "
            f"{num_samples}, {max_new_tokens}, {temperature}"
        )
    opening = None if prompt is None else read_piece(Path(prompt), metadata["frame_beats"])[0]
    pieces = generate_pieces(
        model, max_new_tokens, count=num_samples, seed=seed, temperature=temperature, opening=opening
    )
    if out is None:
        return [midi.key_names(piece) for piece in pieces]
    out = Path(out)
    numbered = [out.with_stem(f"{out.stem}-{i}") for i in range(1, num_samples + 1)]
    files = [out] if num_samples == 1 else numbered
    for file, piece in zip(files, pieces, strict=True):
        midi.write(file, piece, metadata["frame_beats"], tempo)
    return list(map(str, files))


@torch.no_grad()
def generate_pieces(
    model: Any, length: int, *, count: int, seed: int, temperature: float = 1.0, opening: Frames | None = None
) -> list[Frames]:
    """`count` pieces: the opening, if any, and `length` frames sampled key by key."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    silence = torch.zeros(1, KEYS)
    prefix = silence if opening is None else torch.cat([silence, opening.float()])
    frames = []
    with eval_mode(model):
        logits, state = model.step((prefix * INPUT_SCALE).expand(count, -1, -1).to(device))
        for _ in range(length):
            probabilities = (logits[:, -1].cpu() / temperature).sigmoid()
            frames.append((torch.rand(probabilities.shape, generator=generator) < probabilities).float())
            logits, state = model.step((frames[-1][:, None] * INPUT_SCALE).to(device), state)
    pieces = torch.cat([prefix[1:].expand(count, -1, -1), torch.stack(frames, 1)], 1)
    return list(pieces.bool())


@torch.no_grad()
def report(model: Any, piece: Frames, frame_beats: float, folder: Path) -> None:
    """Draw a test piece, the predicted probability of each of its frames, and a generated piece; write
    that one as MIDI too."""
    device = next(model.parameters()).device
    piece = piece[:PLOTTED_FRAMES]
    with eval_mode(model):
        probabilities = model(shift_frames(piece[None].float()).to(device))[0].sigmoid().cpu()
        (generated,) = generate_pieces(model, len(piece), count=1, seed=0)
    rolls = {
        "test piece": piece.float(),
        "predicted, frame by frame": probabilities,
        "generated": generated.float(),
    }
    piano_roll.draw(rolls, frame_beats, folder / "rolls.png")
    with contextlib.suppress(BadInput):  # without mido there is the figure
        midi.write(folder / "sample.mid", generated, frame_beats, TEMPO)
