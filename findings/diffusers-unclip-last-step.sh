#!/usr/bin/env bash
# At the last step of sampling (t = 0) the posterior's mean is the predicted x0 itself: its factor β0 / (1 − ᾱ0) is 1. By
# diffusers' UnCLIPScheduler it is 0.9995, since in single precision 1 − ᾱ0 is the difference of 1 and 0.99996. Its
# DDPMScheduler, with the same betas, gives 1.
#
# It matters to whoever compares embeddings or pictures with another implementation: all of them are smaller by 0.05 %,
# which is a hundred times single precision's rounding, and a parity test to 1e-5 fails for no fault of its own.
#
# The product computes the factor from both ᾱ and is exact (tests/systems/generative/test_dalle2.py,
# test_the_prior_is_not_clamped_and_the_decoder_is).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet diffusers==0.42.1
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python -I -W ignore - <<'PY'
import sys
from importlib.metadata import version

import torch
from diffusers import DDPMScheduler, UnCLIPScheduler

print(f"torch {torch.__version__}, diffusers {version('diffusers')}")
settings = {"prediction_type": "sample", "clip_sample": False}
schedulers = {
    "UnCLIPScheduler": UnCLIPScheduler(variance_type="fixed_small_log", **settings),
    "DDPMScheduler": DDPMScheduler(beta_schedule="squaredcos_cap_v2", **settings),
}
factors = {}
for name, scheduler in schedulers.items():
    scheduler.set_timesteps(25)
    last = scheduler.timesteps[-1]
    assert last == 0
    factors[name] = scheduler.step(torch.ones(1, 4), last, torch.zeros(1, 4)).prev_sample.max().item()
print("expected: the last step returns the prediction, here 1")
for name, factor in factors.items():
    print(f"{name}: {factor:.7f}")
if not (0.9990 < factors["UnCLIPScheduler"] < 0.9999 and abs(factors["DDPMScheduler"] - 1) < 1e-6):
    sys.exit("CHANGED")
print("confirmed: UnCLIPScheduler's last step shrinks the prediction")
PY
