#!/usr/bin/env bash
# timm has two networks called EfficientNet-Lite0, `efficientnet_lite0` and `tf_efficientnet_lite0`, with
# the same 296 names of tensors in the same shapes. The weights of one load into the other with strict=True
# and not a word, and then answer another question: one pads symmetrically, the other as TensorFlow does
# (more at the right and bottom), and their batch norms add 1e-5 and 1e-3 to the variance.
#
# It matters for who has the weights as a file: names and shapes are the usual proof that a file fits, and
# here they prove nothing. Only the file's name or its config.json says which of the two it is.
#
# The product, which has the second kind, asks for that name and refuses the file otherwise:
# tests/hub/test_weight_files.py, test_lite0_of_timm_is_told_from_its_namesake.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet torchvision==0.28.0 timm==1.0.31
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -I -W ignore - <<'PY'
import sys
from importlib.metadata import version

import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # a torchvision built for another kind of torch: its operators are not needed here
    sys.modules.pop("torchvision", None)
    torch.library.define("torchvision::nms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
    torch.library.define("torchvision::qnms", "(Tensor boxes, Tensor scores, float t) -> Tensor")
import timm

print(f"torch {torch.__version__}, timm {version('timm')}")

torch.manual_seed(0)
ours = timm.create_model("tf_efficientnet_lite0").eval()
twin = timm.create_model("efficientnet_lite0").eval()
kinds = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in (ours, twin)]
print(f"{len(kinds[0])} tensors each, names and shapes equal: {kinds[0] == kinds[1]}")
answer = twin.load_state_dict(ours.state_dict(), strict=True)
print("load_state_dict(strict=True) says:", answer)
equal = all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), twin.state_dict().values()))
for name, model in (("tf_efficientnet_lite0", ours), ("efficientnet_lite0", twin)):
    stem = model.conv_stem
    print(f"{name}: first convolution {type(stem).__name__}, padding {stem.padding}, eps {model.bn1.eps}")

image = torch.randn(4, 3, 224, 224)
with torch.no_grad():
    features = [model.forward_features(image) for model in (ours, twin)]
apart = ((features[0] - features[1]).norm() / features[0].norm()).item()
print("expected: networks with the same weights, all of them loaded, compute the same")
print(f"the last feature maps differ by {apart:.2f} of their norm (random weights)")
if kinds[0] != kinds[1] or not equal:
    sys.exit("CHANGED: the files of the two networks can be told apart")
if apart < 0.1:
    sys.exit("CHANGED: the two networks compute the same")
print("confirmed: equal names, shapes and values, another function")
PY
