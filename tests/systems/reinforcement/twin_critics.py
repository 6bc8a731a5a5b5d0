"""What the tests of TD3 and SAC share: stable-baselines3's algorithm on our minibatches, and an env that ends."""

import dataclasses

import gymnasium
import numpy as np
import torch

from torchstone.references.rl import convert_twin_critics
from torchstone.tasks.rl import off_policy


class Ends(gymnasium.Env):
    """Every step ends an episode: by termination if the action is positive, else by a time limit."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        is_terminated = bool(action[0] > 0)
        state = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return state, 1.0, is_terminated, not is_terminated, {}


class Counts(gymnasium.Env):
    """The state is the number of steps and of episodes so far; the third step ends an episode, by turns by
    termination and by a time limit."""

    observation_space = gymnasium.spaces.Box(0, 1e6, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    episode = 0

    def state(self):
        return np.array([self.steps, self.episode], dtype=np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.episode = 0, self.episode + 1
        return self.state(), {}

    def step(self, action):
        self.steps += 1
        is_end, is_terminated = self.steps == 3, self.episode % 2 == 0
        return self.state(), float(self.steps), is_end and is_terminated, is_end and not is_terminated, {}


def train_both(system, name, recipe, minibatch_seed=0):
    """Our update and stable-baselines3's from the same weights on the same minibatches.

    Returns:
        By kind of network (online, target): ours before, ours after, theirs after, as state dicts.
    """
    import stable_baselines3
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    run = next(system.build(recipe))
    model = run.state["model"]
    options = {"policy_delay": recipe.policy_delay} if name == "TD3" else {"ent_coef": "auto"}
    algorithm = getattr(stable_baselines3, name)(
        "MlpPolicy",
        "Pendulum-v1",
        learning_rate=recipe.lr,
        batch_size=recipe.batch_size,
        tau=recipe.tau,
        gamma=recipe.gamma,
        buffer_size=1000,
        device="cpu",
        policy_kwargs={"net_arch": list(recipe.hidden)},
        **options,
    )
    algorithm.set_logger(configure(None, []))
    policy, targets = algorithm.policy, algorithm.policy.critic_target
    actor_target = getattr(policy, "actor_target", None)

    def ours_of(network):
        return {key: value.detach().clone() for key, value in network.state_dict().items()}

    def theirs_of(actor, critic):
        parts = {f"critic.{k}": v.detach().clone() for k, v in critic.named_parameters()}
        if actor is not None:
            parts |= {f"actor.{k}": v.detach().clone() for k, v in actor.named_parameters()}
        return convert_twin_critics(parts)

    before = ours_of(model)
    for actor, critic in ((policy.actor, policy.critic), (actor_target, targets)):
        with torch.no_grad():
            parameters = [(f"critic.{k}", p) for k, p in critic.named_parameters()]
            if actor is not None:
                parameters += [(f"actor.{k}", p) for k, p in actor.named_parameters()]
            for key, p in parameters:
                twin = key.replace(".qf1.", ".qf0.")
                own_key = next(iter(convert_twin_critics({twin: p, twin.replace(".qf0.", ".qf1."): p})))
                own = before[own_key]
                if key.startswith("critic."):
                    own = own[int(".qf1." in key)]
                    own = own.T if key.endswith("weight") else own[0]
                p.copy_(own)
    batch = next(run.stream)
    assert (batch.transitions.discount > 0).all()  # Pendulum never terminates
    minibatches = off_policy.minibatches(batch, recipe.batch_size)

    def sample(*_, **__):
        t = next(minibatches)[0]
        done = torch.zeros(len(t.reward), 1)
        return ReplayBufferSamples(t.observation, t.action, t.next_observation, done, t.reward[:, None])

    algorithm.replay_buffer.sample = sample
    torch.manual_seed(minibatch_seed)
    algorithm.train(gradient_steps=recipe.gradient_steps, batch_size=recipe.batch_size)
    torch.manual_seed(minibatch_seed)
    metrics = run.update(batch)
    if name == "TD3":
        target = ours_of(run.state["target_network"])
    else:
        target = {f"critics.{key}": value for key, value in ours_of(run.state["target_critics"]).items()}
    pairs = {
        "online": (before, ours_of(model), theirs_of(policy.actor, policy.critic)),
        "target": (before, target, theirs_of(actor_target, targets)),
    }
    return pairs, algorithm, metrics


def compare(pairs):
    """The largest change of each kind of network, and the largest difference from theirs."""
    for kind, (before, ours, theirs) in pairs.items():
        change = max((ours[key] - before[key]).abs().max().item() for key in theirs)
        difference = max((ours[key] - theirs[key]).abs().max().item() for key in theirs)
        print(f"{kind}: updates moved weights by {change:.2g}, the two are {difference:.2g} apart")
        assert change > 1e-3
        assert difference < 1e-5


def one_minibatch(system, recipe):
    """A run on `Ends`, and transitions of both kinds of ends."""
    recipe = dataclasses.replace(
        recipe, data="systems.reinforcement.twin_critics:Ends", learning_starts=64, gradient_steps=1
    )
    run = next(system.build(recipe))
    transitions = next(run.stream).transitions
    is_terminated = transitions.action[:, 0] > 0
    assert is_terminated.any()
    assert not is_terminated.all()
    return run, transitions, is_terminated
