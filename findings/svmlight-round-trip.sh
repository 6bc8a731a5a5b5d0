#!/usr/bin/env bash
# scikit-learn writes a libsvm (svmlight) file with features counted from 0, and on reading decides from the
# numbers in the file whether they are counted from 0 or 1. If the first feature is 0 in every row, the
# sparse file never mentions it, the file is taken for one that counts from 1, and all features move one
# place to the left. `n_features` keeps the width, and so hides it.
#
# It matters because the decision is taken file by file: a training file in which the first feature occurs
# and a test file in which it does not (a rare word, a short test split) are read with different columns,
# and a model gets each feature under its neighbour's weight. The two files read by one
# `load_svmlight_files` call are safe.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 venv/bin/python -I - <<'PY'
import sys

import numpy as np
import sklearn
from sklearn.datasets import dump_svmlight_file, load_svmlight_file, load_svmlight_files
from sklearn.linear_model import LogisticRegression

print(f"scikit-learn {sklearn.__version__}, numpy {np.__version__}")

x = np.array([[0, 1, 2, 3], [0, 4, 0, 5], [0, 6, 7, 0]], float)
dump_svmlight_file(x, [0, 1, 0], "x.svm")
came = load_svmlight_file("x.svm", n_features=4)[0].toarray()
print("expected: what was dumped, loaded with the options left alone, is the same matrix")
print("dumped:", *x.tolist())
print("loaded:", *came.tolist())
told = load_svmlight_file("x.svm", n_features=4, zero_based=True)[0].toarray()

# the last feature decides the class; the first is rare, and occurs in training only
random = np.random.default_rng(0)
rows = random.integers(0, 2, (400, 5)).astype(float)
rows[:, 0] = 0
rows[3, 0] = 1
labels = rows[:, 4].astype(int)
dump_svmlight_file(rows[:200], labels[:200], "train.svm")
dump_svmlight_file(rows[200:], labels[200:], "test.svm")
train = load_svmlight_file("train.svm", n_features=5)
model = LogisticRegression().fit(*train)
apart = model.score(*load_svmlight_file("test.svm", n_features=5))
_, _, *test = load_svmlight_files(["train.svm", "test.svm"])
together = model.score(*test)
print(f"accuracy on the test file: {together:.3f} read with the training file, {apart:.3f} alone")
if not np.array_equal(came, np.roll(x, -1, axis=1)):
    sys.exit("CHANGED: the columns no longer move to the left")
if not np.array_equal(told, x):
    sys.exit("CHANGED: zero_based=True no longer gives back what was dumped")
if together != 1 or apart > 0.7:
    sys.exit("CHANGED: the test file is read like the training file")
print("confirmed: a first feature that never occurs moves all others by one")
PY
