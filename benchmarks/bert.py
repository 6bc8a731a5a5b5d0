"""Forward and backward pass of BERT, ALBERT and DistilBERT compared with transformers' classes, with the same
weights (a student beside its teacher: `distillation.py`).

    python benchmarks/bert.py [--variants bert_base albert_base distilbert] [--batch-size 4] [--lengths 128 512]
                              [--pairs 7]

Both run in one process, in turn, so that other load on the machine affects both alike; the result is the
median of the ratios of all pairs. One row in four is padded. The outputs are compared first, and dropout is
off on both sides, since its random numbers differ.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.engine.device import select_device
from torchstone.references.transformers import import_transformers
from torchstone.systems import find
from torchstone.verify import relative_error

CLASSES = {"bert": "Bert", "albert": "Albert", "distilbert": "DistilBert"}
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
Step = Callable[[], Any]


def seconds(step: Step, device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(first: Step, second: Step, pairs: int, device: torch.device, *models: nn.Module) -> str:
    """`second` relative to `first`: median and range of the ratios, and both medians.

    The gradients of `models` are freed before each step, which is not timed.
    """
    times = []
    for pair in range(pairs):
        order = (first, second) if pair % 2 else (second, first)
        durations = {}
        for step in order:
            for model in models:
                model.zero_grad(set_to_none=True)
            durations[step] = seconds(step, device)
        times.append((durations[first], durations[second]))
    ratios = sorted(b / a for a, b in times)
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    spread = f"({ratios[0]:.3f} to {ratios[-1]:.3f})"
    return f"{statistics.median(ratios):.3f}x {spread}, {1e3 * a:.1f} ms and {1e3 * b:.1f} ms"


def padded_mask(batch_size: int, length: int, device: torch.device) -> Tensor:
    mask = torch.ones(batch_size, length, dtype=torch.bool, device=device)
    mask[::4, length - length // 4 :] = False
    return mask


def beside_transformers(variant: str, args: argparse.Namespace, device: torch.device) -> None:
    entry, _ = find(variant)
    module, library, name = entry.module(), import_transformers(), CLASSES[entry.name]
    ours = module.VARIANTS[variant].make(**NO_DROPOUT).to(device).train()
    config = getattr(library, f"{name}Config")(**module.to_config(vars(ours.config)))
    theirs = getattr(library, f"{name}Model")(config).to(device).train()
    theirs.load_state_dict(module.unpublished(variant, ours.state_dict()))

    def backward(outputs: Any) -> Tensor:
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(each.square().mean() for each in outputs).backward()
        return outputs[0]

    for length in args.lengths:
        tokens = torch.randint(1, ours.config.vocab_size, (args.batch_size, length), device=device)
        mask = padded_mask(args.batch_size, length, device)

        def own(tokens=tokens, mask=mask):
            return backward(ours.logits(tokens, mask))

        def other(tokens=tokens, mask=mask):
            return backward(theirs(tokens, attention_mask=mask).to_tuple())

        error = relative_error(own()[mask], other()[mask])
        assert error < 1e-4, f"the outputs differ by {error}"
        result = interleaved(own, other, args.pairs, device, ours, theirs)
        print(f"{variant}, length {length}: {result} of transformers; outputs {error:.1e} apart", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="*", default=["bert_base", "albert_base", "distilbert"])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = select_device(args.device)
    torch.manual_seed(0)
    print(f"batch {args.batch_size}, {torch.get_num_threads()} threads, {device}")
    for variant in args.variants:
        beside_transformers(variant, args, device)


if __name__ == "__main__":
    main()
