"""How AudioLM's samples are understood: a speech recognizer reads them, a speaker classifier hears whose voice it is.

    python benchmarks/audiolm_judges.py RUN --recognizer RUN --speakers RUN --data FSDD [--ablation RUN]

RUN: of audiolm/fsdd; the recognizer of ctc/fsdd; speakers of lstm/speakers; the ablation of audiolm/no_semantic.
The recognizer reads digits that were generated with a label, and for comparison test recordings and what the
codec makes of these. The classifier hears continuations of test recordings, without the recordings themselves.
Which stage loses what: each is given the true tokens of the one before, those of test recordings.
"""

import argparse
import math
import time
from pathlib import Path

import torch

from torchstone.data.audio.files import Recording, write_wave
from torchstone.data.audio.speech import read_speech
from torchstone.plots.spectrograms import save_spectrograms
from torchstone.runs.load import load_run
from torchstone.systems.generative.audiolm import (
    TEMPERATURES,
    sample_coarse,
    sample_fine,
    sample_sounds,
    tokenize_all,
)
from torchstone.tasks.audio.speaker_id import SpeakerSplit, predict_logits
from torchstone.tasks.audio.transcribe import transcribe

EDGE = 0.1  # seconds of silence around a sound, as in the recognizer's training


def framed(waveforms, rate):
    """Normalized to the peak, as sound files are, with silence around."""
    edge = torch.zeros(round(EDGE * rate))
    return [torch.cat([edge, wave / wave.abs().max().clamp(min=1e-4), edge]) for wave in waveforms]


def share(right):
    """A fraction, and half of its 95 % interval."""
    p = sum(right) / len(right)
    return f"{p:6.1%} ± {1.96 * math.sqrt(p * (1 - p) / len(right)):.1%} of {len(right)}"


def read(recognizer, waveforms, rate):
    model, metadata, _ = recognizer
    recordings = [Recording(wave, "", "", "") for wave in framed(waveforms, rate)]
    return [hypotheses[0][0] for hypotheses in transcribe(model, metadata, recordings)]


def heard(speakers, waveforms, rate):
    model, metadata, _ = speakers
    peak = [wave / wave.abs().max().clamp(min=1e-4) for wave in waveforms]
    logits = predict_logits(model, metadata, SpeakerSplit(peak, [0] * len(peak), [""] * len(peak)))
    return [metadata["classes"][i] for i in logits.argmax(1).tolist()]


def digits(model, metadata, per_label, temperature, seed):
    labels = [i for i in range(len(metadata["classes"])) for _ in range(per_label)]
    waveforms = sample_sounds(model, labels, seed=seed, temperature=temperature)
    return waveforms, [metadata["classes"][i] for i in labels]


def sampled_after(model, items, temperature, seed):
    """Sounds of recordings, by the stages of which tokens are sampled; those before them are the true ones."""
    coarse = model.sizes.coarse
    drawn = {"fine sampled": [codes[:coarse] for _, _, codes in items]}
    generator = torch.Generator().manual_seed(seed)
    _, of_coarse, of_fine = (
        {"generator": generator, "temperature": usual if temperature is None else temperature}
        for usual in TEMPERATURES
    )
    if model.sizes.has_semantic:
        drawn["coarse and fine sampled"] = sample_coarse(model, (), [s for _, s, _ in items], of_coarse)
    for name, codes in drawn.items():
        both = sample_fine(model, codes, of_fine)
        with torch.no_grad():
            yield name, [model.codec.decode_frames(each[None])[0, 0] for each in both]


def keep(folder, name, waveforms, expected, texts, rate, per_label):
    """One sound of each label, and its spectrogram."""
    folder.mkdir(parents=True, exist_ok=True)
    firsts = waveforms[::per_label]
    shown = [
        (f"{a} (read {b})", w)
        for a, b, w in zip(expected[::per_label], texts[::per_label], firsts, strict=True)
    ]
    save_spectrograms([shown[:5], shown[5:]], rate, folder / f"{name}.png")
    pause = torch.zeros(rate // 3)
    write_wave(torch.cat([piece for wave in firsts for piece in (wave, pause)]), folder / f"{name}.wav", rate)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--recognizer", type=Path, required=True)
    parser.add_argument("--speakers", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--ablation", type=Path)
    parser.add_argument("--per-label", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=120)
    parser.add_argument("--temperature", type=float, help="of all stages; by default each has its own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of sampling")
    parser.add_argument("--out", type=Path, help="folder for sounds and spectrograms")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    model, metadata, _ = load_run(args.run)
    recognizer, speakers = load_run(args.recognizer), load_run(args.speakers)
    rate = metadata["sample_rate"]
    test = read_speech(args.data, rate).test
    items = tokenize_all(model, test, metadata["classes"])
    with torch.no_grad():
        coded = [model.codec.decode_frames(codes[None])[0, 0] for _, _, codes in items]
    resampled = sampled_after(model, items, args.temperature, args.seeds[0])
    for name, waveforms in (("recorded", [r.wave for r in test]), ("coded", coded), *resampled):
        texts, voices = read(recognizer, waveforms, rate), heard(speakers, waveforms, rate)
        print(f"{name:<24} read {share([a == r.text for a, r in zip(texts, test, strict=True)])}", end="   ")
        print(f"voice {share([a == r.speaker for a, r in zip(voices, test, strict=True)])}", flush=True)
    runs = {"generated": (model, metadata)}
    if args.ablation:
        runs["without semantic stage"] = load_run(args.ablation)[:2]
    for name, (each, about) in runs.items():
        pooled = []
        for seed in args.seeds:
            waveforms, expected = digits(each, about, args.per_label, args.temperature, seed)
            texts = read(recognizer, waveforms, rate)
            right = [a == b for a, b in zip(texts, expected, strict=True)]
            pooled += right
            seconds = sum(map(len, waveforms)) / rate / len(waveforms)
            print(f"{name:<24} read {share(right)}   {seconds:.2f} s each, seed {seed}", flush=True)
            if seed == args.seeds[0] and args.out:
                keep(args.out, name.replace(" ", "_"), waveforms, expected, texts, rate, args.per_label)
        print(f"{name:<24} read {share(pooled)}   all seeds", flush=True)
    chosen = [i * len(test) // args.prompts for i in range(args.prompts)]
    pooled, first = [], []
    for seed in args.seeds:
        continuations = []
        for i in chosen:
            continuations += sample_sounds(
                model, [None], before=[(None, *items[i][1:])], seed=seed + i, temperature=args.temperature
            )
        first = first or continuations
        voices = heard(speakers, continuations, rate)
        right = [a == test[i].speaker for a, i in zip(voices, chosen, strict=True)]
        pooled += right
        print(f"{'gone on after a prompt':<24} voice {share(right)}   seed {seed}", flush=True)
    print(f"{'gone on after a prompt':<24} voice {share(pooled)}   all seeds", flush=True)
    if args.out:
        joined = torch.cat([x for i, w in zip(chosen[:6], first, strict=False) for x in
                            (test[i].wave, w, torch.zeros(rate // 2))])  # fmt: skip
        write_wave(joined, args.out / "continuations.wav", rate)
    print(f"{time.process_time() - began:.0f} CPU s")


if __name__ == "__main__":
    main()
