"""What the three stages of a world model learn from, and the films; each stage resumes to the bit."""

import dataclasses

import pytest
import torch
from toy_systems import Crash, cut, fingerprint, rows, saved

import torchstone as ts
from torchstone.errors import BadInput
from torchstone.systems.planning import world_models
from torchstone.tasks.rl import world_model as task
from torchstone.tasks.rl.evaluate import VALIDATION, PolicyEvaluator

SMALL = {"episodes": 12, "frames": 80, "vae_steps": 5, "rnn_steps": 5, "steps": 5, "eval_episodes": 10}
SMALL |= {
    "rnn_batch_size": 4,
    "seq_len": 8,
    "population": 4,
    "rollouts": 2,
    "dream_steps": 12,
    "eval_dreams": 4,
}
SMOKE = dataclasses.replace(world_models.RECIPES["smoke"], device="cpu", **SMALL)


@pytest.fixture(name="setup", scope="module")
def _setup():
    torch.manual_seed(0)
    config = task.model_config(SMOKE, (3, 8, 8), "world_models")
    model = world_models.VARIANTS["world_models_small"].make(**config)
    return task.prepare(model, SMOKE, config)


def test_latents_say_what_happened_between_frames(setup):
    latents = task.LatentBatches(setup, 0).train
    episodes = list(setup.play(range(SMOKE.episodes)))
    ends = torch.tensor([len(e.frames) for e in episodes]).cumsum(0)
    assert len(latents.mean) == ends[-1]
    begins = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
    assert torch.equal(latents.restart.nonzero()[:, 0], begins)
    assert torch.equal((latents.goes_on == 0).nonzero()[:, 0], ends - 1)
    assert torch.equal(latents.end.nonzero()[:, 0], ends - 1)  # none of these episodes met its time limit
    with torch.no_grad():
        mean, logvar = setup.model.vae.encode(episodes[3].frames.float() / 255)
    assert torch.allclose(latents.mean[begins[3] : ends[3]], mean, atol=1e-6)
    assert torch.allclose(latents.logvar[begins[3] : ends[3]], logvar, atol=1e-6)
    assert torch.equal(latents.action[begins[3] : ends[3]], episodes[3].actions)
    assert torch.allclose(setup.model.initial_mean[3], mean[0], atol=1e-6)


def test_a_time_limit_is_not_learned_as_an_end():
    recipe = dataclasses.replace(SMOKE, max_episode_steps=2)
    config = task.model_config(recipe, (3, 8, 8), "world_models")
    model = world_models.VARIANTS["world_models_small"].make(**config)
    latents = task.LatentBatches(task.prepare(model, recipe, config), 0).train
    assert latents.end.sum() == 0
    assert (latents.goes_on == 0).sum() == recipe.episodes


def test_latents_are_sampled_anew_for_each_batch(setup):
    """Of the same frames: another z, around μ with deviation σ."""
    latents, n = task.LatentBatches(setup, 0).train, 4000
    starts = torch.full((n,), 3)
    noise = torch.randn(n, 5, 8)
    z = latents.sequences(starts, 4, noise).z
    assert torch.allclose(z, latents.mean[3:8] + (latents.logvar[3:8] / 2).exp() * noise, atol=1e-6)
    stream = task.LatentBatches(setup, 0)
    stream.__dict__["train"] = task.Latents(*(x[:9] for x in latents))  # one place to begin at
    first, second = next(stream), next(stream)
    assert torch.equal(first.action, second.action)
    assert (first.z != second.z).all()


def test_streams_follow_from_seed_and_position(setup):
    for make in (task.FrameBatches, task.LatentBatches):
        one, other, third = make(setup, 0), make(setup, 0), make(setup, 1)
        next(one), next(one)
        other.load_state_dict(one.state_dict())
        a, b, c = (next(each) for each in (one, other, third))
        assert all(map(torch.equal, a, b))
        assert not torch.equal(a[0], c[0])


def test_candidates_of_the_controller_obey_the_seed(setup):
    def candidates(seed):
        of_seed = dataclasses.replace(setup, recipe=dataclasses.replace(SMOKE, seed=seed))
        return next(iter(task.train_controller(of_seed, lives=torch.zeros, earlier={}).stream))[1]

    assert torch.equal(candidates(0), candidates(0))
    assert not torch.equal(candidates(0), candidates(1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "CartPole-v1"}, r"CartPole-v1 has no pixels \(observations of \(4,\)\)"),
        ({"data": "TakeCover-v0"}, r"takes \(3, 8, 8\): --wrappers ResizeFrames:size=8"),
        ({"data": "Taxi-v4"}, "no pixels"),
        ({"population": 1}, "at least 2 candidates"),
        ({"variant": "world_models_car", "data": "TakeCover-v0"}, "--controller-env world"),
        ({"seq_len": 10_000}, "fewer than a sequence of 10000 steps needs"),
    ],
)
def test_bad_recipes_are_refused_with_one_line(changes, message):
    def begin():
        for run in world_models.build(dataclasses.replace(SMOKE, **changes)):
            next(run.stream)

    with pytest.raises(BadInput, match=message) as refused:
        begin()
    assert "\n" not in str(refused.value)


def test_several_episodes_of_an_env_count():
    """As many of each env, however short: whoever counted the first ones to end would count the short ones."""

    class Still(torch.nn.Module):
        def greedy(self, x):
            return torch.ones(len(x), dtype=torch.int64)

    options = ("Dodge-v0", (), None)
    apart = PolicyEvaluator(*options, 10, "cpu", num_envs=3)
    returns, again = apart(Still(), VALIDATION), apart(Still(), VALIDATION)
    assert returns == again
    assert len(returns) == 10
    first = PolicyEvaluator(*options, 3, "cpu")(Still(), VALIDATION)
    assert [returns[0], returns[4], returns[7]] == first


@pytest.fixture(name="expected", scope="module")
def _expected(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "run"
    run = ts.train("world_models/smoke", out=out, quiet=True, intervals=CLOCK, device="cpu", **SMALL)
    return fingerprint(run), rows(out), saved(out), out


CLOCK = {"log": 1, "evaluate": 5, "save": 2}


@pytest.mark.parametrize(("stage", "after"), [(0, 3), (1, 3), (2, 0), (2, 3)])
def test_each_stage_resumes_to_the_bit(stage, after, tmp_path, monkeypatch, expected):
    build = world_models.build

    def crashing(recipe):
        for index, run in enumerate(build(recipe)):
            yield cut(run, after) if index == stage else run

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(world_models, "build", crashing)
        with pytest.raises(Crash):
            ts.train("world_models/smoke", out=out, quiet=True, intervals=CLOCK, device="cpu", **SMALL)
    torch.manual_seed(99)
    run = ts.resume(out, quiet=True)
    assert fingerprint(run) == expected[0]
    assert rows(out) == expected[1]
    assert saved(out) == expected[2]


def test_a_film_shows_reality_its_code_and_a_dream(expected, tmp_path):
    out = expected[3]
    model = ts.load(out)
    frames, total = task.real_episode(model, model.metadata["env"], 5)
    assert len(frames) == total
    panels = task.film(model, frames, 1.0, torch.Generator().manual_seed(0))
    assert [p.shape for p in panels] == [frames.shape] * 3
    assert torch.equal(panels[0], frames)
    assert torch.equal(panels[1][0], panels[2][0])  # the dream begins with what V sees of the first frame
    returns = ts.play(out, episodes=3, video=tmp_path / "dream.gif", seed=5)
    assert len(returns) == 3
    assert returns[0] == total
    from PIL import Image

    with Image.open(tmp_path / "dream.gif") as picture:
        assert picture.size == (3 * 8 * task.ZOOM, 8 * task.ZOOM)


def test_a_video_that_cannot_be_written_is_one_line(expected, tmp_path, capsys, monkeypatch):
    def broken(*args):
        raise RuntimeError("no such codec")

    monkeypatch.setattr(task.player, "write_video", broken)
    assert len(ts.play(expected[3], episodes=1, video=tmp_path / "dream.gif")) == 1
    assert "no such codec" in capsys.readouterr().err
