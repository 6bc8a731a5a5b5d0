"""A rare class: what generated images bring a classifier, beside repeating the few real ones.

    python benchmarks/rare_class.py [--mnist FOLDER] [--rare 8] [--kept 20] [--copies 18] [--train-images 360]
                                    [--generator cgan/mnist5k] [--seeds 5] [--out runs/rare-class] [FIELD=VALUE …]

MNIST with `--train-images` images in each class, of which the rare one keeps `--kept`; the test split is the
official one (without --mnist it is that of mnist5k, a tenth as large). The generator is trained on these images,
the rare ones `--copies` times, with the recipe's fields given. Then `measure_gain` trains LeNet-5, `--seeds` times
on each side: rare images repeated, or generated until every class has as many. Once with the recipe's affine
augmentation and once without: a gain without it may be no more than what shifting and turning brings too.

It writes rare_class.json and rare_class.md.
"""

import argparse
import ast
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from torchstone import api
from torchstone.data.vision.dataset import ImageDataset, ImageSplit, load_images
from torchstone.metrics.paired import margin
from torchstone.systems.generative import CLASSIFIER
from torchstone.tasks.vision.class_balance import generate_missing, measure_gain, write_balanced


def with_rare_class(data: ImageDataset, per_class: int, rare: int, kept: int, copies: int) -> ImageDataset:
    """`data` with at most `per_class` training images in each class, `kept` in class `rare`, each of which
    comes `copies` times."""
    rows = []
    for label in range(len(data.classes)):
        own = (data.train.labels == label).nonzero()[:, 0]
        rows.append(own[:kept].repeat(copies) if label == rare else own[:per_class])
    index = torch.cat(rows)
    return dataclasses.replace(data, train=ImageSplit(data.train.labels[index], data.train.take(index)))


def read(value: str) -> Any:
    """A number, or the text as it is."""
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", default="mnist5k", help="mnist5k, or a folder with the IDX files")
    parser.add_argument("--rare", type=int, default=8)
    parser.add_argument("--kept", type=int, default=20)
    parser.add_argument("--copies", type=int, default=18)
    parser.add_argument("--train-images", type=int, default=360)
    parser.add_argument("--generator", default="cgan/mnist5k")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/rare-class"))
    parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    full = load_images(args.mnist, size=28, channels=1)
    data = with_rare_class(full, args.train_images, args.rare, args.kept, 1)
    folder, run = args.out / "images", args.out / "generator"
    if not folder.exists():
        repeated = with_rare_class(full, args.train_images, args.rare, args.kept, args.copies)
        write_balanced(repeated, {}, folder)
    if not run.exists():
        fields = {name: read(value) for name, _, value in (each.partition("=") for each in args.fields)}
        api.train(args.generator, out=run, **(fields | {"data": str(folder)}))
    elif not (run / "result.json").exists():
        api.resume(run)
    generated = generate_missing(
        lambda label, count: api.sample(run, label=label, num_samples=count), data, args.train_images
    )
    rows: list[dict[str, Any]] = []
    for augment in ("none", "affine"):
        spec = CLASSIFIER._replace(recipe=dataclasses.replace(CLASSIFIER.recipe, augment=augment))
        gain = measure_gain(data, generated, spec, args.seeds)
        recalls = [each[:, args.rare] for each in (gain.repeated, gain.generated)]
        difference = recalls[1] - recalls[0]
        rows.append(
            {
                "augment": augment,
                "recall_repeated": recalls[0].tolist(),
                "recall_generated": recalls[1].tolist(),
                "gain": difference.mean().item(),
                "gain_margin": margin(difference.tolist()),
                "accuracy_repeated": gain.accuracy_repeated.mean().item(),
                "accuracy_generated": gain.accuracy_generated.mean().item(),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    result = {"command": " ".join(sys.argv[1:]), "test_images": len(data.test), "rows": rows}
    (args.out / "rare_class.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        f"| augmentation | recall of {args.rare}, repeated | generated | gain | accuracy, repeated | generated |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        means = [sum(row[f"recall_{arm}"]) / args.seeds for arm in ("repeated", "generated")]
        half = "" if row["gain_margin"] is None else f" ± {row['gain_margin']:.3f}"
        lines.append(
            f"| {row['augment']} | {means[0]:.3f} | {means[1]:.3f} | {row['gain']:+.3f}{half} "
            f"| {row['accuracy_repeated']:.4f} | {row['accuracy_generated']:.4f} |"
        )
    (args.out / "rare_class.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
