#!/usr/bin/env bash
# cma lets one give a generator of one's own (option randn) and leave NumPy's global one unseeded (seed=nan). In
# a few dimensions it then never touches the global generator. In many it has another rule for the step size,
# which checks itself at coordinates drawn from the global generator, from the fourth generation on.
#
# It matters to whoever counts on that generator elsewhere, or on the isolation: a search with its own seeded
# generator changes the shuffling and the noise that the rest of the program draws from NumPy, so that adding or
# resuming a search changes an experiment that it has nothing to do with.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet cma==4.5.0 numpy==2.4.6
HOME="$work" venv/bin/python -I -W ignore - <<'PY'
import math
import sys
from importlib.metadata import version

import cma
import numpy as np

print(f"cma {version('cma')}, numpy {version('numpy')}")


def touched(n):
    """Generations, of 20, in which the state of NumPy's global generator changed."""
    own = np.random.default_rng(0)
    options = {"randn": lambda *shape: own.standard_normal(shape), "seed": math.nan, "popsize": 16, "verbose": -9}
    np.random.seed(1)
    search = cma.CMAEvolutionStrategy(np.zeros(n), 0.1, options)
    found = []
    for generation in range(20):
        before = np.random.get_state()
        x = search.ask()
        search.tell(x, [float(np.sum(np.square(each))) for each in x])
        after = np.random.get_state()
        if before[2] != after[2] or (before[1] != after[1]).any():
            found.append(generation)
    return found


print("expected: with a generator of its own a search leaves NumPy's global one alone")
few, many = touched(10), touched(300)
print("10 dimensions: touched in generations", few or "none")
print("300 dimensions: touched in generations", many or "none")
if few or not many:
    sys.exit("CHANGED: the global generator was touched in 300 dimensions and not in 10")
print("confirmed: in 300 dimensions it draws from the global generator too")
PY
