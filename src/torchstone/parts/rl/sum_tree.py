"""Sum tree: sampling in proportion to weights, and updates of weights, in logarithmic time."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class SumTree:
    """Weights 0..count-1, at first 0, in the leaves of a binary tree whose nodes are the sums of their two
    children (Schaul et al. 2016, arXiv:1511.05952, appendix B.2.1). On the CPU, in float64; a node is
    always recomputed as the sum of two, never by a running difference, so that nothing drifts.
    """

    def __init__(self, count: int):
        self.count, self.height = count, max(1, (count - 1).bit_length())
        self.leaves = 2**self.height
        self.nodes = torch.zeros(2 * self.leaves, dtype=torch.float64)  # the root is node 1

    def set(self, index: Int64[Tensor, " n"], weight: Float[Tensor, " n"] | float) -> None:
        """Set the weights, not negative, of leaves; where an index occurs twice, the last counts."""
        node = index + self.leaves
        # numpy assigns in order, so which of two counts is defined
        self.nodes.numpy()[node.numpy()] = torch.as_tensor(weight, dtype=torch.float64).numpy()
        for _ in range(self.height):
            node = node // 2
            self.nodes[node] = self.nodes[2 * node] + self.nodes[2 * node + 1]

    def get(self, index: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.nodes[index + self.leaves]

    @property
    def total(self) -> float:
        return self.nodes[1].item()

    def find(self, mass: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """The leaf i with Σ_{k<i} w_k ≤ mass < Σ_{k≤i} w_k; never one of weight 0."""
        node, mass = torch.ones(len(mass), dtype=torch.int64), mass.clone()
        for _ in range(self.height):
            left, right = self.nodes[2 * node], self.nodes[2 * node + 1]
            # where rounding leaves a little more mass than there is weight, stay on a side that has weight
            goes_right = (mass >= left) & (right > 0)
            mass = torch.where(goes_right, mass - left, mass)
            node = 2 * node + goes_right
        return node - self.leaves

    def sample(self, n: int, generator: torch.Generator) -> Int64[Tensor, " n"]:
        """n leaves with probability in proportion to weight, stratified: one from each n-th of the total."""
        shift = torch.rand(n, generator=generator, dtype=torch.float64)
        return self.find((torch.arange(n) + shift) * (self.total / n))

    def state_dict(self) -> dict[str, Tensor]:
        return {"weights": self.nodes[self.leaves : self.leaves + self.count].clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.nodes.zero_()
        self.nodes[self.leaves : self.leaves + self.count] = state["weights"]
        for level in range(self.height - 1, -1, -1):
            children = self.nodes[2 ** (level + 1) : 2 ** (level + 2)]
            self.nodes[2**level : 2 ** (level + 1)] = children[::2] + children[1::2]
