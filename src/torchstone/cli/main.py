"""The command line. What is imported at the top is all that `list` and `--help` pay for."""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

from torchstone.engine import openmp
from torchstone.errors import BadInput, Interrupted, NotFinite, NotSaved, did_you_mean

EXAMPLES = """examples:
  torchstone list                                   the systems there are
  torchstone show lenet5                            paper, layers, recipes, measured results
  torchstone train lenet5                           train on bundled data, in seconds
  torchstone train lenet5 --data ./photos           on your own: one sub-folder a class
  torchstone train lenet5 --steps 500 --lr 0.002    any field of the recipe
  torchstone predict runs/lenet5-mnist5k digit.png  use what was trained
  torchstone export runs/lenet5-mnist5k --out lenet5.onnx
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and leaves with 2."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            known = re.findall(r"[\w.]+", wrong[2])
            what = "command" if "COMMAND" in message else f"value for {message.split()[1][:-1]}"
            message = f"no {what} {wrong[1]!r}: {did_you_mean(wrong[1], known)}"
        raise BadInput(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (a check failed), 2 (bad input), or 128 + signal."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] not in ("list", "show", "compare", "-h", "--help", "--version"):
        openmp.settle()  # before torch is imported
    try:
        return _dispatch(argv)
    except (BadInput, NotFinite, NotSaved) as error:
        if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
            print(f"torchstone: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"torchstone: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print(
            "torchstone: interrupted at once; resume goes on from the last checkpoint",
            file=sys.stderr,
        )
        return 130
    except SystemExit as done:  # argparse leaves so after --help
        return int(done.code or 0)
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _dispatch(argv: list[str]) -> int:
    parser = Parser(
        prog="torchstone",
        description="The milestone systems of deep learning: train, resume, use and verify them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, does: str, **options) -> Parser:
        return commands.add_parser(
            name,
            help=does,
            description=f"{does[0].upper()}{does[1:]}.",
            allow_abbrev=False,
            **options,
        )

    p = command("list", "list the systems, their variants and recipes")
    p.add_argument("--chapter", help="only this chapter")
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command("show", "show a system's card: paper, variants, layers, recipes, checks, records")
    p.add_argument("system", metavar="SYSTEM")

    p = command(
        "train",
        "train a system; every field of its recipe is an option (train SYSTEM --help lists them)",
        add_help=False,
    )
    p.add_argument("system", metavar="SYSTEM[/RECIPE]", nargs="?")
    p.add_argument("-h", "--help", action="store_true", help="with a system: its recipe's fields too")
    p.add_argument("--out", metavar="DIR", help="the run folder (default: runs/SYSTEM-RECIPE)")
    p.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    p.add_argument("--seeds", metavar="N", type=_positive, help="train N times, from seed on, as one record")
    _clock(p)

    p = command("resume", "go on with a run that was stopped or killed, as if it had not been")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--device", help="auto, cpu, cuda or mps (default: the recipe's)")

    p = command("eval", "measure a run on its test split, or on other data with the same classes")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--data", metavar="SPEC", help="a bundled set, a folder, or hf:NAME")
    p.add_argument(
        "--inception",
        metavar="FILE.pth",
        help="of pictures made: Inception's weights, for its distance",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command("predict", "say what a run's model makes of each input")
    p.add_argument("run", metavar="RUN")
    p.add_argument("inputs", metavar="INPUT", nargs="*", help="files, folders of them, or texts")
    p.add_argument("--examples", metavar="FILE", help="inputs and outputs, put before each text")
    p.add_argument("--fill", metavar="TEXT", help="the likeliest words where TEXT says [MASK]")
    p.add_argument("--beams", metavar="N", type=_positive, help="texts followed at once; 1 is greedy")
    p.add_argument("--horizon", metavar="N", type=_positive, help="steps ahead that are forecast")
    p.add_argument(
        "--out",
        metavar="FILE",
        help="where a forecast is drawn (.png), or its numbers are written (.csv); default: "
        "NAME-forecast.png",
    )
    p.add_argument(
        "--explain",
        metavar="FILE.png",
        help="draw where in each picture the answer is seen: class activation map and saliency (of a "
        "segmentation: the mask), laid over it",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    p.add_argument("--json", action="store_true", help="as JSON, all probabilities")

    p = command("sample", "let a run's model make something: texts, music, or a sheet of pictures")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--prompt", metavar="TEXT", help="what the text begins with, or the picture shows")
    p.add_argument("--label", metavar="K", help="the class that pictures are to be of (default: all)")
    p.add_argument("--known", metavar="FILE", help="a picture that is to be filled in, with --mask")
    p.add_argument("--mask", metavar="FILE", help="of its size, white where it is to be filled in")
    p.add_argument("-n", dest="count", metavar="N", type=_positive, help="how many")
    p.add_argument("--length", metavar="N", type=_positive, help="tokens that are added")
    p.add_argument("--temperature", metavar="X", type=float, help="below 1 likelier, above 1 odder")
    p.add_argument("--top-k", metavar="N", type=int, help="only the likeliest N tokens")
    p.add_argument("--top-p", metavar="X", type=float, help="only the likeliest that reach X")
    p.add_argument("--seed", metavar="N", type=int, help="of what is drawn (default: 0)")
    p.add_argument("--guidance", metavar="S", type=float, help="of a diffusion: 1 none, 3 strong")
    p.add_argument("--steer", metavar="S", type=float, help="of a diffusion: a classifier's guidance")
    p.add_argument("--steps", metavar="N", type=_positive, help="of a diffusion: steps of its way")
    p.add_argument("--sampler", metavar="NAME", help="of a diffusion: ddpm or ddim")
    p.add_argument("--eta", metavar="X", type=float, help="of ddim: 0 draws nothing new, 1 as ddpm")
    p.add_argument("--tempo", metavar="X", type=float, help="of music: quarter notes a minute")
    p.add_argument("--out", metavar="FILE", help="write it there; music: FILE.mid, pictures: FILE.png")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")

    p = command("play", "let a run's agent play: returns with their spread, and a film")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--episodes", metavar="N", type=_positive, default=10, help="default: %(default)s")
    p.add_argument("--video", metavar="FILE", help="film the first episode: FILE.mp4 or FILE.gif")
    p.add_argument("--seed", metavar="N", type=int, help="of where episodes begin")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    p.add_argument("--json", action="store_true", help="as JSON: every return")

    p = command(
        "export",
        "write a run's model as one file for other programs: ONNX, or torch's exported program",
        epilog="The file takes pictures as uint8, 0 to 255, framed as in training, and normalises them "
        "itself (of tables: rows as they are), any number at a time, and gives logits. Classes, size and "
        "framing stand in it: in an .onnx as JSON in its metadata, in a .pt2 as card.json. It is put in "
        "place once it has been read back and found within 1e-4 of the model. "
        "For .onnx: pip install 'torchstone[export]'.",
    )
    p.add_argument("run", metavar="RUN")
    p.add_argument(
        "--out",
        metavar="FILE",
        required=True,
        help="model.onnx (ONNX), model.pt2 (torch.export), or with --format hf a new folder",
    )
    p.add_argument(
        "--format",
        metavar="NAME",
        help="onnx, pt2 (by default what --out ends in), or hf: a folder that transformers loads "
        "(bert, gpt, t5, vit)",
    )
    p.add_argument("--json", action="store_true", help="as JSON: what stands in the file")

    p = command("compare", "compare runs: a table, and their curves in one picture")
    p.add_argument("runs", metavar="RUN", nargs="+")
    p.add_argument("--out", metavar="FILE.png", default="compare.png", help="default: %(default)s")
    p.add_argument("--json", action="store_true", help="as JSON")

    p = command("verify", "check published figures and parity with references; exit 1 if any fails")
    p.add_argument("systems", metavar="SYSTEM", nargs="*", help="default: all")
    p.add_argument("--json", action="store_true", help="as JSON")

    args, rest = parser.parse_known_args(argv)
    if args.version:
        from torchstone import __version__

        print(f"torchstone {__version__}")
        return 0
    if args.command is None:
        parser.print_help()
        return 0 if not argv else 2
    if rest and args.command != "train":
        known = [o for a in commands.choices[args.command]._actions for o in a.option_strings]
        raise BadInput(f"{args.command} has no option {rest[0]!r}: {did_you_mean(rest[0], known)}")
    if args.command == "train":
        return _train(args, rest, commands.choices["train"])
    return globals()[f"_{args.command}"](args) or 0


def _clock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-every", metavar="N", type=_positive, help="steps between rows of metrics")
    parser.add_argument("--eval-every", metavar="N", type=_positive, help="steps between evaluations")
    parser.add_argument("--save-every", metavar="N", type=_positive, help="steps between checkpoints")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _list(args) -> None:
    from torchstone.api import list_systems

    entries = list_systems(args.chapter)
    if args.json:
        from dataclasses import asdict

        print(json.dumps([asdict(entry) for entry in entries], indent=1))
        return
    width = max(len(entry.name) for entry in entries)
    chapter = None
    for entry in entries:
        if entry.chapter != chapter:
            print(f"{chr(10) if chapter else ''}{entry.chapter}")
            chapter = entry.chapter
        print(f"  {entry.name:<{width}}  {entry.year}  {entry.title}: {entry.paper}")
        print(
            f"  {'':<{width}}        variants: {', '.join(entry.variants)}; recipes: {', '.join(entry.recipes)}"
        )


def _show(args) -> None:
    from torchstone.cli.show import show

    show(args.system)


def _train(args, rest: list[str], generic: Parser) -> int:
    from torchstone import systems

    if args.system is None:
        if args.help:
            generic.print_help()
            return 0
        names = ", ".join(entry.name for entry in systems.CATALOGUE)
        raise BadInput(f"train what? Give a system ({names})")
    systems.find(args.system.partition("/")[0])  # before torch is imported
    from torchstone.api import recipe_of, train
    from torchstone.cli.recipe_options import add_fields, changed

    entry, name, recipe = recipe_of(args.system, {})
    parser = Parser(
        prog=f"torchstone train {entry.name}/{name}",
        description=f"{entry.title} ({entry.paper}, {entry.year}).",
        usage="%(prog)s [--field VALUE …] [--out DIR] [options]",
        add_help=False,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("fields of the recipe")
    known = add_fields(group, recipe)
    if args.help:
        for action in generic._actions[1:]:
            parser._add_action(action)
        parser.print_help()
        others = ", ".join(f"{entry.name}/{other}" for other in entry.recipes)
        print(f"\nrecipes: {others}\nvariants: {', '.join(entry.variants)}")
        return 0
    rest = [_underscored(word) for word in rest]  # --weight-decay is --weight_decay
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:
            options = [*known, *(o for a in generic._actions for o in a.option_strings)]
            raise BadInput(f"{entry.name} has no field {word!r}: {did_you_mean(word, options)}")
    parsed, extra = parser.parse_known_args(rest)
    if extra:
        raise BadInput(f"unexpected {extra[0]!r} after {args.system}: fields are given as --field value")
    clock = {"log": args.log_every, "evaluate": args.eval_every, "save": args.save_every}
    run = train(
        args.system,
        out=args.out,
        overwrite=args.overwrite,
        intervals=clock,
        seeds=args.seeds,
        **changed(parsed),
    )
    _told(run)
    return 0


def _underscored(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def _resume(args) -> None:
    from torchstone.api import resume

    _told(resume(args.run, device=args.device))


def _told(run) -> None:
    """The closing lines of a run, or of several seeds: what was reached, and where to look."""
    from torchstone.engine import parallel

    if isinstance(run, dict):
        return _told_together(run)
    if parallel.rank() or run.folder is None:
        return
    result = json.loads((run.folder / "result.json").read_text())
    for name, value in run.results.items():
        print(f"{name:<16} {value:.4f}")
    print(f"{'training time':<16} {result['seconds']:.1f} s")
    print(f"{'run folder':<16} {run.folder}")
    for picture in sorted((run.folder / "pictures").glob("*")):
        print(f"{'picture':<16} {picture}")


def _told_together(record: dict) -> None:
    count = len(record["seeds"])
    print(f"{count} seeds, {sum(record['seconds']):.1f} s of training")
    for name, each in record["metrics"].items():
        low, high = each["interval"]
        print(
            f"{name:<20} interquartile mean {each['interquartile_mean']:.4f} "
            f"(95 %: {low:.4f} to {high:.4f}), mean {each['mean']:.4f} ± {each['spread']:.4f}"
        )
    print(f"{'record':<20} {record['folder']}/record.json")
    print(f"{'picture':<20} {record['folder']}/curves.png")


def _eval(args) -> None:
    from torchstone.api import evaluate

    options = {} if args.inception is None else {"inception": args.inception}
    results = evaluate(args.run, data=args.data, device=args.device, **options)
    if args.json:
        print(json.dumps(results))
        return
    for name, value in results.items():
        print(f"{name:<16} {value:.4f}" if isinstance(value, float) else f"{name:<16} {value}")


def _predict(args) -> None:
    from torchstone.api import predict

    options: dict[str, Any] = {} if args.fill is None else {"fill": True}
    for name in ("examples", "beams", "horizon", "out"):
        if getattr(args, name) is not None:
            options[name] = getattr(args, name)
    inputs = [*args.inputs, *([] if args.fill is None else [args.fill])]
    if not inputs:
        raise BadInput("predict what? Give files, or texts")
    answers = predict(args.run, inputs, device=args.device, explain=args.explain, **options)
    if args.json:
        print(json.dumps(answers, indent=1))
        return
    for answer in answers:
        if "text" in answer:
            print(answer["text"])
            for gap in answer.get("candidates", ()):
                print("  " + ", ".join(f"{c['word']} ({c['probability']:.1%})" for c in gap))
            continue
        print(f"{answer['input']}: {answer['label']} ({answer['probability']:.1%})")
    for file in [a["file"] for a in answers if "file" in a] + [args.explain] * bool(args.explain):
        print(f"{'picture' if file.endswith('.png') else 'file'}: {file}")


def _export(args) -> None:
    from torchstone.api import export

    done = export(args.run, out=args.out, format=args.format)
    if args.json:
        print(json.dumps(done, indent=1))
        return
    if "facts" not in done:
        print(f"{'folder':<16} {done['file']}")
        return
    for way in ("input", "output"):
        tensor = done["facts"][way]
        shape = " × ".join(map(str, tensor["shape"]))
        print(f"{way:<16} {tensor['name']}: {shape} ({tensor.get('values', tensor.get('use'))})")
    print(f"{'from the model':<16} {done['apart']:.1e} at most")
    print(f"{'file':<16} {done['file']} ({done['bytes'] / 1e6:.1f} MB)")


def _sample(args) -> None:
    from torchstone.api import sample
    from torchstone.runs.recipes import read_recipe

    # a file of music or of pictures is written by the system, a text here
    made = args.out is not None and args.out.lower().endswith((".mid", ".midi", ".png"))
    apart = ("command", "version", "run", *(() if made else ("out",)))
    options = {k: v for k, v in vars(args).items() if k not in apart and v is not None}
    if not made and read_recipe(Path(args.run))[0].chapter == "generative":
        raise BadInput(f"{args.run} makes pictures: say where to, with --out FILE.png")
    texts = sample(args.run, **options)
    joined = "\n\n".join(texts)
    if args.out is None or made:
        print(joined)
        return
    try:
        with open(args.out, "w", encoding="utf-8") as file:
            file.write(joined + "\n")
    except OSError as error:
        raise BadInput(f"cannot write {args.out} ({error.strerror}): choose another --out") from None
    print(args.out)


def _play(args) -> None:
    import statistics

    from torchstone.api import play

    options = {"episodes": args.episodes, "video": args.video, "seed": args.seed}
    returns = play(args.run, device=args.device, **options)
    spread = statistics.stdev(returns) if len(returns) > 1 else 0.0
    if args.json:
        said = {"returns": returns, "mean": statistics.fmean(returns), "spread": spread}
        print(json.dumps(said | {"video": args.video}))
        return
    print(" ".join(f"{each:g}" for each in returns))
    print(f"mean return {statistics.fmean(returns):.1f} ± {spread:.1f} over {len(returns)} episodes")
    if args.video is not None:
        print(f"film: {args.video}")


def _compare(args) -> None:
    from torchstone.api import compare

    rows = compare(args.runs, out=args.out)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")  # a column a run: names of metrics may be long
    table.add_column("run")
    for row in rows:
        table.add_column(str(row["run"]), justify="right")
    for name in dict.fromkeys(key for row in rows for key in row if key != "run"):
        table.add_row(name, *(_short(row.get(name)) for row in rows))
    Console().print(table)
    print(f"picture: {args.out}")


def _short(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _verify(args) -> int:
    from torchstone.api import verify

    checks = [check for name in args.systems or [None] for check in verify(name)]
    if args.json:
        print(json.dumps([check.as_dict() for check in checks], indent=1, default=str))
    else:
        for c in checks:
            mark = "ok  " if c.passed else "FAIL"
            within = f" ± {c.tolerance:g}" if c.tolerance else ""
            measured = f"{c.measured:.3g}" if isinstance(c.measured, float) else c.measured
            print(f"{mark} {c.system:<12} {c.name}: {measured} (expected {c.expected}{within})")
        failed = sum(not c.passed for c in checks)
        print(f"{len(checks) - failed} of {len(checks)} checks passed")
    return int(not all(check.passed for check in checks))
