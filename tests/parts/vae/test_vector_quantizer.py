"""Vector quantization against loops over vectors: the choice, its gradient, and the codebook's averages."""

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.vae.vector_quantizer import VectorQuantizer, code_sums, perplexity


def quantizer(num_codes=6, dim=3, **settings):
    torch.manual_seed(0)
    net = VectorQuantizer(num_codes, dim, **settings).double()
    net.codebook.data.normal_()
    return net


def grid(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("decay", [0.99, None])
def test_entries_are_nearest_and_the_gradient_passes_through(decay):
    net, z = quantizer(decay=decay), grid(2, 3, 4, 5).requires_grad_()
    found = net(z)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                distances = (net.codebook.detach() - z[b, :, i, j].detach()).norm(dim=1).tolist()
                code = found.codes[b, i, j].item()
                assert code == distances.index(min(distances))
                assert torch.allclose(found.vectors[b, :, i, j], net.codebook[code], atol=1e-15)
    weight = grid(2, 3, 4, 5).flip(0)
    inner, book = torch.autograd.grad((found.vectors * weight).sum(), (z, net.codebook), allow_unused=True) \
        if decay is None else (*torch.autograd.grad((found.vectors * weight).sum(), z), None)  # fmt: skip
    print(f"gradient {inner.abs().sum():.6f}, of what it stands for {weight.abs().sum():.6f}")
    assert torch.equal(inner, weight)
    assert book is None, "an entry would get a gradient that is not of its own loss"


def test_losses_move_their_own_side_alone():
    net, z = quantizer(decay=None), grid(2, 3, 4, 5).requires_grad_()
    found = net(z)
    entries = net.embed(found.codes)
    expected = (entries - z).square().sum().item() / z.numel()
    assert found.codebook_loss.item() == pytest.approx(expected, rel=1e-12)
    assert found.commitment_loss.item() == pytest.approx(expected, rel=1e-12)
    of_vectors, of_book = torch.autograd.grad(found.codebook_loss, (z, net.codebook), allow_unused=True)
    assert of_vectors is None
    chosen, totals = code_sums(z, found.codes, 6)
    by_hand = 2 * (chosen[:, None] * net.codebook.detach() - totals) / z.numel()
    assert torch.allclose(of_book, by_hand, atol=1e-15)
    found = net(z)
    of_vectors, of_book = torch.autograd.grad(found.commitment_loss, (z, net.codebook), allow_unused=True)
    assert of_book is None
    assert torch.allclose(of_vectors, 2 * (z - entries).detach() / z.numel(), atol=1e-15)


def test_averages_follow_the_vectors():
    """Without unused entries, three updates equal the equations, entry by entry and vector by vector."""
    decay, net = 0.8, quantizer(4, 2, decay=0.8, revive_below=0.0)
    net.counts.fill_(2.0)
    net.sums.copy_(2.0 * net.codebook)
    counts, sums = [2.0] * 4, [[2 * x for x in row] for row in net.codebook.tolist()]
    for step in range(3):
        z = grid(3, 2, 5, 5) + step
        codes = net(z).codes
        net.update(*code_sums(z, codes, 4), candidates=torch.zeros(4, 2, dtype=torch.float64))
        for k in range(4):
            own = [z[b, :, i, j].tolist() for b, i, j in (codes == k).nonzero().tolist()]
            counts[k] = decay * counts[k] + (1 - decay) * len(own)
            sums[k] = [decay * s + (1 - decay) * sum(v[d] for v in own) for d, s in enumerate(sums[k])]
        total = sum(counts)
        for k in range(4):
            smoothed = (counts[k] + 1e-5) / (total + 4e-5) * total
            expected = [s / smoothed for s in sums[k]]
            assert net.codebook[k].tolist() == pytest.approx(expected, rel=1e-6), (step, k)
    print(net.codebook)


@pytest.mark.parametrize("decay", [0.9, None])
def test_unused_entries_are_put_at_vectors_and_stay_there(decay):
    net = quantizer(5, 2, decay=decay, revive_below=0.1)
    net.counts.fill_(10.0)
    if decay is not None:
        net.sums.copy_(10.0 * net.codebook)
    net.counts[3] = 0.001  # unused
    before, candidates = net.codebook.detach().clone(), grid(5, 2) + 7
    chosen = torch.full((5,), 10.0, dtype=torch.float64)
    chosen[3] = 0
    totals = chosen[:, None] * before
    net.update(chosen, totals, candidates)
    print(before, net.codebook, net.counts)
    assert torch.equal(net.codebook[3].detach(), candidates[3])
    assert torch.allclose(net.codebook[[0, 1, 2, 4]].detach(), before[[0, 1, 2, 4]], rtol=1e-4)
    net.update(chosen, totals, candidates + 100)
    assert (net.codebook[3].detach() - candidates[3]).abs().max() < 1e-3, "the next update undid it"


def test_the_first_update_puts_all_entries_at_vectors_of_the_batch():
    net, candidates = quantizer(5, 2), grid(5, 2)
    z = grid(1, 2, 1, 3)
    net.update(*code_sums(z, net(z).codes, 5), candidates)
    used = net.counts > 0
    assert used.all()
    unchosen = torch.bincount(quantizer(5, 2)(z).codes.flatten(), minlength=5) == 0
    assert unchosen.any()
    assert torch.equal(net.codebook[unchosen], candidates[unchosen])


def test_perplexity():
    assert float(perplexity(torch.tensor([3.0, 3, 3, 0]))) == pytest.approx(3)
    assert float(perplexity(torch.tensor([5.0, 0]))) == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_codes": 0}, "at least one entry"),
        ({"decay": 1.0}, "at least 0 and below 1"),
        ({"revive_below": 1.0}, "below 1, not 1.0"),
    ],
)
def test_settings_that_make_no_codebook_are_refused(settings, message):
    with pytest.raises(BadInput, match=message):
        VectorQuantizer(**({"num_codes": 4, "dim": 2} | settings))
