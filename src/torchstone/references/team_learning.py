"""What teams and learners of communication are compared with: their equations in plain loops, agent by
agent and gate by gate."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchstone.parts.facts import ParityCase
from torchstone.parts.rl.iterated_games import STATES

# agents' observations and actions, width; agents that differ among them
TEAMS = (((18, 18, 18), (5, 5, 5), 64), ((3, 11), (3, 5), 32), ((4, 7, 2, 5), (2, 6, 3, 3), 16))


def _parameters(ours: nn.Module) -> nn.ParameterList:
    """Fresh parameters of the same shapes, in their order."""
    return nn.ParameterList(nn.Parameter(p.detach().clone()) for p in ours.parameters())


def _gru_step(x: Tensor, h: Tensor, weights: list[Tensor]) -> Tensor:
    """Cho et al. 2014, with torch's reset gate after the product."""
    w_in, w_state, b_in, b_state = weights
    inputs, states = x @ w_in.T + b_in, h @ w_state.T + b_state
    (r_in, z_in, n_in), (r_state, z_state, n_state) = inputs.chunk(3, -1), states.chunk(3, -1)
    r, z = torch.sigmoid(r_in + r_state), torch.sigmoid(z_in + z_state)
    return (1 - z) * torch.tanh(n_in + r * n_state) + z * h


class _Lookup(nn.Module):
    """LOLA's logits of one-hot states, pair by pair."""

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.tensors = _parameters(ours)

    def forward(self, state: Tensor) -> Tensor:
        (logits,) = self.tensors
        rows = []
        for row in state:
            pairs = [[(player * row).sum() for player in pair] for pair in logits]
            rows.append(torch.stack([torch.stack(pair) for pair in pairs]))
        return torch.stack(rows)


def plain_values(logits: Tensor, payoff: Tensor, gamma: float) -> Tensor:
    """The discounted sum of payoffs of one pair, step after step until it changes no more.

    Args:
        logits: `(player, state)`.
    """
    first, second = torch.sigmoid(logits)
    value, distribution = torch.zeros(2, dtype=logits.dtype), None
    transition = torch.stack([_joint(first[s], second[s]) for s in range(1, STATES)])
    for t in range(math.ceil(math.log(1e-14) / math.log(gamma))):
        distribution = _joint(first[0], second[0]) if distribution is None else distribution @ transition
        value = value + gamma**t * torch.stack([(distribution * payoff[i].flatten()).sum() for i in range(2)])
    return value


def _joint(p: Tensor, q: Tensor) -> Tensor:
    return torch.stack([p * q, p * (1 - q), (1 - p) * q, (1 - p) * (1 - q)])


def plain_lola_gradient(logits: Tensor, payoff: Tensor, gamma: float, lookahead: float) -> Tensor:
    """Equation 4.5 of one pair, by the matrix of second derivatives: ∇_i V_i + η (∇_i ∇_j V_j)ᵀ ∇_j V_i."""

    def value(player: int) -> Callable[[Tensor], Tensor]:
        return lambda flat: plain_values(flat.view(2, STATES), payoff, gamma)[player]

    flat = logits.detach().flatten()
    first = [torch.autograd.functional.jacobian(value(player), flat) for player in range(2)]
    second = [torch.autograd.functional.hessian(value(player), flat) for player in range(2)]
    part = [slice(0, STATES), slice(STATES, 2 * STATES)]
    rows = []
    for i, j in ((0, 1), (1, 0)):
        mixed = second[j][part[i], part[j]]
        rows.append(first[i][part[i]] + lookahead * mixed @ first[i][part[j]])
    return torch.stack(rows)


def lola_cases(ours: Any, gradients: Callable[..., Any], seed: int = 0) -> Iterator[ParityCase]:
    for pairs in (1, 3):
        torch.manual_seed(seed)
        model = ours(pairs).double()
        state = torch.randn(6, STATES, dtype=torch.double)
        yield ParityCase(model, _Lookup(model), state, optimizer=torch.optim.AdamW, label=f"{pairs} pairs")
    payoff = torch.randn(2, 2, 2, dtype=torch.double)  # asymmetric, so that positions matter
    logits = torch.randn(1, 2, STATES, dtype=torch.double)

    def found(logits: Tensor) -> Tensor:
        return gradients(logits, payoff, 0.6, 0.7)[0]

    def expected(logits: Tensor) -> Tensor:
        return torch.stack([plain_lola_gradient(each, payoff, 0.6, 0.7) for each in logits])

    yield ParityCase(found, expected, logits, label="gradients of a random asymmetric game")


class _RecurrentTeam(nn.Module):
    """QMIX in plain loops over agents and steps."""

    def __init__(self, ours: Any, actions: int, mask: Tensor):
        super().__init__()
        self.names = [name for name, _ in ours.named_parameters()]
        self.tensors, self.actions, self.mask = _parameters(ours), actions, mask
        self.embed = getattr(ours.mixer, "embed", 0)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        p = dict(zip(self.names, self.tensors, strict=True))
        batch, time, agents, _ = observation.shape
        gru = [p[f"gru.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        columns = []
        for agent in range(agents):
            h, steps = observation.new_zeros(batch, gru[1].shape[1]), []
            number = F.one_hot(torch.tensor(agent), agents).to(observation.dtype).expand(batch, -1)
            for t in range(time):
                none = observation.new_zeros(batch, self.actions)
                x = torch.cat([observation[:, t, agent], none, number], 1)
                x = torch.relu(x @ p["encoder.weight"].T + p["encoder.bias"])
                h = _gru_step(x, h, gru)
                steps.append(h @ p["head.weight"].T + p["head.bias"])
            columns.append(torch.stack(steps, 1))
        q = torch.stack(columns, 2)
        best = torch.stack([q[:, :, a, self.mask[a]].amax(2) for a in range(agents)], 2)
        state = torch.cat([observation.flatten(2), torch.ones_like(observation[..., 0])], 2)
        return q, self._mix(best, state, p)

    def _mix(self, best: Tensor, state: Tensor, p: dict[str, Tensor]) -> Tensor:
        if not self.embed:
            return best.sum(2)

        def output_of(name: str) -> Tensor:
            if f"{name}.weight" in p:
                return state @ p[f"{name}.weight"].T + p[f"{name}.bias"]
            hidden = torch.relu(state @ p[f"{name}.0.weight"].T + p[f"{name}.0.bias"])
            return hidden @ p[f"{name}.2.weight"].T + p[f"{name}.2.bias"]

        w1 = output_of("mixer.hyper_w1").abs().unflatten(2, (best.shape[2], self.embed))
        w2 = output_of("mixer.hyper_w2").abs()
        hidden = torch.einsum("bta,btae->bte", best, w1) + output_of("mixer.hyper_b1")
        hidden = torch.where(hidden > 0, hidden, hidden.exp() - 1)
        return torch.einsum("bte,bte->bt", hidden, w2) + output_of("mixer.hyper_b2")[..., 0]


def qmix_cases(ours: Any, seed: int = 0) -> Iterator[ParityCase]:
    for mixing in ("qmix", "vdn"):
        for sizes, counts, width in TEAMS:
            torch.manual_seed(seed)
            model = ours(sizes, counts, hidden=width, embed=8, hypernet=12, mixing=mixing).double()
            theirs = _RecurrentTeam(model, max(counts), model.action_mask)
            x = torch.randn(2, 5, len(sizes), max(sizes), dtype=torch.double)
            yield ParityCase(
                model, theirs, x, optimizer=torch.optim.AdamW, label=f"{mixing}, {len(sizes)} agents"
            )


class _PolicyAndValue(nn.Module):
    """MAPPO's networks, agent by agent."""

    def __init__(self, ours: Any):
        super().__init__()
        self.tensors, self.layers, self.central = (
            _parameters(ours),
            len(ours.policy_layers) // 2 + 1,
            ours.central,
        )

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        agents = observation.shape[1]
        weights = list(self.tensors)
        policy, value = weights[: 2 * self.layers], weights[2 * self.layers :]
        state = torch.cat([observation.flatten(1), torch.ones_like(observation[..., 0])], 1)
        logits, values = [], []
        for agent in range(agents):
            number = F.one_hot(torch.tensor(agent), agents).to(observation.dtype).expand(len(observation), -1)
            inputs = state if self.central else observation[:, agent]
            logits.append(_relu_layers(torch.cat([observation[:, agent], number], 1), policy))
            values.append(_relu_layers(torch.cat([inputs, number], 1), value)[:, 0])
        return torch.stack(logits, 1), torch.stack(values, 1)


def _relu_layers(x: Tensor, weights: list[Tensor]) -> Tensor:
    for i in range(0, len(weights), 2):
        x = torch.einsum("bi,oi->bo", x, weights[i]) + weights[i + 1]
        x = torch.relu(x) if i + 2 < len(weights) else x
    return x


def mappo_cases(ours: Any, seed: int = 0) -> Iterator[ParityCase]:
    for central in (True, False):
        for sizes, counts, width in TEAMS:
            torch.manual_seed(seed)
            model = ours(sizes, counts, hidden=(width, 2 * width), central=central).double()
            x = torch.randn(6, len(sizes), max(sizes), dtype=torch.double)
            label = f"{len(sizes)} agents, {'central' if central else 'own'} critic"
            yield ParityCase(model, _PolicyAndValue(model), x, optimizer=torch.optim.AdamW, label=label)


class _ActorsAndCritics(nn.Module):
    """MADDPG's networks, each agent's apart."""

    def __init__(self, ours: Any):
        super().__init__()
        self.tensors, self.central, self.mask = _parameters(ours), ours.central, ours.action_mask

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        weights, agents = list(self.tensors), observation.shape[1]
        half = len(weights) // 2
        logits = [_relu_network(observation[:, a], weights[:half], a) for a in range(agents)]
        actions = []
        for each, mask in zip(logits, self.mask, strict=True):
            share = torch.where(mask, each.exp(), 0.0)
            actions.append(share / share.sum(1, keepdim=True))
        values = []
        for agent in range(agents):
            inputs = [observation[:, agent], actions[agent]]
            if self.central:
                inputs = [observation.flatten(1), torch.ones_like(observation[..., 0]), *actions]
            values.append(_relu_network(torch.cat(inputs, 1), weights[half:], agent)[:, 0])
        return torch.stack(logits, 1), torch.stack(values, 1)


def _relu_network(x: Tensor, weights: list[Tensor], member: int) -> Tensor:
    for i in range(0, len(weights), 2):
        x = torch.einsum("bi,io->bo", x, weights[i][member]) + weights[i + 1][member]
        x = torch.relu(x) if i + 2 < len(weights) else x
    return x


def maddpg_cases(ours: Any, seed: int = 0) -> Iterator[ParityCase]:
    for central in (True, False):
        for sizes, counts, width in TEAMS:
            torch.manual_seed(seed)
            model = ours(sizes, counts, hidden=(width, width // 2), central=central).double()
            x = torch.randn(6, len(sizes), max(sizes), dtype=torch.double)
            label = f"{len(sizes)} agents, {'central' if central else 'own'} critics"
            yield ParityCase(model, _ActorsAndCritics(model), x, optimizer=torch.optim.AdamW, label=label)


class _Prisoner(nn.Module):
    """DIAL's network in plain products."""

    def __init__(self, ours: Any):
        super().__init__()
        self.names = [name for name, _ in ours.named_parameters()]
        self.tensors = _parameters(ours)

    def forward(self, row: Tensor) -> tuple[Tensor, Tensor]:
        p = dict(zip(self.names, self.tensors, strict=True))
        gates = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        width = p["gru.weight_hh_l0"].shape[1]
        states, qs, messages = [row.new_zeros(len(row), width)] * 2, [], []
        for t in range(row.shape[1]):
            room, bulb, known = row[:, t, :1], row[:, t, 1:2], row[:, t, 2:]
            x = torch.cat([room, known], 1) @ p["known_layer.weight"].T + p["known_layer.bias"]
            x = x + torch.relu(bulb @ p["message_layer.weight"].T + p["message_layer.bias"])
            for layer in range(2):
                weights = [p[f"gru.{gate}_l{layer}"] for gate in gates]
                states[layer] = x = _gru_step(x, states[layer], weights)
            x = torch.relu(x @ p["output.0.weight"].T + p["output.0.bias"])
            x = x @ p["output.2.weight"].T + p["output.2.bias"]
            qs.append(x[:, :2])
            messages.append(x[:, 2:])
        return torch.stack(qs, 1), torch.stack(messages, 1)


def dial_cases(ours: Any, seed: int = 0) -> Iterator[ParityCase]:
    for prisoners, hidden in ((3, 64), (4, 16), (5, 8)):
        torch.manual_seed(seed)
        model = ours(prisoners, hidden).double()
        row = torch.randn(4, 6, 5 + prisoners, dtype=torch.double)
        yield ParityCase(
            model, _Prisoner(model), row, optimizer=torch.optim.AdamW, label=f"{prisoners} prisoners"
        )
