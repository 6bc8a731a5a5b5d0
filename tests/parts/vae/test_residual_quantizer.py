"""Residual quantization against plain loops: choices, gradient, averages of each book, start and revival."""

import pytest
import torch

from torchstone.errors import BadInput
from torchstone.parts.vae.residual_quantizer import ResidualQuantizer, book_statistics


def quantizer(books=3, codes=5, dim=2, **settings):
    torch.manual_seed(0)
    net = ResidualQuantizer(books, codes, dim, **settings).double()
    for number, book in enumerate(net.books):
        book.codebook.normal_(std=0.5**number)
    return net


def vectors(batch=2, dim=2, time=7, seed=1):
    return torch.randn(batch, dim, time, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def update(net, z, codes, candidates):
    """As training does: all residuals are those of the codebooks that chose."""
    left = net.residuals(z, codes)
    found = book_statistics(left, codes, net.num_codes)
    for q, book in enumerate(net.books):
        book.update(found.chosen[q], found.totals[q], candidates[q])


def test_each_book_takes_the_entry_nearest_to_what_is_left():
    net, z = quantizer(), vectors()
    codes = net.encode(z)
    for b in range(2):
        for t in range(7):
            left = z[b, :, t].clone()
            for q, book in enumerate(net.books):
                distances = [(left - entry).norm().item() for entry in book.codebook]
                assert codes[b, q, t] == distances.index(min(distances))
                left -= book.codebook[codes[b, q, t]]
            assert torch.allclose(net.decode(codes)[b, :, t], z[b, :, t] - left, atol=1e-14)
    assert torch.equal(net.encode(z, 2), codes[:, :2])
    with pytest.raises(BadInput, match="from 1 to 3 codebooks, not 4"):
        net.encode(z, 4)


def test_the_gradient_goes_straight_through():
    """Forgotten, the encoder gets none; passed on at each book, the vector's own counts several times."""
    net, z = quantizer(), vectors().requires_grad_()
    found, weight = net(z), vectors(seed=3)
    assert torch.allclose(found.vectors, net.decode(found.codes), atol=1e-14)
    (gradient,) = torch.autograd.grad((found.vectors * weight).sum(), z)
    assert torch.equal(gradient, weight)
    found = net(z)
    left = [r.detach() for r in net.residuals(z, found.codes)[1:]]
    assert found.commitment_loss.item() == pytest.approx(
        sum(r.square().mean().item() for r in left), rel=1e-12
    )
    (gradient,) = torch.autograd.grad(found.commitment_loss, z)
    assert torch.allclose(gradient, sum(2 * r / r.numel() for r in left), atol=1e-14)


def test_the_error_falls_with_each_book():
    net, z = quantizer(4, 16, 3), vectors(8, 3, 40)
    net.initialize(z, torch.Generator().manual_seed(0))
    errors = [float((z - net.decode(net.encode(z, n))).square().mean()) for n in range(1, 5)]
    print(f"of {float(z.square().mean()):.3f} are left {errors}")
    assert all(
        after < 0.6 * before
        for before, after in zip([float(z.square().mean()), *errors], errors, strict=False)
    )


def test_averages_of_each_book_follow_its_residuals():
    """Three updates equal the equations, entry by entry and vector by vector; a book whose averages were of
    the vectors, or of residuals after the first book had moved, would differ."""
    decay, net = 0.8, quantizer(2, 4, 2, decay=0.8, revive_below=0.0)
    for book in net.books:
        book.counts.fill_(2.0)
        book.sums.copy_(2.0 * book.codebook)
    counts = [[2.0] * 4 for _ in range(2)]
    sums = [[[2 * x for x in row] for row in book.codebook.tolist()] for book in net.books]
    for step in range(3):
        z = vectors(3, 2, 9, seed=step)
        before = [book.codebook.clone() for book in net.books]
        codes = net.encode(z)
        update(net, z, codes, torch.zeros(2, 4, 2, dtype=torch.float64))
        for q in range(2):
            own = {k: [] for k in range(4)}
            for b in range(3):
                for t in range(9):
                    left = z[b, :, t] - sum((before[p][codes[b, p, t]] for p in range(q)), torch.zeros(2))
                    own[int(codes[b, q, t])].append(left.tolist())
            for k in range(4):
                counts[q][k] = decay * counts[q][k] + (1 - decay) * len(own[k])
                sums[q][k] = [
                    decay * s + (1 - decay) * sum(v[d] for v in own[k]) for d, s in enumerate(sums[q][k])
                ]
            total = sum(counts[q])
            for k in range(4):
                smoothed = (counts[q][k] + 1e-5) / (total + 4e-5) * total
                expected = [s / smoothed for s in sums[q][k]]
                assert net.books[q].codebook[k].tolist() == pytest.approx(expected, rel=1e-6), (step, q, k)


def test_dead_entries_are_revived_in_their_book_and_stay():
    net = quantizer(2, 4, 2, decay=0.9, revive_below=0.1)
    z = vectors(4, 2, 25)
    net.initialize(z, torch.Generator().manual_seed(0))
    net.books[1].codebook[2] = 1e3  # far from all residuals
    net.books[1].sums[2], net.books[1].counts[2] = 0.0, 0.0
    candidates = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    first = net.books[0].codebook.clone()
    update(net, z, net.encode(z), candidates)
    assert torch.equal(net.books[1].codebook[2], candidates[1, 2]), "the averages moved it away again"
    assert (net.books[0].codebook - first).abs().max() < 0.2, "a book in use was moved too"


def test_few_vectors_for_many_entries_do_not_make_all_of_them_dead():
    """A fixed count as the threshold would call every entry dead where a batch has fewer vectors than that for
    each; a fraction of the average does not."""
    net = quantizer(1, 64, 2, decay=0.99, revive_below=0.05)
    z = vectors(8, 2, 40)
    net.initialize(z, torch.Generator().manual_seed(0))
    small, moved = z[:1, :, :20], torch.full((1, 64, 2), 77.0, dtype=torch.float64)  # 20 vectors, 64 entries
    for _ in range(10):
        update(net, small, net.encode(small), moved)
    dead = int((net.books[0].codebook == 77).any(1).sum())
    print(f"{dead} of 64 entries moved")
    assert dead == 0


def test_the_start_is_k_means_of_each_books_residuals():
    net, z = quantizer(2, 8, 2), vectors(6, 2, 30)
    net.initialize(z, torch.Generator().manual_seed(0), iterations=100)
    codes = net.encode(z)
    left = net.residuals(z, codes)
    for q, book in enumerate(net.books):
        rows, chosen = left[q].movedim(1, -1).flatten(0, 1), codes[:, q].flatten()
        for k in range(8):
            mean = rows[chosen == k].mean(0)
            assert torch.allclose(book.codebook[k], mean, atol=1e-12)
            assert book.counts[k] == (chosen == k).sum()
    found = book_statistics(left, codes, 8)
    perplexities = [float(each) for each in found.perplexities()]
    for q, each in enumerate(perplexities):
        p = torch.bincount(codes[:, q].flatten(), minlength=8).double() / codes[:, q].numel()
        assert each == pytest.approx(float((-(p * p.clamp(min=1e-300).log()).sum()).exp()), rel=1e-9)


def test_settings_that_make_no_quantizer_are_refused():
    with pytest.raises(BadInput, match="at least one codebook, not 0"):
        ResidualQuantizer(0, 4, 2)
