"""Monte Carlo tree search over a batch of trees, guided by a network (AlphaZero, MuZero, Gumbel MuZero).

Papers: Silver et al. 2017, arXiv:1712.01815 (PUCT with a network's priors and values); Schrittwieser et al.
2019, arXiv:1911.08265, appendix B (learned model, rewards, min-max normalized values); Danihelka et al. 2022,
"Policy improvement by planning with Gumbel" (sequential halving at the root).

`search(root, recurrent_fn, num_simulations)` knows neither games nor networks. `root` holds the network's
outputs for the root states, and `recurrent_fn(action, embedding)` yields those of a next state; an
embedding is whatever a state is: a latent vector, a board, an index. Each simulation descends in all trees
at once, calls `recurrent_fn` once for the whole batch, and backs up:

    a(s)   = argmax_a  rule(N(s, ·), Q(s, ·), P(s, ·))             from the root to an edge that has no child
    G      = r + γ G                                              from the leaf's value to the root
    Q(s,a) ← Q(s,a) + (G - Q(s,a)) / N(s,a)

With two players the discount γ is -1 where the other player moves next, and every value is in the view of the
player to move. γ is 0 where a state is terminal.

How it is fast: the rule depends on a node's statistics alone, so a node's choice changes only when a
simulation passes through it. The choice is stored, as the node `follow` that a descent goes on to; a
descent is one gather per level, and the rule runs once per simulation, for all nodes of all paths. Inside,
tensors are `[action, row]`, with a row for each node of each tree: reductions over a few actions are
several times faster in the first dimension than in the last. Row 0 is a sink: where descents that ended
wait for the others, with reward 0 and discount 1. A child's row is after its parent's, so the leaf of a
path is its maximum.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Embedding = Tensor | Mapping[str, Tensor]  # of states, each tensor [batch, ...]
SINK = 0  # row in which descents that ended wait
VISITS, Q, PRIOR = range(3)  # of `statistics`


class RootOutput(NamedTuple):
    """A network's outputs for the root states; illegal actions have logits of -inf or the dtype's minimum."""

    prior_logits: Float[Tensor, "batch action"]
    value: Float[Tensor, " batch"]  # in the view of the player to move
    embedding: Any


class RecurrentOutput(NamedTuple):
    """What an action leads to. Where the discount is 0 the state is terminal, and its outputs are unused."""

    reward: Float[Tensor, " batch"]  # in the view of the player who acted
    discount: Float[Tensor, " batch"]  # γ; negative where the other player moves next; 0 at a terminal state
    prior_logits: Float[Tensor, "batch action"]  # of the new state; -inf for illegal actions
    value: Float[Tensor, " batch"]  # of the new state, in the view of the player who moves there


RecurrentFn = Callable[[Tensor, Any], tuple[RecurrentOutput, Any]]


class NodeStatistics(NamedTuple):
    """What a selection rule sees of nodes."""

    visits: Float[Tensor, "action node"]  # N(s, a)
    q: Float[Tensor, "action node"]  # Q(s, a), 0 where N = 0
    prior: Float[Tensor, "action node"]  # P(s, a), -inf for illegal actions
    raw_value: Float[Tensor, " node"]  # the network's value of s
    low: Float[Tensor, " node"] | None  # least and largest Q in the node's tree, for rules with `tree_bounds`
    high: Float[Tensor, " node"] | None

    @property
    def node_visits(self) -> Float[Tensor, " node"]:
        """N(s) = 1 + Σ_a N(s, a): the evaluation by the network counts."""
        return self.visits.sum(0) + 1

    def value(self, node_visits: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
        """V(s): mean of the network's value and of all returns from s."""
        return ((self.visits * self.q).sum(0) + self.raw_value) / node_visits


SelectionRule = Callable[[NodeStatistics], Tensor]  # scores `[action, node]`: the highest is selected
RootRule = Callable[[NodeStatistics, int], Tensor]  # given the number of the simulation too


@dataclass(frozen=True)
class Puct:
    """The rule of AlphaZero and MuZero: Q̂(s,a) + c(s) P(s,a) √N(s) / (1 + N(s,a)),
    c(s) = c_init + log((N(s) + c_base + 1) / c_base), and N(s) = 1 + Σ_a N(s,a).

    Args:
        normalize: Q̂ = (Q - min) / (max - min): over the Q of all edges of the same `tree` (MuZero, equation
            5), or over a node's value and the Q of its edges (`siblings`); None for Q itself. Q holds the
            reward.
        unvisited: Q̂ where N(s,a) = 0: a number, or `parent` for the normalized value of s.
    """

    c_init: float = 1.25
    c_base: float = 19652.0
    normalize: Literal["tree", "siblings"] | None = "siblings"
    unvisited: float | Literal["parent"] = 0.0

    def __post_init__(self) -> None:
        if self.c_init <= 0:  # also what keeps illegal actions, whose prior is -inf, at -inf
            raise ValueError(f"c_init is {self.c_init}; it must be > 0")

    @property
    def tree_bounds(self) -> bool:
        return self.normalize == "tree"

    def __call__(self, node: NodeStatistics) -> Float[Tensor, "action node"]:
        node_visits, q = node.node_visits, node.q
        is_visited = node.visits.clamp(max=1)
        value: Any = None
        low: Any = node.low
        high: Any = node.high
        if self.normalize == "siblings" or self.unvisited == "parent":
            value = node.value(node_visits)
        if self.normalize == "siblings":
            q_or_value = torch.lerp(value.expand_as(q), q, is_visited)
            low = torch.minimum(value, q_or_value.amin(0))
            high = torch.maximum(value, q_or_value.amax(0))
        if self.normalize is not None:
            scale = (high - low).clamp_min_(1e-8)
            q = (q - low).div_(scale)
            if value is not None:
                value = (value - low) / scale
        if self.unvisited == "parent":
            q = torch.lerp(value.expand_as(q), q, is_visited)
        elif self.unvisited == 0:
            q = is_visited.mul_(q)
        else:
            q = torch.lerp(torch.full_like(q, self.unvisited), q, is_visited)
        c = ((node_visits + (self.c_base + 1)) / self.c_base).log_().add_(self.c_init)
        return q.addcdiv_(node.prior * c.mul_(node_visits.sqrt()), node.visits + 1)


@dataclass(frozen=True)
class Tree:
    """Trees of a batch. Node 0 of each is its root; the properties give `[batch, node, ...]`.

    The fields have one row for each node of each tree, tree after tree, after row 0, the sink. `child` and
    `follow` are rows.
    """

    statistics: Float[Tensor, "3 action row"]  # N(s, a), Q(s, a), P(s, a): -inf for illegal actions
    edge_reward: Float[Tensor, "action row"]
    edge_discount: Float[Tensor, "action row"]
    child: Int64[Tensor, "action row"]  # row of the child; 0 for none
    raw_value: Float[Tensor, " row"]  # the network's value of each state
    selected: Int64[Tensor, " row"]  # action that the rule selects
    follow: Int64[Tensor, " row"]  # row to which a descent goes on; 0 where it ends
    size: Int64[Tensor, " batch"]  # number of nodes of each tree; 0 for a tree without root
    low: Float[Tensor, " batch"]  # least and largest Q that the edges of a tree had
    high: Float[Tensor, " batch"]
    states: Any  # embeddings, each [row, ...]

    def unflatten(self, edges: Tensor) -> Tensor:
        """`[batch, node, action]` of `[action, row]`."""
        return edges[:, 1:].unflatten(1, (len(self.size), -1)).permute(1, 2, 0)

    @property
    def num_nodes(self) -> int:
        """How many nodes of a tree there is storage for."""
        return (len(self.raw_value) - 1) // len(self.size)

    @property
    def visits(self) -> Float[Tensor, "batch node action"]:
        return self.unflatten(self.statistics[VISITS])

    @property
    def q(self) -> Float[Tensor, "batch node action"]:
        return self.unflatten(self.statistics[Q])

    @property
    def prior(self) -> Float[Tensor, "batch node action"]:
        """P(s, a), 0 for illegal actions."""
        return self.unflatten(self.statistics[PRIOR]).clamp_min(0)

    @property
    def reward(self) -> Float[Tensor, "batch node action"]:
        return self.unflatten(self.edge_reward)

    @property
    def discount(self) -> Float[Tensor, "batch node action"]:
        return self.unflatten(self.edge_discount)

    @property
    def children(self) -> Int64[Tensor, "batch node action"]:
        """Node of the child of each edge; -1 for none."""
        child = self.unflatten(self.child)
        return torch.where(child == SINK, -1, child - self.root_rows[:, None, None])

    @property
    def embedding(self) -> Any:
        """`[batch, node, ...]` each."""
        return map_states(lambda states: states[1:].unflatten(0, (len(self.size), -1)), self.states)

    @property
    def root_rows(self) -> Int64[Tensor, " batch"]:
        return torch.arange(len(self.size), device=self.size.device) * self.num_nodes + 1

    @property
    def root_visits(self) -> Float[Tensor, "batch action"]:
        return self.visits[:, 0]

    @property
    def root_q(self) -> Float[Tensor, "batch action"]:
        return self.q[:, 0]

    @property
    def root_value(self) -> Float[Tensor, " batch"]:
        """Mean of the network's value of the root and of all returns from it."""
        node = self.root_statistics
        return node.value(node.node_visits)

    @property
    def root_statistics(self) -> NodeStatistics:
        return node_statistics(self, self.root_rows)

    def state_dict(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_state_dict(state: Mapping[str, Any]) -> "Tree":
        return Tree(**state)


def map_states(function: Callable, states: Any, *others: Any) -> Any:
    """`function` of each tensor of an embedding, and of the same tensor of other embeddings."""
    if isinstance(states, Tensor):
        return function(states, *others)
    return {name: function(state, *(other[name] for other in others)) for name, state in states.items()}


def node_statistics(tree: Tree, rows: Int64[Tensor, " node"], use_bounds: bool = False) -> NodeStatistics:
    """Statistics of the nodes in these rows; bounds are 0 and 1 where a tree has none yet."""
    statistics = tree.statistics.flatten(0, 1).index_select(1, rows)  # eight times as fast as in dimension 2
    visits, q, prior = statistics.unflatten(0, (3, -1)).unbind()
    low = high = None
    if use_bounds:
        trees = (rows - 1) // tree.num_nodes
        has_bounds = tree.low <= tree.high
        low = torch.where(has_bounds, tree.low, 0.0).index_select(0, trees)
        high = torch.where(has_bounds, tree.high, 1.0).index_select(0, trees)
    return NodeStatistics(visits, q, prior, tree.raw_value.index_select(0, rows), low, high)


def priors(prior_logits: Float[Tensor, "batch action"]) -> Float[Tensor, "action batch"]:
    """P = softmax(logits), > 0 for legal actions however unlikely, -inf for illegal ones."""
    limits = torch.finfo(prior_logits.dtype)
    prior_logits = prior_logits.T.contiguous()
    p = prior_logits.softmax(0).clamp_min_(limits.tiny)
    return p.masked_fill_(prior_logits <= limits.min, -torch.inf)


def empty_tree(root: RootOutput, num_nodes: int) -> Tree:
    """Trees without nodes, with storage for `num_nodes` each."""
    batch, num_actions = root.prior_logits.shape
    rows, zeros = 1 + batch * num_nodes, root.value.new_zeros
    discount = zeros(num_actions, rows)
    discount[:, SINK] = 1
    integers = partial(torch.zeros, dtype=torch.int64, device=root.value.device)
    return Tree(
        statistics=zeros(3, num_actions, rows),
        edge_reward=zeros(num_actions, rows),
        edge_discount=discount,
        child=integers(num_actions, rows),
        raw_value=zeros(rows),
        selected=integers(rows),
        follow=integers(rows),
        size=integers(batch),
        low=root.value.new_full((batch,), torch.inf),
        high=root.value.new_full((batch,), -torch.inf),
        states=map_states(lambda state: state.new_zeros((rows, *state.shape[1:])), root.embedding),
    )


def rebuild(
    tree: Tree, order: Int64[Tensor, "batch node"], count: Int64[Tensor, " batch"], num_nodes: int
) -> Tree:
    """A copy with storage for `num_nodes`, whose nodes are the first `count` of `order`, in that order."""
    batch, width = order.shape
    shapes = RootOutput(
        tree.child[:, :batch].T, tree.raw_value[:batch], map_states(lambda state: state[:batch], tree.states)
    )
    copy = empty_tree(shapes, num_nodes)
    nodes = torch.arange(width, device=order.device)
    is_kept = nodes < count[:, None]
    old_rows = (tree.root_rows[:, None] + order)[is_kept]
    new_rows = (copy.root_rows[:, None] + nodes)[is_kept]
    for name in ("statistics", "edge_reward", "edge_discount", "raw_value"):
        getattr(copy, name)[..., new_rows] = getattr(tree, name)[..., old_rows]
    map_states(lambda new, old: new.index_copy_(0, new_rows, old[old_rows]), copy.states, tree.states)
    row_of = torch.zeros_like(tree.follow)  # the sink stays the sink
    row_of[old_rows] = new_rows
    copy.child[:, new_rows] = row_of[tree.child[:, old_rows]]
    q, is_visited = copy.q.flatten(1), copy.visits.flatten(1) > 0
    low, high = torch.where(is_visited, q, torch.inf).amin(1), torch.where(is_visited, q, -torch.inf).amax(1)
    return replace(copy, size=count.clone(), low=low, high=high)


def plant_root(tree: Tree, root: RootOutput) -> None:
    """Write the root's priors and embedding; and its value, where a tree has no root yet."""
    rows = tree.root_rows
    is_new = tree.size == 0
    tree.statistics[PRIOR].index_copy_(1, rows, priors(root.prior_logits))
    tree.raw_value[rows] = torch.where(is_new, root.value, tree.raw_value[rows])
    map_states(lambda states, state: states.index_copy_(0, rows, state), tree.states, root.embedding)
    tree.size.clamp_(min=1)


def select(tree: Tree, rows: Int64[Tensor, " node"], rule: SelectionRule) -> None:
    """Store what the rule selects in these rows, and where a descent goes on from them."""
    selected = rule(node_statistics(tree, rows, getattr(rule, "tree_bounds", False))).max(0).indices
    edge = torch.add(rows, selected, alpha=len(tree.raw_value))
    is_terminal = tree.edge_discount.view(-1).index_select(0, edge) == 0
    tree.selected.index_copy_(0, rows, selected)
    tree.follow.index_copy_(
        0, rows, tree.child.view(-1).index_select(0, edge).masked_fill_(is_terminal, SINK)
    )


@torch.no_grad()
def search(
    root: RootOutput,
    recurrent_fn: RecurrentFn,
    num_simulations: int,
    *,
    rule: SelectionRule = Puct(),
    root_rule: RootRule | None = None,
    max_depth: int | None = None,
    tree: Tree | None = None,
) -> Tree:
    """The trees after `num_simulations` simulations.

    Args:
        recurrent_fn: called once per simulation, with the actions `[batch]` int64 and the embeddings of the
            states in which they are taken. It is never asked to act in a terminal state, or illegally:
            where a simulation ends on an edge to a terminal state, or at `max_depth`, that edge is
            evaluated again.
        rule: scores of actions from a node's statistics; the highest is selected, the first of equal ones.
        root_rule: the rule at the root, given the number of the simulation too; else `rule`.
        max_depth: largest number of edges from the root to a leaf.
        tree: trees to go on with, as `subtree` gives; `root`'s priors and embedding replace their root's.
            It is not written to.

    Raises:
        ValueError: no legal action at a root; or a bad number.
    """
    batch = len(root.value)
    if num_simulations < 1 or (max_depth is not None and max_depth < 1):
        raise ValueError(f"num_simulations {num_simulations} and max_depth {max_depth} must be at least 1")
    limits = torch.finfo(root.prior_logits.dtype)
    if not bool((root.prior_logits > limits.min).any(-1).all()):
        raise ValueError("a root has no legal action")
    if tree is None:
        tree = empty_tree(root, num_simulations + 1)
    else:
        largest = max(1, int(tree.size.max()))
        order = torch.arange(largest, device=tree.size.device).expand(batch, -1)
        tree = rebuild(tree, order, tree.size, largest + num_simulations)
    plant_root(tree, root)
    roots, num_nodes, num_rows = tree.root_rows, tree.num_nodes, len(tree.raw_value)
    nodes = torch.arange(num_nodes, device=roots.device)

    def select_at_roots(simulation: int) -> None:
        if root_rule is not None:
            select(tree, roots, lambda node: root_rule(node, simulation))

    select(tree, (roots[:, None] + nodes).flatten(), rule)
    select_at_roots(0)
    deepest = num_nodes if max_depth is None else min(max_depth, num_nodes)
    path = torch.zeros(deepest + 1, batch, dtype=torch.int64, device=roots.device)
    returns = root.value.new_zeros(deepest, batch)
    path[0] = roots
    levels, level_returns = path.unbind(), returns.unbind()
    # of edges: action × num_rows + row
    visits, q, reward, discount, child = (
        x.view(-1) for x in (*tree.statistics[:PRIOR], tree.edge_reward, tree.edge_discount, tree.child)
    )
    depth = 1
    for simulation in range(1, num_simulations + 1):
        # descent: levels[:depth] are the nodes in which an action is selected
        expected, depth = depth - 1, 1
        while depth < deepest:
            torch.index_select(tree.follow, 0, levels[depth - 1], out=levels[depth])
            # rows of the sink do no harm, so it is looked for from the last path's depth on
            if depth >= expected and not levels[depth].any():
                break
            depth += 1
        visited = path[:depth].view(-1)
        leaf = path[:depth].amax(0)

        # expansion
        action = tree.selected.index_select(0, leaf)
        edge = torch.add(leaf, action, alpha=num_rows)
        existing = child.index_select(0, edge)
        is_new = existing == SINK
        new = torch.where(is_new, roots + tree.size, existing)
        tree.size.add_(is_new)
        state = map_states(lambda states, rows=leaf: states.index_select(0, rows), tree.states)
        output, state = recurrent_fn(action, state)
        map_states(lambda states, state, rows=new: states.index_copy_(0, rows, state), tree.states, state)
        tree.statistics[PRIOR].index_copy_(1, new, priors(output.prior_logits))
        value = output.value.masked_fill(output.discount == 0, 0)
        tree.raw_value.scatter_(0, new, value)
        child.scatter_(0, edge, new)
        reward.scatter_(0, edge, output.reward)
        discount.scatter_(0, edge, output.discount)

        # backup
        edges = torch.add(visited, tree.selected.index_select(0, visited), alpha=num_rows)
        rewards = reward.index_select(0, edges).view(depth, batch).unbind()
        discounts = discount.index_select(0, edges).view(depth, batch).unbind()
        for level in range(depth - 1, -1, -1):
            value = torch.addcmul(rewards[level], discounts[level], value, out=level_returns[level])
        new_visits = visits.index_select(0, edges).add_(1)
        visits.scatter_(0, edges, new_visits)
        new_q = q.index_select(0, edges)
        new_q.add_((returns[:depth].view(-1) - new_q).div_(new_visits))
        q.scatter_(0, edges, new_q)

        # selection, in the nodes of the paths and the new ones
        levels[depth].copy_(new)
        rows = path[: depth + 1].view(-1)
        if getattr(rule, "tree_bounds", False):
            rows = torch.cat(
                (rows, rows_of_wider_bounds(tree, path[:depth], new_q.view(depth, batch), nodes))
            )
        select(tree, rows.index_select(0, rows.nonzero()[:, 0]), rule)
        select_at_roots(simulation)
    return tree


def rows_of_wider_bounds(
    tree: Tree,
    path: Int64[Tensor, "depth batch"],
    q: Float[Tensor, "depth batch"],
    nodes: Int64[Tensor, " node"],
) -> Int64[Tensor, " row"]:
    """Widen each tree's bounds to these Q; the rows of all nodes of the trees where they were not."""
    is_sink = path == SINK
    low, high = q.masked_fill(is_sink, torch.inf).amin(0), q.masked_fill(is_sink, -torch.inf).amax(0)
    is_wider = (low < tree.low) | (high > tree.high)
    torch.minimum(tree.low, low, out=tree.low)
    torch.maximum(tree.high, high, out=tree.high)
    return (tree.root_rows[is_wider][:, None] + nodes).flatten()


@torch.no_grad()
def subtree(tree: Tree, action: Int64[Tensor, " batch"], keep: Bool[Tensor, " batch"] | None = None) -> Tree:
    """The trees below the actions taken, to search on; empty where `keep` is False or nothing is below."""
    children = tree.children
    batch, num_nodes, num_actions = children.shape
    trees = torch.arange(batch, device=action.device)
    root = children[trees, 0, action]
    is_kept = (root >= 0) & (tree.discount[trees, 0, action] != 0)
    if keep is not None:
        is_kept = is_kept & keep
    # parent of each node; edges without a child write to one more node
    parent = torch.zeros(batch, num_nodes + 1, dtype=torch.int64, device=action.device)
    nodes = torch.arange(num_nodes, device=action.device).repeat_interleave(num_actions)
    parent.scatter_(1, children.flatten(1) % (num_nodes + 1), nodes.expand(batch, -1))
    parent = parent[:, :num_nodes]
    is_below = torch.zeros(batch, num_nodes, dtype=torch.bool, device=action.device)
    is_below[trees, root.clamp(min=0)] = is_kept
    while True:
        grown = is_below | is_below.gather(1, parent)
        if torch.equal(grown, is_below):
            break
        is_below = grown
    count = is_below.sum(1)
    order = (~is_below).to(torch.int8).argsort(dim=1, stable=True)  # parents stay before children
    largest = max(1, int(count.max()))
    return rebuild(tree, order[:, :largest], count, largest)


def add_dirichlet_noise(
    prior_logits: Float[Tensor, "batch action"], alpha: float, fraction: float, generator: torch.Generator
) -> Float[Tensor, "batch action"]:
    """Logits of (1 - fraction) P + fraction η, with η ~ Dirichlet(alpha) over the legal actions.

    The noise is drawn on the CPU, so that a seed gives the same on every device.
    """
    is_legal = prior_logits > torch.finfo(prior_logits.dtype).min
    shape = torch.full(prior_logits.shape, alpha, dtype=torch.float64)
    # gammas of a small alpha may all underflow: then the noise is uniform
    gamma = torch._standard_gamma(shape, generator).clamp_min_(1e-300).to(prior_logits.device) * is_legal
    noise = (gamma / gamma.sum(-1, keepdim=True)).to(prior_logits.dtype)
    p = (1 - fraction) * prior_logits.softmax(-1) + fraction * noise
    return torch.where(is_legal, p.clamp_min(torch.finfo(p.dtype).tiny).log(), -torch.inf)


def visit_policy(
    visits: Float[Tensor, "batch action"], temperature: float | Float[Tensor, " batch"] = 1.0
) -> Float[Tensor, "batch action"]:
    """π(a) ∝ N(a)^(1/τ); at τ = 0 all on the most visited action, the first of equal ones."""
    temperature = torch.as_tensor(temperature, dtype=visits.dtype, device=visits.device).expand(len(visits))[
        :, None
    ]
    log_visits = (visits / visits.amax(-1, keepdim=True)).log()
    most_visited = torch.zeros_like(visits).scatter_(1, visits.max(-1, keepdim=True).indices, 1.0)
    is_greedy = temperature <= 0
    return torch.where(
        is_greedy, most_visited, (log_visits / temperature.masked_fill(is_greedy, 1.0)).softmax(-1)
    )


def sample_action(
    visits: Float[Tensor, "batch action"],
    temperature: float | Float[Tensor, " batch"],
    generator: torch.Generator,
) -> Int64[Tensor, " batch"]:
    """Sample from `visit_policy`; the noise is drawn on the CPU."""
    policy = visit_policy(visits, temperature).cpu()
    return torch.multinomial(policy, 1, generator=generator)[:, 0].to(visits.device)


def principal_variation(tree: Tree, length: int) -> Int64[Tensor, "batch length"]:
    """The most visited actions from the root on, -1 after their end."""
    visits, children = tree.visits, tree.children
    trees = torch.arange(len(visits), device=visits.device)
    node, line = torch.zeros_like(trees), torch.full((len(visits), length), -1, device=visits.device)
    for step in range(length):
        most, action = visits[trees, node.clamp(min=0)].max(-1)
        is_visited = (node >= 0) & (most > 0)
        line[:, step] = torch.where(is_visited, action, -1)
        node = torch.where(is_visited, children[trees, node.clamp(min=0), action], -1)
    return line


def completed_q(
    node: NodeStatistics, value_scale: float, visit_offset: float
) -> Float[Tensor, "*node action"]:
    """σ(q̂): Q of visited actions and the mixed value for others, scaled to 0..1 among them, times
    (visit_offset + max N) value_scale (Danihelka et al. 2022, equations 8 and 33)."""
    is_visited, p = node.visits > 0, node.prior.clamp(min=0)
    p_visited = torch.where(is_visited, p, 0.0)
    mean_q = (p_visited * node.q).sum(0) / p_visited.sum(0).clamp_min(torch.finfo(p.dtype).tiny)
    num_visits = node.visits.sum(0)
    mixed_value = (node.raw_value + num_visits * mean_q) / (1 + num_visits)
    q = torch.where(is_visited, node.q, mixed_value)
    q = (q - q.amin(0)) / (q.amax(0) - q.amin(0)).clamp_min(1e-8)
    return (visit_offset + node.visits.amax(0)) * value_scale * q


@dataclass(frozen=True)
class GumbelRule:
    """The rule below the root: argmax_a π'(a) - N(a) / (1 + Σ N), with π' = softmax(logits + σ(q̂))."""

    value_scale: float = 0.1
    visit_offset: float = 50.0

    def policy(self, node: NodeStatistics) -> Float[Tensor, "action node"]:
        """π', the improved policy."""
        logits = node.prior.clamp(min=0).log() + completed_q(node, self.value_scale, self.visit_offset)
        return logits.softmax(0)

    def __call__(self, node: NodeStatistics) -> Float[Tensor, "action node"]:
        scores = self.policy(node) - node.visits / node.node_visits
        return torch.where(node.prior > 0, scores, -torch.inf)


def halving_schedule(num_considered: int, num_simulations: int) -> list[int]:
    """Sequential halving: for each simulation, how many visits the action that it tries has had.

    Each phase visits all considered actions equally often; then the better half, at least two, is considered.
    """
    if num_considered <= 1:
        return list(range(num_simulations))
    phases = math.ceil(math.log2(num_considered))
    schedule: list[int] = []
    visits = 0
    while len(schedule) < num_simulations:
        rounds = max(1, int(num_simulations / (phases * num_considered)))
        for _ in range(rounds):
            schedule += [visits] * num_considered
            visits += 1
        num_considered = max(2, num_considered // 2)
    return schedule[:num_simulations]


@dataclass(frozen=True)
class GumbelRootRule:
    """The rule at the root: of the actions whose turn it is by sequential halving, the one with the largest
    g + logits + σ(q̂).

    Args:
        gumbel: Gumbel noise g, as `Categorical.noise` gives; zeros for play without exploration.
        schedule: `halving_schedule` of 0, 1, ... actions, as `gumbel_root_rule` makes it.
    """

    gumbel: Float[Tensor, "batch action"]
    schedule: Int64[Tensor, "considered simulations"]
    rule: GumbelRule = GumbelRule()

    def scores(self, node: NodeStatistics) -> Float[Tensor, "action batch"]:
        rule = self.rule
        q = completed_q(node, rule.value_scale, rule.visit_offset)
        return self.gumbel.T + node.prior.clamp(min=0).log() + q

    def __call__(self, node: NodeStatistics, simulation: int) -> Float[Tensor, "action batch"]:
        # after the last simulation there is no choice left to make
        simulation = min(simulation, self.schedule.shape[1] - 1)
        num_legal = (node.prior > 0).sum(0).clamp(max=len(self.schedule) - 1)
        considered = self.schedule[num_legal, simulation]
        return torch.where(node.visits == considered, self.scores(node), -torch.inf)

    def action(self, tree: Tree) -> Int64[Tensor, " batch"]:
        """The best of the most visited actions."""
        node = tree.root_statistics
        is_most_visited = node.visits == node.visits.amax(0)
        return torch.where(is_most_visited, self.scores(node), -torch.inf).max(0).indices

    def policy(self, tree: Tree) -> Float[Tensor, "batch action"]:
        """π' of the root: what a policy network is trained on."""
        return self.rule.policy(tree.root_statistics).T


def gumbel_root_rule(
    gumbel: Float[Tensor, "batch action"],
    num_simulations: int,
    max_considered: int = 16,
    rule: GumbelRule | None = None,
) -> GumbelRootRule:
    """The root's rule for a search of `num_simulations` in new trees.

    Args:
        gumbel: noise, as `GumbelRootRule` has it.
        max_considered: largest number of actions that are considered.
    """
    schedule = [halving_schedule(count, num_simulations) for count in range(max_considered + 1)]
    table = torch.tensor(schedule, device=gumbel.device)
    return GumbelRootRule(gumbel, table, rule or GumbelRule())
