"""World Models: actions, the LSTM step by step, dreams and their temperature, and a controller of the world."""

import dataclasses
import json

import pytest
import torch

import torchstone as ts
from torchstone import systems
from torchstone.systems.planning import world_models
from torchstone.tasks.rl.world_model import LatentBatch
from torchstone.verify import verify

SMALL = {
    "latent_dim": 3,
    "hidden": 5,
    "components": 2,
    "observation_shape": (3, 8, 8),
    "channels": (4,),
    "kernels": (8,),
}
SMALL |= {"num_initial": 6}


def model(**fields):
    torch.manual_seed(0)
    made = world_models.make_world_model(**{**SMALL, **fields})
    for weight in made.controller.parameters():
        torch.nn.init.normal_(weight)
    if made.config.has_end:
        with torch.no_grad():  # most steps end no dream, and it depends on the state
            made.mdn_rnn.head.weight[-1] *= 20
            made.mdn_rnn.head.bias[-1] = -3
    made.initial_mean.normal_(), made.initial_logvar.fill_(-1.0)
    return made


@pytest.mark.sweep
def test_every_reference_case_agrees():
    checks = verify(systems.find("world_models")[0])
    assert all(check.passed for check in checks)
    assert len(checks) == 6 + 3 * 11


def test_actions_are_thirds():
    """-1 to 1 in thirds: left, stay, right (section 4 of the paper)."""
    made = model()
    action = torch.tensor([[-1.0], [-0.34], [-0.32], [0.0], [0.32], [0.34], [1.0]])
    seen_by_rnn = made.discretize(action)
    assert seen_by_rnn[:, 0].tolist() == [-1, -1, 0, 0, 0, 1, 1]
    assert made.env_action(seen_by_rnn).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert model(num_actions=2).env_action(model(num_actions=2).discretize(action)).tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        1,
    ]


def test_continuous_actions_are_stretched_to_their_bounds():
    made = model(num_actions=3, continuous=True, low=(-1, 0, 0), high=(1, 1, 2), has_end=False, has_bias=True)
    action = torch.tensor([[-1.0, -1.0, 0.0], [1.0, 0.5, 1.0]])
    assert torch.equal(made.discretize(action), action)
    assert made.env_action(action).tolist() == [[-1, 0, 1], [1, 0.75, 2]]


@pytest.mark.parametrize("has_end", [False, True])
def test_steps_are_the_sequence(has_end):
    rnn = model(has_end=has_end).mdn_rnn
    z, action, restart = torch.randn(2, 6, 3), torch.randn(2, 6, 1), (torch.rand(2, 6) < 0.3).float()
    whole = rnn(z, action, restart)
    state = rnn.initial_state(2)
    for t in range(6):
        state = rnn.step(z[:, t], action[:, t], restart[:, t], state)
        one = rnn.predict(state[0][0])
        for a, b in zip(one.z, whole.z, strict=True):
            assert torch.allclose(a, b[:, t], atol=1e-6)
        if has_end:
            assert torch.allclose(one.end, whole.end[:, t], atol=1e-6)


def test_the_frame_after_an_end_is_not_predicted():
    rnn = model().mdn_rnn
    columns = [
        torch.randn(2, 5, 3),
        torch.randn(2, 4, 1),
        torch.zeros(2, 4),
        torch.ones(2, 4),
        torch.zeros(2, 4),
    ]
    columns[3][0, -1] = 0.0
    batch = LatentBatch(*columns)
    other = batch.z.clone()
    other[0, -1] = 9.0
    assert torch.equal(
        world_models.rnn_loss(rnn, batch)["nll"], world_models.rnn_loss(rnn, batch._replace(z=other))["nll"]
    )
    other[1, -1] = 9.0
    assert not torch.equal(
        world_models.rnn_loss(rnn, batch)["nll"], world_models.rnn_loss(rnn, batch._replace(z=other))["nll"]
    )


def test_acting_takes_memory_and_restart_flag_along():
    """`greedy` is V, C and M by hand, and a new episode begins with the flag and no memory."""
    made = model().eval()
    frames = torch.randint(256, (3, 1, 3, 8, 8), dtype=torch.uint8)
    state = made.initial_state(1)
    memory = made.mdn_rnn.initial_state(1)
    with torch.no_grad():
        for t in range(3):
            action, state = made.greedy(frames[t], None, state)
            z = made.vae.encode(frames[t] / 255)[0]
            own = made.discretize(made.controller(torch.cat([z, memory[0][0], memory[1][0]], 1)).tanh())
            memory = made.mdn_rnn.step(z, own, torch.tensor([float(t == 0)]), memory)
            assert torch.equal(action, made.env_action(own))
            assert torch.allclose(state[0], memory[0], atol=1e-6)


def dream(made, candidates, seed=0, **options):
    options = {"rollouts": 5, "temperature": 1.0, "limit": 40, **options}
    return world_models.dream(made, candidates, generator=torch.Generator().manual_seed(seed), **options)


def test_a_dream_is_step_by_step_and_the_same_for_all():
    """Against a loop over single dreams; equal candidates live equally long in a batch of others."""
    made = model()
    candidates = torch.randn(4, len(made.controller_weights()))
    candidates[2] = candidates[0]
    lives = dream(made, candidates)
    assert torch.equal(lives[2], lives[0])
    assert len(lives.unique()) > 4
    assert lives.min() >= 1
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(6, (5,), generator=generator)
    z = made.initial_mean[first] + (made.initial_logvar[first] / 2).exp() * torch.randn(
        5, 3, generator=generator
    )
    made.set_controller(candidates[1])
    steps, state, restart = torch.full((5,), 40.0), made.mdn_rnn.initial_state(5), torch.ones(5)
    with torch.no_grad():
        for t in range(1, 41):
            state = made.mdn_rnn.step(z, made.control(z, state), restart, state)
            prediction = made.mdn_rnn.predict(state[0][0])
            uniform, normal = torch.rand(5, 4, generator=generator), torch.randn(5, 3, generator=generator)
            z, restart = prediction.z.sample(uniform[:, :3], normal), torch.zeros(5)
            ended = (uniform[:, 3] < prediction.end.sigmoid()) & (steps == 40)
            steps[ended] = float(t)
    # dreams of one candidate alone: the same noise as beside others, until all of them have ended
    assert torch.equal(dream(made, candidates[1:2])[0], steps)


def test_the_temperature_reaches_the_dream():
    made = model()
    made.mdn_rnn.head.bias.data[-1] = -30
    z = torch.randn(1, 3)
    cold, warm = (
        made.imagine(z, 60, temperature, torch.Generator().manual_seed(3)) for temperature in (0.01, 2.0)
    )
    assert torch.equal(cold[0], warm[0])
    n = min(len(cold), len(warm))
    assert not torch.equal(cold[1:n], warm[1:n])
    made.mdn_rnn.head.bias.data[-1] = -3
    lives = [dream(made, made.controller_weights()[None], temperature=t, rollouts=64) for t in (0.1, 3.0)]
    assert not torch.equal(*lives)


def test_a_controller_of_the_world(tmp_path):
    """The same stages, and candidates that play the environment itself."""
    fields = {"episodes": 12, "frames": 80, "vae_steps": 4, "rnn_steps": 4, "steps": 3, "eval_episodes": 10}
    fields |= {"population": 4, "rollouts": 2, "seq_len": 8, "controller_env": "world", "eval_dreams": 2}
    run = ts.train("world_models/smoke", out=tmp_path / "run", quiet=True, device="cpu", **fields)
    metrics = run.results
    print(metrics)
    assert run.best_metric == "return"
    assert {"test/return", "test/dream_return", "test/nll", "test/memoryless_nll"} <= metrics.keys()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "population_return" in row]
    assert len(rows) == 3
    assert all(row["population_best"] >= row["population_return"] > 0 for row in rows)


def test_only_what_a_stage_trains_changes():
    recipe = dataclasses.replace(
        world_models.RECIPES["smoke"],
        device="cpu",
        episodes=12,
        frames=80,
        seq_len=8,
        population=4,
        rollouts=2,
    )
    parts = ("vae", "mdn_rnn", "controller")
    for run, trained in zip(world_models.build(recipe), parts, strict=True):
        whole = run.state["model"]
        before = {
            name: torch.nn.utils.parameters_to_vector(getattr(whole, name).parameters()).clone()
            for name in parts
        }
        for _ in range(2):
            run.update(next(run.stream))
        after = {
            name: torch.nn.utils.parameters_to_vector(getattr(whole, name).parameters()) for name in parts
        }
        assert [name for name in parts if not torch.equal(before[name], after[name])] == [trained]
