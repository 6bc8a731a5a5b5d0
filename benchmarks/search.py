"""Simulations per second of the tree search, beside mctx, open_spiel's Python search and a plain loop: same network.

    pip install mctx                                 # brings JAX; left out with --no-mctx
    python benchmarks/search.py [--batch-sizes 1 16 64 256 1024] [--simulations 32] [--gamma -1] [--rounds 7]
        [--no-mctx] [--json]

A network of 64 units: s' = ReLU(W s + W_a), from which reward, value and the logits of 7 actions are linear; weights
as torch initializes linear layers. The discount is -1, of two players in turn; with one player's, such as 0.99, trees
of such a network are narrow and twice as deep. PUCT with values normalized among siblings, no noise. Everything runs on one thread
in one process, and in turn; seconds are those of the processor (`time.process_time`), since the machine may be shared,
and a figure is that of the fastest round; a ratio is the median of the rounds' ratios. mctx is compiled, its compile
time stands apart. "same visits" is the share of trees in which ours and mctx visit every action equally often (float32
rounding and mctx's random tie-breaks part some). open_spiel's search plays connect four and asks the network at its
leaves; the plain loop (`plain_search.py`) is the network and rule of ours, one tree at a time. The last column is
what the network alone takes of ours.
"""

import argparse
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import torch
from plain_search import plain_search, torch_step
from torch import Tensor

from torchstone.parts.rl import mcts

ACTIONS, WIDTH = 7, 64


def make_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    dynamics, output = torch.nn.Linear(WIDTH + ACTIONS, WIDTH), torch.nn.Linear(WIDTH, ACTIONS + 2)
    w = dynamics.weight.detach().T
    return {
        "state": w[:WIDTH].contiguous(),
        "action": w[WIDTH:] + dynamics.bias.detach(),
        "output": output.weight.detach().T.contiguous(),
        "bias": output.bias.detach(),
    }


def root_states(batch: int) -> Tensor:
    return torch.randn(batch, WIDTH, generator=torch.Generator().manual_seed(1)).relu()


def our_network(weights: dict[str, Tensor], batch: int, gamma: float) -> tuple[mcts.RootOutput, Callable]:
    discount = torch.full((batch,), gamma)

    def recurrent_fn(action: Tensor, state: Tensor) -> tuple[mcts.RecurrentOutput, Tensor]:
        state = torch.addmm(weights["action"].index_select(0, action), state, weights["state"]).relu_()
        output = torch.addmm(weights["bias"], state, weights["output"])
        return mcts.RecurrentOutput(output[:, -2], discount, output[:, :-2], output[:, -1]), state

    state = root_states(batch)
    output = torch.addmm(weights["bias"], state, weights["output"])
    return mcts.RootOutput(output[:, :-2], output[:, -1], state), recurrent_fn


def mctx_search(
    weights: dict[str, Tensor], batch: int, simulations: int, gamma: float
) -> tuple[Callable, float]:
    """A function that searches and gives the visits, and the seconds that compiling took."""
    import jax
    import mctx
    from jax import numpy as jnp

    w = {name: jnp.asarray(x.numpy()) for name, x in weights.items()}

    def recurrent_fn(params: Any, key: Any, action: Any, state: Any) -> Any:
        state = jax.nn.relu(state @ params["state"] + params["action"][action])
        output = state @ params["output"] + params["bias"]
        discount = jnp.full(output.shape[:1], gamma)
        return mctx.RecurrentFnOutput(
            reward=output[:, -2], discount=discount, prior_logits=output[:, :-2], value=output[:, -1]
        ), state

    @jax.jit
    def run(params: Any, key: Any, state: Any) -> Any:
        output = state @ params["output"] + params["bias"]
        root = mctx.RootFnOutput(prior_logits=output[:, :-2], value=output[:, -1], embedding=state)
        policy = mctx.muzero_policy(params, key, root, recurrent_fn, simulations, dirichlet_fraction=0.0)
        return policy.search_tree.children_visits[:, 0]

    key, state = jax.random.PRNGKey(0), jnp.asarray(root_states(batch).numpy())
    start = time.process_time()
    run(w, key, state).block_until_ready()
    return lambda: run(w, key, state).block_until_ready(), time.process_time() - start


def open_spiel_search(simulations: int) -> Callable:
    """Searches one position of connect four, asking a network of the same width at its leaves."""
    import numpy as np
    import pyspiel
    from open_spiel.python.algorithms import mcts as spiel

    game = pyspiel.load_game("connect_four")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(126, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, ACTIONS + 1)
    )

    class Evaluator(spiel.Evaluator):
        def outputs(self, state: Any) -> Tensor:
            with torch.no_grad():
                return network(torch.tensor(state.observation_tensor()))

        def evaluate(self, state: Any) -> Any:
            value = self.outputs(state)[-1].tanh().item()
            return [value, -value] if state.current_player() == 0 else [-value, value]

        def prior(self, state: Any) -> Any:
            legal = state.legal_actions()
            return list(zip(legal, self.outputs(state)[legal].softmax(-1).tolist(), strict=True))

    bot = spiel.MCTSBot(
        game,
        1.25,
        simulations,
        Evaluator(),
        solve=False,
        random_state=np.random.RandomState(0),
        child_selection_fn=spiel.SearchNode.puct_value,
    )
    state = game.new_initial_state()
    return lambda: bot.mcts_search(state)


def timed(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def measure(batch: int, simulations: int, rounds: int, use_mctx: bool, gamma: float) -> dict[str, Any]:
    weights = make_weights()
    root, recurrent_fn = our_network(weights, batch, gamma)
    action, state = torch.zeros(batch, dtype=torch.int64), root.embedding
    total, found, tree = batch * simulations, {}, None

    def ours() -> Tensor:
        return mcts.search(root, recurrent_fn, simulations).root_visits

    def network() -> None:
        for _ in range(simulations):
            recurrent_fn(action, state)

    contenders: dict[str, Callable[[], Any]] = {"ours": ours, "network": network}
    if use_mctx:
        contenders["mctx"], found["mctx_compile_s"] = mctx_search(weights, batch, simulations, gamma)
        theirs = torch.tensor(contenders["mctx"]().tolist())
        found["same_visits"] = float((ours() == theirs).all(-1).float().mean())
    repeats = max(1, min(20, 4096 // total))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):  # the first is not counted
        for name in sorted(contenders, reverse=bool(number % 2)):
            seconds = [timed(contenders[name]) for _ in range(repeats)]
            times[name].append(min(seconds))
    best = {name: min(seconds[1:]) for name, seconds in times.items()}
    tree = mcts.search(root, recurrent_fn, simulations)
    found |= {
        "batch": batch,
        "ours": total / best["ours"],
        "network_share": best["network"] / best["ours"],
        "mean_depth": mean_depth(tree),
    }
    if use_mctx:
        found["mctx"] = total / best["mctx"]
        pairs = zip(times["mctx"][1:], times["ours"][1:], strict=True)
        found["ours_per_mctx"] = statistics.median(m / o for m, o in pairs)
    return found


def mean_depth(tree: mcts.Tree) -> float:
    """Mean number of edges from the root to a node, over all nodes but the roots."""
    children = tree.children
    depth = torch.zeros(children.shape[:2])
    for node in range(children.shape[1]):  # children come after their parents
        for child in children[:, node].unbind(1):
            trees = (child >= 0).nonzero()[:, 0]
            depth[trees, child[trees]] = depth[trees, node] + 1
    return float(depth.sum() / (tree.size - 1).sum())


def one_tree(simulations: int, rounds: int, gamma: float) -> dict[str, float]:
    """Simulations per second of those that search one tree at a time."""
    weights = make_weights()
    step, state = torch_step(weights), root_states(1)[0]
    output = state @ weights["output"] + weights["bias"]

    def plain() -> None:
        plain_search(state, output[:-2], output[-1].item(), step, simulations, gamma)

    contenders = {"plain_loop": plain}
    with contextlib.suppress(ImportError):
        contenders["open_spiel"] = open_spiel_search(simulations)
    return {
        name: simulations / min(timed(call) for _ in range(rounds + 1)) for name, call in contenders.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16, 64, 256, 1024])
    parser.add_argument("--simulations", type=int, default=32)
    parser.add_argument("--gamma", type=float, default=-1.0, help="discount; -1 for two players in turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-mctx", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    rows = [measure(b, args.simulations, args.rounds, not args.no_mctx, args.gamma) for b in args.batch_sizes]
    single = one_tree(args.simulations, args.rounds, args.gamma)
    for row in rows:
        row |= {f"ours_per_{name}": row["ours"] / speed for name, speed in single.items()}
    if args.json:
        print(json.dumps({"one_tree": single, "batches": rows}, indent=1))
        return
    print("one tree at a time: " + ", ".join(f"{name} {speed:,.0f}" for name, speed in single.items()))
    for row in rows:
        line = f"{row['batch']:>6} trees: ours {row['ours']:>9,.0f} simulations/s"
        if "mctx" in row:
            line += f", mctx {row['mctx']:>9,.0f}: {row['ours_per_mctx']:.2f} times as fast"
            line += f" (compiled in {row['mctx_compile_s']:.1f} s, {row['same_visits']:.1%} same visits)"
        line += f"; {row['ours_per_plain_loop']:.0f} times the plain loop; mean depth {row['mean_depth']:.1f}"
        print(line + f"; network {row['network_share']:.0%}")


if __name__ == "__main__":
    main()
