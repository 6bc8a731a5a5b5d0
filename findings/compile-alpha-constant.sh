#!/usr/bin/env bash
# Under torch.compile a Python number that is an argument of the compiled function is a variable of it from its
# second value on, so that a learning rate may change: `w.sub_(g * lr)` is compiled twice for any number of
# rates. The same number as a keyword of the operator is not: `w.add_(g, alpha=-lr)`, and likewise `value=` of
# addcmul_ and addcdiv_, is a constant of the compiled code, which is compiled anew for every rate, until the
# limit of 8 after which the function runs uncompiled, with a warning in the log alone.
#
# `alpha` and `value` are how optimizers are written, in torch's own sources too. Who compiles such a step and
# has a learning-rate schedule, or Adam's bias correction, compiles at every step and then runs eagerly.
#
# The product's compiled optimizers multiply: tests/parts/optim/test_gradients.py,
# test_compiled_update_serves_every_step_and_rate.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy
OMP_NUM_THREADS=1 venv/bin/python -I -W ignore - <<'PY'
import sys

import torch
from torch._dynamo.utils import counters

print(f"torch {torch.__version__}")
torch._logging.set_logs(dynamo=50)  # the warning of the limit is what this counts


def keyword(w, g, lr):
    w.add_(g, alpha=-lr)


def keyword_of_a_product(w, g, lr):
    w.addcmul_(g, g, value=-lr)


def multiplied(w, g, lr):
    w.sub_(g * lr)


found = {}
for function in (keyword, keyword_of_a_product, multiplied):
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(function)
    w, g = torch.zeros(10), torch.ones(10)
    for step in range(6):
        compiled(w, g, 0.1 / (1 + step))
    found[function.__name__] = counters["stats"]["unique_graphs"]
print("expected: one graph for the first rate, one for all later ones")
print("graphs after 6 rates:", found)
if found["multiplied"] != 2 or found["keyword"] < 5 or found["keyword_of_a_product"] < 5:
    sys.exit("CHANGED: a keyword's number is compiled as a multiplied one is")
print("confirmed: alpha= and value= are constants of the compiled code, a multiplied number is not")
PY
