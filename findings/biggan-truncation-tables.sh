#!/usr/bin/env bash
# BigGAN-deep's published weights store batch-norm statistics for 51 truncations, 0, 0.02, … 1. Hugging Face's port
# (pytorch-pretrained-biggan) interpolates between two of them with the weights swapped: the nearer row counts less.
# At a truncation that is stored, such as 0.58, 0.58 / 0.02 is 28.999999999999996, so all of the weight goes to row 28.
#
# It matters to whoever compares samples over truncations, or another implementation with this one: they agree to
# rounding at 0.4 or 0.5, and differ visibly at 0.58. The statistics at 0.405 are those of 0.415.
#
# The product interpolates (tests/parts/gan/test_conditional_batch_norm.py,
# test_statistics_between_two_rows_are_linear_in_truncation).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet pytorch-pretrained-biggan==0.1.1
OMP_NUM_THREADS=1 venv/bin/python -I -W ignore - <<'PY'
import sys
from importlib.metadata import version

import torch
from pytorch_pretrained_biggan.model import BigGANBatchNorm

print(f"torch {torch.__version__}, pytorch-pretrained-biggan {version('pytorch-pretrained-biggan')}")
norm = BigGANBatchNorm(1, n_stats=51, eps=0.0, conditional=False)
norm.running_means.copy_(torch.linspace(0, 1, 51)[:, None])  # the mean of each row is its own truncation
norm.running_vars.fill_(1)
with torch.no_grad():
    norm.weight.fill_(1)
    norm.bias.fill_(0)
    means = {t: -float(norm(torch.zeros(1, 1, 1, 1), t)) for t in (0.4, 0.405, 0.415, 0.58)}
print("expected: at truncation t the mean t")
for truncation, mean in means.items():
    print(f"t = {truncation}: mean {mean:.4f}")
wrong = [t for t, mean in means.items() if abs(mean - t) > 1e-4]
if wrong != [0.405, 0.415, 0.58]:
    sys.exit(f"CHANGED: another mean at {wrong}")
print("confirmed: between rows the weights are swapped, and 0.58 uses the row of 0.56")
PY
