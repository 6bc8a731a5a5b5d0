"""`torchstone train`: the options are the fields of the system's recipe."""

import argparse
from pathlib import Path
from typing import Any

from torchstone.cli.main import Parser, positive
from torchstone.errors import BadInput, did_you_mean


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", metavar="SYSTEM[/RECIPE]", nargs="?")
    parser.add_argument("-h", "--help", action="store_true", help="with a system: its recipe's fields too")
    parser.add_argument(
        "--config", metavar="FILE", help="a run's recipe.json, in place of the system: gives that run again"
    )
    parser.add_argument("--out", metavar="DIR", help="the run folder (default: runs/SYSTEM-RECIPE)")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that is already there")
    parser.add_argument(
        "--seeds", metavar="N", type=positive, help="train N times with seeds from --seed on, one record"
    )
    parser.add_argument(
        "--folds", metavar="K", type=positive, help="cross-validation: train on each of K folds, one record"
    )
    parser.add_argument("--epochs", metavar="X", type=float, help="passes over the data, instead of --steps")
    parser.add_argument(
        "--patience", metavar="N", type=positive, help="stop early: evaluations without a better one"
    )
    parser.add_argument(
        "--best-metric",
        metavar="NAME",
        help="metric of validation that the best checkpoint is kept by (default: the system's, such as "
        "accuracy, loss or return)",
    )
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="look for a learning rate instead of training: its curve, and what it suggests",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="train without the files that cannot be used, and list them"
    )
    parser.add_argument("--log-every", metavar="N", type=positive, help="steps between rows of metrics")
    parser.add_argument("--eval-every", metavar="N", type=positive, help="steps between evaluations")
    parser.add_argument("--save-every", metavar="N", type=positive, help="steps between checkpoints")


def train(generic: Parser, words: list[str]) -> int:
    """Two parsers: the generic options, then the fields of the system that they name."""
    from torchstone import systems

    system, words = split_system(words, generic)
    words = [system or "", *words]  # else argparse takes the value of a field for it
    args, rest = generic.parse_known_args(words)
    args.system = system
    if args.config is not None:
        from torchstone.runs.recipes import read_recipe_file

        if args.system is not None:
            raise BadInput(f"--config names its system: leave out {args.system!r}, or leave out --config")
        saved = read_recipe_file(Path(args.config))[3]
        args.system = f"{saved['system']}/{saved['recipe']}"
    if args.system is None:
        if args.help:
            generic.print_help()
            return 0
        names = ", ".join(entry.name for entry in systems.CATALOGUE)
        raise BadInput(f"train what? Give a system ({names})")
    systems.find(args.system.partition("/")[0])  # before torch is imported
    from torchstone.api import recipe_of
    from torchstone.api import train as train_system
    from torchstone.cli.recipe_options import add_fields, by_new_names, changed
    from torchstone.cli.summary import print_summary
    from torchstone.engine import lazy_dynamo

    lazy_dynamo.defer()

    if args.config is None:
        entry, name, recipe = recipe_of(args.system, {})
    else:
        entry, name, recipe, _ = read_recipe_file(Path(args.config))
    parser = Parser(
        prog=f"torchstone train {entry.name}/{name}",
        description=f"{entry.title} ({entry.paper}, {entry.year}).",
        usage="%(prog)s [--field VALUE …] [--out DIR] [options]",
        add_help=False,
        allow_abbrev=False,
    )
    known = add_fields(parser.add_argument_group("fields of the recipe"), recipe)
    # what is a field of the recipe, such as PPO's epochs, is no generic option
    for action in [action for action in generic._actions if set(action.option_strings) & set(known)]:
        generic._remove_action(action)
        for option in action.option_strings:
            del generic._option_string_actions[option]
        delattr(args, action.dest)
        rest = generic.parse_known_args(words)[1]
    if args.help:
        for action in generic._actions[1:]:
            action.help = f"{action.help}{default_interval(action.dest, recipe)}"
            parser._add_action(action)
        parser.print_help()
        others = ", ".join(f"{entry.name}/{other}" for other in entry.recipes)
        print(f"\nrecipes: {others}\nvariants: {', '.join(entry.variants)}")
        return 0
    rest = by_new_names([_hyphened(word) for word in rest], entry.name, recipe)
    for word in rest:
        if word.startswith("--") and word.partition("=")[0] not in known:
            options = [*known, *(o for a in generic._actions for o in a.option_strings)]
            raise BadInput(f"{entry.name} has no field {word!r}: {did_you_mean(word, options)}")
    parsed, extra = parser.parse_known_args(rest)
    if extra:
        raise BadInput(f"unexpected {extra[0]!r} after {args.system}: fields are given as --field value")
    fields = changed(parsed)
    if args.skip_bad:
        from torchstone.files import SKIP

        fields["data"] = SKIP + str(fields.get("data", recipe.data)).removeprefix(SKIP)
    if args.find_lr:
        return print_lr(args, entry.name, name, fields)
    intervals = {"log": args.log_every, "evaluate": args.eval_every, "save": args.save_every}
    intervals = {each: number for each, number in intervals.items() if number is not None}
    run = train_system(
        args.system if args.config is None else None,
        config=args.config,
        out=args.out,
        overwrite=args.overwrite,
        intervals=intervals,
        seeds=args.seeds,
        folds=args.folds,
        patience=args.patience,
        best_metric=args.best_metric,
        **({"epochs": args.epochs} | fields if "epochs" in args else fields),
    )
    print_summary(run)
    return 0


def print_lr(args: argparse.Namespace, system: str, recipe_name: str, fields: dict[str, Any]) -> int:
    """Look for the learning rate, and say how to train with it.

    Raises:
        BadInput: options of a training beside it.
    """
    from torchstone.api import find_lr

    trainings = ("config", "overwrite", "seeds", "folds", "epochs", "patience", "best_metric")
    if given := [name for name in trainings if getattr(args, name, None)]:
        raise BadInput(f"--find-lr does not train: leave out --{given[0].replace('_', '-')}")
    found = find_lr(args.system, out=args.out, **fields)
    print(f"{'suggested lr':<16} {found['lr']:.2g}, where the loss falls fastest")
    print(f"{'the recipe has':<16} {found['recipe_lr']:.2g}")
    print(f"{'picture':<16} {found['picture']}")
    print(f"{'use it':<16} torchstone train {system}/{recipe_name} --lr {found['lr']:.2g} …")
    return 0


def split_system(words: list[str], generic: Parser) -> tuple[str | None, list[str]]:
    """The system among the words, wherever it stands, and the other words: it is the first that is neither
    an option nor an option's value. All but flags have one, fields of a recipe too."""
    flags = {option for each in generic._actions if each.nargs == 0 for option in each.option_strings}
    is_value = False
    for index, word in enumerate(words):
        if is_value:
            is_value = False
        elif word.startswith("-"):
            is_value = word not in flags and "=" not in word
        else:
            return word, [*words[:index], *words[index + 1 :]]
    return None, words


def default_interval(option: str, recipe: Any) -> str:
    """What a default interval comes to with the steps of a recipe."""
    from torchstone.engine.run import EVALUATIONS, ROWS, Intervals

    steps = getattr(recipe, "steps", None) or getattr(recipe, "updates", None)
    if option not in ("log_every", "eval_every", "save_every"):
        return ""
    if option == "save_every":
        return " (default: at the end, and whenever 30 seconds have passed)"
    every = None if steps is None else Intervals().resolve(steps)
    if option == "log_every":
        return f" (default: {ROWS} rows" + (f", every {every.log})" if every else ")")
    most = f" of {steps:,}, every {every.evaluate}" if every else ""
    return (
        f" (default: at most {EVALUATIONS} evaluations{most}, and fewer where they would take more than a "
        "tenth of the work, reckoned in examples; training begins with what it comes to)"
    )


def _hyphened(word: str) -> str:
    """`--weight_decay` is `--weight-decay`."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word
