#!/usr/bin/env bash
# EnCodec of 24 kHz is causal by its configuration (use_causal_conv) and by its paper, which streams it. In
# transformers the first frames of a sound nevertheless depend on what follows: a causal convolution is padded in
# front by reflection, so by the samples that come next. The first frame of 320 samples reads seven frames.
#
# It matters to whoever encodes a stream: a frame that is encoded as soon as it is there has other codes than the same
# frame of the entire sound, and codes of chunks differ at the beginning of each.
#
# The product has the same padding, for the same codes (tests/parts/audio/test_seanet.py), and `pad_mode`
# "constant" for a codec that reads nothing ahead.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet transformers==5.23.0
OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 venv/bin/python -I -W ignore - <<'PY'
import sys
from importlib.metadata import version

import torch
from transformers import EncodecConfig, EncodecModel

print(f"torch {torch.__version__}, transformers {version('transformers')}")
config = EncodecConfig()
print(f"use_causal_conv {config.use_causal_conv}, pad_mode {config.pad_mode}, random weights, noise of a second")
print("expected: frame 0 (samples 0 to 319) stays as it is when only later samples change")
frames = {}
for pad_mode in ("reflect", "constant"):
    torch.manual_seed(0)
    encoder = EncodecModel(EncodecConfig(pad_mode=pad_mode)).eval().encoder
    sound = torch.randn(1, 1, 24_000)
    ahead = []
    for frame in range(1, 10):
        other = sound.clone()
        other[..., 320 * frame :] = torch.randn(24_000 - 320 * frame)
        with torch.no_grad():
            change = (encoder(sound) - encoder(other))[..., 0].abs().max().item()
        if change > 1e-6:
            ahead.append(frame)
    frames[pad_mode] = ahead
    print(f"pad_mode {pad_mode}: frame 0 changes if the sound changes from frame {ahead or 'none'} on")
if frames != {"reflect": [1, 2, 3, 4, 5, 6], "constant": []}:
    sys.exit(f"CHANGED: {frames}")
print("confirmed: with its default padding the causal encoder's first frame reads up to the seventh")
PY
