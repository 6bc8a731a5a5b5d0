#!/usr/bin/env bash
# gensim's Word2Vec stops at the 10,000th token of a sentence and passes over the rest of it in every epoch,
# without a warning. The words of the rest are counted, get their place in the vocabulary and a vector: the
# random one that they were initialized with, which `most_similar` ranks like any other.
#
# It matters wherever a corpus is handed over as one list of words, or a document a list: books, genomes,
# logs, walks over a graph, a benchmark text without line ends. Lists of at most 10,000 tokens train all of
# them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet gensim==4.4.0 numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 venv/bin/python -I -W always - <<'PY'
import logging
import random
import re
import sys
import warnings

import gensim
import numpy as np
from gensim.models import Word2Vec

print(f"gensim {gensim.__version__}, numpy {np.__version__}")

messages = []
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("gensim").addHandler(handler)

chance = random.Random(0)
words = [f"early{chance.randrange(50)}" for _ in range(10_000)]
words += [f"late{chance.randrange(50)}" for _ in range(10_000)]


def trained(sentences):
    """Of the words of each half, the share whose vector was moved by three epochs."""
    model = Word2Vec(vector_size=16, min_count=1, sample=0, workers=1, seed=1)
    model.build_vocab(sentences)
    before = model.wv.vectors.copy()
    model.train(sentences, total_examples=len(sentences), epochs=3)
    moved = (model.wv.vectors != before).any(axis=1)
    places = model.wv.key_to_index.items()
    return {
        half: float(np.mean([moved[i] for word, i in places if word.startswith(half)]))
        for half in ("early", "late")
    }


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    one, two = trained([words]), trained([words[:10_000], words[10_000:]])
print("expected: 20,000 tokens train all 100 words, in one sentence or in two, or a warning tells of it")
print("share of words with a trained vector, one sentence of 20,000 tokens:", one)
print("two sentences of 10,000:", two)
spoken = [*messages, *(str(warning.message) for warning in caught)]
print("warnings, of warnings and logging together:", sorted(set(spoken)))
if one != {"early": 1.0, "late": 0.0} or two != {"early": 1.0, "late": 1.0}:
    sys.exit("CHANGED: what is beyond the 10,000th token of a sentence is trained")
if any(re.search(r"10,?000|truncat", text) for text in spoken):
    sys.exit("CHANGED: a warning tells of it")
print("confirmed: what is beyond the 10,000th token of a sentence keeps its random vector")
PY
