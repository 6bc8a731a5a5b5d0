"""The command line. What is imported at the top is all that `list` and `--help` pay for.

Each command is a module of `cli.commands` with `add_arguments(parser)` and `run(args)`; only the one that is
typed is imported.
"""

import argparse
import contextlib
import errno
import gc
import importlib
import os
import re
import sys
from typing import NoReturn

from torchstone.errors import BadInput, Interrupted, NotFinite, NotSaved, did_you_mean

COMMANDS = {
    "list": "list the systems and their recipes",
    "show": "show a system: paper, variants, layers, recipes, checks, measured results",
    "data": "list the bundled data sets: size, licence, cached or not, what uses them",
    "train": "train a system; every field of its recipe is an option (train SYSTEM --help lists them)",
    "resume": "continue a run that was stopped or killed, bit for bit as if it had not been",
    "eval": "evaluate a run on its test split, or on other data with the same classes",
    "predict": "run inference: print the prediction for each input",
    "sample": "generate samples: text, music or an image grid",
    "augment": "balance classes: generate training images for the rare ones, and measure what they bring",
    "play": "play a game against a run's agent, or let it play: returns with their spread, and a video",
    "export": "export a run's model to ONNX, torch.export or a Hugging Face folder",
    "compare": "compare runs: a table, and their curves in one picture",
    "claims": "put what the field says to the test: experiments with figures and verdicts",
    "diagnose": "pictures of a run in training: loss landscape, gradients and activations by layer, noise",
    "verify": "check published figures and parity with references; exit 1 if any fails",
}
LAST_HELP = "use the weights of the last step, not the best ones by validation"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# these compute nothing: no threads to settle
LIGHT = ("list", "show", "data", "compare")

EXAMPLES = """examples:
  torchstone list                                   the systems there are
  torchstone show lenet5                            paper, layers, recipes, measured results
  torchstone train lenet5                           train on bundled data, in seconds
  torchstone train lenet5 --data ./photos           on your own: one sub-folder per class
  torchstone train lenet5 --steps 500 --lr 0.002    any field of the recipe
  torchstone predict runs/lenet5-mnist5k digit.png  use what was trained
  torchstone export runs/lenet5-mnist5k --out lenet5.onnx
"""


class Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"argument (.*?): invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            known = re.findall(r"[\w.]+", wrong[3])
            message = f"no value {wrong[2]!r} for {wrong[1]}: {did_you_mean(wrong[2], known)}"
        raise BadInput(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (a check failed), 2 (bad input), or 128 + signal."""
    is_program, argv = argv is None, sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS and argv[0] not in LIGHT:
        from torchstone.engine import openmp

        openmp.settle()  # before torch is imported
        # the hundred thousands of objects that imports make are no garbage, and looking through them for some
        # is a quarter of a short run's time
        gc.set_threshold(100_000, 50, 50)
    code = _run(argv, is_program)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # a short output is written only here
    except OSError as error:
        code = _not_written(error) or code
    if is_program:
        # what is left need not be looked through for garbage: the system takes it all back
        gc.freeze()
    return code


def _run(argv: list[str], is_program: bool) -> int:
    """Run one command, and say in one line what was wrong."""
    try:
        return _dispatch(argv)
    except (BadInput, NotFinite, NotSaved) as error:
        if os.environ.get("RANK", "0") == "0":  # one of several processes reports it
            _say(" ".join(str(error).split()))
        return 2
    except Interrupted as stop:
        _say(str(stop))
        return _leave(128 + stop.signal, is_program)
    except KeyboardInterrupt:
        trains = argv[0] in ("train", "resume")
        advice = "; a run that had begun goes on from its last checkpoint with resume" if trains else ""
        _say(f"interrupted at once{advice}")
        return _leave(130, is_program)
    except SystemExit as done:
        # argparse leaves so after --help, and rich where nobody reads on
        return 0 if isinstance(done.__context__, BrokenPipeError) else int(done.code or 0)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.errno in NO_ROOM:
            return _not_written(error)
        raise


def _say(line: str) -> None:
    """A line on the error stream, wherever that leads."""
    from torchstone.engine.console import write_line

    write_line(f"torchstone: {line}")


def _not_written(error: OSError) -> int:
    """The exit code where the output could not be written: nobody reads on (`| head`), or a full disk."""
    from torchstone.engine.console import discard

    if error.filename is None:
        discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return 0
    _say(f"{error.filename or 'the output'} could not be written: {error.strerror or error}")
    return 2


def _leave(code: int, is_program: bool) -> int:
    """Whoever typed Ctrl-C waits: a program ends at once, for Python takes a second to take torch down."""
    if is_program:
        with contextlib.suppress(OSError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    return code


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        from torchstone import __version__

        print(f"torchstone {__version__}")
        return 0
    name, *words = argv
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        known = ["--help", "--version"] if kind == "option" else COMMANDS
        raise BadInput(f"no {kind} {name!r}: {did_you_mean(name, known)} (see torchstone --help)")
    command = importlib.import_module(f"torchstone.cli.commands.{name}")
    does = COMMANDS[name]
    parser = Parser(
        prog=f"torchstone {name}",
        description=f"{does[0].upper()}{does[1:]}.",
        epilog=getattr(command, "EPILOG", None),
        add_help=name != "train",
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    words = today(words, getattr(command, "OLD_OPTIONS", {}))
    if name == "train":
        return command.train(parser, words)
    args, rest = parser.parse_known_args(words)
    if rest and not any(word.startswith("-") for word in rest):  # inputs after options, as people type them
        args, rest = parser.parse_known_intermixed_args(words)
    if rest:
        known = [o for a in parser._actions for o in a.option_strings]
        advice = getattr(command, "OTHER_OPTIONS", "")
        raise BadInput(f"{name} has no option {rest[0]!r}: {did_you_mean(rest[0], known)}{advice}")
    return command.run(args) or 0


def today(words: list[str], old: dict[str, str]) -> list[str]:
    """Words with options of earlier versions by their names of today, and one line for each on stderr."""
    result = []
    for word in words:
        option, equals, value = word.partition("=")
        if option in old:
            print(f"torchstone: {option} is called {old[option]} now", file=sys.stderr)
            word = f"{old[option]}{equals}{value}"
        result.append(word)
    return result


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {does}" for name, does in COMMANDS.items())
    return (
        "usage: torchstone COMMAND …\n\n"
        "The milestone systems of deep learning: train, resume, use and verify them.\n\n"
        f"commands (each has --help):\n{lines}\n\n{EXAMPLES}"
    )


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    try:
        number = float(text)
        if number == int(number) >= 1:  # `1e3` is one
            return int(text) if text.isdecimal() else int(number)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
