#!/usr/bin/env bash
# Going through a torch DataLoader that shuffles nothing, in the process itself (shuffle=False,
# num_workers=0), still draws a number from torch's global generator, for workers that it does not have.
# Whether, how often and over how many loaders one validates therefore decides the order of the training
# examples, dropout and all else that is drawn afterwards.
#
# It matters for every comparison "with the same seed": a run that validates twice as often, or on one more
# set, is another run. A loader with a generator of its own draws from that.
#
# The product's loader has a generator of its own: tests/data/vision/test_batches.py,
# test_batches_from_disk_equal_memory.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
OMP_NUM_THREADS=1 venv/bin/python -I -W ignore - <<'PY'
import sys

import torch
from torch.utils.data import DataLoader

print(f"torch {torch.__version__}")


def train(validation):
    """The order of the training examples in two epochs, with a validation after each."""
    torch.manual_seed(0)
    loader = DataLoader(list(range(8)), batch_size=8, shuffle=True)
    epochs = []
    for _ in range(2):
        epochs += [batch.tolist() for batch in loader]
        for _ in validation:
            pass
    return epochs


examples = list(range(100))
never = train([])
plain = train(DataLoader(examples))
own = train(DataLoader(examples, generator=torch.Generator()))
print("expected: reading a validation set in order draws nothing, so the second epoch has the same order")
print("without validation:", never)
print("with validation:", plain)
print("with validation by a loader with its own generator:", own)
torch.manual_seed(0)
before = torch.get_rng_state()
list(DataLoader(examples, shuffle=False, num_workers=0))
if torch.equal(before, torch.get_rng_state()):
    sys.exit("CHANGED: an unshuffled loader draws nothing")
if never[0] != plain[0] or never[1] == plain[1] or own != never:
    sys.exit("CHANGED: validation no longer decides the order of the second epoch")
print("confirmed: each pass over an unshuffled loader moves the global generator")
PY
