"""`torchstone show`: a system's card."""

import contextlib
import inspect
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from torchstone import systems
from torchstone.engine.recipe_fields import field_paths, get_field, short_name
from torchstone.interpret.receptive_field import ReceptiveFieldTracker
from torchstone.parts.facts import FUSED, count_parameters, example
from torchstone.parts.facts import layers as parts
from torchstone.parts.modes import eval_mode
from torchstone.runs.recipes import comments
from torchstone.runs.records import of_system
from torchstone.systems.metric_names import legends_of

RECEPTIVE = (
    "receptive: receptive field, its side length in input pixels, padding included; global pooling inside "
    "attention gates is ignored"
)


class Layer(NamedTuple):
    """One row of the table: a layer without children, in order of use."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    receptive: int | str | None  # receptive field in pixels, or "all"; images only


def layers(model: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    """Output shape, parameters and MACs of each leaf module for one input of `shape` (without the batch)."""
    from torch.utils.flop_counter import FlopCounterMode

    order: list[tuple[str, nn.Module, tuple[int, ...], int | str | None]] = []
    hooks = []
    inputs = example(model, shape)
    sight = ReceptiveFieldTracker(inputs[0]) if len(shape) == 3 else None
    for name, module in parts(model):

        def record_output(module, inputs, output, name=name):
            if isinstance(output, tuple):  # what recurrent layers give, before their state
                output = output[0]
            if isinstance(output, Tensor):
                receptive = sight.of(output) if sight else None
                order.append((name, module, tuple(output.shape[1:]), receptive))

        hooks.append(module.register_forward_hook(record_output))
    try:
        with (
            eval_mode(model),
            torch.no_grad(),
            FlopCounterMode(display=False, custom_mapping=FUSED) as counter,
            sight or contextlib.nullcontext(),
        ):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    counts = {
        key.split(".", 1)[-1]: sum(each.values()) // 2 for key, each in counter.get_flop_counts().items()
    }
    # one that two layers share is counted where it comes first
    owner: dict[int, str] = {}
    for name, module, *_ in order:
        for p in module.parameters():
            owner.setdefault(id(p), name)
    return [
        Layer(name, type(module).__name__, out, _own(name, module, owner), counts.get(name, 0), receptive)
        for name, module, out, receptive in order
    ]


def _own(name: str, module: nn.Module, owner: dict[int, str]) -> int:
    mine = (p for p in module.parameters() if p.requires_grad and owner[id(p)] == name)
    return sum(p.numel() for p in mine)


def show(name: str) -> None:
    """Print the metadata of a system, or of one of its variants."""
    entry, variant = systems.find(name)
    module = entry.module()
    console = Console(highlight=False)
    console.print(f"[bold]{escape(entry.title)}[/]  {escape(entry.paper)}, {entry.year}")
    console.print(escape(reflowed(inspect.getdoc(module) or "")), style="dim")
    if name == entry.name and len(entry.variants) > 2:
        console.print(f"\n[bold]variants[/] (layers of one: torchstone show {entry.variants[0]})")
        console.print(_variant_table(module.VARIANTS))
    else:
        for each in entry.variants if name == entry.name else (variant,):
            make, shape = module.VARIANTS[each]
            model = make()
            console.print(f"\n[bold]{each}[/]: {count_parameters(model):,} parameters, input {_times(shape)}")
            console.print(_layer_table(model, shape))
            if len(shape) == 3:
                console.print(RECEPTIVE, style="dim")
    console.print("\n[bold]recipes[/]")
    console.print(_recipe_table(module.RECIPES))
    console.print("\n[bold]metrics[/]")
    console.print(_metric_table(entry.name))
    console.print("\n[bold]checks[/] (run them with: torchstone verify " + entry.name + ")")
    for fact in module.FACTS:
        console.print(f"  {fact.name}: {fact.published}", markup=False)
    records = list(of_system(entry.name))
    if records:
        console.print("\n[bold]measured[/]")
        for record in records:
            console.print(f"  {record.line()}", markup=False)


def reflowed(text: str) -> str:
    """Paragraphs as one line each, for the terminal to break; what is indented stays as it is."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else p.replace("\n", " ") for p in paragraphs)


def _variant_table(variants: dict[str, systems.Variant]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 2))
    for column, side in (("name", "left"), ("parameters", "right"), ("input", "right")):
        table.add_column(column, justify=side)
    for name, (make, shape) in variants.items():
        with torch.device("meta"):  # counted, not made
            table.add_row(name, f"{count_parameters(make()):,}", _times(shape))
    return table


def _layer_table(model: nn.Module, shape: tuple[int, ...]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 2))
    columns = Layer._fields if len(shape) == 3 else Layer._fields[:-1]
    for column in columns:
        side = "left" if column in ("name", "kind", "shape") else "right"
        table.add_column(column, justify=side, overflow="fold")
    rows = [row for row in layers(model, shape) if row.kind != "Identity"]
    for row in rows:
        figures = (f"{row.parameters:,}", f"{row.macs:,}", str(row.receptive))
        cells = (row.name, row.kind, _times(row.shape), *figures)
        table.add_row(*cells[: len(columns)])
    # a parameter that belongs to a module with children is in no leaf
    outside = count_parameters(model) - sum(row.parameters for row in {r.name: r for r in rows}.values())
    if outside:
        table.add_row("(others)", "", "", f"{outside:,}")
    table.add_row("[bold]total", "", "", f"{count_parameters(model):,}", f"{sum(r.macs for r in rows):,}")
    return table


def _recipe_table(recipes: dict[str, Any]) -> Table:
    """The first recipe's fields with their meaning; then what the others change."""
    (first_name, first), *others = recipes.items()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 2))
    for column in ("field", first_name, "meaning"):
        table.add_column(column)
    paths = list(dict.fromkeys(field_paths(first).values()))
    for path in paths:
        help_text = comments(type(get_field(first, path[:-1]))).get(path[-1], "")
        table.add_row(*map(escape, (short_name(first, path), str(get_field(first, path)), help_text)))
    for other, recipe in others:
        changes = [
            f"{short_name(first, path)} {get_field(recipe, path)}"
            for path in paths
            if get_field(recipe, path) != get_field(first, path)
        ]
        table.add_row(f"[bold]{other}[/]", "", escape(", ".join(changes)))
    return table


def _metric_table(system: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 2))
    for column in ("name", "meaning", "unit", "better", "chance"):
        table.add_column(column)
    for name, meaning in legends_of(system):
        table.add_row(*map(escape, (name, meaning.title, meaning.unit, meaning.better, meaning.chance)))
    return table


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
