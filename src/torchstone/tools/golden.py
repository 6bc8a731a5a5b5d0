"""Golden bits: train every smoke recipe for 30 steps at seed 0 and hash what came out.

A change that is meant to leave behaviour alone (a renaming, a move, a merge) leaves these hashes alone.
They are those of one machine and one set of versions, so they are written outside the repository:

    python -m torchstone.tools.golden --out before.json            # at the old commit
    python -m torchstone.tools.golden --out after.json --against before.json
"""

import argparse
import dataclasses
import hashlib
import json
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STEPS = 30


def numbers(tree: Any) -> Iterator[bytes]:
    """The bytes of each number in a tree, in its order; names do not count, so they may change."""
    if isinstance(tree, Tensor):
        yield str(tuple(tree.shape)).encode()
        yield tree.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(tree, np.ndarray):
        yield tree.tobytes()
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from numbers(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from numbers(value)
    elif isinstance(tree, bool | int | float):
        yield struct.pack("<d", float(tree))


def digest(tree: Any) -> str:
    sha = hashlib.sha256()
    for part in numbers(tree):
        sha.update(part)
    return sha.hexdigest()[:16]


def golden(entry: Any, steps: int = STEPS) -> dict[str, str]:
    """Hashes of the metric rows, of each stage's state, and of its evaluation."""
    recipe = dataclasses.replace(entry.module().RECIPES["smoke"], device="cpu", seed=0)
    hashes = {}
    for stage, run in enumerate(entry.module().build(recipe)):
        run.folder = Path(tempfile.mkdtemp())
        rows = []
        for _ in range(steps):
            metrics = run.update(next(run.stream))
            rows.append([float(value) for value in metrics.values()])
        state = {name: item.state_dict() for name, item in run.state.items()}
        hashes[f"{stage} metrics"] = digest(rows)
        weights = {n: s for n, s in state.items() if isinstance(run.state[n], torch.nn.Module)}
        hashes[f"{stage} weights"] = digest(weights)
        hashes[f"{stage} state"] = digest(state)
        torch.manual_seed(0)
        hashes[f"{stage} evaluation"] = digest([float(v) for v in run.evaluate().values()])
    return hashes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("systems", nargs="*", help="default: all")
    parser.add_argument("--steps", type=int, default=STEPS, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="write the hashes to this JSON file")
    parser.add_argument("--against", type=Path, help="compare with this file; exit 1 if any differs")
    args = parser.parse_args()
    from torchstone import systems

    torch.set_num_threads(1)
    known = json.loads(args.against.read_text()) if args.against else {}
    found, wrong = {}, []
    for entry in systems.CATALOGUE:
        if args.systems and entry.name not in args.systems:
            continue
        began = time.perf_counter()
        try:
            found[entry.name] = golden(entry, args.steps)
        except Exception as error:
            if not known:
                raise
            found[entry.name] = {"error": repr(error)}
        before = known.get(entry.name)
        differs = [] if before is None else [k for k in before if found[entry.name].get(k) != before[k]]
        verdict = (
            ""
            if before is None
            else f"  DIFFERS in {differs} {found[entry.name].get('error', '')}"
            if differs
            else "  equal"
        )
        wrong += [entry.name] if differs else []
        print(f"{entry.name:<14} {time.perf_counter() - began:5.1f} s{verdict}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} systems, {len(wrong)} differ {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
