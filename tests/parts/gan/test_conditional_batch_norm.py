"""Conditional batch norm against torch's with gathered scales; statistics by truncation, and standing ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchstone.parts.gan.conditional_batch_norm import (
    AffineBatchNorm,
    ConditionalBatchNorm,
    TableBatchNorm,
    standing_statistics,
)


def make_norm(classes: int = 3, channels: int = 4, tables: int = 1) -> ConditionalBatchNorm:
    torch.manual_seed(0)
    scale, shift = (nn.Linear(classes, channels, bias=False) for _ in range(2))
    return ConditionalBatchNorm(channels, scale, shift, tables).double()


@pytest.mark.parametrize("is_training", [True, False])
def test_conditional_batch_norm_is_batch_norm_with_gathered_scales(is_training):
    norm = make_norm().train(is_training)
    norm.norm.running_mean.normal_()
    norm.norm.running_var.uniform_(0.5, 2)
    theirs = nn.BatchNorm2d(4, affine=False).double().train(is_training)
    theirs.running_mean.copy_(norm.norm.running_mean[0])
    theirs.running_var.copy_(norm.norm.running_var[0])
    x, labels = 2 + 3 * torch.randn(5, 4, 3, 2).double(), torch.tensor([2, 0, 1, 1, 2])
    ours = norm(x, F.one_hot(labels, 3).double())
    normal = theirs(x)
    for row, label in enumerate(labels.tolist()):
        scale, shift = 1 + norm.scale.weight[:, label], norm.shift.weight[:, label]
        expected = normal[row] * scale[:, None, None] + shift[:, None, None]
        assert torch.allclose(ours[row], expected, rtol=0, atol=1e-12)
    assert torch.allclose(norm.norm.running_mean[0], theirs.running_mean)
    assert torch.allclose(norm.norm.running_var[0], theirs.running_var)


def test_affine_batch_norm_is_torchs():
    ours, theirs = AffineBatchNorm(3).double(), nn.BatchNorm2d(3).double()
    for norm in (ours, theirs):
        torch.manual_seed(1)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(4, 3, 5, 5).double()
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-12)


def test_statistics_between_two_rows_are_linear_in_truncation():
    """Rows that are linear in the truncation must give that line everywhere: Hugging Face's port weights the
    two neighbors the wrong way round."""
    norm = TableBatchNorm(2, tables=51)
    rows = torch.linspace(0, 1, 51)[:, None]
    norm.running_mean.copy_(rows * torch.tensor([1.0, -3.0]))
    norm.running_var.copy_(1 + rows * torch.tensor([2.0, 5.0]))
    for truncation in (0, 0.004, 0.02, 0.13, 0.4, 0.58, 0.999, 1):
        mean, var = norm.statistics(truncation)
        assert torch.allclose(mean, truncation * torch.tensor([1.0, -3.0]), atol=1e-6)
        assert torch.allclose(var, 1 + truncation * torch.tensor([2.0, 5.0]), atol=1e-6)


def test_training_updates_the_row_of_the_truncation_alone():
    norm = TableBatchNorm(2, tables=5)
    x = 7 + torch.randn(8, 2, 3, 3)
    norm(x, 0.5)
    moved = norm.running_mean.abs().amax(1) > 0
    assert moved.tolist() == [False, False, True, False, False]
    norm(x)
    assert (norm.running_mean.abs().amax(1) > 0).tolist() == [False, False, True, False, True]


def test_standing_statistics_average_all_passes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), AffineBatchNorm(3), nn.Dropout(0.5))
    model.train()
    batches = [(5 * torch.randn(6, 2, 4, 4) + i,) for i in range(4)]
    with torch.no_grad():
        hidden = [model[0](x) for (x,) in batches]
    mean = torch.stack([h.mean((0, 2, 3)) for h in hidden]).mean(0)
    var = torch.stack([h.transpose(0, 1).flatten(1).var(1) for h in hidden]).mean(0)
    model[1].norm.running_mean.fill_(99)  # of no account
    with standing_statistics(model, batches):
        assert torch.allclose(model[1].norm.running_mean[0], mean, atol=1e-5)
        assert torch.allclose(model[1].norm.running_var[0], var, rtol=1e-5)
        model[1].eval()
        normal = model[1].norm(hidden[0])
        model[1].train()
        expected = (hidden[0] - mean[:, None, None]) / (var + 1e-5).sqrt()[:, None, None]
        assert torch.allclose(normal, expected, atol=1e-4)
    assert model[1].norm.running_mean.eq(99).all()
    assert model[1].norm.running_var.eq(1).all()
    assert all(module.training for module in model.modules())


def test_standing_statistics_are_put_back_when_a_pass_fails():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), AffineBatchNorm(3)).eval()

    def batches():
        yield (torch.randn(4, 2, 2, 2),)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"), standing_statistics(model, batches()):
        pass
    assert not model[1].norm.running_mean.any()
    assert model[1].norm.pass_weight is None
