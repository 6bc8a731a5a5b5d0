"""One tree, one simulation at a time, with recursion and Python numbers: the oracle of `parts.rl.mcts`.

`step(state, action)` gives (reward, discount, logits, value, next state); logits of -inf are illegal actions.
"""

import math


class Node:
    def __init__(self, state, logits, value):
        self.state, self.raw_value = state, value
        largest = max(logits)
        weights = (
            [0.0 if x == -math.inf else math.exp(x - largest) for x in logits]
            if largest > -math.inf
            else logits
        )
        self.prior = {a: w / sum(weights) for a, w in enumerate(weights) if logits[a] > -math.inf}
        self.visits = [0] * len(logits)
        self.returns = [[] for _ in logits]
        self.edges = {}  # action → (reward, discount, child)

    def q(self, action):
        return sum(self.returns[action]) / len(self.returns[action])

    def all_returns(self):
        return [self.raw_value, *(g for returns in self.returns for g in returns)]


def puct(node, c_init, c_base, normalize, unvisited, bounds):
    """The scores of the legal actions."""
    n = 1 + sum(node.visits)
    value = sum(node.all_returns()) / n
    qs = {a: node.q(a) for a in node.prior if node.visits[a]}
    low, high = 0.0, 1.0
    if normalize == "siblings":
        low, high = min([value, *qs.values()]), max([value, *qs.values()])
    elif normalize == "tree":
        low, high = bounds if bounds else (0.0, 1.0)

    def scaled(x):
        return (x - low) / max(high - low, 1e-8)

    c = c_init + math.log((n + c_base + 1) / c_base)
    scores = {}
    for a, p in node.prior.items():
        q = scaled(qs[a]) if a in qs else scaled(value) if unvisited == "parent" else unvisited
        scores[a] = q + c * p * math.sqrt(n) / (1 + node.visits[a])
    return scores


def best(scores):
    return max(scores, key=lambda a: (scores[a], -a))


def plain_search(root, step, num_simulations, rule, root_rule=None, max_depth=None):
    """`rule(node, bounds)` and `root_rule(node, simulation)` give scores; `root` is a Node, and is searched on."""
    observed = []  # every Q that an edge had in this search, or has now
    nodes = [root]
    while nodes:
        node = nodes.pop()
        observed += [node.q(a) for a in node.edges]
        nodes += [child for _, _, child in node.edges.values()]

    def simulate(node, depth, simulation):
        """The return from this node on."""
        bounds = (min(observed), max(observed)) if observed else None
        at_root = depth == 0 and root_rule
        action = best(root_rule(node, simulation) if at_root else rule(node, bounds))
        if (
            action in node.edges
            and node.edges[action][1] != 0
            and (max_depth is None or depth + 1 < max_depth)
        ):
            reward, discount, child = node.edges[action]
            value = simulate(child, depth + 1, simulation)
        elif action in node.edges:
            reward, discount, child = node.edges[action]
            value = child.raw_value
        else:
            reward, discount, logits, value, state = step(node.state, action)
            child = Node(state, logits, value)
            node.edges[action] = reward, discount, child
        value = reward + (discount * value if discount else 0.0)
        node.visits[action] += 1
        node.returns[action].append(value)
        updated.append(node.q(action))
        return value

    for simulation in range(num_simulations):
        updated = []
        simulate(root, 0, simulation)
        observed += updated
    return root
