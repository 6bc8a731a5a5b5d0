"""CFR, Deep CFR and NFSP beside open_spiel's, in CPU time: medians of ratios over interleaved rounds.

    python benchmarks/poker.py [--rounds N] [--json]

`cfr+` is an iteration on Leduc poker, open_spiel's in C++. `exploitability` is that of a random strategy there.
`traversals` are those of an iteration of Deep CFR on Leduc poker, networks of 3 x 64 and memories included.
`episodes` are those of NFSP on Kuhn poker, with two minibatches of 128 for each network per 128 moves on both
sides. open_spiel's PyTorch agents need dm-tree, absl, attrs, ml_collections and SciPy beside torch; without them
the last two are left out.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import pyspiel
import torch

from torchstone.envs.game_tree import read_game_tree
from torchstone.parts.rl.cfr import CFR
from torchstone.parts.rl.game_tree import exploitability
from torchstone.systems.multiagent import deep_cfr, nfsp

LEDUC, KUHN = "leduc_poker", "kuhn_poker"


def cost(function: Callable[[], object], count: int) -> float:
    """CPU seconds of one of `count` units of work that a call does."""
    began = time.process_time()
    function()
    return (time.process_time() - began) / count


def cfr_contenders() -> dict[str, tuple[Callable[[], object], int]]:
    ours = CFR(read_game_tree(LEDUC), plus=True)
    theirs = pyspiel.CFRPlusSolver(pyspiel.load_game(LEDUC))
    return {
        "ours": (lambda: ours.step(40), 40),
        "open_spiel": (lambda: [theirs.evaluate_and_update_policy() for _ in range(4)], 4),
    }


def exploitability_contenders() -> dict[str, tuple[Callable[[], object], int]]:
    tree, game = read_game_tree(LEDUC), pyspiel.load_game(LEDUC)
    strategy = tree.uniform * torch.rand(tree.legal.shape, dtype=torch.double)
    strategy /= strategy.sum(1, keepdim=True)
    rows = zip(tree.info_names, strategy.tolist(), tree.legal.tolist(), strict=True)
    policy = pyspiel.TabularPolicy(
        {
            name: [(a, p) for a, (p, is_legal) in enumerate(zip(row, legal, strict=True)) if is_legal]
            for name, row, legal in rows
        }
    )
    return {
        "ours": (lambda: [exploitability(tree, strategy) for _ in range(20)], 20),
        "open_spiel": (lambda: pyspiel.exploitability(game, policy), 1),
    }


def traversal_contenders() -> dict[str, tuple[Callable[[], object], int]]:
    from open_spiel.python.pytorch.deep_cfr import DeepCFRSolver

    tree, count = read_game_tree(LEDUC), 4000
    recipe = replace(deep_cfr.RECIPES["leduc"], traversals=count, device="cpu")
    stream = deep_cfr.Traversals(deep_cfr.DeepCFR(30, 3), tree, recipe)
    game = pyspiel.load_game(LEDUC)
    theirs = DeepCFRSolver(game, policy_network_layers=(64, 64, 64), advantage_network_layers=(64, 64, 64))
    root = game.new_initial_state()

    return {
        "ours": (lambda: next(stream), count),
        "open_spiel": (lambda: [theirs._traverse_game_tree(root, 0) for _ in range(20)], 20),
    }


def episode_contenders() -> dict[str, tuple[Callable[[], object], int]]:
    from open_spiel.python import rl_environment
    from open_spiel.python.pytorch.nfsp import NFSP

    recipe = replace(nfsp.RECIPES["kuhn"], num_games=128, batch_size=128, device="cpu")
    run = next(nfsp.build(recipe))
    for _ in range(5):
        run.update(next(run.stream))

    def ours() -> None:
        for _ in range(20):
            run.update(next(run.stream))

    environment = rl_environment.Environment(KUHN)
    options = {
        "replay_buffer_capacity": 200_000,
        "epsilon_decay_duration": 1_000_000,
        "epsilon_start": 0.06,
        "epsilon_end": 0.001,
    }
    size = environment.observation_spec()["info_state"][0]
    actions = environment.action_spec()["num_actions"]
    common = {"reservoir_buffer_capacity": 2_000_000, "anticipatory_param": 0.1, "learn_every": 64}
    agents = [
        NFSP(player, size, actions, (64,), min_buffer_size_to_learn=128, **common, **options)
        for player in range(2)
    ]

    def theirs(episodes: int = 200) -> None:
        for _ in range(episodes):
            now = environment.reset()
            while not now.last():
                player = now.observations["current_player"]
                now = environment.step([agents[player].step(now).action])
            for agent in agents:
                agent.step(now)

    theirs(400)  # into the memories
    return {"ours": (ours, round(20 * 128 / 2.34)), "open_spiel": (theirs, 200)}  # 2.34 moves an episode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kinds = {
        "cfr+": cfr_contenders,
        "exploitability": exploitability_contenders,
        "traversals": traversal_contenders,
        "episodes": episode_contenders,
    }
    found = {}
    for name, make in kinds.items():
        try:
            contenders = make()
        except ImportError as error:
            print(f"{name}: left out, {error}")
            continue
        times: dict[str, list[float]] = {each: [] for each in contenders}
        for number in range(args.rounds + 1):
            order = list(contenders.items())
            for each, (function, count) in order if number % 2 else reversed(order):
                seconds = cost(function, count)
                if number:  # the first round warms up
                    times[each].append(seconds)
        ratios = [b / a for a, b in zip(times["ours"], times["open_spiel"], strict=True)]
        medians = {each: statistics.median(values) for each, values in times.items()}
        found[name] = {
            "ours_per_second": 1 / medians["ours"],
            "open_spiel_per_second": 1 / medians["open_spiel"],
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
        }
        if not args.json:
            each = found[name]
            print(
                f"{name}: ours {each['ours_per_second']:,.4g} a CPU second, open_spiel "
                f"{each['open_spiel_per_second']:,.4g}: {each['ratio']:.3g} times ({min(ratios):.3g} to "
                f"{max(ratios):.3g} over {args.rounds} rounds)"
            )
    if args.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
