"""`descend` against the step written out."""

import pytest
import torch
from torch import nn

from torchstone.engine.update import GradientUpdate
from torchstone.errors import BadInput, NotFinite
from torchstone.parts.ema import make_ema


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(rows=10):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return x, torch.randn(rows, 3, generator=generator, dtype=torch.float64)


def squared(model):
    return lambda b: (model(b[0]) - b[1]).square().mean()


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


def difference(a, b):
    return max(
        float((x - y).detach().abs().max()) for x, y in zip(a.parameters(), b.parameters(), strict=True)
    )


def by_hand(model, steps, clip=None, rows=10):
    optimizer = sgd(model)
    for _ in range(steps):
        optimizer.zero_grad()
        squared(model)(batch(rows)).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return model


@pytest.mark.parametrize("rows", [10, 7])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 4])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_gradient_update_equals_manual_step(accumulate, clip, rows):
    model = net()
    update = GradientUpdate(squared(model), sgd(model), grad_accum_steps=accumulate, max_grad_norm=clip)
    for _ in range(4):
        metrics = update(batch(rows))
    apart = difference(model, by_hand(net(), 4, clip, rows))
    print(f"{rows} rows in {accumulate} micro-batches, clip {clip}: {apart:.2e} apart")
    assert apart < 1e-14
    assert ("gradient_norm" in metrics) == (clip is not None)
    assert not any(value.requires_grad for value in metrics.values()), "metrics keep no graph"


def test_gradient_update_plain_averaging_would_be_wrong():
    """The fault that the test above must see: 7 rows in 3 parts are 3 + 3 + 1."""
    model, optimizer = net(), None
    optimizer = sgd(model)
    for _ in range(4):
        optimizer.zero_grad()
        parts = list(zip(*(t.chunk(3) for t in batch(7)), strict=True))
        for part in parts:
            (squared(model)(part) / len(parts)).backward()
        optimizer.step()
    apart = difference(model, by_hand(net(), 4, None, 7))
    print(f"naive accumulation is {apart:.2e} off")
    assert apart > 1e-3


def test_gradient_update_weight_of_masked_mean():
    """Tokens that are not padding: the mean over all of them, not the mean of means."""
    x, _ = batch(6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]] * 3, dtype=torch.float64)
    mask[4:] = 0
    mask[4, 0] = 1

    def masked(model):
        def loss(b):
            x, mask = b
            per_token = model[0](x).square().mean(1, keepdim=True) * mask
            return {"loss": per_token.sum() / mask.sum(), "weight": mask.sum()}

        return loss

    whole, parts = net(), net()
    GradientUpdate(masked(whole), torch.optim.SGD(whole[0].parameters(), 0.1))((x, mask))
    GradientUpdate(masked(parts), torch.optim.SGD(parts[0].parameters(), 0.1), grad_accum_steps=3)((x, mask))
    apart = difference(whole, parts)
    print(f"{mask.sum(1).tolist()} tokens: {apart:.2e} apart")
    assert apart < 1e-14


def test_gradient_update_metrics_are_batch_means():
    model = net()
    x, y = batch(7)

    def loss(b):
        return {"loss": (model(b[0]) - b[1]).square().mean(), "first": b[0][:, 0].mean()}

    metrics = GradientUpdate(loss, sgd(model), grad_accum_steps=3)((x, y))
    print(float(metrics["first"]), float(x[:, 0].mean()))
    assert float(metrics["first"]) == pytest.approx(float(x[:, 0].mean()), abs=1e-14)


def test_gradient_update_only_own_parameters_get_gradients():
    one, two = net(0), net(1)
    one[0].weight.grad = None
    narrow = GradientUpdate(
        lambda b: two[:1](b[0]).square().mean() + squared(one)(b), sgd(one), grad_accum_steps=1
    )
    narrow(batch())
    assert all(p.grad is None for p in two.parameters())
    assert all(p.grad is not None for p in one.parameters())


def test_gradient_update_steps_scheduler_and_ema():
    model = net()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    kept = make_ema(model, 0.9)
    expected = [p.detach().clone() for p in model.parameters()]
    update = GradientUpdate(squared(model), optimizer, lr_scheduler=schedule, ema=(kept, model))
    for step in range(3):
        update(batch())
        new = [p.detach() for p in model.parameters()]
        # torch's average starts from the first weights it is given
        expected = [n.clone() if step == 0 else 0.9 * e + 0.1 * n for e, n in zip(expected, new, strict=True)]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)
    apart = max(float((a - e).abs().max()) for a, e in zip(kept.module.parameters(), expected, strict=True))
    print(f"average {apart:.2e} apart")
    assert apart < 1e-15


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradient_update_low_precision_tracks_fp32(precision):
    full, low = net().float(), net().float()
    x, y = (t.float() for t in batch())
    plain = GradientUpdate(squared(full), torch.optim.SGD(full.parameters(), 0.1))
    update = GradientUpdate(squared(low), torch.optim.SGD(low.parameters(), 0.1), precision=precision)
    for _ in range(20):
        reference, metrics = plain((x, y)), update((x, y))
    gap = abs(float(metrics["loss"]) - float(reference["loss"])) / float(reference["loss"])
    print(f"{precision}: loss {float(metrics['loss']):.5f} beside {float(reference['loss']):.5f}")
    assert 0 < gap < 0.02
    assert low[0].weight.dtype == torch.float32


def test_gradient_update_fp16_loss_scale_is_state():
    model = net().float()
    update = GradientUpdate(squared(model), torch.optim.SGD(model.parameters(), 0.1), precision="fp16")
    update(tuple(t.float() for t in batch()))
    saved = update.state_dict()
    saved["scaler"]["scale"] = 4.0
    other = GradientUpdate(squared(model), torch.optim.SGD(model.parameters(), 0.1), precision="fp16")
    other.load_state_dict(saved)
    assert other.scaler.get_scale() == 4.0


def test_gradient_update_nonfinite_loss_stops():
    model = net()
    before = [p.detach().clone() for p in model.parameters()]
    update = GradientUpdate(lambda b: squared(model)(b) * float("nan"), sgd(model))
    with pytest.raises(NotFinite, match=r"the loss is nan; learning rate 0.1; gradient norms"):
        update(batch())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_gradient_update_bad_settings_refused():
    model = net()
    with pytest.raises(BadInput, match="grad_accum_steps must be at least 1"):
        GradientUpdate(squared(model), sgd(model), grad_accum_steps=0)
    with pytest.raises(BadInput, match="unknown precision 'fp8'"):
        GradientUpdate(squared(model), sgd(model), precision="fp8")


@pytest.mark.parametrize("found", [{"avx2": True}, {"avx512_bf16": True}, {"amx_bf16": True}])
def test_precision_auto_is_bf16_where_supported(monkeypatch, capsys, found):
    """Emulated it is far slower than fp32: then it is not taken, and said where it was asked for."""
    has = "avx2" not in found
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    seen = []

    def loss(b):
        out = model(b[0])
        seen.append(out.dtype)
        return out.float().square().mean()

    x = torch.randn(6, 5)
    for precision in ("auto", "bf16", "fp32"):
        model = net().float()
        GradientUpdate(loss, sgd(model), precision=precision)((x,))
    half, full = torch.bfloat16, torch.float32
    assert seen == [half if has else full, half, full]
    assert ("emulates it slowly" in capsys.readouterr().err) == (not has)
    with pytest.raises(BadInput, match="unknown precision 'fp8': did you mean fp"):
        GradientUpdate(loss, sgd(model), precision="fp8")
