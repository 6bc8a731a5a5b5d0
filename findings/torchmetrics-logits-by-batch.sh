#!/usr/bin/env bash
# The binary metrics of torchmetrics accept logits: where a value lies outside 0 to 1, a sigmoid is applied.
# The question is put to every `update` on its own. A batch of logits that happen to lie all between 0 and 1
# is therefore taken for probabilities and left as it is, while the next batch is squashed, and the metric
# is computed over the mixture: the same logits have another AUROC, average precision and accuracy for each
# batch size.
#
# It matters for evaluation at small batches (the last, incomplete one; large images; one example at a time)
# and for models whose logits are near 0, such as early epochs. Applying the sigmoid oneself is exact at
# every size.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0
venv/bin/pip install --quiet torchmetrics==1.9.0
OMP_NUM_THREADS=1 venv/bin/python -I -W ignore - <<'PY'
import sys

import torch
import torchmetrics
from torchmetrics.classification import BinaryAccuracy, BinaryAUROC, BinaryAveragePrecision

print(f"torch {torch.__version__}, torchmetrics {torchmetrics.__version__}")

generator = torch.Generator().manual_seed(0)
labels = (torch.rand(2000, generator=generator) < 0.5).long()
logits = 0.6 * torch.randn(2000, generator=generator) + 0.6 * labels - 0.1


def measure(values, batch_size):
    metrics = BinaryAUROC(), BinaryAveragePrecision(), BinaryAccuracy()
    for start in range(0, len(values), batch_size):
        for metric in metrics:
            metric.update(values[start : start + batch_size], labels[start : start + batch_size])
    return [round(metric.compute().item(), 4) for metric in metrics]


print("expected: a metric over a whole data set does not depend on the size of the batches it came in")
print("batch size: AUROC, average precision, accuracy of logits | of their sigmoid")
raw, squashed = {}, {}
for size in (2000, 64, 8, 2, 1):
    raw[size], squashed[size] = measure(logits, size), measure(logits.sigmoid(), size)
    print(f"{size:10}: {raw[size]} | {squashed[size]}")
if raw[2000] != squashed[2000] or len({tuple(row) for row in squashed.values()}) != 1:
    sys.exit("CHANGED: probabilities no longer give one answer, that of all logits at once")
if not all(all_at_once - single > 0.01 for all_at_once, single in zip(raw[2000], raw[1])):
    sys.exit("CHANGED: logits give the same metrics one by one as all at once")
print("confirmed: whether a value is a logit is decided batch by batch")
PY
