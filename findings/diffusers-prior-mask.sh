#!/usr/bin/env bash
# The prior of DALL-E 2 is a decoder-only transformer with a causal mask. diffusers' PriorTransformer holds that mask as
# a buffer, but applies it only where it is also given an attention mask of the text. Without one each token sees all
# others, and the same network predicts another embedding than with a mask that hides nothing.
#
# It matters to whoever calls the network as its signature allows (attention_mask is optional), in training or
# in a comparison: texts without padding seem to need no mask. The pipelines always give one.
#
# The product is always causal; its parity with this class is checked where a mask is given (law 4 of tests/laws).
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
from diffusers import PriorTransformer

print(f"torch {torch.__version__}, diffusers {version('diffusers')}")
torch.manual_seed(0)
sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "embedding_dim": 16}
net = PriorTransformer(num_embeddings=5, additional_embeddings=4, **sizes).eval()
inputs = {
    "hidden_states": torch.randn(2, 16),
    "timestep": torch.tensor([3, 3]),
    "proj_embedding": torch.randn(2, 16),
    "encoder_hidden_states": torch.randn(2, 5, 16),
}
with torch.no_grad():
    without = net(**inputs).predicted_image_embedding
    everything = net(**inputs, attention_mask=torch.ones(2, 5, dtype=torch.bool)).predicted_image_embedding
    net.causal_attention_mask.zero_()
    not_causal = net(**inputs, attention_mask=torch.ones(2, 5, dtype=torch.bool)).predicted_image_embedding
print("expected: a mask that hides no token changes nothing")
change, rest = (without - everything).abs().max().item(), (without - not_causal).abs().max().item()
print(f"largest change by such a mask: {change:.3f}; once its causal buffer is zeroed: {rest:.1e}")
if change < 0.01 or rest > 1e-5:
    sys.exit("CHANGED: with and without a mask it is the same network")
print("confirmed: without an attention mask the network is not causal")
PY
