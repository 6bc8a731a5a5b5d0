"""`torchstone play`."""

import argparse
import json
import statistics

from torchstone.cli.main import LAST_HELP, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run", metavar="RUN")
    add(
        "--episodes", metavar="N", type=positive, default=10, help="number of episodes (default: %(default)s)"
    )
    add("--video", metavar="FILE", help="video of the first episode: FILE.mp4 or FILE.gif")
    add("--seed", metavar="N", type=int, help="random seed of the initial states")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add("--last", action="store_true", help=LAST_HELP)
    add("--json", action="store_true", help="as JSON, with every return")


def run(args: argparse.Namespace) -> None:
    from torchstone.api import play

    options = {"episodes": args.episodes, "video": args.video, "seed": args.seed}
    returns = play(args.run, device=args.device, last=args.last, **options)
    spread = statistics.stdev(returns) if len(returns) > 1 else 0.0
    if args.json:
        summary = {"returns": returns, "mean": statistics.fmean(returns), "spread": spread}
        print(json.dumps(summary | {"video": args.video}))
        return
    print(" ".join(f"{each:g}" for each in returns))
    about = f" ± {spread:.1f} over {len(returns)} episodes" if len(returns) > 1 else " of 1 episode"
    print(f"mean return {statistics.fmean(returns):.1f}{about}")
    if args.video is not None:
        print(f"video: {args.video}")
