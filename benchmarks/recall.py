"""Key–value recall: which attention finds what stands 3,500 tokens away.

    python benchmarks/recall.py [--lengths 16 64 256 ...] [--systems window longformer ...] [--seed 0] [--json]
        [--minutes 8] [--out runs/recall]

A text is filler, in it eight pairs near the beginning, and at its end a query. A pair is one token that stands for a
key and a value, 16 of each; no two of a text have the same key. The query is one of the keys, the answer its value,
to be predicted at the query. At 4,096 tokens the pairs stand at least 3,500 tokens before it. Keys, values, places
and filler are new in every text, so nothing can be learned by heart: chance is 1/16, and to know all values of the
text but not whose they are gives little more than 1/8.

`window` is Longformer without a global token: its layers reach 64 tokens further each, so it must stay at chance,
which shows that nothing else gives the answer away. In `longformer` the query is global. The others are those of
`documents.py`, all of one width, depth and number of heads. Where a token stands means nothing here, so the
embeddings of positions are zero and fixed: what is learned from short texts then holds for long ones. Linformer's E
begins as sums of positions in place of means, so that a text of up to 128 tokens is its own keys and values.

Every contender climbs the lengths, learning from texts that end with all eight queries: at each length it is trained
until it answers 97 % of 200 new texts (of 4,096 tokens: 100) of one query, looked at first and then every 20 updates, or until its share of
the processor's time is spent: what is left, divided among the lengths that are left. Then it goes on at the next, all
the same. The figure is its accuracy on 500 new texts of the longest length, one query each, beside the accuracy that
it left each shorter length with. Seconds are those of the processor, on one thread, looks included and the last test not.

It writes recall.json, recall.md and recall.png, anew after each contender; contenders that recall.json has already,
by the same settings, are kept, so that one can be added.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from documents import COLORS, OWN, Size, body, known, network
from torch import Tensor, nn

from torchstone.engine import rng
from torchstone.parts.modes import eval_mode
from torchstone.parts.seeding import derive_generator
from torchstone.plots import canvas

KEYS = VALUES = 16
PAIRS, FILLERS = 8, 64
FIRST_FILLER, FIRST_PAIR = 2, 2 + FILLERS  # 0 is unused, 1 is padding's
FIRST_QUERY = FIRST_PAIR + KEYS * VALUES
FIRST_VALUE = FIRST_QUERY + KEYS
VOCABULARY = FIRST_VALUE + VALUES
NEAR = 1 / 8  # share of the text in which the pairs are: 3,584 tokens before the query of 4,096
TRAINING, VALIDATION, TEST = range(100, 103)  # streams of texts
ENOUGH, EVERY, TOKENS = 0.97, 20, 2**12  # accuracy, updates between looks, tokens of an update
LEAST, LOOK = 4, 200  # texts of an update at least, of a look at most


class Texts(NamedTuple):
    """Texts and the index of the value that each asks for."""

    tokens: Tensor  # (batch, length)
    values: Tensor  # (batch, queries)


def draw_texts(count: int, length: int, *, queries: int = 1, seed: int, stream: int, number: int) -> Texts:
    """The `number`-th `count` texts of a stream; the same for the same arguments. `queries` are at the end."""
    generator = derive_generator(seed, stream, number)
    tokens = torch.randint(FIRST_FILLER, FIRST_PAIR, (count, length), generator=generator)
    near = min(max(PAIRS, int(NEAR * length)), length - queries)
    places = torch.rand(count, near, generator=generator).argsort(1)[:, :PAIRS]
    keys = torch.rand(count, KEYS, generator=generator).argsort(1)[:, :PAIRS]
    values = torch.randint(VALUES, (count, PAIRS), generator=generator)
    tokens.scatter_(1, places, FIRST_PAIR + keys * VALUES + values)
    tokens[:, -queries:] = FIRST_QUERY + keys[:, :queries]
    return Texts(tokens, values[:, :queries])


def answer(name: str, model: Any, tokens: Tensor, queries: int = 1) -> Tensor:
    """Logits of the values, (batch, queries, values), at the queries."""
    last = torch.arange(tokens.shape[1] - queries, tokens.shape[1]).expand(len(tokens), -1)
    options = {}
    if name == "longformer":
        options["global_mask"] = torch.zeros_like(tokens, dtype=torch.bool).scatter(1, last, True)
    return model.logits(tokens, None, None, last, **options)[:, :, FIRST_VALUE:]


@torch.no_grad()
def measure(name: str, model: nn.Module, count: int, length: int, seed: int, stream: int) -> float:
    texts = draw_texts(count, length, seed=seed, stream=stream, number=length)
    with eval_mode(model):
        parts = zip(texts.tokens.split(16), texts.values.split(16), strict=True)
        right = sum(int((answer(name, model, t).argmax(2) == v).sum()) for t, v in parts)
    return right / count


def contender(name: str, args: argparse.Namespace) -> nn.Module:
    """The network, without positions."""
    size = Size(args.width, args.layers, args.heads, dropout=0.0)
    system = "longformer" if name == "window" else name
    model = network(system, size, vocab_size=VOCABULARY, max_length=max(args.lengths), head="masked")
    positions = body(model).position_embedding.weight
    with torch.no_grad():
        positions.zero_()
        if name == "linformer":
            for matrix in body(model).projections.parameters():
                matrix.copy_(matrix > 0)
    positions.requires_grad_(False)
    return model


def train(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A contender on its way up the lengths."""
    rng.seed(args.seed)
    model = contender(name, args)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.01)
    begin, stages, number = time.process_time(), [], 0
    for index, length in enumerate(args.lengths):
        start, steps = time.process_time(), 0
        share = (begin + 60 * args.minutes - start) / (len(args.lengths) - index)
        queries = min(PAIRS, length - PAIRS)
        while True:
            found = measure(name, model, LOOK if length < 4096 else LOOK // 2, length, args.seed, VALIDATION)
            print(f"{name}, {length} tokens, {steps} updates: {found:.3f}", file=sys.stderr, flush=True)
            if found >= ENOUGH or time.process_time() - start > share:
                break
            for _ in range(EVERY):
                count = max(LEAST, TOKENS // length)
                batch = draw_texts(
                    count, length, queries=queries, seed=args.seed, stream=TRAINING, number=number
                )
                number, steps = number + 1, steps + 1
                for group in optimizer.param_groups:
                    group["lr"] = args.lr * min(1.0, number / 50)
                optimizer.zero_grad()
                logits = answer(name, model, batch.tokens, queries)
                F.cross_entropy(logits.flatten(0, 1), batch.values.flatten()).backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
        seconds = time.process_time() - start
        stages.append({"length": length, "updates": steps, "seconds": seconds, "accuracy": found})
    spent = time.process_time() - begin
    tested = measure(name, model, 500, max(args.lengths), args.seed, TEST)
    return {"accuracy": tested, "seconds": spent, "stages": stages}


def table(rows: dict[str, dict], lengths: list[int]) -> str:
    head = ["attention", *(f"{n}: %, updates" for n in lengths), f"test at {lengths[-1]}, %", "CPU s"]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name, row in rows.items():
        stages = [f"{100 * stage['accuracy']:.0f}, {stage['updates']}" for stage in row["stages"]]
        lines.append([name, *stages, f"{100 * row['accuracy']:.1f}", f"{row['seconds']:.0f}"])
    lines.append(["chance", *[""] * len(lengths), f"{100 / VALUES:.1f}", ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(rows: dict[str, dict], length: int, file: Path) -> None:
    figure = canvas.canvas(6, 3.2)
    axes = figure.subplots()
    names = list(rows)[::-1]
    colors = [COLORS.get(name, "gray") for name in names]
    axes.barh(names, [100 * rows[name]["accuracy"] for name in names], 0.6, color=colors)
    axes.set_ylim(-0.6, len(names) + 0.2)  # room for the legend
    axes.axvline(100 / VALUES, color="gray", linestyle=":", label="chance")
    axes.axvline(90, color="gray", linestyle="--", label="90 %")
    distance = length - int(NEAR * length) - 1
    axes.set(xlim=(0, 100), title=f"recall over at least {distance:,} tokens, % of 500 texts")
    axes.legend(**{**canvas.LEGEND, "loc": "upper center", "ncols": 2})
    canvas.save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--systems", nargs="+", choices=("window", *OWN), help="contenders (default: all)")
    parser.add_argument("--minutes", type=float, default=8, help="of the processor, at most, for each")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=Size.width)
    parser.add_argument("--layers", type=int, default=Size.layers)
    parser.add_argument("--heads", type=int, default=Size.heads)
    parser.add_argument("--json", action="store_true", help="print all figures, in place of the table")
    parser.add_argument("--out", type=Path, default=Path("runs/recall"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    asked = args.systems or ("window", *OWN)
    names = [name for name in asked if name == "window" or known([name])]
    args.lengths = sorted(args.lengths)
    if args.lengths[0] <= PAIRS:
        parser.error(f"a text has {PAIRS} pairs and a query: lengths are at least {PAIRS + 1}")
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("json", "out", "systems", "minutes")}
    found: dict[str, Any] = {"settings": settings, "contenders": {}}
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "recall.json"
    if file.exists() and (earlier := json.loads(file.read_text()))["settings"] == settings:
        found = earlier
    for name in names:
        rows = {**found["contenders"], name: {"minutes": args.minutes, **train(name, args)}}
        found["contenders"] = {key: rows[key] for key in ("window", *OWN) if key in rows}
        file.write_text(json.dumps(found, indent=1) + "\n")
        (args.out / "recall.md").write_text(table(found["contenders"], args.lengths) + "\n")
        picture(found["contenders"], args.lengths[-1], args.out / "recall.png")
    print(json.dumps(found, indent=1) if args.json else table(found["contenders"], args.lengths))
    print(f"figures, table and picture: {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
