"""stable-baselines3's networks, which our agents' are compared with."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from torchstone.parts.facts import ParityCase
from torchstone.parts.optional_imports import import_optional
from torchstone.references import OutputAdapter


def actor_critic_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's `ActorCriticPolicy`: discrete and continuous actions, and one over image frames."""
    import_optional("stable_baselines3")
    import gymnasium
    import numpy as np
    from stable_baselines3.common import policies

    vector = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    frames = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    discrete, continuous = gymnasium.spaces.Discrete(2), gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    separate: dict[str, Any] = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    mlp_policy, cnn_policy = policies.ActorCriticPolicy, policies.ActorCriticCnnPolicy
    cases: list[tuple[Any, Any, Any, dict[str, Any]]] = [
        (mlp_policy, vector, discrete, separate),
        (mlp_policy, vector, continuous, separate),
        (cnn_policy, frames, gymnasium.spaces.Discrete(6), {}),
    ]
    for policy, observation, action, options in cases:
        torch.manual_seed(seed)
        theirs = policy(observation, action, lambda _: 1e-3, **options)
        is_continuous = action is continuous
        outputs = int(action.shape[0] if is_continuous else action.n)
        net = ours(observation.shape, outputs, continuous=is_continuous)
        net.load_state_dict(convert_actor_critic(dict(theirs.named_parameters())))
        x = _observations(observation.shape, seed)
        label = "frames" if net.is_image else "continuous" if is_continuous else "discrete"
        yield ParityCase(net, OutputAdapter(theirs, _policy_and_value), x, _convert_adapter, label=label)


def q_network_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's Q-networks over vectors and over image frames."""
    import_optional("stable_baselines3")
    import gymnasium
    import numpy as np
    from stable_baselines3.dqn.policies import CnnPolicy, MlpPolicy

    vector = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    frames = gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)
    for policy, observation, num_actions in ((MlpPolicy, vector, 2), (CnnPolicy, frames, 6)):
        torch.manual_seed(seed)
        options: dict[str, Any] = {} if observation is frames else {"net_arch": [256, 256]}
        action = gymnasium.spaces.Discrete(num_actions)
        theirs = policy(observation, action, lambda _: 1e-3, **options).q_net
        net = _copy_weights(ours(observation.shape, num_actions), theirs)
        x = _observations(observation.shape, seed)
        yield ParityCase(net, theirs, x, label="frames" if observation is frames else "vectors")


def ddpg_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's deterministic actor and its critic: the action, and Q of it."""
    import_optional("stable_baselines3")
    import gymnasium
    import numpy as np
    from stable_baselines3.td3.policies import MlpPolicy

    observation = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float32)
    action = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    torch.manual_seed(seed)
    policy = MlpPolicy(observation, action, lambda _: 1e-3, net_arch=[256, 256], n_critics=1)
    theirs = nn.ModuleList([policy.actor, policy.critic])
    net = _copy_weights(ours((11,), 3), theirs)
    x = _observations((11,), seed)
    yield ParityCase(net, OutputAdapter(theirs, _action_and_q), x, label="actor and critic")


def td3_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's deterministic actor and its two critics: the action, and both Q of it."""
    policies: Any = import_optional("stable_baselines3.td3.policies")
    yield _twin_critics_case(ours, policies.MlpPolicy, _action_and_both_q, seed)


def sac_cases(ours: type[nn.Module], seed: int = 0) -> Iterator[ParityCase]:
    """stable-baselines3's squashed Gaussian actor and two critics: mean, log σ, both Q of tanh(mean)."""
    policies: Any = import_optional("stable_baselines3.sac.policies")
    yield _twin_critics_case(ours, policies.MlpPolicy, _gaussian_and_both_q, seed)


def _twin_critics_case(ours: Any, policy_class: Any, outputs: Callable[..., Any], seed: int) -> ParityCase:
    import gymnasium
    import numpy as np

    observation = gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float32)
    action = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    torch.manual_seed(seed)
    policy = policy_class(observation, action, lambda _: 1e-3, net_arch=[256, 256])
    theirs = nn.ModuleDict({"actor": policy.actor, "critic": policy.critic})
    net = ours((11,), 3)
    net.load_state_dict({**net.state_dict(), **convert_twin_critics(dict(theirs.named_parameters()))})
    adapter = OutputAdapter(theirs, outputs)
    return ParityCase(net, adapter, _observations((11,), seed), _convert_twin_adapter, label="vectors")


HEADS = {"mu": "mean_head", "log_std": "log_std_head"}


def convert_twin_critics(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """From stable-baselines3's `actor.*`, `critic.qf0.*` and `critic.qf1.*` to our stacked critics."""
    converted = {}
    for name, tensor in tensors.items():
        if name.startswith("actor.mu.") and ".latent_pi." not in name and name.count(".") > 2:
            converted[name.replace("actor.mu.", "actor.0.")] = tensor  # TD3: one network, and tanh
        elif name.startswith("actor.latent_pi."):
            converted[name.replace("actor.latent_pi.", "trunk.")] = tensor
        elif name.startswith(("actor.mu.", "actor.log_std.")):
            head, end = name.removeprefix("actor.").split(".")
            converted[f"{HEADS[head]}.{end}"] = tensor
        elif name.startswith("critic.qf0."):
            pair = torch.stack([tensor, tensors[name.replace(".qf0.", ".qf1.")]])
            is_weight = name.endswith("weight")
            converted[name.replace("critic.qf0.", "critics.")] = pair.mT if is_weight else pair[:, None]
    return converted


def _convert_twin_adapter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return convert_twin_critics({name.removeprefix("model."): tensor for name, tensor in tensors.items()})


def _observations(shape: tuple[int, ...], seed: int) -> Tensor:
    """Image frames or vectors, by the shape of one."""
    generator = torch.Generator().manual_seed(seed)
    if len(shape) > 1:
        return torch.randint(256, (3, *shape), generator=generator, dtype=torch.uint8)
    return torch.randn(16, *shape, generator=generator)


def _action_and_q(nets: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    action = nets[0](x)
    return action, nets[1](x, action)[0][:, 0]


def _action_and_both_q(nets: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    action = nets["actor"](x)
    return action, torch.stack([q[:, 0] for q in nets["critic"](x, action)])


def _gaussian_and_both_q(nets: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, log_std, _ = nets["actor"].get_action_dist_params(x)
    return mean, log_std, torch.stack([q[:, 0] for q in nets["critic"](x, mean.tanh())])


@torch.no_grad()
def _copy_weights(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """Copy their parameters into ours, in their order."""
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        own.copy_(other)
    return ours


def convert_actor_critic(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """From the names of stable-baselines3's `ActorCriticPolicy` to those of our `ActorCritic`."""
    prefixes = {"mlp_extractor.policy_net.": "actor.", "mlp_extractor.value_net.": "critic."}
    prefixes |= {"features_extractor.cnn.": "body.", "features_extractor.linear.0": "body.7"}
    last = 0 if any(name.startswith("features_extractor.") for name in tensors) else 4
    prefixes |= {"action_net.": f"actor.{last}.", "value_net.": f"critic.{last}."}
    converted = {}
    for name, tensor in tensors.items():
        old = next((theirs for theirs in prefixes if name.startswith(theirs)), "")
        converted[prefixes.get(old, "") + name.removeprefix(old)] = tensor
    return converted


def _convert_adapter(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return convert_actor_critic({name.removeprefix("model."): tensor for name, tensor in tensors.items()})


def _policy_and_value(net: Any, x: Tensor) -> tuple[Tensor, ...]:
    policy = net.action_net(net.mlp_extractor.forward_actor(net.extract_features(x)))
    value = net.predict_values(x)[:, 0]
    log_std = getattr(net, "log_std", None)
    return (policy, value) if log_std is None else (policy, log_std, value)
