"""Forward and backward pass of BERT compared with transformers' `BertModel`, with the same weights.

    python benchmarks/bert.py [--variant bert_base] [--batch-size 4] [--lengths 128 512] [--pairs 7]

Both run in one process, in turn, so that other load on the machine affects both alike; the result is the
median of the ratios of all pairs. One row in four is padded. The outputs are compared first, and dropout is
off on both sides, since its random numbers differ.
"""

import argparse
import statistics
import time

import torch

from torchstone.engine.device import select_device
from torchstone.references.transformers import import_transformers
from torchstone.systems.transformer import bert
from torchstone.verify import relative_error


def seconds(step, device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="bert_base", choices=list(bert.VARIANTS))
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device, library = select_device(args.device), import_transformers()
    torch.manual_seed(0)
    model_config = {**bert.size_of(args.variant), "dropout": 0.0, "attention_dropout": 0.0}
    ours = bert.make_bert(**model_config).to(device).train()
    theirs = library.BertModel(library.BertConfig(**bert.to_config(model_config))).to(device).train()
    theirs.load_state_dict(bert.unpublished(args.variant, ours.state_dict()))
    print(f"{args.variant}, batch {args.batch_size}, {torch.get_num_threads()} threads, {device}")
    for length in args.lengths:
        tokens = torch.randint(1, 30_000, (args.batch_size, length), device=device)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[::4, length - length // 4 :] = False

        def own(tokens=tokens, mask=mask):
            hidden = ours(tokens, mask)
            (hidden.square().mean() + ours.pool(hidden).square().mean()).backward()
            return hidden

        def other(tokens=tokens, mask=mask):
            hidden, pooled = theirs(tokens, attention_mask=mask).to_tuple()
            (hidden.square().mean() + pooled.square().mean()).backward()
            return hidden

        error = relative_error(own()[mask], other()[mask])
        assert error < 1e-4, f"the outputs differ by {error}"
        times = []
        for pair in range(args.pairs):
            order = (own, other) if pair % 2 else (other, own)
            durations = {}
            for step in order:
                ours.zero_grad(set_to_none=True)
                theirs.zero_grad(set_to_none=True)
                durations[step.__name__] = seconds(step, device)
            times.append(durations)
        ratios = sorted(t["other"] / t["own"] for t in times)
        a, b = (statistics.median(t[name] for t in times) for name in ("own", "other"))
        print(
            f"length {length}: {statistics.median(ratios):.3f}x ({ratios[0]:.3f} to {ratios[-1]:.3f}),"
            f" ours {1e3 * a:.0f} ms, transformers {1e3 * b:.0f} ms; outputs {error:.1e} apart"
        )


if __name__ == "__main__":
    main()
