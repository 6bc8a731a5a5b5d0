"""Fine-tuning: its baseline, and batches that follow the seed."""

import dataclasses

import torch

from torchstone.data.text.classification import read_labeled
from torchstone.systems.transformer import bert
from torchstone.tasks.text.finetune import tfidf_baseline


def test_tfidf_baseline_depends_on_the_training_split():
    dataset = read_labeled("sentiment", 3000)
    first, again = tfidf_baseline(dataset), tfidf_baseline(dataset)
    worse = dataclasses.replace(dataset, train=dataset.train.select(range(100)))
    print(f"tf-idf and logistic regression {first:.3f}; with 100 texts {tfidf_baseline(worse):.3f}")
    assert first == again
    assert first > 0.6 > tfidf_baseline(worse)


def test_batches_follow_the_seed(tmp_path):
    """The stage after pre-training: the same texts, in another order with another seed."""
    texts = [f"{word} {number}" for number in range(200) for word in ("up", "down")]
    for split, part in (("train", texts[:300]), ("dev", texts[300:350]), ("test", texts[350:])):
        lines = (f"{text}\t{int(text.startswith('up'))}\n" for text in part)
        (tmp_path / f"{split}.tsv").write_text("".join(lines))
    recipe = dataclasses.replace(bert.RECIPES["smoke"], data=str(tmp_path), max_examples=None, vocab_size=60)

    def first_batch(seed):
        _, run = bert.build(dataclasses.replace(recipe, seed=seed, device="cpu"))
        batch = next(run.stream)
        return torch.cat([each.flatten() for each in batch.rows if each is not None])

    a, again, b = first_batch(0), first_batch(0), first_batch(1)
    assert torch.equal(a, again)
    assert a.shape != b.shape or not torch.equal(a, b)
