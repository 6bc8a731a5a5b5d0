"""Every reader of files ends in a result or in one line, whatever the files hold; see `fuzz`."""

import gzip
import hashlib
import io
import json
import random
import struct
import zipfile
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from fuzz import fuzz
from PIL import Image

import torchstone as ts
from torchstone.data.audio.files import read_audio
from torchstone.data.audio.speakers import read_speakers
from torchstone.data.audio.speech import read_speech
from torchstone.data.music.dataset import load_music
from torchstone.data.series.dataset import load_readings, load_series
from torchstone.data.series.resample import resample
from torchstone.data.tabular.dataset import load_rows, load_table
from torchstone.data.tabular.encoding import infer_schema
from torchstone.data.tabular.mixed import TableConfig, load_mixed, load_mixed_rows
from torchstone.data.tabular.points import load_points
from torchstone.data.text import gettext, tokenizers
from torchstone.data.text.classification import read_labeled
from torchstone.data.text.classification_files import read_unlabeled
from torchstone.data.text.corpus import read_text
from torchstone.data.text.parallel import read_pairs
from torchstone.data.vision.captioned import load_captioned
from torchstone.data.vision.dataset import load_images
from torchstone.data.vision.image_texts import load_image_texts
from torchstone.data.vision.questions import load_questions
from torchstone.data.vision.segmentation import load_segmentation
from torchstone.engine.meter import read_rows
from torchstone.files import read_pickle
from torchstone.references.diffusers import import_diffusers
from torchstone.references.transformers import import_transformers
from torchstone.runs.folder import read_intervals
from torchstone.runs.load import load_run
from torchstone.runs.published import load_published

pytestmark = pytest.mark.sweep

WORDS = ["red", "green", "blue", "cat", "dog", "sun"]
NUMBERS = random.Random(1)


def lines(*rows, end="\n") -> bytes:
    return (end.join(rows) + end).encode()


def numbers_csv(delimiter=",", header="a,b,c,label", count=24) -> bytes:
    rows = [f"{i * 0.5},{NUMBERS.random():.3f},{i % 7},{'xyz'[i % 3]}" for i in range(count)]
    return lines(*(row.replace(",", delimiter) for row in (header, *rows)))


def mixed_csv(delimiter=",") -> bytes:
    rows = [
        f"{20 + i},{WORDS[i % 4]},2024-01-{i + 1:02},{'' if i % 5 == 0 else i * 1.5},{'yes' if i % 2 else 'no'}"
        for i in range(24)
    ]
    return lines(*(row.replace(",", delimiter) for row in ("age,color,day,income,target", *rows)))


def parquet(**columns) -> bytes:
    import pandas as pd

    written = io.BytesIO()
    pd.DataFrame(columns).to_parquet(written)
    return written.getvalue()


TABLES = [
    {"a.csv": numbers_csv()},
    {"a.csv": numbers_csv(";")},
    {"a.csv": b"\xef\xbb\xbf" + numbers_csv("\t").replace(b"\n", b"\r\n")},
    {"a.csv": numbers_csv().split(b"\n", 1)[1]},
]
MIXED = [
    {"a.csv": mixed_csv()},
    {"a.csv": mixed_csv("\t").replace(b"\n", b"\r\n")},
    {"a.csv": mixed_csv(";")},
]


@pytest.mark.parametrize("load", [load_table, load_points])
def test_table_csv(load, tmp_path):
    fuzz(lambda folder: load(folder / "a.csv"), TABLES, tmp_path)


@pytest.mark.parametrize("target_type", ["auto", "class", "number"])
def test_mixed_table_csv(target_type, tmp_path):
    target = "age" if target_type == "number" else None
    config = TableConfig(target=target, target_type=target_type)
    fuzz(lambda folder: mixed(folder / "a.csv", config), MIXED, tmp_path)


def mixed(file, config=TableConfig()):  # noqa: B008 -- it is frozen
    """What of a mixed table must be finite: all but the cells that are missing."""
    table = load_mixed(file, config)
    return filled(table.x), table.y, table.schema.to_metadata()


def filled(x):
    return x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


@pytest.mark.parametrize("load", [load_table, load_points, mixed])
def test_table_parquet(load, tmp_path):
    numbers = np.random.RandomState(0)
    columns = {"a": numbers.rand(24), "b": np.arange(24), "label": [WORDS[i % 3] for i in range(24)]}
    odd = {
        "lists": [[i, i] for i in range(24)],
        "structs": [{"x": i} for i in range(24)],
        "bytes": [bytes([i, 255]) for i in range(24)],
        "decimals": [Decimal(i) for i in range(24)],
        "durations": [timedelta(days=i) for i in range(24)],
        "clocks": [clock(i, 1) for i in range(24)],
        "dates": [date(1, 1, 1 + i) for i in range(24)],
        "instants": [datetime(2020, 1, 1 + i, tzinfo=UTC) for i in range(24)],
        "nothing": [None] * 24,
        "bools": [i % 2 == 0 for i in range(24)],
        "huge": np.array([1e308 * (-1) ** i for i in range(24)]),
        "infinite": np.array([np.inf, *range(23)]),
        "gaps": np.array([np.nan, *range(23)]),
        "half": np.arange(24).astype(np.float16),
        "unsigned": np.array([2**64 - 1 - i for i in range(24)], dtype=np.uint64),
        "line\nbreak": ["a", None, "c"] * 8,
    }
    others = [{"a.parquet": parquet(**columns | {name: cells})} for name, cells in odd.items()]
    others += [{"a.parquet": parquet(**columns | {"label": cells})} for cells in odd.values()]
    read = lambda folder: load(folder / "a.parquet")  # noqa: E731
    seeds = [{"a.parquet": parquet(**columns)}]
    fuzz(read, seeds, tmp_path, others=others)


def test_table_rows_to_predict(tmp_path):
    fuzz(lambda folder: load_rows(folder / "a.csv", ("a", "b", "c")), TABLES[:3], tmp_path)
    rows = [line.split(",") for line in mixed_csv().decode().split("\n")[1:-1]]
    columns = dict(zip(("age", "color", "day", "income"), zip(*rows, strict=True), strict=False))
    schema, _ = infer_schema("table", columns, np.ones(len(rows), dtype=bool))
    fuzz(lambda folder: filled(load_mixed_rows(folder / "a.csv", schema)), MIXED, tmp_path)


def series_csv(times, header="time,load,wind", delimiter=",") -> bytes:
    rows = [f"{time},{5 + np.sin(i):.3f},{'' if i % 9 == 8 else i % 5}" for i, time in enumerate(times)]
    return lines(*(row.replace(",", delimiter) for row in (header, *rows)))


def dates(step, count=40, form="%Y-%m-%d %H:%M"):
    return [(datetime(2016, 2, 27) + i * step).strftime(form) for i in range(count)]


DAY = timedelta(days=1)
SERIES = [
    {"a.csv": series_csv(dates(timedelta(hours=1)))},
    {"a.csv": series_csv([f"{each}+09:00" for each in dates(timedelta(minutes=30))], delimiter=";")},
    {"a.csv": series_csv(dates(DAY, form="%Y%m%d"), "date,load,wind")},
    {"a.csv": series_csv(dates(DAY, form="%Y,%m,%d,%H"), "year,month,day,hour,load,wind")},
    {"a.csv": series_csv([f"{2000 + i // 12}-{1 + i % 12:02}" for i in range(40)], "month,load,wind")},
    {"a.csv": series_csv([f"{2000 + i // 4}Q{1 + i % 4}" for i in range(40)], "quarter,load,wind")},
    {
        "a.csv": series_csv(
            [day for day in dates(DAY, form="%Y-%m-%d") if date.fromisoformat(day).weekday() < 5]
        )
    },
    {"a.csv": series_csv([1456531200 * 10**9 + i * 3600 * 10**9 for i in range(40)])},
    {"a.csv": series_csv([i * 0.25 for i in range(40)], delimiter="\t")},
]


def test_series_csv(tmp_path):
    fuzz(lambda folder: load_series(folder / "a.csv"), SERIES, tmp_path)


def test_series_readings_of_a_model(tmp_path):
    seeds = [SERIES[0], SERIES[2], SERIES[6]]

    def read(folder):
        readings = load_readings(str(folder / "a.csv"), ("load", "wind"), "seconds")
        calendar = readings.calendar
        return filled(torch.from_numpy(resample(readings).values)), [
            calendar.format(t) for t in readings.times
        ]

    fuzz(read, seeds, tmp_path)


SENTENCES = [f"the {a} is {b} and {c}" for a in WORDS for b in WORDS[:4] for c in WORDS[:1]]
LABELED = [(text, "good" if i % 2 else "bad") for i, text in enumerate(SENTENCES)]


def jsonl(rows) -> bytes:
    return lines(*map(json.dumps, rows))


LABELED_TEXTS = [
    {"a.csv": lines("text,label", *(f'"{text}, yes",{label}' for text, label in LABELED))},
    {"a.csv": lines(*(f"{label};{text}" for text, label in LABELED))},
    {"a.tsv": lines("sentence1\tsentence2\tlabel", *(f"{text}\t{text}\t{label}" for text, label in LABELED))},
    {"a.jsonl": jsonl({"text": text, "label": label} for text, label in LABELED)},
    {"a.jsonl": jsonl({"id": i, "text": text, "label": i % 3} for i, (text, _) in enumerate(LABELED))},
    {
        "a.conll": lines(
            "# id 1", *(f"{text.replace(' ', f' {label}' + chr(10))} {label}\n" for text, label in LABELED)
        )
    },
]


def first_file(folder):
    return next((file for file in sorted(folder.iterdir()) if file.name.startswith("a.")), folder / "a.csv")


def test_labeled_text_files(tmp_path):
    fuzz(lambda folder: read_labeled(str(first_file(folder))), LABELED_TEXTS, tmp_path)


def test_labeled_text_folders(tmp_path):
    seeds = []
    for seed in LABELED_TEXTS:
        ((name, data),) = seed.items()
        seeds.append({name.replace("a", split, 1): data for split in ("train", "dev", "test")})
    fuzz(lambda folder: read_labeled(str(folder)), seeds, tmp_path)


def test_labeled_text_files_with_bad_rows_left_out(tmp_path):
    fuzz(lambda folder: read_labeled(f"skip-bad:{first_file(folder)}"), LABELED_TEXTS, tmp_path, seed=1)


@pytest.mark.parametrize("pairs", [False, True])
def test_unlabeled_text_files(pairs, tmp_path):
    read = lambda folder: read_unlabeled(first_file(folder), pairs=pairs, words=not pairs)  # noqa: E731
    seeds = [LABELED_TEXTS[2]] if pairs else [LABELED_TEXTS[i] for i in (0, 3, 5)]
    fuzz(read, [*seeds, {"a.txt": lines(*SENTENCES)}][: len(seeds) + (not pairs)], tmp_path)


def test_text_corpora(tmp_path):
    text = lines(*SENTENCES)
    seeds = [{"train.txt": text, "val.txt": text, "test.txt": text}, {"x/a.md": text, "b.txt": text}]
    seeds += [{"input.txt": text, "more.txt": text}]
    fuzz(lambda folder: read_text(str(folder)), seeds, tmp_path)
    fuzz(lambda folder: read_text(str(folder / "b.txt")), [{"b.txt": text}], tmp_path)


def test_parallel_text(tmp_path):
    english, german = lines(*SENTENCES), lines(*(each.replace("the", "das") for each in SENTENCES))
    columns = lines("en\tde", *(f"{each}\t{each[4:]}" for each in SENTENCES))
    splits = {f"{split}.{side}": english for split in ("train", "dev", "test_2016") for side in ("de", "en")}
    packed = {"train.en.gz": gzip.compress(english), "train.de.gz": gzip.compress(german)}
    read = lambda folder: read_pairs(str(folder), "de", "en")  # noqa: E731
    fuzz(read, [splits, packed, {"train.tsv": columns}], tmp_path)
    two = [{"a.en": english, "a.de": german}]
    fuzz(lambda folder: read_pairs(f"{folder / 'a.de'},{folder / 'a.en'}"), two, tmp_path)
    fuzz(lambda folder: read_pairs(str(folder / "a.tsv")), [{"a.tsv": columns}], tmp_path)


def tokenizer_files(kind) -> dict[str, bytes]:
    tokenizer = tokenizers.train(kind, SENTENCES, vocab_size=300, special_tokens=("[UNK]",))
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    files = {"tokenizer.json": json.dumps(content).encode()}
    if kind == "bpe":
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"]]
        return {"vocab.json": json.dumps(vocabulary).encode(), "merges.txt": lines("#version: 0.2", *merges)}
    if kind == "wordpiece":
        settings = json.dumps({"do_lower_case": False}).encode()
        return {"vocab.txt": lines(*vocabulary), "tokenizer_config.json": settings}
    return files


def test_tokenizer_files(tmp_path):
    def read(folder):
        tokenizer = tokenizers.load(folder)
        return tokenizers.encode(tokenizer, "the red cat"), tokenizers.to_metadata(tokenizer)

    seeds = [tokenizer_files(kind) for kind in ("characters", "bpe", "wordpiece", "unigram")]
    fuzz(read, seeds, tmp_path)


def image(form="PNG", mode="L", size=12, **options) -> bytes:
    shape = (size, size, *{"RGB": [3], "RGBA": [4]}.get(mode, []))
    pixels = np.random.RandomState(NUMBERS.randrange(99)).randint(0, 256, shape)
    deep = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels.astype(deep)).save(written, form, **options)
    return written.getvalue()


def image_folder(form="PNG", mode="L", splits=("",)) -> dict[str, bytes]:
    names = [f"{split}{kind}/{i}.{form.lower()}" for split in splits for kind in "ab" for i in range(4)]
    return {name: image(form, mode) for name in names}


IMAGES = [
    image_folder(),
    image_folder("JPEG", "RGB", ("train/", "val/", "test/")),
    image_folder("PNG", "I;16"),
    image_folder("TIFF", "F"),
    image_folder("GIF", "L") | image_folder("WEBP", "RGBA") | image_folder("BMP", "RGB"),
]


def zipped(files) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return written.getvalue()


def idx_files(pack=lambda data: data) -> dict[str, bytes]:
    files = {}
    for prefix in ("train", "t10k"):
        pixels = np.random.RandomState(0).bytes(20 * 36)
        files[f"{prefix}-images-idx3-ubyte"] = struct.pack(">IIII", 0x803, 20, 6, 6) + pixels
        files[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">II", 0x801, 20) + bytes(i % 3 for i in range(20))
    return {name: pack(data) for name, data in files.items()} | {"classes.txt": b"a\nb\nc\n"}


@pytest.mark.parametrize("skip", ["", "skip-bad:"])
def test_image_folders(skip, tmp_path):
    read = lambda folder: load_images(f"{skip}{folder}", size=8, channels=1 if skip else 3)  # noqa: E731
    fuzz(read, IMAGES, tmp_path, seed=len(skip))


def test_image_zip_files(tmp_path):
    seeds = [{"a.zip": zipped(files)} for files in IMAGES[:2]]
    fuzz(lambda folder: load_images(folder / "a.zip", size=8, channels=1), seeds, tmp_path)


def test_image_idx_files(tmp_path):
    packed = {f"{name}.gz" if "idx" in name else name: data for name, data in idx_files().items()}
    packed = {name: gzip.compress(data) if name.endswith(".gz") else data for name, data in packed.items()}
    read = lambda folder: load_images(folder, size=8, channels=1)  # noqa: E731
    fuzz(read, [idx_files(), packed], tmp_path)


def test_segmentation_folders(tmp_path):
    def mask(values=(0, 1, 2)) -> bytes:
        written = io.BytesIO()
        Image.fromarray(np.tile(np.repeat(np.uint8(values), 4), (12, 1))).save(written, "PNG")
        return written.getvalue()

    plain = {f"images/{i}.png": image("PNG", "RGB") for i in range(8)}
    plain |= {f"masks/{i}.png": mask() for i in range(8)} | {"classes.txt": b"ground\ncat\ndog\n"}
    splits = {
        f"{split}/images/{i}.jpg": image("JPEG", "RGB") for split in ("train", "val", "test") for i in "ab"
    }
    splits |= {
        f"{split}/masks/{i}.png": mask((0, 1, 255)) for split in ("train", "val", "test") for i in "ab"
    }
    for skip in ("", "skip-bad:"):
        read = partial(lambda folder, skip: load_segmentation(f"{skip}{folder}", size=8), skip=skip)
        fuzz(read, [plain, splits], tmp_path, seed=len(skip))


def test_captioned_images(tmp_path):
    images = {f"{i}.png": image("PNG", "RGB") for i in range(12)}
    texts = {f"{i}.txt": f"a {WORDS[i % 6]}".encode() for i in range(12)}
    listing = jsonl({"file_name": f"{i}.png", "text": f"a {WORDS[i % 6]}"} for i in range(12))
    for skip in ("", "skip-bad:"):
        read = partial(lambda folder, skip: load_captioned(f"{skip}{folder}", size=8), skip=skip)
        fuzz(read, [images | texts, images | {"metadata.jsonl": listing}], tmp_path, seed=len(skip))


@pytest.mark.parametrize("skip", ["", "skip-bad:"])
def test_captions_and_questions_of_folders(skip, tmp_path):
    images = {f"{i}.png": image("PNG", "RGB") for i in range(12)}
    captions = "".join(f"{i}.png\ta {word}\n" for i in range(12) for word in WORDS[:2]).encode()
    questions = "".join(f"{i}.png\tWhat is it?\ta {WORDS[i % 6]}\n" for i in range(12)).encode()
    for read, listing in (
        (load_image_texts, {"captions.tsv": captions}),
        (load_questions, {"questions.tsv": questions}),
    ):
        fuzz(partial(read_folder, read, skip), [images | listing], tmp_path, seed=len(skip))


def read_folder(read, skip, folder):
    return read(f"{skip}{folder}", size=8)


def sound(seed=0, form="WAV", subtype=None, channels=1) -> bytes:
    import soundfile

    wave = np.random.RandomState(seed).uniform(-0.5, 0.5, (800, channels))
    written = io.BytesIO()
    soundfile.write(written, wave, 8000, format=form, subtype=subtype)
    return written.getvalue()


def test_sounds(tmp_path):
    kinds = [
        ("WAV", None, 1),
        ("WAV", "FLOAT", 2),
        ("FLAC", None, 1),
        ("OGG", None, 1),
        ("AIFF", "PCM_24", 1),
    ]
    seeds = [{"a.wav": sound(0, *kind)} for kind in kinds]
    fuzz(lambda folder: read_audio(folder / "a.wav", 4000), seeds, tmp_path)


def test_speech_and_speaker_folders(tmp_path):
    sounds = {f"{i}.wav": sound(i) for i in range(6)}
    table = lines(
        "file,text,split", *(f"{i}.wav,the {WORDS[i]},{('train', 'val', 'test')[i % 3]}" for i in range(6))
    )
    bare = lines(*(f"{i}.wav\t{WORDS[i]}" for i in range(6)))
    speech = [sounds | {"all.csv": table}, sounds | {"all.tsv": bare}]
    speakers = [{f"{name}/{i}.wav": sound(i) for name in "ab" for i in range(4)}]
    digits = [{f"recordings/{i % 2}_{'ab'[i % 2]}_{i // 2}.wav": sound(i) for i in range(20)}]
    fuzz(lambda folder: read_speech(str(folder), 8000), speech + digits, tmp_path)
    packed = [{"recordings.zip": zipped(digits[0])}]
    fuzz(lambda folder: read_speech(str(folder), 8000), packed, tmp_path)
    fuzz(lambda folder: read_speakers(f"skip-bad:{folder}", 8000), speakers + digits, tmp_path)


def test_speaker_ts_files(tmp_path):
    cases = [":".join(f"{i}.5,{j},{i * j}" for j in range(2)) + f":{'ab'[i % 2]}" for i in range(12)]
    text = lines("@problemName x", "@timestamps false", "@data", *cases)
    read = lambda folder: read_speakers(str(folder / "x_TRAIN.ts"), 8000)  # noqa: E731
    fuzz(read, [{"x_TRAIN.ts": text, "x_TEST.ts": text}], tmp_path)


def test_music_json(tmp_path):
    pieces = [[[60, 64], [], [62]], [[72, 21, 108]]]
    content = json.dumps({"train": pieces * 2, "valid": pieces, "test": pieces}).encode()
    fuzz(lambda folder: load_music(folder), [{"jsb-chorales-quarter.json": content}], tmp_path)


@pytest.fixture(scope="module")
def lenet5_run(trained_run):
    """The files of a run folder that are read again, without the pictures."""
    folder = trained_run("lenet5")
    wanted = (".json", ".jsonl", ".safetensors", ".pt")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.suffix in wanted and "previous" not in str(file)
    }


def with_digests(folder):
    """Put the digests of what is there into a checkpoint's meta.json, so that its content is read too."""
    file = folder / "checkpoint" / "meta.json"
    try:
        meta = json.loads(file.read_text())
        for name in ("model.safetensors", "state.pt"):
            meta["sha256"][name] = hashlib.sha256((file.parent / name).read_bytes()).hexdigest()
        file.write_text(json.dumps(meta))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass  # it is what it is


@pytest.mark.parametrize("signed", [False, True])
def test_run_folders(lenet5_run, signed, tmp_path):
    def read(folder):
        if signed:
            with_digests(folder)
        load_run(folder)
        return read_rows(folder / "metrics.jsonl"), read_intervals(folder)

    fuzz(read, [lenet5_run], tmp_path, allows_nan=True)


def test_checkpoint_states(lenet5_run, tmp_path):
    seeds = [{"state.pt": lenet5_run["checkpoint/state.pt"]}]
    fuzz(lambda folder: read_pickle(folder / "state.pt"), seeds, tmp_path, allows_nan=True)


def pickled(content) -> bytes:
    written = io.BytesIO()
    torch.save(content, written)
    return written.getvalue()


def test_weight_files(tmp_path):
    tensors = ts.create("lenet5").state_dict()
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": each for name, each in tensors.items()}}
    seeds = [{"w.pt": pickled(tensors)}, {"w.pt": pickled(wrapped)}]
    fuzz(lambda folder: ts.create("lenet5", weights=folder / "w.pt"), seeds, tmp_path)
    seeds = [
        {"w.safetensors": safetensors.torch.save(dict(tensors)), "config.json": b'{"architecture": "lenet"}'}
    ]
    fuzz(lambda folder: ts.create("lenet5", weights=folder / "w.safetensors"), seeds, tmp_path)


def published_folders() -> dict[str, dict[str, bytes]]:
    """Tiny networks as transformers writes them."""
    transformers = import_transformers()
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    bert = transformers.BertConfig(**small, vocab_size=30, max_position_embeddings=16)
    albert = transformers.AlbertConfig(**small, embedding_size=4, vocab_size=30, max_position_embeddings=16)
    sizes = {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "max_position_embeddings": 16}
    distilbert = transformers.DistilBertConfig(**sizes, vocab_size=30)
    windowed = {**small, "attention_window": 4, "max_position_embeddings": 18}
    longformer = transformers.LongformerConfig(**windowed, vocab_size=30)
    blocks = {"block_size": 2, "num_random_blocks": 1, "sep_token_id": None, "max_position_embeddings": 16}
    bigbird = transformers.BigBirdConfig(**small, **blocks, vocab_size=30)
    gpt = transformers.GPT2Config(vocab_size=30, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    ends = ("<|startoftext|>", "<|endoftext|>")
    pieces = [*"acdert", *(f"{letter}</w>" for letter in "acdert"), "at</w>", *ends]
    vocab = {token: number for number, token in enumerate(pieces)}
    texts = {"vocab_size": 15, "max_position_embeddings": 16, "bos_token_id": 13, "eos_token_id": 14}
    towers = {"vision_config": {**small, "image_size": 8, "patch_size": 4}, "text_config": small | texts}
    clip = transformers.CLIPConfig(**towers, projection_dim=4)
    t5 = transformers.T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    vit = transformers.ViTConfig(**small, image_size=8, patch_size=4)
    models = {
        "bert": transformers.BertForSequenceClassification(bert),
        "albert": transformers.AlbertForMaskedLM(albert),
        "distilbert": transformers.DistilBertForSequenceClassification(distilbert),
        "longformer": transformers.LongformerForSequenceClassification(longformer),
        "bigbird": transformers.BigBirdForSequenceClassification(bigbird),
        "gpt": transformers.GPT2LMHeadModel(gpt),
        "t5": transformers.T5ForConditionalGeneration(t5),
        "vit": transformers.ViTForImageClassification(vit),
        "clip": transformers.CLIPModel(clip),
    }
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 8, "width": 8}, "resample": 2}
    beside = {name: {"preprocessor_config.json": json.dumps(mean).encode()} for name in ("vit", "clip")}
    special = {
        "bert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        "distilbert": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        "albert": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        "longformer": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        "bigbird": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        "t5": ("<pad>", "</s>", "<unk>"),
        "gpt": (),
    }
    for name, tokens in special.items():
        tokenizer = tokenizers.train("characters", ["a red cat"], vocab_size=30, special_tokens=tokens)
        settings = json.dumps({"do_lower_case": True, "model_max_length": 16}).encode()
        files = {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": settings}
        beside[name] = files
    beside["clip"] |= {"vocab.json": json.dumps(vocab).encode(), "merges.txt": b"a t</w>\n"}
    folders = {}
    for name, model in models.items():
        model.config.architectures = [type(model).__name__]
        config = json.dumps(model.config.to_diff_dict() | model.config.to_dict()).encode()
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        folders[name] = {"config.json": config, "pytorch_model.bin": pickled(state), **beside[name]}
    return folders


@pytest.mark.parametrize(
    "name", ["bert", "albert", "distilbert", "longformer", "bigbird", "gpt", "t5", "vit", "clip"]
)
def test_published_folders(name, tmp_path):
    """The network, and what its inputs are prepared with."""
    fuzz(load_published, [published_folders()[name]], tmp_path)


def test_published_diffusers_folders(tmp_path):
    """Networks with their schedulers, in folders of their own and side by side."""
    net = import_diffusers().UNet2DModel(
        sample_size=8,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
    )
    config, weights = net.to_json_string().encode(), pickled(net.state_dict())
    seeds = []
    for kind in ("DDPMScheduler", "DDIMScheduler"):
        scheduler = getattr(import_diffusers(), kind)(num_train_timesteps=20)
        stated = scheduler.to_json_string().encode()
        parts = {"config.json": config, "diffusion_pytorch_model.bin": weights}
        seeds.append({**parts, "scheduler_config.json": stated})
        split = {f"unet/{name}": content for name, content in parts.items()}
        seeds.append({**split, "scheduler/scheduler_config.json": stated, "model_index.json": b"{}"})

    def read(folder):
        model = ts.load(folder)
        return model, model.process.noise_schedule(), model.process.timestep_pairs(4)

    fuzz(read, seeds, tmp_path)


def catalog(messages) -> bytes:
    """A GNU gettext catalog (.mo) of messages and their translations."""
    names, texts = [text.encode() for text in messages], [text.encode() for text in messages.values()]
    count, start = len(names), 28 + 16 * len(names)
    tables, contents = [], b""
    for column in (names, texts):
        for text in column:
            tables.append(struct.pack("<II", len(text), start + len(contents)))
            contents += text + b"\0"
    header = struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 28 + 16 * count)
    return header + b"".join(tables) + contents


def test_gettext_catalogs(tmp_path, monkeypatch):
    """The programs' archives, as if they were not checked by their digests."""
    messages = {f"{text} %s": f"{text[4:]} %s" for text in SENTENCES[:12]}
    first = {"": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=n != 1;\n"}
    seeds = [{f"{name}.mo": catalog(first | own) for name, own in (("de", messages), ("fr", messages))}]

    def read(folder):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(folder.glob("*.mo")):
                if file.is_file():
                    archive.writestr(f"x/{file.stem}/LC_MESSAGES/django.mo", file.read_bytes())
        monkeypatch.setattr(gettext.download, "fetch_archive", lambda *_: zipfile.ZipFile(packed))
        return read_pairs("gettext", "de", "en")

    fuzz(read, seeds, tmp_path)


def hub_splits(table) -> dict[str, bytes]:
    return {f"{split}.jsonl": jsonl(table) for split in ("train", "validation", "test")}


def quick_loader(load):
    """`datasets.load_dataset` without its search for files where the names say what they are: most of its
    time."""

    def quick(name, *part):
        files = {file.stem: str(file) for file in sorted(Path(name).iterdir())}
        if sorted(files) == ["test", "train", "validation"] and all(
            f.endswith(".jsonl") for f in files.values()
        ):
            return load("json", data_files=files)
        return load(name, *part)

    return quick


@pytest.fixture
def quick_hub(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets, "load_dataset", quick_loader(datasets.load_dataset))
    datasets.disable_progress_bars()


@pytest.mark.parametrize("reader", [read_labeled, read_text, read_pairs], ids=lambda reader: reader.__name__)
def test_hub_data_sets_of_text(reader, tmp_path, quick_hub):
    rows = [{"text": text, "label": label} for text, label in LABELED]
    if reader is read_pairs:
        rows = [{"source": text, "target": text[4:]} for text in SENTENCES]
    fuzz(lambda folder: reader(f"hf:{folder}"), [hub_splits(rows)], tmp_path)


def test_hub_data_sets_of_images(tmp_path, quick_hub):
    metadata = jsonl({"file_name": f"{kind}/{i}.png", "label": kind} for kind in "ab" for i in range(4))
    images = [image_folder(), image_folder() | {"metadata.jsonl": metadata}]
    fuzz(lambda folder: load_images(f"hf:{folder}", size=8, channels=1), images, tmp_path)
