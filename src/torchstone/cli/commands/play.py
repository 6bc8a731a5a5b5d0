"""`torchstone play`."""

import argparse
import json
import statistics

from torchstone.cli.main import LAST_HELP, positive
from torchstone.errors import BadInput

EPISODES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN")
    add(
        "--against",
        metavar="WHO",
        help="games: random, perfect, mcts:N with N random play-outs, equilibrium (cards), or another run; "
        "without it, you",
    )
    add(
        "--episodes",
        metavar="N",
        type=positive,
        help=f"number of episodes or games (default: {EPISODES}; against you 1)",
    )
    add(
        "--simulations",
        metavar="N",
        type=positive,
        help="games: simulations of a move (default: as in training)",
    )
    add(
        "--picture",
        metavar="FILE",
        help="games: the search for a move, FILE.png; against you for the last move; traffic, cooling, "
        "treatment, job shops: a chart of an episode",
    )
    add("--video", metavar="FILE", help="video of the first episode: FILE.mp4 or FILE.gif")
    add("--seed", metavar="N", type=int, help="random seed of the initial states, or of the opponent")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--last", action="store_true", help=LAST_HELP)
    add("--json", action="store_true", help="as JSON, with every return")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import play, play_person
    from torchstone.runs.load import plays_game

    options = {name: getattr(args, name) for name in ("seed", "simulations", "picture")}
    if plays_game(args.run) and args.against is None:
        if args.json:
            raise BadInput("--json is of games between agents: give --against random, or another run")
        if args.video is not None:
            raise BadInput("a game has no video: --picture FILE.png shows the search")
        returns = play_person(
            args.run, games=args.episodes or 1, device=args.device, last=args.last, **options
        )
        if args.picture is not None and returns:
            print(f"picture: {args.picture}")
        return
    options |= {"episodes": args.episodes or EPISODES, "video": args.video, "against": args.against}
    returns = play(args.run, device=args.device, last=args.last, **options)
    spread = statistics.stdev(returns) if len(returns) > 1 else 0.0
    success_rate = getattr(returns, "success_rate", None)  # of environments with goals
    if args.json:
        summary = {"returns": returns, "mean": statistics.fmean(returns), "spread": spread}
        files = (
            {"video": args.video}
            if args.against is None
            else {"against": args.against, "picture": args.picture}
        )
        goals = {} if success_rate is None else {"success_rate": success_rate}
        print(json.dumps(summary | goals | files))
        return
    print(" ".join(f"{each:g}" for each in returns))
    unit = "episode" if args.against is None else "game"
    about = f" ± {spread:.1f} over {len(returns)} {unit}s" if len(returns) > 1 else f" of 1 {unit}"
    print(f"mean return {statistics.fmean(returns):.{1 if args.against is None else 2}f}{about}")
    if success_rate is not None:
        print(f"success rate {success_rate:.3g}: the share of episodes that end at their goals")
    if args.against is not None:
        won, lost = sum(each > 0 for each in returns), sum(each < 0 for each in returns)
        print(f"{won} won, {len(returns) - won - lost} drawn, {lost} lost against {args.against}")
    for kind in ("video", "picture"):
        if getattr(args, kind) is not None:
            print(f"{kind}: {getattr(args, kind)}")
