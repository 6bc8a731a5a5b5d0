"""Four results of papers at their own size: initialization, batch normalization, dropout, a cosine schedule.

The claims of `torchstone claims` ask the same of 5,000 digits in a minute; here are the published sizes.

    python benchmarks/training_methods.py inits
    python benchmarks/training_methods.py batch_norm dropout --mnist FOLDER_OF_IDX_FILES
    python benchmarks/training_methods.py schedules --cifar FOLDER_OR_ZIP --steps 64000

The numbers of each seed go to `records/methods/NAME.json` as soon as they are there; a seed that is there is
not trained again.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchstone.data.vision.dataset import ImageDataset, load_images
from torchstone.engine.update import OptimConfig
from torchstone.experiments.claim import paired
from torchstone.experiments.claims.xavier_he import deviation_ratio
from torchstone.experiments.running import Measurement, environment, write_measurement
from torchstone.experiments.training import mlp_run, train
from torchstone.runs.records import ENVIRONMENT_FIELDS
from torchstone.runs.records import FOLDER as RECORDS
from torchstone.systems.convolutional import resnet
from torchstone.systems.fundamentals import mlp

FOLDER = RECORDS / "methods"
CHECKPOINTS = 10
SMALL = 0.01  # standard deviation of the weights that batch normalization is tried with


def inits(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """30 hidden layers of 512 ReLU units on scikit-learn's digits."""
    data = load_images("digits", size=8, channels=1)
    row: dict[str, Any] = {}
    for init in ("he", "fan_in"):
        optim = OptimConfig(optimizer="sgd", lr=3e-3, momentum=0.9)
        recipe = replace(
            mlp.Recipe(), seed=seed, steps=options.steps or 300, widths=(512,) * 30, init=init, optim=optim
        )
        run = mlp_run(recipe, data)
        ratio = deviation_ratio(run)
        row[init] = {"ratio": ratio, "accuracy": train(run).metrics["test/accuracy"]}
    return row


def batch_norm(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The paper's 784-100-100-100-10 of sigmoid units, batches of 60, SGD at a constant rate of 1 and one that falls from 1.

    It has "small random Gaussian values" for weights, and does not say how small: here of a deviation of 0.01.
    """
    data = mnist(options)
    row: dict[str, Any] = {}
    for name, norm in (("plain", False), ("batch norm", True)):
        row[name] = {}
        for schedule in ("constant", "linear"):
            optim = OptimConfig(optimizer="sgd", lr=1.0, momentum=0.0, lr_schedule=schedule)
            recipe = replace(
                mlp.Recipe(),
                seed=seed,
                steps=options.steps or 10_000,
                size=28,
                batch_size=60,
                widths=(100, 100, 100),
                activation="sigmoid",
                init="xavier",
                batch_norm=norm,
                optim=optim,
            )
            run = mlp_run(recipe, data)
            generator = torch.Generator().manual_seed(seed)
            weights = [p for p in run.state["model"].parameters() if p.dim() == 2]
            for weight in weights:
                nn.init.normal_(weight, std=SMALL, generator=generator)
            row[name][schedule] = trained(run, CHECKPOINTS)
    return row


def dropout(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """784-800-800-10, with 20 % of the pixels and 50 % of the hidden units dropped, and without."""
    data = mnist(options)
    row: dict[str, Any] = {}
    for name, fields in (("plain", {}), ("dropout", {"dropout": 0.5, "dropout_input": 0.2})):
        recipe = replace(
            mlp.Recipe(),
            seed=seed,
            steps=options.steps or 25_800,  # 60 epochs
            size=28,
            batch_size=128,
            widths=(800, 800),
            optim=OptimConfig(optimizer="adamw", lr=1e-3, weight_decay=0.0),
            **fields,
        )
        row[name] = trained(mlp_run(recipe, data), CHECKPOINTS)
    return row


def schedules(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """ResNet-20 on CIFAR-10, the recipe `cifar20`, its rate falling in steps or along a cosine."""
    base = resnet.RECIPES["cifar20"]
    row: dict[str, Any] = {}
    for schedule in ("step", "cosine"):
        recipe = replace(
            base,
            seed=seed,
            data=options.cifar or base.data,
            steps=options.steps or base.steps,
            optim=replace(base.optim, lr_schedule=schedule),
        )
        row[schedule] = trained(next(resnet.build(recipe)), 1)
    return row


def trained(run: Any, checkpoints: int) -> dict[str, Any]:
    """Accuracy on validation images at even intervals, on test images at the end (of the last weights)."""
    found: list[float] = []
    evaluate: Callable[[], dict[str, float]] = run.evaluate

    def recorded() -> dict[str, float]:
        metrics = evaluate()
        found.append(metrics["accuracy"])
        return metrics

    run.evaluate, run.best_metric = recorded, None
    began = time.process_time()
    outcome = train(run, evaluations=checkpoints)
    seconds = round(time.process_time() - began, 1)
    test = outcome.metrics.get("test/accuracy", 0.1)  # chance where it diverged
    print(f"  {seconds:.0f} s, val {found[-1]:.4f}, test {test:.4f}", flush=True)
    return {"val": found, "test": test, "steps": run.steps, "seconds": seconds}


def mnist(options: argparse.Namespace) -> ImageDataset:
    return load_images(options.mnist or "hf:ylecun/mnist", size=28, channels=1)


METHODS = {method.__name__: method for method in (inits, batch_norm, dropout, schedules)}


def report(name: str, rows: list[dict[str, Any]]) -> None:
    """What the targets ask for."""

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    if name == "inits":
        for init in ("he", "fan_in"):
            ratios, accuracies = ([row[init][key] for row in rows] for key in ("ratio", "accuracy"))
            print(f"{init}: output over input std {ratios}, test accuracy {accuracies}")
    elif name == "batch_norm":
        chosen = {
            net: [max(row[net].values(), key=lambda each: each["val"][-1]) for row in rows] for net in rows[0]
        }
        for net, each in chosen.items():
            curve = [round(mean([one["val"][i] for one in each]), 4) for i in range(len(each[0]["val"]))]
            print(f"{net}: test accuracy {[one['test'] for one in each]}, validation by checkpoint {curve}")
        for schedule in rows[0]["plain"]:
            ahead = [
                sum(
                    a > b
                    for a, b in zip(
                        row["batch norm"][schedule]["val"], row["plain"][schedule]["val"], strict=True
                    )
                )
                for row in rows
            ]
            print(
                f"{schedule} rate: batch norm ahead at {ahead} of {len(rows[0]['plain'][schedule]['val'])} evaluations"
            )
    else:
        first, second = rows[0]
        for arm in (first, second):
            errors = [100 * (1 - row[arm]["test"]) for row in rows]
            print(f"{arm}: test error {mean(errors):.2f} % ({', '.join(f'{e:.2f}' for e in errors)})")
        test = {arm: [100 * row[arm]["test"] for row in rows] for arm in (first, second)}
        print(paired(f"test accuracy in %, {second} − {first}", test[second], test[first]).text())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=METHODS, metavar="NAME")
    parser.add_argument("--mnist", help="folder of MNIST's IDX files")
    parser.add_argument("--cifar", help="folder or zip file of CIFAR-10")
    parser.add_argument("--steps", type=int, help="updates of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    for name in options.names:
        file = options.out / f"{name}.json"
        options.out.mkdir(parents=True, exist_ok=True)
        measured = Measurement(**json.loads(file.read_text())) if file.exists() else Measurement(name)
        for seed in range(options.seeds):
            if seed in measured.seeds:
                continue
            print(f"{name}, seed {seed}", flush=True)
            began = time.process_time()
            row = METHODS[name](seed, options)
            measured.seeds.append(seed)
            measured.rows.append(row)
            measured.core_seconds.append(round(time.process_time() - began, 1))
            measured.environment = {k: v for k, v in environment().items() if k in ENVIRONMENT_FIELDS}
            write_measurement(measured, file)
        report(name, measured.rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
