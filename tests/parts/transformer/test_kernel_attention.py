"""Kernel attention against its formula, against softmax attention as its limit, and against itself step by step."""

import math
from itertools import pairwise

import pytest
import torch
from dense_attention import Largest, assert_linear_memory, compare, dense, inputs, numbers, saved_elements

from torchstone.parts.transformer import kernel_attention as module
from torchstone.parts.transformer.kernel_attention import (
    RandomFeatures,
    draw_features,
    kernel_attention,
    kernel_attention_step,
    kernel_state,
)

BATCH, HEADS, LENGTH, WIDTH = 2, 3, 19, 4


def features(count, width=WIDTH, seed=0, dtype=torch.float64, **settings):
    generator = torch.Generator().manual_seed(seed)
    return draw_features(count, width, generator=generator, **settings).to(dtype)


def padding_mask(length=LENGTH):
    mask = torch.ones(BATCH, length, dtype=torch.bool)
    mask[0, length - length // 3 :] = False
    mask[1, 4] = False
    return mask


def formula(q, k, v, w, causal=False, mask=None, scale=None):
    """All pairs, and no stabilizer: for small inputs, in float64."""
    q, k, v, w = (x.double() for x in (q, k, v, w))
    root = (q.shape[3] ** -0.5 if scale is None else scale) ** 0.5

    def phi(x):
        x = x * root
        return (x @ w.transpose(-1, -2) - x.square().sum(3, keepdim=True) / 2).exp()

    weights = phi(q) @ phi(k).transpose(2, 3)
    if causal:
        weights = weights.tril()
    if mask is not None:
        weights = weights * (mask[:, :, None] & mask[:, None])[:, None]
    return weights @ v / weights.sum(3, keepdim=True).clamp(min=1e-300)


@pytest.fixture(params=["pieces", "at once"])
def way(request, monkeypatch):
    """Both ways to compute: in pieces on a CPU; all features at once elsewhere and where torch compiles."""
    if request.param == "at once":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    return request.param


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("length", [1, 8, LENGTH])
def test_kernel_attention_equals_its_formula(causal, padded, own, length, way, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)  # lengths of one, of several, and of no whole number of chunks
    monkeypatch.setattr(module, "POSITIONS", 8)
    monkeypatch.setattr(module, "PIECE", 8 * 12 * 4)  # 4 of the 6 rows at a time
    mask = padding_mask(length) if padded and length > 4 else None
    w = features(12) if not own else torch.stack([features(12, seed=s) for s in range(HEADS)])
    for dtype in (torch.float64, torch.float32):
        q, k, v = inputs(BATCH, HEADS, length, WIDTH, dtype, values=6)
        settings = {"causal": causal, "mask": mask, "scale": 0.6}
        compare(
            lambda q=q, k=k, v=v, settings=settings: kernel_attention(q, k, v, w, **settings),
            lambda q=q, k=k, v=v, settings=settings: formula(q, k, v, w, **settings).to(q.dtype),
            (q, k, v),
            dtype,
        )


@pytest.mark.parametrize("causal", [False, True])
def test_kernel_attention_features_may_be_trained(causal):
    q, k, v = inputs(BATCH, HEADS, LENGTH, WIDTH)
    w, mask = features(12).requires_grad_(), padding_mask()
    compare(
        lambda: kernel_attention(q, k, v, w, causal=causal, mask=mask),
        lambda: formula(q, k, v, w, causal=causal, mask=mask),
        (q, k, v, w),
    )


def errors_by_count(counts, size, draws=24, width=8, **settings):
    """Relative error of the output against softmax attention, root mean square over draws."""
    q, k, v = (x.detach() * size for x in inputs(1, 1, 24, width))
    v = v / size
    exact, found = dense(q, k, v, None), []
    for count in counts:
        tries = torch.stack(
            [kernel_attention(q, k, v, features(count, width, seed, **settings)) for seed in range(draws)]
        )
        found.append(float((tries - exact).square().mean().sqrt() / exact.square().mean().sqrt()))
    return found


@pytest.mark.parametrize("size", [0.3, 0.05])
def test_kernel_attention_error_falls_as_square_root_of_features(size):
    """At small logits too, where an ε after the exponential would be a floor."""
    counts = [64, 256, 1024, 4096, 16384]
    errors = errors_by_count(counts, size)
    steps = [math.log(a / b, 4) for a, b in pairwise(errors)]
    slope = math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])
    print(f"inputs of size {size}: errors {errors}, slope -{slope:.3f}, steps {steps}")
    assert 0.42 < slope < 0.58
    assert errors[-1] < 0.02 * size


def test_kernel_attention_gradients_approach_those_of_softmax_attention():
    q, k, v = ((0.3 * x).detach().requires_grad_() for x in inputs(1, 1, 16, WIDTH))
    weight, errors = numbers(1, 1, 16, WIDTH, seed=5), []
    exact = torch.autograd.grad((dense(q, k, v, None) * weight).sum(), (q, k, v))
    for count in (256, 4096, 65_536):
        out = kernel_attention(q, k, v, features(count))
        ours = torch.autograd.grad((out * weight).sum(), (q, k, v))
        errors.append([float((a - b).norm() / b.norm()) for a, b in zip(ours, exact, strict=True)])
    print(f"relative errors of the gradients: {errors}")
    assert max(errors[2]) < 0.05
    assert all(a > 2 * c for a, c in zip(errors[0], errors[2], strict=True))


def test_orthogonal_features_are_orthogonal_unbiased_and_better():
    w = features(20, 8)
    for block in (w[:8], w[8:16]):
        product = block @ block.T
        assert float((product - product.diag().diag()).abs().max()) < 1e-6
    many = features(40_000, 8)
    covariance = many.T @ many / len(many)
    print(
        f"mean {float(many.mean()):.4f}, covariance off by {float((covariance - torch.eye(8).double()).abs().max()):.4f}"
    )
    assert abs(float(many.mean())) < 0.01
    assert float((covariance - torch.eye(8).double()).abs().max()) < 0.03
    # lengths as of independent normal vectors: chi with 8 degrees of freedom
    lengths = many.norm(dim=1)
    assert abs(float(lengths.square().mean()) - 8) < 0.1
    assert abs(float(lengths.var()) - (8 - 2.7411**2)) < 0.03
    (better,), (worse,) = (errors_by_count([8], 0.5, draws=300, orthogonal=o) for o in (True, False))
    print(f"error with orthogonal features {better:.4f}, with independent ones {worse:.4f}")
    assert better < 0.97 * worse


@pytest.mark.parametrize("causal", [False, True])
def test_kernel_attention_is_stable_where_plain_exponentials_overflow(causal, way):
    """Inputs so large that exp of a log-feature is infinite or 0 in float32."""
    for size in (10.0, 60.0, 400.0):
        q, k, v = (
            x.detach() * (size if i < 2 else 1) for i, x in enumerate(inputs(1, 2, 300, 16, torch.float32))
        )
        leaves = [x.requires_grad_() for x in (q, k, v)]
        w = features(64, 16, dtype=torch.float32)
        out = kernel_attention(*leaves, w, causal=causal)
        gradients = torch.autograd.grad(out.sum(), leaves)
        largest = float(out.detach().abs().max())
        print(
            f"size {size}: largest output {largest:.2f} of values up to {float(v.detach().abs().max()):.2f}"
        )
        assert all(bool(x.isfinite().all()) for x in (out, *gradients))
        assert largest <= float(v.detach().abs().max()) * 1.001  # a mean of values
        if not causal:  # rows that sum to 1: nothing vanished
            ones = kernel_attention(*leaves[:2], torch.ones_like(v), w)
            assert float((ones - 1).detach().abs().max()) < 1e-4


@pytest.mark.parametrize("causal", [False, True])
def test_kernel_attention_bfloat16_does_not_overflow(causal, way):
    leaves = [(x.detach() * 8).to(torch.bfloat16).requires_grad_() for x in inputs(1, 2, 200, 64)]
    w = features(128, 64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = kernel_attention(*leaves, w, causal=causal)
    exact = kernel_attention(*(x.detach().double() for x in leaves), w, causal=causal)
    error = float(((out.double() - exact).norm() / exact.norm()).detach())
    print(f"relative error {error:.4f}")
    assert out.dtype == torch.bfloat16
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(out.float().sum(), leaves))
    assert error < 0.01  # of the rounded output: nothing inside is rounded to 8 bits


@pytest.mark.parametrize("causal", [False, True])
def test_kernel_attention_padding_changes_nothing_and_gives_zeros(causal):
    texts, w = inputs(1, HEADS, LENGTH, WIDTH, torch.float32), features(12, dtype=torch.float32)
    alone = kernel_attention(*texts, w, causal=causal)
    for padding in (1, 7, 150):
        longer = [
            torch.cat(
                [
                    torch.cat([x, x.new_full((1, HEADS, padding, WIDTH), 50.0)], 2),
                    numbers(1, HEADS, LENGTH + padding, WIDTH, dtype=x.dtype),
                ]
            )
            for x in texts
        ]
        mask = torch.ones(2, LENGTH + padding, dtype=torch.bool)
        mask[0, LENGTH:] = False
        out = kernel_attention(*longer, w, causal=causal, mask=mask)
        difference = float((out[:1, :, :LENGTH] - alone).detach().abs().max())
        print(f"{padding} of padding: {difference:.1e} apart")
        assert difference < 1e-5
        assert not out[0, :, LENGTH:].any()


@pytest.mark.parametrize("causal", [False, True])
def test_kernel_attention_text_of_padding_alone_gives_zeros_with_zero_gradient(causal, way):
    leaves, mask = inputs(BATCH, HEADS, LENGTH, WIDTH, torch.float32), padding_mask()
    mask[1] = False
    out = kernel_attention(*leaves, features(12, dtype=torch.float32), causal=causal, mask=mask)
    gradients = torch.autograd.grad(out.sum(), leaves)
    assert not out[1].any()
    assert all(bool(g.isfinite().all()) and not g[1].any() for g in gradients)


def test_causal_kernel_attention_is_not_touched_by_later_chunks(way, monkeypatch):
    """Not even by rounding: a stabilizer over the whole sequence would tell of later keys."""
    monkeypatch.setattr(module, "CHUNK", 8)
    q, k, v = (x.detach() for x in inputs(1, 2, 40, WIDTH, torch.float32))
    w = features(12, dtype=torch.float32)
    before = kernel_attention(q, k, v, w, causal=True)
    k, v = k.clone(), v.clone()
    k[:, :, 24:] *= 30
    v[:, :, 24:] = 7
    after = kernel_attention(q, k, v, w, causal=True)
    assert torch.equal(before[:, :, :24], after[:, :, :24])
    assert not torch.equal(before[:, :, 24:], after[:, :, 24:])
    # within a chunk, later keys leave no more than rounding
    k[:, :, 21:] += 1
    within = kernel_attention(q, k, v, w, causal=True)
    assert float((before[:, :, :21] - within[:, :, :21]).abs().max()) < 1e-5


@pytest.mark.parametrize("prompt", [0, 1, 11])
def test_kernel_attention_step_equals_causal_attention_with_constant_memory(prompt):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        q, k, v = (x.detach() for x in inputs(BATCH, HEADS, 30, WIDTH, dtype, values=6))
        k[:, :, 20:] *= 5  # the stabilizer has to grow on the way
        w = features(12, dtype=dtype)
        full = kernel_attention(q, k, v, w, causal=True, scale=0.6)
        state = kernel_state(k[:, :, :prompt], v[:, :, :prompt], w, scale=0.6)
        shapes = {tuple(x.shape for x in state)}
        for i in range(prompt, 30):
            one = (x[:, :, i : i + 1] for x in (q, k, v))
            out, state = kernel_attention_step(*one, w, state, scale=0.6)
            shapes.add(tuple(x.shape for x in state))
            assert float((out - full[:, :, i : i + 1]).abs().max()) < tolerance
        assert shapes == {((BATCH, HEADS, 12, 7), (BATCH, HEADS, 12, 1))}


def test_kernel_state_leaves_padding_out():
    _, k, v = (x.detach() for x in inputs(BATCH, HEADS, LENGTH, WIDTH))
    w, mask = features(12), padding_mask()
    state = kernel_state(k, v, w, mask=mask)
    for b in range(BATCH):
        alone = kernel_state(k[b : b + 1, :, mask[b]], v[b : b + 1, :, mask[b]], w)
        for x, y in zip(state, alone, strict=True):
            assert float((x[b : b + 1] - y).abs().max()) < 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_kernel_attention_needs_memory_linear_in_length(causal, way):
    w = features(16, 8, dtype=torch.float32)
    assert_linear_memory(lambda q, k, v: kernel_attention(q, k, v, w, causal=causal))
    if causal:  # the sums are made for each chunk, not for each position
        leaves, w = inputs(1, 1, 1024, 8, torch.float32), features(64, 8, dtype=torch.float32)
        assert saved_elements(lambda: kernel_attention(*leaves, w, causal=True)) < 0.75 * 1024 * 64 * 9
        with Largest() as mode:
            kernel_attention(*leaves, w, causal=True).sum().backward()
        assert mode.elements < 0.25 * 1024 * 64 * 9


def test_random_features_are_redrawn_on_demand_only_and_resume_as_they_would_have_gone_on():
    layer = RandomFeatures(12, WIDTH, seed=3)
    first = layer().clone()
    torch.manual_seed(5)
    assert torch.equal(layer.train()(), first)
    assert torch.equal(layer.eval()(), first)
    assert torch.equal(RandomFeatures(12, WIDTH, seed=3)(), first)
    state = torch.get_rng_state()
    layer.redraw()
    second = layer().clone()
    assert not torch.equal(second, first)
    assert torch.equal(torch.get_rng_state(), state)  # a generator of its own
    resumed = RandomFeatures(12, WIDTH, seed=3)
    resumed.load_state_dict(layer.state_dict())
    assert torch.equal(resumed(), second)
    layer.redraw()
    resumed.redraw()
    assert torch.equal(resumed(), layer())
    assert not torch.equal(RandomFeatures(12, WIDTH, seed=4)(), first)
