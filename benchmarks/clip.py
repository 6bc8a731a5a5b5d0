"""Forward and backward pass of CLIP compared with transformers', with the same weights and inputs, in turn.

python benchmarks/clip.py [small|b_32] [batch]

Times are of the processor, medians over pairs of runs.
"""

import statistics
import sys
import time

import torch

from torchstone.parts.contrastive_loss import symmetric_contrastive_loss
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer.clip import from_config, make_clip, published

PAIRS = 7
SMALL = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 3}
SIZES = {
    "small": ({**SMALL, "image_size": 64, "patch_size": 8}, {**SMALL, "vocab_size": 5000}),
    "b_32": ({}, {}),
}


def main() -> None:
    size = sys.argv[1] if len(sys.argv) > 1 else "small"
    batch_size = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    library = import_transformers()
    vision, text = SIZES[size]
    vocab_size = text.get("vocab_size", 49_408)
    ends = {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1}
    config = library.CLIPConfig(vision_config=vision, text_config={**text, **ends})
    theirs = library.CLIPModel(config)
    ours = make_clip(**from_config(config.to_dict())[1])
    ours.load_state_dict(published("", theirs.state_dict()))
    image_size = config.vision_config.image_size
    images = torch.randn(batch_size, 3, image_size, image_size)
    tokens = torch.randint(vocab_size - 2, (batch_size, 77))
    tokens[:, 20:] = vocab_size - 1

    def step(model, loss) -> float:
        model.zero_grad()
        start = time.process_time()
        loss().backward()
        return time.process_time() - start

    passes = (
        lambda: step(ours, lambda: symmetric_contrastive_loss(ours(images, tokens))),
        lambda: step(theirs, lambda: theirs(pixel_values=images, input_ids=tokens, return_loss=True).loss),
    )
    for run in passes:
        run()
    times = [[run() for run in passes] for _ in range(PAIRS)]
    ratio = statistics.median(b / a for a, b in times)
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    threads = torch.get_num_threads()
    print(f"clip {size}, batch size {batch_size}, {threads} threads, torch {torch.__version__}")
    print(f"ours {mine:.3f} s, transformers {other:.3f} s, {ratio:.2f}x")


if __name__ == "__main__":
    main()
