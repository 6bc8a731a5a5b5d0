"""Top-k, top-p, temperature, and the frequencies of sampled tokens."""

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.decoding.sampling import filter_logits, sample_token


def test_filter_logits_top_k_and_top_p():
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.1, 0.15, 0.25, 0.5]]).log()
    for k in range(1, 5):
        allowed = filter_logits(logits, top_k=k).isfinite()
        assert allowed.sum(1).tolist() == [k, k]
        assert allowed[0, :k].all()
    for p, count in ((0.3, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (0.95, 4), (1.0, 4)):
        allowed = filter_logits(logits.double(), top_p=p - 1e-9).isfinite()
        assert allowed.sum(1).tolist() == [count, count], p
    cold = filter_logits(logits, temperature=0.5).softmax(1)
    assert torch.allclose(cold[0], torch.tensor([0.25, 0.0625, 0.0225, 0.01]) / 0.345)
    for wrong in ({"temperature": 0.0}, {"top_k": 0}, {"top_p": 1.5}):
        with pytest.raises(BadInput):
            filter_logits(logits, **wrong)


def test_sample_token_frequencies_equal_probabilities():
    logits = torch.tensor([0.6, 0.3, 0.1, 0.0]).log().repeat(20_000, 1)
    tokens = sample_token(logits, torch.Generator().manual_seed(0))
    frequencies = torch.bincount(tokens, minlength=4) / len(tokens)
    print(frequencies.tolist())
    assert torch.allclose(frequencies, torch.tensor([0.6, 0.3, 0.1, 0.0]), atol=0.012)
    again = sample_token(logits, torch.Generator().manual_seed(0))
    assert torch.equal(tokens, again)
