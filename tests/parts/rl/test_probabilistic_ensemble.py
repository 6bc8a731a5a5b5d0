"""Ensembles of probabilistic networks: equal to separate ones, bounded, and of two kinds of uncertainty."""

import math

import pytest
import torch
from torch import nn

from torchstone.parts.rl import probabilistic_ensemble as parts
from torchstone.parts.rl.networks import EnsembleLinear
from torchstone.parts.rl.probabilistic_ensemble import BestMembers, ProbabilisticEnsemble


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def ensemble(members=4, elites=3, inputs=3, outputs=2, hidden=(8, 6), seed=0):
    torch.manual_seed(seed)
    made = ProbabilisticEnsemble(inputs, outputs, hidden=hidden, members=members, num_elites=elites).double()
    x, y = 3 * torch.randn(50, inputs).double() + 1, 5 * torch.randn(50, outputs).double() - 2
    made.fit_scales(x, y)
    return made


def separate(made, member):
    """One member as layers of torch."""
    layers = []
    for layer in made.network:
        if isinstance(layer, EnsembleLinear):
            linear = nn.Linear(layer.in_features, layer.out_features).double()
            linear.weight.data, linear.bias.data = (
                layer.weight.data[member].T.clone(),
                layer.bias.data[member, 0],
            )
            linear.bias.data = linear.bias.data.clone()
            layers.append(linear)
        else:
            layers.append(nn.SiLU())
    return nn.Sequential(*layers)


def test_ensemble_equals_a_loop_over_networks_in_output_gradient_and_steps():
    """Steps of momentum, each network's by itself; the bounds, which all share, are held."""
    made = ensemble()
    networks = [separate(made, k) for k in range(4)]
    bounds = made.min_log_variance.detach(), made.max_log_variance.detach()
    velocity = {}

    @torch.no_grad()
    def descend(module):
        for p in module.parameters():
            velocity[p] = 0.9 * velocity.get(p, 0.0) + p.grad
            p -= 1e-2 * velocity[p]

    for step in range(5):
        x, y = torch.randn(4, 7, 3).double(), torch.randn(4, 7, 2).double()
        mean, log_variance = made.predict_standardized(x)
        loss = parts.gaussian_nll(mean, log_variance, made.standardize_output(y)).mean((1, 2)).sum()
        made.zero_grad(), loss.backward()
        for k, network in enumerate(networks):
            raw = network((x[k] - made.input_mean) / made.input_std)
            variance = parts.bound_log_variance(raw[:, 2:], *bounds)
            target = (y[k] - made.output_mean) / made.output_std
            network.zero_grad()
            ((raw[:, :2] - target) ** 2 / variance.exp() + variance).mean().backward()
            torch.testing.assert_close(mean[k], raw[:, :2], rtol=0, atol=1e-10)
            torch.testing.assert_close(log_variance[k], variance, rtol=0, atol=1e-10)
            for ours, theirs in zip(made.linear_layers(), network[::2], strict=True):
                torch.testing.assert_close(ours.weight.grad[k].T, theirs.weight.grad, rtol=0, atol=1e-10)
                torch.testing.assert_close(ours.bias.grad[k, 0], theirs.bias.grad, rtol=0, atol=1e-10)
            descend(network)
        descend(made.network)
        worst = max(
            (ours.weight[k].T - theirs.weight).abs().max().item()
            for k, network in enumerate(networks)
            for ours, theirs in zip(made.linear_layers(), network[::2], strict=True)
        )
        print("step", step + 1, "loss", loss.item(), "weights apart by", worst)
        assert worst < 1e-10


def test_log_variance_is_softly_bounded_and_bounds_learn():
    low, high = torch.tensor([-4.0, -1.0]), torch.tensor([0.0, 2.0])
    raw = torch.tensor([[-1e3, -1e3], [-2.0, 0.5], [1e3, 1e3]], requires_grad=True)
    bounded = parts.bound_log_variance(raw, low, high)
    print(bounded.tolist())
    assert ((bounded >= low) & (bounded <= high + 0.02 + 0.05)).all()
    torch.testing.assert_close(bounded[0], low)
    made = ensemble()
    mean, log_variance = made(torch.randn(1, 9, 3).double())
    parts.gaussian_nll(mean, log_variance, torch.zeros_like(mean)).sum().backward()
    assert (made.min_log_variance.grad != 0).all()
    assert (made.max_log_variance.grad != 0).all()


def test_nll_is_that_of_torch():
    mean, log_variance, y = torch.randn(3, 5, 4).double()
    density = torch.distributions.Normal(mean, (log_variance / 2).exp())
    ours = parts.gaussian_nll(mean, log_variance, y)
    torch.testing.assert_close(ours, -2 * density.log_prob(y) - math.log(2 * math.pi))


def test_two_kinds_of_uncertainty_add_up_to_the_variance_of_the_mixture():
    """Law of total variance, by torch's mixture; and each kind alone."""
    mean, log_variance = torch.randn(5, 6, 2).double(), torch.randn(5, 6, 2).double()
    found = parts.decompose_variance(mean, log_variance)
    weights = torch.distributions.Categorical(torch.ones(6, 2, 5).double())
    members = torch.distributions.Normal(mean.movedim(0, -1), (log_variance / 2).exp().movedim(0, -1))
    mixture = torch.distributions.MixtureSameFamily(weights, members)
    total = found.aleatoric + found.epistemic
    print("variance of the mixture", mixture.variance[0].tolist(), "sum of both", total[0].tolist())
    torch.testing.assert_close(total, mixture.variance, rtol=0, atol=1e-12)
    agreeing = parts.decompose_variance(mean[:1].expand(5, -1, -1), log_variance)
    assert agreeing.epistemic.abs().max() < 1e-15
    torch.testing.assert_close(agreeing.aleatoric, log_variance.exp().mean(0))


def test_uncertainty_is_of_elites_and_in_units_of_the_outputs():
    made = ensemble()
    made.elites.copy_(torch.tensor([1, 2, 3]))
    x = torch.randn(6, 3).double()
    found = made.uncertainty(x)
    mean, log_variance = made(x[None])
    torch.testing.assert_close(found.epistemic, mean[1:].var(0, correction=0))
    torch.testing.assert_close(found.aleatoric, log_variance[1:].exp().mean(0))
    standardized, _ = made.predict_standardized(x[None])
    torch.testing.assert_close(mean, standardized * made.output_std + made.output_mean)


def test_sampling_uses_the_elites_only_and_all_of_them():
    made = ensemble(members=5, elites=3)
    made.set_elites(torch.tensor([0.5, 0.1, 0.9, 0.2, 0.3]).double())
    assert made.elites.tolist() == [1, 3, 4]
    x = torch.randn(301, 3).double()
    y, member = made.sample(x, generator())
    print("rows of each member", member.bincount(minlength=5).tolist())
    assert sorted(member.bincount(minlength=5)[[1, 3, 4]].tolist()) == [99, 101, 101]
    with torch.no_grad():
        for layer in made.linear_layers():  # whoever asks the others gets NaN
            layer.weight[[0, 2]] = torch.nan
    again, same = made.sample(x, generator())
    assert torch.equal(again, y)
    assert torch.equal(same, member)


def test_sample_has_mean_and_variance_of_the_member_that_is_asked():
    """The noise is standard normal, row by row; whose Gaussian it is changes from call to call."""
    made = ensemble()
    x = torch.randn(1, 3).double().expand(6000, -1)
    y, member = made.sample(x, generator(3))
    mean, log_variance = made(x[:1][None])
    for k in made.elites.tolist():
        rows = y[member == k]
        z = (rows - mean[k]) / (log_variance[k] / 2).exp()
        print("member", k, "mean of z", z.mean(0).tolist(), "deviation", z.std(0).tolist())
        assert z.mean(0).abs().max() < 0.08
        assert (z.std(0) - 1).abs().max() < 0.06
    with torch.no_grad():  # rows whose outputs lie far from each other
        made.network[-1].weight.mul_(50)
        made.max_log_variance.fill_(-8.0)
    apart = torch.randn(40, 3).double()
    y, member = made.sample(apart, generator(4))
    mean, log_variance = made(apart[None])
    row = torch.arange(40)
    z = (y - mean[member, row]) / (log_variance[member, row] / 2).exp()
    assert z.abs().max() < 5  # of another row's mean or member it would not be
    assert not torch.equal(member, made.sample(apart, generator(5))[1])
    assert made.sample(apart[:1], generator())[0].shape == (1, 2)


def test_weights_begin_truncated_normal_and_biases_at_zero():
    torch.manual_seed(0)
    made = ProbabilisticEnsemble(25, 3, hidden=(400, 300), members=3, num_elites=2)
    for layer in made.linear_layers():
        std = 1 / (2 * math.sqrt(layer.in_features))
        # of a normal that is cut at two deviations: 1 - 2 · 2 φ(2) / (2 Φ(2) - 1)
        cut = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(2 / math.sqrt(2)))
        print("largest", layer.weight.abs().max().item() / std, "deviation", layer.weight.std().item() / std)
        assert layer.weight.abs().max() <= 2 * std
        assert layer.weight.std().item() == pytest.approx(cut * std, rel=0.03)
        assert not layer.bias.any()
        assert not torch.equal(layer.weight[0], layer.weight[1])


def test_holdout_shares_no_row_with_training():
    for rows, ratio, largest, count in ((50, 0.2, 100, 10), (50, 0.2, 4, 4), (3, 0.01, 9, 1)):
        train, holdout = parts.split_holdout(rows, ratio, largest, generator())
        assert len(holdout) == count
        assert sorted([*train.tolist(), *holdout.tolist()]) == list(range(rows))


def test_bootstraps_differ_and_shuffling_keeps_them():
    index = parts.bootstrap_indices(200, 3, generator())
    shares = [len(set(row.tolist())) / 200 for row in index]
    print("share of the rows that a member sees", shares)
    assert all(0.55 < share < 0.71 for share in shares)  # 1 - 1/e
    assert not torch.equal(index[0], index[1])
    shuffled = parts.shuffle_rows(index, generator(1))
    assert not torch.equal(shuffled, index)
    assert torch.equal(shuffled.sort(1).values, index.sort(1).values)
    assert not torch.equal(shuffled[0].argsort(), shuffled[1].argsort())


def test_best_members_keep_each_member_where_its_error_was_least():
    made = ensemble(members=3, elites=2)
    best = BestMembers(made)
    first = made.network[0].weight.detach().clone()
    best.record(torch.tensor([1.0, 1.0, 1.0]))
    with torch.no_grad():
        made.network[0].weight.add_(1)
    improved = best.record(torch.tensor([0.5, 0.995, 2.0]))  # half a percent is no improvement
    assert improved.tolist() == [True, False, False]
    assert best.epochs_since == 0
    with torch.no_grad():
        made.network[0].weight.add_(1)
    for count in (1, 2):
        best.record(torch.tensor([0.6, 1.0, torch.nan]))
        assert best.epochs_since == count
    errors = best.restore()
    assert errors.tolist() == [0.5, 1.0, 1.0]
    torch.testing.assert_close(
        made.network[0].weight, first + torch.tensor([1.0, 0, 0]).double()[:, None, None]
    )


def test_scales_are_of_the_rows_and_constants_stay():
    made = ensemble()
    x = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 2.5]]).double()
    made.fit_scales(x, torch.tensor([[0.0, 2.0], [4.0, 2.0]]).double())
    assert made.input_mean.tolist() == [2.0, 5.0, 2.25]
    assert made.input_std.tolist() == [1.0, 1.0, 0.25]
    assert made.output_std.tolist() == [2.0, 1.0]


def test_more_elites_than_members_are_refused():
    with pytest.raises(ValueError, match="4 elites of 3 members"):
        ProbabilisticEnsemble(2, 1, hidden=(3,), members=3, num_elites=4)
