"""Forward and backward pass of T5 compared with transformers', with the same weights and inputs, in turn.

python benchmarks/t5.py [small|base] [batch]
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F

from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer.t5 import from_config, make_t5, published

PAIRS = 7
SIZES = {"small": (512, 6, 8, 2048), "base": (768, 12, 12, 3072)}


def main() -> None:
    size = sys.argv[1] if len(sys.argv) > 1 else "small"
    batch_size = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    width, layers, heads, d_ff = SIZES[size]
    library = import_transformers()
    config = library.T5Config(d_model=width, num_layers=layers, num_heads=heads, d_ff=d_ff, dropout_rate=0.0)
    theirs = library.T5ForConditionalGeneration(config)
    ours = make_t5(**from_config(config.to_dict())[1])
    ours.load_state_dict(published("", theirs.state_dict()))

    def step(model, forward) -> float:
        model.zero_grad()
        start = time.perf_counter()
        logits = forward()
        F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
        return time.perf_counter() - start

    print(f"t5_{size}, batch size {batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for length in (128, 512):
        source, target = torch.randint(2, 32_000, (2, batch_size, length))
        passes = (
            lambda: step(ours, lambda: ours(source, target)),  # noqa: B023
            lambda: step(
                theirs,
                lambda: theirs(input_ids=source, decoder_input_ids=target, use_cache=False).logits,  # noqa: B023
            ),
        )
        for run in passes:
            run()
        times = [[run() for run in passes] for _ in range(PAIRS)]
        ratio = statistics.median(b / a for a, b in times)
        mine, other = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"length {length}: ours {mine:.3f} s, transformers {other:.3f} s, {ratio:.2f}x")


if __name__ == "__main__":
    main()
