"""DALL-E 2: a training step of the prior beside diffusers', with the same weights and inputs, in turn; and what a
run's prior and decoder are worth, over seeds.

python benchmarks/dalle2.py                           the step: ours, diffusers', processor time
python benchmarks/dalle2.py RUN [SEEDS]               two samples of the prior against one, over seeds
python benchmarks/dalle2.py RUN SEEDS TEXT_RUN JUDGE  pictures of both decoders, by RUN's CLIP and by another
                                                      run of clip, which neither decoder was trained with
"""

import statistics
import sys
import time

import torch

import torchstone as ts
from torchstone.data.vision.image_texts import load_image_texts
from torchstone.metrics.paired import margin
from torchstone.parts.indices import evenly_spaced
from torchstone.parts.metrics.retrieval import recall_at, retrieval_ranks
from torchstone.references.diffusers import import_diffusers
from torchstone.systems.generative import dalle2
from torchstone.tasks.diffusion import unclip
from torchstone.tasks.vision import image_text

PAIRS, BATCH = 9, 32
CAPTIONS = 100  # painted for each seed


def step_beside_diffusers() -> None:
    torch.manual_seed(0)
    theirs = import_diffusers().PriorTransformer(
        num_attention_heads=4, attention_head_dim=32, num_layers=2, embedding_dim=128, num_embeddings=20
    )
    ours = dalle2.make_prior(**dalle2.from_config(dict(theirs.config, _use_default_values=None))[1])
    ours.load_state_dict(dalle2.published("", theirs.state_dict()))
    x, embedding, text = torch.randn(BATCH, 128), torch.randn(BATCH, 128), torch.randn(BATCH, 20, 128)
    t, mask = torch.randint(1000, (BATCH,)), torch.rand(BATCH, 20) < 0.5
    mask[:, 0] = True

    def passing(model, call):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

        def step() -> float:
            start = time.process_time()
            optimizer.zero_grad()
            (call() - embedding).square().mean().backward()
            optimizer.step()
            return time.process_time() - start

        return step

    steps = (
        passing(ours, lambda: ours(x, t, embedding, text, mask)),
        passing(theirs, lambda: theirs(x, t, embedding, text, mask).predicted_image_embedding),
    )
    for step in steps:
        step()
    times = [[step() for step in steps] for _ in range(PAIRS)]
    ratio = statistics.median(b / a for a, b in times)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"prior of dalle2_emoji, batch size {BATCH}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print(f"ours {mine * 1e3:.1f} ms, diffusers {other * 1e3:.1f} ms, {ratio:.2f}x")


def interval(values: list[float]) -> str:
    """Mean and 95 % interval by Student's t."""
    half = margin(values)
    return f"{statistics.mean(values):.4f}" + ("" if half is None else f" ± {half:.4f}")


def two_against_one(folder: str, seeds: int) -> None:
    model = ts.load(folder)
    metadata, data = model.metadata, load_image_texts("openmoji", size=32)
    captions, rows = data.captions(data.test), []
    for seed in range(seeds):
        rows.append(unclip.prior_metrics(dalle2.ALGORITHM, model, metadata, data.test, captions, seed))
        print(seed, {name: round(value, 4) for name, value in rows[-1].items()}, flush=True)
    both, single = ([row[f"{name}_recall_at_10"] for row in rows] for name in ("prior", "single"))
    text = rows[0]["text_recall_at_10"]
    print(f"recall at 10 of {len(captions)} held-out pictures, {seeds} seeds of the samples")
    print(
        f"text tower {text:.4f}; prior, the nearest of two {interval(both)}; a single one {interval(single)}"
    )
    print(f"difference {interval([a - b for a, b in zip(both, single, strict=True)])}")
    print(f"relative to the text tower {interval([each / text for each in both])}")


def decoders(folders: list[str], judge: str, seeds: int) -> None:
    data = load_image_texts("openmoji", size=32)
    captions = data.captions(data.test)
    relevant = image_text.same_caption(captions)
    chosen = evenly_spaced(len(captions), CAPTIONS)
    texts = [captions[row] for row in chosen.tolist()]
    other = ts.load(judge)
    tokenizer = ts.load_tokenizer(judge)
    queries = image_text.embed_texts(other, captions, tokenizer)
    for folder in folders:
        model = ts.load(folder)
        own_queries = unclip.read_texts(model, model.metadata, captions).embedding
        scores: list[list[float]] = []
        for seed in range(seeds):
            config = unclip.decoder_config(model.metadata)
            painted = unclip.paint_texts(dalle2.ALGORITHM, model, model.metadata, texts, config, seed)
            mine = unclip.embed_pixels(model, painted) @ own_queries.T
            theirs = image_text.embed_images(other, painted, other.metadata["picture"]) @ queries.T
            found = [recall_at(retrieval_ranks(each, relevant[chosen]), 10) for each in (mine, theirs)]
            scores.append([*found, unclip.caption_match(painted, data.test.take(chosen))])
            print(folder, seed, scores[-1], flush=True)
        own, judged, match = map(list, zip(*scores, strict=True))
        print(
            f"{folder}: CLIP-R at 10 {interval(own)}, by another CLIP {interval(judged)}, match {interval(match)}"
        )


def main() -> None:
    words = sys.argv[1:]
    if not words:
        step_beside_diffusers()
    elif len(words) < 4:
        two_against_one(words[0], int(words[1]) if len(words) > 1 else 8)
    else:
        decoders([words[0], words[2]], words[3], int(words[1]))


if __name__ == "__main__":
    main()
