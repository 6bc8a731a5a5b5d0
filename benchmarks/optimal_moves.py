"""Connect four judged by an exact solver: the share of moves that keep the game's value.

    python benchmarks/optimal_moves.py [RUN] [--positions 500] [--own 0] [--seed 0] [--json]

Positions are those after 8 to 20 random moves in which some legal move loses what another keeps; with a run and `--own`,
so many of its own games too, whose first four moves are at random. The solver is bitbully (`pip install
'torchstone[solver]'`). Judged are chance, tree search with 64 and 512 random play-outs, ours and open_spiel's, and the
run's network alone and with 64 and 512 simulations.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from torchstone.runs.load import load_run
from torchstone.systems.planning import alphazero
from torchstone.tasks.selfplay import arena, inference, players


def open_spiel_player(simulations: int, seed: int):
    """open_spiel's own search, in C++, with one random play-out for each simulation, as its examples have it."""
    import pyspiel

    game, solver = pyspiel.load_game("connect_four"), players.Solver()

    def act(state, generator):
        actions = []
        for number, board in enumerate(solver.boards(state)):
            evaluator = pyspiel.RandomRolloutEvaluator(1, seed + number)
            bot = pyspiel.MCTSBot(
                game, evaluator, 2.0, simulations, 1000, False, seed + number, False,
                pyspiel.ChildSelectionPolicy.UCT,
            )  # fmt: skip
            actions.append(bot.step(replay(game, board)))
        return torch.tensor(actions)

    return act


def replay(game, board):
    """Some order of moves that leads to the board: columns fill from below, and players alternate."""
    columns = [[row[c] for row in board[::-1] if row[c]] for c in range(7)]
    total = sum(map(len, columns))

    def order(heights, ply):
        if ply == total:
            return []
        for column, height in enumerate(heights):
            if height < len(columns[column]) and columns[column][height] == ply % 2 + 1:
                rest = order((*heights[:column], height + 1, *heights[column + 1 :]), ply + 1)
                if rest is not None:
                    return [column, *rest]
        return None

    state = game.new_initial_state()
    for column in order((0,) * 7, 0):
        state.apply_action(column)
    return state


def own_positions(agent: inference.Agent, solver, count: int, seed: int):
    """Positions of 8 to 20 moves out of the agent's games against itself in which the move matters."""
    game, generator = agent.game, torch.Generator().manual_seed(seed)
    found, values = [], []
    chance, think = players.random_player(game), agent.player(game)
    while sum(map(len, found)) < count:
        state = game.initial(64)
        for ply in range(20):
            state = game.step(state, (chance if ply < 4 else think)(state, generator))
            state = state[~game.outcome(state)[0]]
            if not len(state):
                break
            if ply + 1 >= 8 and ply % 3 == 0:
                some = state[torch.randperm(len(state), generator=generator)[:12]].unique(dim=0)
                exact = solver.action_values(some)
                keep = arena.matters(exact)
                found.append(some[keep])
                values.append(exact[keep])
    return torch.cat(found)[:count], torch.cat(values)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--positions", type=int, default=500)
    parser.add_argument("--own", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    game, solver, began = players.make_game("connect_four"), players.Solver(), time.process_time()
    sets = {"random": arena.random_positions(game, solver, args.positions, seed=args.seed)}
    who = {"chance": players.random_player(game)}
    for simulations in (64, 512):
        who[f"mcts:{simulations}"] = players.playout_player(game, simulations)
        who[f"open_spiel's mcts:{simulations}"] = open_spiel_player(simulations, args.seed)
    if args.run is not None:
        model, metadata, _ = load_run(args.run)

        def alone(state, generator):
            logits, _ = model(game.observe(state))
            return logits.masked_fill(~game.legal_actions(state), -torch.inf).argmax(1)

        who["network alone"] = alone
        for simulations in (64, 512):
            agent = inference.Agent(alphazero.search, model, metadata, simulations)
            who[f"network, {simulations} simulations"] = agent.player(game)
        if args.own:
            agent = inference.Agent(alphazero.search, model, metadata, 64)
            sets["own games"] = own_positions(agent, solver, args.own, args.seed)
    figures = {}
    with torch.no_grad():
        for name, player in who.items():
            for kind, (states, values) in sets.items():
                share = arena.share_of_best(player, states, values, seed=args.seed)
                figures.setdefault(name, {})[kind] = round(share, 4)
            if not args.json:
                print(
                    f"{name:>28}  " + "  ".join(f"{k} {v:.3f}" for k, v in figures[name].items()), flush=True
                )
    seconds = time.process_time() - began
    if args.json:
        counts = {kind: len(states) for kind, (states, _) in sets.items()}
        print(json.dumps({"shares": figures, "positions": counts, "seconds": seconds}))


if __name__ == "__main__":
    main()
