"""TRPO: an update equals sb3-contrib's, stays within the trust region, and gives up where no length is good."""

import dataclasses

import pytest
import torch

from torchstone.engine.run import fit
from torchstone.errors import NotFinite
from torchstone.references.rl import convert_actor_critic
from torchstone.systems.reinforcement import trpo
from torchstone.tasks.rl import on_policy

SMOKE = dataclasses.replace(trpo.RECIPES["smoke"], device="cpu")


def first_batch(recipe):
    run = next(trpo.build(recipe))
    model, rollout = run.state["model"], next(run.stream)
    return run, model, on_policy.make_batch(model, rollout, recipe.gamma, recipe.gae_lambda), rollout


@pytest.mark.parametrize("data", ["CartPole-v1", "Pendulum-v1"])
def test_trpo_update_equals_sb3_contrib(data, monkeypatch):
    import sb3_contrib
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import RolloutBufferSamples

    recipe = dataclasses.replace(
        SMOKE, data=data, hidden=(32, 24), cg_damping=0.1, batch_size=512, value_epochs=5
    )
    run, model, batch, rollout = first_batch(recipe)
    algorithm = sb3_contrib.TRPO(
        "MlpPolicy",
        data,
        learning_rate=recipe.lr,
        batch_size=recipe.batch_size,
        n_steps=512,
        n_critic_updates=recipe.value_epochs,
        cg_max_steps=recipe.cg_steps,
        target_kl=recipe.target_kl,
        device="cpu",
        policy_kwargs={"net_arch": {"pi": [32, 24], "vf": [32, 24]}},
    )
    algorithm.set_logger(configure(None, []))
    theirs = dict(algorithm.policy.named_parameters())
    ours = model.state_dict()
    for name, p in theirs.items():
        key = next(iter(convert_actor_critic({name: p})))
        p.data.copy_(ours[key])
    samples = RolloutBufferSamples(
        batch.inputs.observation,
        batch.action if batch.action.dim() > 1 else batch.action[:, None],
        batch.value,
        batch.log_prob,
        batch.advantage,
        batch.returns,
    )
    monkeypatch.setattr(algorithm.rollout_buffer, "get", lambda *_, **__: iter([samples]))
    algorithm.rollout_buffer.values, algorithm.rollout_buffer.returns = (
        batch.value.numpy(),
        batch.returns.numpy(),
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    algorithm.train()
    metrics = run.update(rollout)
    after = convert_actor_critic({name: p.detach() for name, p in theirs.items()})
    change = max((model.state_dict()[n] - before[n]).abs().max().item() for n in after)
    difference = max((model.state_dict()[n] - after[n]).abs().max().item() for n in after)
    print(f"{data}: the update moved weights by {change:.2g}, the two are {difference:.2g} apart", metrics)
    assert change > 1e-2
    assert difference < 1e-5


def test_trpo_step_stays_in_trust_region_and_improves():
    recipe = dataclasses.replace(SMOKE, target_kl=0.02)
    _, model, batch, _ = first_batch(recipe)
    batch = batch.normalize_advantage()
    before = model.policy(batch.inputs.observation)
    metrics = trpo.update_policy(model, batch, recipe)
    after = model.policy(batch.inputs.observation)
    kl = torch.distributions.kl_divergence(
        *(torch.distributions.Categorical(logits=p.logits.detach()) for p in (before, after))
    ).mean()
    ratio = (after.log_prob(batch.action) - before.log_prob(batch.action)).exp()
    print("KL", kl.item(), "objective", (ratio * batch.advantage).mean().item(), metrics)
    assert metrics["kl"].item() == pytest.approx(kl.item(), rel=1e-4)
    assert 0.01 < kl.item() < 0.02
    assert (ratio * batch.advantage).mean().item() == pytest.approx(-metrics["loss"].item(), rel=1e-4)
    assert metrics["loss"] < -0.01


def test_trpo_shortens_step_until_divergence_is_below_delta(monkeypatch):
    """A step twice too long is shortened by 0.8^j."""
    _, model, batch, _ = first_batch(SMOKE)
    batch = batch.normalize_advantage()
    solve = trpo.conjugate_gradient
    parts = trpo.hessian_vector_product

    def flat_fisher(value, parameters, damping):  # whose product is a quarter of what it is
        product = parts(value, parameters, damping)
        return lambda v: product(v) / 4

    monkeypatch.setattr(trpo, "hessian_vector_product", flat_fisher)
    monkeypatch.setattr(trpo, "conjugate_gradient", solve)
    metrics = trpo.update_policy(model, batch, SMOKE)
    print(metrics)
    assert metrics["step_fraction"].item() in [pytest.approx(0.8**j) for j in range(2, 6)]
    assert 0 < metrics["kl"] < SMOKE.target_kl


def test_trpo_refuses_step_that_does_not_improve(monkeypatch):
    _, model, batch, _ = first_batch(SMOKE)
    batch = batch.normalize_advantage()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    monkeypatch.setattr(trpo, "conjugate_gradient", lambda *args: -args[1])  # downhill
    metrics = trpo.update_policy(model, batch, SMOKE)
    print(metrics)
    assert metrics["step_fraction"] == 0 == metrics["kl"]
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_trpo_value_trains_critic_alone():
    run, model, _, rollout = first_batch(dataclasses.replace(SMOKE, line_search_steps=0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    metrics = run.update(rollout)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    print("moved without a policy step", moved)
    assert moved == {name for name in before if name.startswith("critic.")}
    assert metrics["step_fraction"] == 0


def test_trpo_raises_where_objective_is_not_finite():
    _, model, batch, _ = first_batch(SMOKE)
    before = [p.detach().clone() for p in trpo.policy_parameters(model)]
    with pytest.raises(NotFinite, match="objective"):
        trpo.update_policy(model, batch._replace(advantage=batch.advantage * torch.inf), SMOKE)
    assert all(torch.equal(a, b) for a, b in zip(before, trpo.policy_parameters(model), strict=True))


def test_trpo_frames_share_a_cnn_that_the_value_does_not_train():
    model = trpo.VARIANTS["trpo_atari"].make()
    observation = torch.randint(256, (3, 4, 84, 84), dtype=torch.uint8)
    batch = on_policy.RolloutBatch(
        on_policy.PolicyInputs(observation), *(torch.zeros(3) for _ in range(4)), returns=torch.ones(3)
    )
    trpo.value_loss(model, batch)["loss"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    print("trained by the value", trained)
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("critic.")}
    assert len(trpo.policy_parameters(model)) == len(list(model.parameters())) - len(trained)


def test_trpo_pendulum_learns_a_continuous_policy(tmp_path):
    """Four updates: the value of the policy moves, and all of its numbers are finite."""
    recipe = dataclasses.replace(SMOKE, data="Pendulum-v1", total_timesteps=4 * 512, eval_episodes=1)
    run = next(trpo.build(recipe))
    log_std = run.state["model"].log_std.detach().clone()
    fit(run, tmp_path / "run", quiet=True)
    print("log σ", log_std.tolist(), run.state["model"].log_std.tolist())
    assert not torch.equal(log_std, run.state["model"].log_std)
    assert torch.isfinite(run.state["model"].log_std).all()
