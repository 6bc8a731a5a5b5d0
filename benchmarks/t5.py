"""Forward and backward of T5 beside transformers', same weights and inputs, pairs in turn.

python benchmarks/t5.py [small|base] [batch]
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

from torchstone import references
from torchstone.systems.transformer.t5 import T5, from_config, published

PAIRS = 7
SIZES = {"small": (512, 6, 8, 2048), "base": (768, 12, 12, 3072)}


def main() -> None:
    size = sys.argv[1] if len(sys.argv) > 1 else "small"
    batch = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    width, layers, heads, inner = SIZES[size]
    library = references.transformers()
    config = library.T5Config(d_model=width, num_layers=layers, num_heads=heads, d_ff=inner, dropout_rate=0.0)
    theirs = library.T5ForConditionalGeneration(config)
    ours = T5(**from_config(config.to_dict())[1])
    ours.load_state_dict(published("", theirs.state_dict()))

    def step(model, answer) -> float:
        model.zero_grad()
        began = time.perf_counter()
        logits = answer()
        F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
        return time.perf_counter() - began

    print(f"t5_{size}, batch {batch}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for length in (128, 512):
        source, target = torch.randint(2, 32_000, (2, batch, length))
        both = (
            lambda: step(ours, lambda: ours(source, target)),  # noqa: B023
            lambda: step(
                theirs, lambda: theirs(input_ids=source, decoder_input_ids=target, use_cache=False).logits  # noqa: B023
            ),
        )  # fmt: skip
        for each in both:
            each()
        times = [[each() for each in both] for _ in range(PAIRS)]
        ratio = statistics.median(b / a for a, b in times)
        mine, other = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"length {length}: ours {mine:.3f} s, transformers {other:.3f} s, {ratio:.2f}x")


if __name__ == "__main__":
    main()
