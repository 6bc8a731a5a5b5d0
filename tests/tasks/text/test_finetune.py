"""Fine-tuning: its baseline."""

import dataclasses

from torchstone.data.text.classification import read_labeled
from torchstone.tasks.text.finetune import tfidf_baseline


def test_tfidf_baseline_depends_on_the_training_split():
    dataset = read_labeled("sentiment", 3000)
    first, again = tfidf_baseline(dataset), tfidf_baseline(dataset)
    worse = dataclasses.replace(dataset, train=dataset.train.select(range(100)))
    print(f"tf-idf and logistic regression {first:.3f}; with 100 texts {tfidf_baseline(worse):.3f}")
    assert first == again
    assert first > 0.6 > tfidf_baseline(worse)
