"""A plain tree search for `benchmarks/search.py`: one tree, nodes as Python objects, one network call per simulation,
as teaching scripts have it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Node:
    def __init__(self, prior: float):
        self.prior, self.visits, self.value_sum, self.reward = prior, 0, 0.0, 0.0
        self.children: list[Node] = []
        self.state: Any = None

    def value(self) -> float:
        return self.value_sum / self.visits if self.visits else 0.0

    def expand(self, state: Tensor, reward: float, logits: Tensor) -> None:
        self.state, self.reward = state, reward
        self.children = [Node(p) for p in logits.softmax(-1).tolist()]


def plain_search(
    state: Tensor, logits: Tensor, value: float, step: Callable, num_simulations: int, gamma: float
) -> list[int]:
    """Visits of the root's actions; `step(state, action)` gives state, reward, logits and value."""
    root = Node(1.0)
    root.expand(state, 0.0, logits)
    root.visits, root.value_sum = 1, value
    for _ in range(num_simulations):
        node, path, action = root, [root], 0
        while node.children:
            c = (math.log((node.visits + 19653) / 19652) + 1.25) * math.sqrt(node.visits)
            qs = [child.reward + gamma * child.value() for child in node.children if child.visits]
            low, high = min([node.value(), *qs]), max([node.value(), *qs])
            scale = max(high - low, 1e-8)
            scores = [
                c * child.prior / (1 + child.visits)
                + ((child.reward + gamma * child.value() - low) / scale if child.visits else 0.0)
                for child in node.children
            ]
            action = max(range(len(scores)), key=scores.__getitem__)
            node = node.children[action]
            path.append(node)
        state, reward, logits, value = step(path[-2].state, action)
        node.expand(state, reward, logits)
        for node in reversed(path):
            node.visits, node.value_sum = node.visits + 1, node.value_sum + value
            value = node.reward + gamma * value
    return [child.visits for child in root.children]


def torch_step(weights: dict[str, Tensor]) -> Callable:
    """The network of the benchmark for one state and one action."""

    def step(state: Tensor, action: int) -> tuple[Tensor, float, Tensor, float]:
        state = torch.relu(state @ weights["state"] + weights["action"][action])
        output = state @ weights["output"] + weights["bias"]
        return state, output[-2].item(), output[:-2], output[-1].item()

    return step
