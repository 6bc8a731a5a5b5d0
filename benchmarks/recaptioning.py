"""Re-captioning: the same decoder on short captions, on half of each, and on 95 % of the captioner's, side by side.

    python benchmarks/recaptioning.py [--out runs/recaptioning] [--seeds 0 1 2] [--prompts 10] [FIELD=VALUE …]

For each seed `dalle3/openmoji` is trained with its captioner, then `dalle3/half` and `dalle3/short_captions` with
the same captioner; runs that are there are not trained again. It writes `recaptioning.json`: every accuracy of every
run, as measured; the paired differences of two mixtures, by seed, with their mean and its 95 % interval by Student's
t, and an interval over prompts (the same prompts and noise of two runs, resampled in pairs). `sheet.png` has held-out
prompts in rows and mixtures in columns, two samples each, from the same noise.
"""

import argparse
import ast
import csv
import json
import os
import statistics
import textwrap
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from torchstone import api
from torchstone.metrics.paired import margin
from torchstone.systems.generative.ddpm import p_sample
from torchstone.tasks.diffusion.recaption import decoder_tokens
from torchstone.tasks.diffusion.sampler import SamplingConfig, sample_images

MIXTURES = {"short_captions": 0.0, "half": 0.5, "openmoji": 0.95}
KINDS = {"": "description", "short_": "short", "upsampled_": "upsampled"}
RESAMPLES = 2000
CELL, TEXT = 64, 250  # pixels of an image on the sheet, and of the prompts before them


def read(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value


def train(out: Path, seed: int, fields: dict[str, Any]) -> dict[str, Path]:
    """The runs of one seed by recipe."""
    first = out / f"dalle3-openmoji-{seed}"
    folders = {recipe: out / f"dalle3-{recipe}-{seed}" for recipe in ("openmoji", "short_captions", "half")}
    for recipe, folder in folders.items():
        shared = {} if folder == first else {"captioner": str(first)}
        if not folder.exists():
            api.train(f"dalle3/{recipe}", out=folder, seed=seed, **shared, **fields)
        elif not (folder / "result.json").exists():
            api.resume(folder)
    return folders


def metrics_of(folder: Path) -> dict[str, float]:
    return json.loads((folder / "result.json").read_text())["metrics"]


def right_by_prompt(folder: Path, kind: str) -> np.ndarray:
    """Of each prompt of a kind the share of its attributes that were found, each attribute with the weight that it
    has in `attribute_accuracy`: (prompts, [right, asked] of each attribute)."""
    with (folder / "prompts.tsv").open(encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row["kind"] == kind
        ]
    names = sorted({name for row in rows for name in json.loads(row["expected"])})
    table = np.zeros((len(rows), len(names), 2))
    for i, row in enumerate(rows):
        asked, found = json.loads(row["expected"]), json.loads(row["found"])
        for j, name in enumerate(names):
            table[i, j] = (asked.get(name) == found[name], name in asked)
    return table


def accuracy(table: np.ndarray) -> np.ndarray:
    """`attribute_accuracy` out of (…, prompts, attributes, [right, asked])."""
    right, asked = (table[..., 0] * table[..., 1]).sum(-2), table[..., 1].sum(-2)
    return (right / asked).mean(-1)


def interval_over_prompts(a: list[np.ndarray], b: list[np.ndarray]) -> list[float]:
    """The 95 % interval of the mean difference a − b, prompts resampled, the same ones on both sides."""
    ours, theirs = np.stack(a), np.stack(b)  # (seeds, prompts, attributes, 2)
    generator, differences = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        rows = generator.integers(ours.shape[1], size=ours.shape[1])
        differences.append(float((accuracy(ours[:, rows]) - accuracy(theirs[:, rows])).mean()))
    return [float(each) for each in np.quantile(differences, (0.025, 0.975))]


def compare(
    runs: dict[int, dict[str, Path]], ours: str, theirs: str, kind: str, their_kind: str
) -> dict[str, Any]:
    """Two mixtures, each with its kind of prompt, in pairs of one seed."""
    name = "test/{}attribute_accuracy"
    pairs = [
        (metrics_of(each[ours])[name.format(kind)], metrics_of(each[theirs])[name.format(their_kind)])
        for each in runs.values()
    ]
    differences = [a - b for a, b in pairs]
    tables = [
        [right_by_prompt(each[recipe], KINDS[prompts]) for each in runs.values()]
        for recipe, prompts in ((ours, kind), (theirs, their_kind))
    ]
    return {
        "ours": f"{ours}, {KINDS[kind]} prompts",
        "theirs": f"{theirs}, {KINDS[their_kind]} prompts",
        "differences": differences,
        "mean": statistics.mean(differences),
        "margin_over_seeds": margin(differences),
        "interval_over_prompts": interval_over_prompts(*tables),
    }


def draw_sheet(folders: dict[str, Path], prompts: list[str], file: Path, samples: int = 2) -> None:
    """Prompts in rows, mixtures in columns."""
    step = samples * (CELL + 2) + 10
    sheet = Image.new("RGB", (TEXT + len(folders) * step, 20 + len(prompts) * (CELL + 4)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for row, prompt in enumerate(prompts):
        text = "\n".join(textwrap.wrap(prompt, 40))
        pen.multiline_text((4, 28 + row * (CELL + 4)), text, "black", font)
    for column, (recipe, folder) in enumerate(folders.items()):
        left = TEXT + column * step
        pen.text((left, 4), f"{MIXTURES[recipe]:.0%} synthetic", "black", font)
        model: Any = api.load(folder)
        # as in the evaluation, words that a decoder does not know are its unknown token
        context = decoder_tokens(model.metadata, [prompt for prompt in prompts for _ in range(samples)])
        config = SamplingConfig.from_metadata(model.metadata["sampling"])
        images = sample_images(p_sample, model.decoder, len(context), config, context=context)
        for number, image in enumerate(images):
            row, i = divmod(number, samples)
            pixels = Image.fromarray(image.numpy().transpose(1, 2, 0))
            large = pixels.resize((CELL, CELL), Image.Resampling.NEAREST)
            sheet.paste(large, (left + i * (CELL + 2), 20 + row * (CELL + 4)))
    sheet.save(file)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/recaptioning"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=10, help="rows of the sheet")
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE")
    args = parser.parse_args()
    fields = {name: read(value) for name, _, value in (each.partition("=") for each in args.fields)}
    runs = {seed: train(args.out, seed, fields) for seed in args.seeds}
    table = {
        recipe: {
            name: [metrics_of(each[recipe])[name] for each in runs.values()]
            for name in metrics_of(runs[args.seeds[0]][recipe])
            if name.endswith("_accuracy")
        }
        for recipe in MIXTURES
    }
    comparisons = [
        compare(runs, ours, theirs, *kinds)
        for ours, theirs in (("openmoji", "short_captions"), ("openmoji", "half"), ("half", "short_captions"))
        for kinds in (("", ""), ("short_", "short_"), ("upsampled_", "short_"))
    ]
    result = {"seeds": args.seeds, "fields": fields, "accuracies": table, "comparisons": comparisons}
    (args.out / "recaptioning.json").write_text(json.dumps(result, indent=1) + "\n")
    for recipe, values in table.items():
        line = [f"{MIXTURES[recipe]:.0%}"]
        for kind, prompts in KINDS.items():
            own = values[f"test/{kind}attribute_accuracy"]
            spread = f" ± {statistics.stdev(own):.3f}" if len(own) > 1 else ""
            line.append(f"{prompts} {statistics.mean(own):.3f}{spread}")
        print("   ".join(line))
    for each in comparisons:
        low, high = each["interval_over_prompts"]
        margin = "" if each["margin_over_seeds"] is None else f" ± {each['margin_over_seeds']:.3f}"
        print(
            f"{each['ours']} − {each['theirs']}: {each['mean']:+.3f}{margin}; over prompts {low:+.3f} to {high:+.3f}"
        )
    first = runs[args.seeds[0]]
    with (first["openmoji"] / "prompts.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    described = [
        row["prompt"]
        for row in rows
        if row["kind"] == "description" and "color" in json.loads(row["expected"])
    ]
    chosen = [described[i] for i in np.linspace(0, len(described) - 1, args.prompts).round().astype(int)]
    draw_sheet({recipe: first[recipe] for recipe in MIXTURES}, chosen, args.out / "sheet.png")
    print(args.out / "sheet.png")


if __name__ == "__main__":
    main()
