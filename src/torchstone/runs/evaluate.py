"""Judging a run's model: on the test split of its own data, known by their content, or on other data."""

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torchstone.engine.field_ranges import check_range
from torchstone.engine.recipe_fields import checked
from torchstone.errors import BadInput
from torchstone.runs.load import is_published, load_any
from torchstone.runs.recipes import read_recipe
from torchstone.systems import System

CAUSAL = ("rnn", "lstm", "gru", "gpt", "performer")  # systems with `few_shot`
# options of `few_shot`
FEW_SHOT = {
    "shots": tuple[int, ...],
    "label_words": tuple[str, ...],
    "draws": int,
    "max_examples": int,
    "seed": int,
}


class EvaluatedOn(NamedTuple):
    """What a model was evaluated on."""

    split: str  # test, or all of other data
    name: str
    examples: str | None  # how many of what; None where there is no number
    note: str = ""

    def line(self) -> str:
        count = "" if self.examples is None else f" ({self.examples})"
        split = "the test split" if self.split == "test" else "all"
        return f"evaluated on {split} of {self.name}{count}{self.note}"


def evaluate(
    folder: str | Path, data: str | None, device: str, options: Mapping[str, Any], *, last: bool = False
) -> tuple[dict[str, float], EvaluatedOn]:
    """The metrics of a run's model, or a published one's, and what they are of.

    Args:
        data: other data than the run's; if their content is the same, it is the run's test split that counts.
        options: the system's own.
        last: evaluate the weights of the last step, not the best ones by validation.

    Raises:
        BadInput: no run, data that cannot be read, or, without `data`, that have changed since training.
    """
    from torchstone.data import identity

    model, metadata, entry = load_any(folder, device, last=last)
    measure = system_use(entry, "evaluate")
    refuse_unknown(measure, options, f"{entry.name} evaluates")
    own = None if is_published(folder) else read_recipe(Path(folder))[2].data
    spec, trained = data or own, metadata.get("data_identity")
    if spec is None:
        raise BadInput(f"{folder} is no run with data of its own: say which with --data")
    if trained is None:  # of an earlier version
        trained, is_own = [], spec == own
    else:
        is_own = True
        try:
            with identity.listen(trained) as heard:
                metrics = measure(model, metadata, spec, held_out=True, **options)
            return metrics, _evaluated_on("test", spec, heard, trained)
        except identity.OtherData as other:
            if data is None:
                change = identity.differences(trained[-1:], [other.found])
                if not other.found["splits"]:
                    raise BadInput(
                        f"{spec} has changed since {folder} was trained ({change}): restore it, or give "
                        f"--data {spec} to evaluate it as it is now"
                    ) from None
                raise BadInput(
                    f"the data of {folder} have changed since it was trained ({change}), so its test split "
                    f"may hold training examples: restore them, or give --data {spec} to evaluate all of them"
                ) from None
        except BadInput:
            if data is None:
                raise
            # other data may be too few to split; what else is wrong with them is said below
        is_own = False
    with identity.listen(known=identity.sketch_of(trained)) as heard:
        metrics = measure(model, metadata, spec, held_out=is_own, **options)
    return metrics, _evaluated_on("test" if is_own else "all", spec, heard, trained)


def evaluate_few_shot(
    folder: str | Path, data: str | None, device: str, options: Mapping[str, Any], *, last: bool = False
) -> tuple[dict[str, float], EvaluatedOn, Path | None]:
    """A causal language model's accuracy by the number of examples in its context, what it is of, and the
    picture in the run folder; of a published model there is none.

    Args:
        data: labelled text, or `in_context`; by default the run's own data, if they are the latter.
        options: those of `tasks.text.few_shot.few_shot`, `shots` among them.

    Raises:
        BadInput: no causal language model; no labelled text; what `few_shot` refuses.
    """
    from torchstone.data.synthetic.in_context import is_in_context
    from torchstone.plots.few_shot import draw_few_shot

    model, metadata, entry = load_any(folder, device, last=last)
    measure = getattr(entry.module(), "few_shot", None)
    if measure is None:
        raise BadInput(f"shots are of causal language models ({', '.join(CAUSAL)}), not of {entry.name}")
    spec, published = data, is_published(folder)
    if spec is None:
        spec = "" if published else read_recipe(Path(folder))[2].data
        if not is_in_context(spec):
            raise BadInput(
                f"shots are examples with labels, and {spec or folder} has none: give labelled --data"
            )
    if unknown := options.keys() - FEW_SHOT.keys():
        raise BadInput(f"{entry.name} is evaluated with shots without {min(unknown)!r}")
    options = {name: checked(name, FEW_SHOT[name], value) for name, value in options.items()}
    check_range("seed", options.get("seed", 0))
    metrics = measure(model, metadata, spec, **options)
    what = f"{metrics['texts']} texts, {metrics['draws']} draws of examples"
    left_out = metrics.get("left_out", 0)
    note = f"; {left_out} more have characters that the model does not know" if left_out else ""
    picture, name = None, Path(spec).name or spec
    if not published:
        readable = re.sub(r"[^\w.-]+", "_", name)
        picture = Path(folder) / "pictures" / f"few_shot_{readable}.png"
        draw_few_shot(metrics, options["shots"], picture, f"{entry.name} on {name}")
    return metrics, EvaluatedOn("test", spec, what, note), picture


def _evaluated_on(split: str, spec: str, heard: Any, trained: list[dict]) -> EvaluatedOn:
    from torchstone.data import identity

    of = next((source for source in heard.sources if source["splits"]), None)
    examples = None
    if of is not None:
        examples = identity.counted(of, *(("test",) if split == "test" and "test" in of["splits"] else ()))
    note = ""
    if split == "all" and trained:
        note = "; other data than those of training"
        if heard.repeated:
            share = len(heard.repeated) / len(identity.sketch_of(trained))
            note += f", but about {share:.0%} of the training examples are among them"
    return EvaluatedOn(split, spec, examples, note)


def system_use(entry: System, verb: str) -> Callable[..., Any]:
    """A system's function for a use.

    Raises:
        BadInput: it has none.
    """
    function = getattr(entry.module(), verb, None)
    if function is None:
        raise BadInput(f"{entry.name} has no {verb!r}")
    return function


def refuse_unknown(function: Callable[..., Any], options: Mapping[str, Any], does: str) -> None:
    """Refuse an option that a system's function has no use for."""
    known = inspect.signature(function).parameters.values()
    if not any(p.kind is p.VAR_KEYWORD for p in known):
        names = [p.name for p in known]
        if unknown := [name for name in options if name not in names]:
            raise BadInput(f"{does} without {unknown[0]!r}")
