"""Self-play in connect four: ours beside open_spiel's Python search, with the same small convolutional network.

    python benchmarks/self_play.py [--simulations 32] [--games 256] [--channels 16] [--blocks 2] [--pairs 3] [--json]

open_spiel's Python AlphaZero is written for jax, flax and chex, so its actor's parts are used with our network as
the evaluator: `MCTSBot` with PUCT, noise at the root and without its solver, as its `alpha_zero.py` makes it, and its
`LRUCache` of evaluations. It plays one game at a time, ours `--games` at a time in one thread. Both search with the
same number of simulations from random weights.

Moves are counted in seconds of the processor, in turn, and the figure is the median over the pairs. Games an hour
are moves an hour over the mean length of 48 of our games: the same length for both. The network's share is of our time.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from torchstone.envs.board_games import connect_four
from torchstone.envs.self_play import SelfPlay, SelfPlayConfig
from torchstone.systems.planning import alphazero


class Timed(torch.nn.Module):
    """A network that counts the processor's time in it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seconds, self.calls = model, 0.0, 0

    def forward(self, observation):
        began = time.process_time()
        outputs = self.model(observation)
        self.seconds += time.process_time() - began
        self.calls += len(observation)
        return outputs


def network(channels: int, blocks: int) -> torch.nn.Module:
    torch.manual_seed(0)
    make = alphazero.VARIANTS["alphazero_small"].make
    return make(channels=channels, blocks=blocks).eval()


def make_stream(model: Any, games: int, simulations: int) -> SelfPlay:
    game = connect_four()
    config = SelfPlayConfig(
        num_games=games,
        num_moves=1,
        sample_size=1,
        buffer_size=64 * games,
        learning_starts=1,
        temperature_moves=30,
    )

    def search(state, generator):
        noise = (1.0, 0.25, generator)
        return alphazero.search(model, game, state, simulations, c_puct=1.25, noise=noise)

    return SelfPlay(game, search, config, is_binary=True, seed=0)


class Theirs:
    """open_spiel's actor: games one after another."""

    def __init__(self, model: Any, simulations: int):
        import pyspiel
        from open_spiel.python.algorithms import mcts
        from open_spiel.python.utils import lru_cache

        self.game = pyspiel.load_game("connect_four")
        cache = lru_cache.LRUCache(2**16)

        class Evaluator(mcts.Evaluator):
            def inference(self, state):
                planes = np.asarray(state.observation_tensor(), np.float32)

                def ask():
                    x = torch.from_numpy(planes).view(1, 3, 6, 7)[:, :2]
                    mask = torch.tensor(state.legal_actions_mask(), dtype=torch.bool)
                    with torch.no_grad():
                        logits, value = model(x)
                    p = logits[0].masked_fill(~mask, -torch.inf).softmax(0)
                    return float(value), p.numpy()

                return cache.make(planes.tobytes(), ask)

            def evaluate(self, state):
                value, _ = self.inference(state)
                return np.array([value, -value])

            def prior(self, state):
                _, p = self.inference(state)
                return [(action, p[action]) for action in state.legal_actions()]

        self.bot = mcts.MCTSBot(
            self.game,
            1.25,
            simulations,
            Evaluator(),
            solve=False,
            random_state=np.random.RandomState(0),
            child_selection_fn=mcts.SearchNode.puct_value,
            dirichlet_noise=(0.25, 1.0),
            dont_return_chance_node=True,
        )
        self.random, self.state, self.cache = np.random.RandomState(0), self.game.new_initial_state(), cache

    def move(self) -> None:
        """As its `alpha_zero.py` samples moves in self-play."""
        if self.state.is_terminal():
            self.state = self.game.new_initial_state()
        root = self.bot.mcts_search(self.state)
        visits = np.zeros(self.game.num_distinct_actions())
        for child in root.children:
            visits[child.action] = child.explore_count
        self.state.apply_action(int(self.random.choice(len(visits), p=visits / visits.sum())))


def mean_length(model: Any, simulations: int, games: int = 48) -> float:
    """Moves of the first games of a stream, all of which are played to their end."""
    stream, first = make_stream(model, games, simulations), torch.zeros(games, dtype=torch.int64)
    while not bool(first.all()):
        before = stream.ply + 1
        stream._move([], [])
        first = torch.where((first == 0) & (stream.ply == 0), before, first)
    return first.float().mean().item()


def seconds_of(function, times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        function()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("simulations", 32), ("games", 256), ("channels", 16), ("blocks", 2), ("pairs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = network(args.channels, args.blocks)
    timed = Timed(model)
    stream = make_stream(timed, args.games, args.simulations)
    theirs = Theirs(model, args.simulations)
    returns: list = []
    lengths: list = []
    with torch.no_grad():
        stream._move(returns, lengths)
        theirs.move()
        timed.seconds, timed.calls = 0.0, 0
        ours_rates, their_rates, total = [], [], 0.0
        moves, their_moves = 4, 12
        for _ in range(args.pairs):
            took = seconds_of(lambda: stream._move(returns, lengths), moves)
            total += took
            ours_rates.append(moves * args.games / took)
            their_rates.append(their_moves / seconds_of(theirs.move, their_moves))
        share, sims = timed.seconds / total, moves * args.pairs * args.games * args.simulations / total
        length = mean_length(model, args.simulations)
    ratios = sorted(a / b for a, b in zip(ours_rates, their_rates, strict=True))
    figures = {
        "network": f"{args.channels} filters, {args.blocks} blocks",
        "simulations": args.simulations,
        "games_at_a_time": args.games,
        "mean_game_length": length,
        "games_per_hour": 3600 * statistics.median(ours_rates) / length,
        "open_spiel_games_per_hour": 3600 * statistics.median(their_rates) / length,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "simulations_per_second": sims,
        "network_share": share,
    }
    if args.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:>28}  {figure if not isinstance(figure, float) else round(figure, 3)}")


if __name__ == "__main__":
    main()
