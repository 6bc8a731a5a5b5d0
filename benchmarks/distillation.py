"""A distilled student beside its teacher, and beside the same network without a teacher: accuracy and speed.

    python benchmarks/distillation.py [--teacher RUN] [--data DATA] [--seeds 0 1 2] [--out runs/distillation]
                                      [--pairs 15] [--length 32] [--rows 32] [--json]

The teacher is a run of `bert/sentiment --variant bert_mini` on the same data; without --teacher it is trained
into OUT/teacher. Students are those of `distilbert/sentiment`: half the teacher's layers, once for each seed.
The same network without a teacher has as many updates on labels, after its own pre-training: once, with the
first seed, as the teacher has been pre-trained once. All trainings are shorter than the recipes (`TEACHER`,
`STUDENT`, `ALONE`), so that everything takes half an hour of a core; students compute in bf16. Runs that are
in OUT already are gone on with, not trained again.

Share of the gain: (accuracy − majority) / (the teacher's − majority), on the test split. Speed: from
embeddings to logits, embedding look-ups left out, batches of `--length` tokens without padding, time of the
processor (one thread), in turn; the median of the ratios of all pairs.

It writes distillation.json and distillation.md.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from torchstone import api
from torchstone.parts.facts import count_parameters
from torchstone.systems.transformer import bert, distilbert

DATA = "sentiment"
# what differs from the recipes
PRETRAINING = {"pretrain_batch_size": 32, "pretrain_lr": 1e-3}
TEACHER = {"variant": "bert_mini", "batch_size": 32, "steps": 800, "pretrain_steps": 1000, **PRETRAINING}
STUDENT = {"batch_size": 32, "steps": 200, "ema_decay": 0.97, "precision": "bf16"}
ALONE = {**STUDENT, "teacher_variant": None, "pretrain_steps": 200, **PRETRAINING}
Step = Callable[[], Any]


def metrics_of(folder: Path) -> dict[str, float]:
    """The test's metrics of a run that has ended, without `test/` before their names."""
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    return {name.removeprefix("test/"): value for name, value in metrics.items() if name.startswith("test/")}


def trained(name: str, folder: Path, **fields: Any) -> dict[str, float]:
    """The test's metrics of a run, which is trained or gone on with if it has not ended."""
    if not folder.exists():
        api.train(name, out=folder, **fields)
    elif not (folder / "result.json").exists():
        api.resume(folder)
    return metrics_of(folder)


def keep_pretrained(run: Path, folder: Path) -> None:
    """A run folder of the network that `run` was fine-tuned from: what --weights takes."""
    if not folder.exists():
        shutil.copytree(run / "stages" / "0", folder / "checkpoint")
        shutil.copy(run / "recipe.json", folder / "recipe.json")


def train_all(args: argparse.Namespace) -> list[dict[str, float]]:
    """One row a seed: accuracies of the student, of the teacher, of the network without one, of guessing."""
    data = {} if args.data == DATA else {"data": args.data}
    found, pretrained = [], args.out / "pretrained"
    for seed in args.seeds:
        folder = args.out / f"distilbert-sentiment-{seed}"
        fields = {**STUDENT, **data, "seed": seed, "teacher": str(args.teacher)}
        found.append({"seed": seed, **trained("distilbert/sentiment", folder, **fields)})
        folder = args.out / f"alone-{seed}"
        start = {"weights": str(pretrained)} if pretrained.exists() else {}
        fields = {**ALONE, **data, "seed": seed, **start}
        found[-1]["accuracy_without_teacher"] = trained("distilbert/sentiment", folder, **fields)["accuracy"]
        keep_pretrained(folder, pretrained)
        print(found[-1], file=sys.stderr, flush=True)
    return found


def from_embeddings(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Layers and head."""
    for layer in net.layers:  # ty: ignore[not-iterable]
        x = layer(x, None)
    return net.apply_head(x)  # ty: ignore[call-non-callable]


def seconds(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def speeds(teacher: bert.Bert, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The teacher's time relative to its student's: forward, and forward and backward."""
    start = distilbert.student_of(distilbert.Teacher(teacher, None, None, "the teacher"), 0.0)
    head = {"head": "sentence", "num_classes": teacher.config.num_classes, "classifier_dropout": 0.0}
    student = distilbert.make_distilbert(**{**start.model_config, **head}).eval()
    x = torch.randn(args.rows, args.length, teacher.config.width)

    @torch.no_grad()
    def evaluate(net: nn.Module) -> None:
        from_embeddings(net, x)

    def train(net: nn.Module) -> None:
        from_embeddings(net, x).square().mean().backward()

    found = {}
    for name, step in (("forward", evaluate), ("forward and backward", train)):
        pairs = []
        for number in range(args.pairs + 2):
            order = (student, teacher) if number % 2 else (teacher, student)
            durations = {net: seconds(lambda net=net, step=step: step(net)) for net in order}
            pairs.append((durations[teacher], durations[student]))
        pairs = pairs[2:]  # the first are to warm up
        ratios = sorted(a / b for a, b in pairs)
        theirs, own = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[name] = {"ratio": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
        found[name] |= {"teacher_ms": 1e3 * theirs, "student_ms": 1e3 * own}
    found["parameters"] = {
        "teacher": count_parameters(teacher.layers),
        "student": count_parameters(student.layers),
    }
    return found


def table(rows: list[dict[str, float]], speed: dict[str, dict[str, float]]) -> str:
    head = ["seed", "majority", "teacher", "student", "share of the gain", "without a teacher", "its share"]
    lines = [head, ["--:"] * len(head)]
    for row in rows:
        gain = row["teacher_accuracy"] - row["majority_accuracy"]
        alone = (row["accuracy_without_teacher"] - row["majority_accuracy"]) / gain if gain else float("nan")
        names = ("majority_accuracy", "teacher_accuracy", "accuracy")
        cells = [
            str(row["seed"]),
            *(f"{row[name]:.4f}" for name in names),
            f"{row.get('gain_kept', float('nan')):.3f}",
        ]
        lines.append([*cells, f"{row['accuracy_without_teacher']:.4f}", f"{alone:.3f}"])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    for name in ("forward", "forward and backward"):
        each = speed[name]
        text += (
            f"\n\n{name}, embedding look-ups left out: the student is {each['ratio']:.2f} times as fast "
            f"({each['least']:.2f} to {each['most']:.2f}; {each['teacher_ms']:.0f} and "
            f"{each['student_ms']:.0f} ms)"
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", type=Path, help="a run of bert/sentiment (default: trained first)")
    parser.add_argument("--data", default=DATA, help="labeled data, those of the teacher")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pairs", type=int, default=15, help="pairs of the timed steps")
    parser.add_argument("--length", type=int, default=32, help="tokens of a timed row")
    parser.add_argument("--rows", type=int, default=32, help="rows of a timed batch")
    parser.add_argument("--json", action="store_true", help="print all figures, in place of the table")
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.teacher is None:
        args.teacher = args.out / "teacher"
        data = {} if args.data == DATA else {"data": args.data}
        trained("bert/sentiment", args.teacher, seed=args.seeds[0], **TEACHER, **data)
    speed = speeds(distilbert.load_teacher(str(args.teacher)).model.eval(), args)
    rows = train_all(args)
    found = {"seeds": rows, "speed": speed}
    (args.out / "distillation.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "distillation.md").write_text(table(rows, speed) + "\n")
    print(json.dumps(found, indent=1) if args.json else table(rows, speed))
    print(f"figures and table: {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
