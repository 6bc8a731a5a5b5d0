"""Every source of labeled images: contents, splits, and error messages."""

import gzip
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data import identity, splits
from torchstone.data.vision import dataset, sources
from torchstone.data.vision.dataset import load_images
from torchstone.errors import BadInput


def write(folder, count, seed=0, suffix="png", mode="RGB"):
    """`count` pictures of noise, of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.RandomState(seed)
    for i in range(count):
        array = numbers.randint(0, 256, (12 + i % 5, 14 + i % 3, 3), dtype=np.uint8)
        Image.fromarray(array).convert(mode).save(folder / f"{i:03}.{suffix}")


def counts(pictures):
    return {
        split: torch.bincount(getattr(pictures, split).labels, minlength=len(pictures.classes)).tolist()
        for split in ("train", "val", "test")
    }


def disjoint(spec):
    parts = sources.read(str(spec)).subsets
    index = np.concatenate([part.index for part in parts.values()])
    return len(set(index.tolist())) == len(index)


def test_mnist5k_counts_and_statistics():
    pictures = load_images("mnist5k", size=32, channels=1)
    print(pictures.description, pictures.metadata)
    assert counts(pictures) == {"train": [360] * 10, "val": [40] * 10, "test": [100] * 10}
    assert disjoint("mnist5k")
    assert pictures.metadata["ink"]
    assert pictures.metadata["box"] == 20 / 32
    assert pictures.train.images.shape == (3600, 1, 32, 32)
    inner = pictures.train.images[:, :, 2:30, 2:30]
    assert inner.sum() == pictures.train.images.sum()  # padded, not resized
    exact = pictures.train.images.double() / 255
    assert abs(exact.mean() - pictures.metadata["mean"][0]) < 1e-9
    assert abs(exact.std(correction=0) - pictures.metadata["std"][0]) < 1e-9
    again = load_images("mnist5k", size=32, channels=1)
    assert torch.equal(again.test.images, pictures.test.images)


def test_digits_counts():
    pictures = load_images("digits", size=8, channels=1)
    print(pictures.description, pictures.metadata)
    assert [len(p) for p in (pictures.train, pictures.val, pictures.test)] == [1294, 144, 359]
    assert disjoint("digits")
    assert pictures.metadata["ink"]
    assert pictures.train.images.max() == 255


@pytest.mark.parametrize("total", [7, 40, 100])
def test_apportion_exact_and_at_least_one(total):
    sizes = np.array([500, 3, 33, 120, 4])
    shares = splits.apportion(sizes, total)
    print(sizes, "->", shares)
    assert total <= shares.sum() <= total + 2
    assert shares.min() >= 1
    assert splits.apportion(np.array([5] * 10), 20).tolist() == [2] * 10


def test_image_folder_of_many_formats(tmp_path):
    for suffix in ("jpg", "png", "bmp", "gif", "webp", "tiff"):
        write(tmp_path / "cat" / suffix, 5, suffix=suffix)
    write(tmp_path / "dog", 20)
    write(tmp_path / "emu", 3, mode="RGBA")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    (tmp_path / "dog" / ".DS_Store").write_text("hidden")
    pictures = load_images(tmp_path, size=10, channels=3)
    print(pictures.description)
    assert pictures.classes == ("cat", "dog", "emu")
    assert counts(pictures) == {"train": [24, 16, 1], "val": [3, 2, 1], "test": [3, 2, 1]}
    assert "1 other file skipped" in pictures.description
    assert "RGBA 3" in pictures.description
    assert disjoint(tmp_path)
    assert not pictures.metadata["ink"]
    grey = load_images(tmp_path, size=10, channels=1)
    assert grey.train.images.shape[1:] == (1, 10, 10)
    assert not grey.metadata["ink"]


def test_image_folder_zip_equals_folder(tmp_path):
    write(tmp_path / "photos" / "cat", 8)
    write(tmp_path / "photos" / "dog", 8, seed=1)
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path, "photos")
    folder = load_images(tmp_path / "photos", size=12, channels=3)
    zipped = load_images(tmp_path / "photos.zip", size=12, channels=3)
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(folder, split).images, getattr(zipped, split).images)
    assert folder.metadata == zipped.metadata


def test_image_folder_zip_per_split(tmp_path):
    for split, count in (("train", 20), ("test", 3)):
        for i, name in enumerate(("cat", "dog")):
            write(tmp_path / "folder" / split / name, count, seed=10 * count + i)
        root = tmp_path / "folder" / split
        shutil.make_archive(str(tmp_path / "zips" / split), "zip", root)
    (tmp_path / "zips" / "SOURCE.txt").write_text("where they come from")
    folder = load_images(tmp_path / "folder", size=12, channels=3)
    zips = load_images(tmp_path / "zips", size=12, channels=3)
    print(zips.description)
    assert "test as published" in zips.description
    assert counts(zips) == counts(folder)
    for split in ("train", "val", "test"):
        assert torch.equal(getattr(folder, split).images, getattr(zips, split).images)
    (tmp_path / "zips" / "test.zip").write_text("no zip")
    with pytest.raises(BadInput, match=r"test\.zip is neither a folder nor a zip file"):
        load_images(tmp_path / "zips", size=12, channels=3)


@pytest.mark.parametrize("val", [False, True])
def test_image_folder_published_splits(tmp_path, val):
    for i, name in enumerate(("cat", "dog")):
        write(tmp_path / "train" / name, 20, seed=i)
        write(tmp_path / "test" / name, 4, seed=i + 2)
        if val:
            write(tmp_path / "val" / name, 3, seed=i + 4)
    pictures = load_images(tmp_path, size=12, channels=3)
    print(pictures.description)
    wanted = {"train": [20, 20], "val": [3, 3]} if val else {"train": [18, 18], "val": [2, 2]}
    assert counts(pictures) == wanted | {"test": [4, 4]}
    write(tmp_path / "test" / "emu", 2)
    with pytest.raises(BadInput, match="'emu' is in test but not in train"):
        load_images(tmp_path, size=12, channels=3)


@pytest.mark.parametrize(
    ("train", "test"), [("Train", "TEST"), ("Training", "Testing"), ("train/train", "test/test")]
)
def test_image_folder_names_of_splits(tmp_path, train, test):
    """Capitals and -ing are no classes; a split may have a folder of its name around its classes."""
    for i, name in enumerate(("cat", "dog")):
        write(tmp_path / train / name, 20, seed=i)
        write(tmp_path / test / name, 4, seed=i + 2)
    pictures = load_images(tmp_path, size=12, channels=3)
    print(pictures.description)
    assert pictures.classes == ("cat", "dog")
    assert counts(pictures) == {"train": [18, 18], "val": [2, 2], "test": [4, 4]}


SPLIT_FAULTS = {
    "beside splits": (("train/cat", "train/dog", "test/cat", "more"), "may be splits, beside more"),
    "train and others": (("train/cat", "train/dog", "more"), "train, which may be splits, beside more"),
    "two names": (
        ("train/cat", "train/dog", "val/cat", "dev/cat"),
        "dev and val, which are both a val split",
    ),
    "no train": (("test/cat", "test/dog", "val/cat", "val/dog"), "but no train"),
}


@pytest.mark.parametrize("fault", SPLIT_FAULTS)
def test_image_folder_splits_that_may_be_classes_are_refused(tmp_path, fault):
    folders, said = SPLIT_FAULTS[fault]
    for i, name in enumerate(folders):
        write(tmp_path / name, 4, seed=i)
    with pytest.raises(BadInput, match=said) as caught:
        load_images(tmp_path, size=12, channels=3)
    print(caught.value)


def test_image_folder_with_a_class_named_train(tmp_path):
    for i, name in enumerate(("car", "plane", "train")):
        write(tmp_path / name, 10, seed=i)
    write(tmp_path / "car" / "@eaDir" / "car.png", 3)  # thumbnails of a disk on the network
    assert counts(load_images(tmp_path, size=12, channels=3)) == {
        "train": [8, 8, 8],
        "val": [1, 1, 1],
        "test": [1, 1, 1],
    }


def test_image_folder_with_a_link_to_itself_is_read_once(tmp_path):
    for i, name in enumerate(("cat", "dog")):
        write(tmp_path / "photos" / name, 10, seed=i)
        (tmp_path / "photos" / name / "all").symlink_to(tmp_path / "photos")
    write(tmp_path / "elsewhere", 5, seed=7)
    (tmp_path / "photos" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    pictures = load_images(tmp_path / "photos", size=12, channels=3)
    print(pictures.description)
    assert sum(counts(pictures)[split][0] for split in ("train", "val", "test")) == 15
    assert sum(counts(pictures)[split][1] for split in ("train", "val", "test")) == 10


def test_image_folder_says_which_files_hold_several_images(tmp_path):
    for i, name in enumerate(("cat", "dog")):
        write(tmp_path / name, 10, seed=i)
    first, second = (Image.new("RGB", (12, 12), color) for color in ("red", "blue"))
    for suffix in ("gif", "tif", "png", "webp"):
        first.save(tmp_path / "cat" / f"moves.{suffix}", save_all=True, append_images=[second])
    pictures = load_images(tmp_path, size=12, channels=3)
    print(pictures.description)
    assert "RGB (the first of several images in a file) 3" in pictures.description
    assert "P (the first of several images in a file) 1" in pictures.description


def write_idx(folder, zipped, train=60, test=20):
    folder.mkdir(exist_ok=True)
    numbers, suffix = np.random.RandomState(0), ".gz" if zipped else ""
    arrays = {}
    for prefix, count in (("train", train), ("t10k", test)):
        images = numbers.randint(0, 256, (count, 28, 28), dtype=np.uint8)
        images[:, [0, -1]] = images[:, :, [0, -1]] = 0
        labels = np.arange(count, dtype=np.uint8) % 4
        head = b"".join(n.to_bytes(4, "big") for n in (0x803, count, 28, 28))
        pack = gzip.compress if zipped else bytes
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(head + images.tobytes()))
        head = b"".join(n.to_bytes(4, "big") for n in (0x801, count))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(head + labels.tobytes()))
        arrays[prefix] = images
    return arrays


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files(tmp_path, zipped):
    arrays = write_idx(tmp_path, zipped)
    pictures = load_images(tmp_path, size=32, channels=1)
    print(pictures.description)
    assert [len(p) for p in (pictures.train, pictures.val, pictures.test)] == [54, 6, 20]
    assert pictures.metadata["ink"]
    assert np.array_equal(pictures.test.images[:, 0, 2:30, 2:30].numpy(), arrays["t10k"])
    assert pictures.test.labels.tolist() == [i % 4 for i in range(20)]


def test_idx_classes_are_named_by_their_file(tmp_path):
    write_idx(tmp_path, zipped=False)
    (tmp_path / "classes.txt").write_text("\ufeffcat\ndog\nemu\nfox\n", encoding="utf-8")
    assert load_images(tmp_path, size=32, channels=1).classes == ("cat", "dog", "emu", "fox")
    for names, said in (
        ("cat\ndog\n", "labels up to 3, but classes.txt names 2"),
        ("cat\ncat\n", "each class once"),
    ):
        (tmp_path / "classes.txt").write_text(names)
        with pytest.raises(BadInput, match=said) as caught:
            load_images(tmp_path, size=32, channels=1)
        print(caught.value)


@pytest.mark.parametrize(
    ("names", "classes", "said"),
    [
        ("", ("1", "2", "4"), "IDX files; "),
        ("a\nb\nc\nd\n", ("a", "b", "d"), "labels count from 1, no image of 'c'; "),
        ("none\na\nb\nc\nd\n", ("a", "b", "d"), "no image of 'none', 'c'; "),
    ],
)
def test_idx_labels_from_1_and_with_gaps(tmp_path, names, classes, said):
    """As in EMNIST's letters."""
    write_idx(tmp_path, zipped=False)
    for file in tmp_path.glob("*labels*"):
        data = file.read_bytes()
        file.write_bytes(data[:8] + bytes((1, 2, 4)[label % 3] for label in data[8:]))
    if names:
        (tmp_path / "classes.txt").write_text(names)
    pictures = load_images(tmp_path, size=32, channels=1)
    print(pictures.classes, pictures.description)
    assert pictures.classes == classes
    assert said in pictures.description
    assert pictures.test.labels.tolist() == [i % 4 % 3 for i in range(20)]


def test_idx_rejects_damaged_files(tmp_path):
    def refused(match):
        with pytest.raises(BadInput, match=match) as caught:
            load_images(tmp_path, size=32, channels=1)
        print(caught.value)

    write_idx(tmp_path, zipped=True)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"
    good = file.read_bytes()
    file.write_bytes(good[:500])
    refused("t10k-images-idx3-ubyte.gz is damaged or truncated")
    file.write_bytes(gzip.compress(gzip.decompress(good)[:-5]))
    refused("t10k-images-idx3-ubyte.gz is truncated")
    file.write_bytes(gzip.compress(b"\0\0\x09\x03" + gzip.decompress(good)[4:]))
    refused("is not an IDX file of images: it starts with 00000903")
    file.unlink()
    refused("lacks t10k-images-idx3-ubyte")


@pytest.mark.parametrize("label", ["class", "integer", "string"])
@pytest.mark.parametrize("published", [False, True])
def test_huggingface_offline(tmp_path, monkeypatch, label, published):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    numbers, names = np.random.RandomState(0), ["cat", "dog"]
    feature = {
        "class": datasets.ClassLabel(names=names),
        "integer": datasets.Value("int64"),
        "string": datasets.Value("string"),
    }[label]
    features = datasets.Features({"picture": datasets.Image(), "kind": feature})
    (tmp_path / "set").mkdir()
    for split, count in {"train": 40, "test": 10}.items() if published else {"train": 40}.items():
        rows = numbers.randint(0, 256, (count, 9, 9, 3), dtype=np.uint8)
        kinds = [names[i % 2] if label == "string" else i % 2 for i in range(count)]
        table = {"picture": [Image.fromarray(row) for row in rows], "kind": kinds}
        table = datasets.Dataset.from_dict(table, features=features)
        table.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
    pictures = load_images(f"hf:{tmp_path / 'set'}", size=9, channels=3)
    print(pictures.description)
    assert pictures.classes == (("0", "1") if label == "integer" else ("cat", "dog"))
    if published:
        assert counts(pictures) == {"train": [18, 18], "val": [2, 2], "test": [5, 5]}
        assert np.array_equal(pictures.test.images.permute(0, 2, 3, 1).numpy(), rows)
    else:
        assert counts(pictures) == {"train": [16, 16], "val": [2, 2], "test": [2, 2]}


@pytest.mark.parametrize("hidden", ["-1", "null", "no column"])
def test_hf_split_without_labels_and_rows_without_images_are_left_out(hidden, tmp_path):
    import datasets

    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    for split, count in {"train": 40, "test": 10}.items():
        images = [Image.new("RGB", (9, 9), (5 * i, 0, 0)) for i in range(count)]
        labels = [i % 2 for i in range(count)]
        if split == "train":
            images[3], labels[5] = None, None
        else:
            labels = [{"-1": -1, "null": None}.get(hidden)] * count
        columns = {"image": images, "label": labels}
        if split == "test" and hidden == "no column":
            del columns["label"]
        own = datasets.Features({name: features[name] for name in columns})
        table = datasets.Dataset.from_dict(columns, features=own)
        table.to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    splits = {
        s: datasets.Dataset.from_parquet(str(tmp_path / f"{s}-00000-of-00001.parquet"))
        for s in ("train", "test")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(splits))
        pictures = load_images("hf:someone/set", size=9, channels=3)
    print(pictures.description)
    assert "test has no labels: left out" in pictures.description
    assert "2 rows without an image or a label left out" in pictures.description
    assert sum(map(sum, counts(pictures).values())) == 38
    red = torch.cat([getattr(pictures, s).images[:, 0, 0, 0] for s in ("train", "val", "test")])
    assert sorted(red.tolist()) == [5 * i for i in range(40) if i not in (3, 5)]


def refuse(spec, match, channels=3):
    with pytest.raises(BadInput, match=match) as caught:
        load_images(spec, size=8, channels=channels)
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_load_images_error_messages(tmp_path):
    refuse("mnist5", "did you mean mnist5k")
    refuse(tmp_path / "none", "none does not exist")
    refuse(f"hf:{tmp_path / 'none'}", "cannot load hf:")
    refuse("digits", "1 or 3 channels", channels=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    refuse(empty, "holds no images")
    write(tmp_path / "flat", 4)
    refuse(tmp_path / "flat", "no sub-folders")
    write(tmp_path / "one" / "cat", 4)
    refuse(tmp_path / "one", "one class only")
    write(tmp_path / "one" / "dog", 2)
    refuse(tmp_path / "one", "class 'dog' .* has 2 images, too few")
    write(tmp_path / "one" / "dog", 5)
    file = tmp_path / "one" / "dog" / "003.png"
    file.write_bytes(file.read_bytes()[:200])
    refuse(tmp_path / "one", r"dog/003.png is not a readable image")
    (tmp_path / "text.zip").write_text("words")
    refuse(tmp_path / "text.zip", "neither a folder nor a zip file")
    with zipfile.ZipFile(tmp_path / "damaged.zip", "w") as opened:
        for name in ("cat", "dog"):
            for i in range(3):
                opened.writestr(f"{name}/{i}.png", b"words")
    refuse(tmp_path / "damaged.zip", r"damaged.zip/cat/[012].png is not a readable image")


def test_zip_damaged_image_is_named_or_left_out_where_identity_is_taken(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(24):
            write(tmp_path / "x", 1, seed=i)
            archive.write(next((tmp_path / "x").iterdir()), f"{'ab'[i % 2]}/{i}.png")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[data.index(b"a/4.png") + 40] ^= 1  # a byte of its content: the checksum is wrong
    (tmp_path / "a.zip").write_bytes(bytes(data))
    with identity.listen(), pytest.raises(BadInput, match=r"a/4\.png is not a readable image") as caught:
        load_images(tmp_path / "a.zip", size=8, channels=1)
    print(caught.value)
    with identity.listen():
        images = load_images(f"skip-bad:{tmp_path / 'a.zip'}", size=8, channels=1)
    print(images.description)
    assert "1 left out" in images.description
    (tmp_path / "a.zip").write_bytes(bytes(data).replace(b"PK\x01\x02", b"PK\x01\x07", 1))
    with pytest.raises(BadInput, match=r"a\.zip is not a complete zip file"):
        load_images(tmp_path / "a.zip", size=8, channels=1)


@pytest.mark.parametrize(
    ("side", "size", "ink"), [(28, 32, True), (32, 32, False), (32, 32, True), (27, 32, True)]
)
def test_images_of_an_array_are_framed_like_one_by_one(side, size, ink):
    array = np.random.RandomState(0).randint(0, 256, (6, side, side), dtype=np.uint8)
    subset = splits.full_subset(splits.ImageArray(array, "noise"), np.zeros(6))
    files = dataset.ImageFiles(subset.select(np.array([4, 0, 5])), size, 1, ink)
    at_once = dataset._frame_array(files)
    one_by_one = np.stack([files.load(i)[0] for i in range(3)])
    print(side, size, ink, at_once.shape, int((at_once != one_by_one).sum()), "pixels differ")
    assert (at_once == one_by_one).all()
    assert dataset._frame_array(dataset.ImageFiles(subset, 64, 1, ink)) is None  # these are resized


@pytest.mark.parametrize(("shape", "black", "expected"), [((9, 9), 100, True), ((7, 9), 90, False)])
def test_framing_of_an_array_is_that_of_its_images(shape, black, expected):
    """Of 100 images, so many with a black border; they are looked at at once, and as images one by one."""
    images = np.random.RandomState(0).randint(1, 256, (100, *shape), dtype=np.uint8)
    images[:black, [0, -1]] = images[:black, :, [0, -1]] = 0
    pool = splits.ImageArray(images, "images")
    one_by_one = type("Pool", (), {"__getitem__": lambda _, i: pool[i], "describe": lambda _, i: str(i)})()
    found = [
        dataset._detect_framing(splits.full_subset(each, np.zeros(100)), None) for each in (pool, one_by_one)
    ]
    print(shape, black, found)
    assert found == [(9, expected)] * 2


@pytest.mark.parametrize("stored", ["file", "bytes"])
@pytest.mark.parametrize("labels", [[0.0, 1.0, None], ["cat", "dog", ""]])
def test_hf_images_of_other_writers(tmp_path, monkeypatch, stored, labels):
    """Parquet without Hugging Face's own metadata: files as bytes, labels as a column with gaps holds them."""
    import datasets

    def png(i):
        Image.new("RGB", (9, 9), (5 * i, 0, 0)).save(tmp_path / "a.png")
        return (tmp_path / "a.png").read_bytes()

    images = [png(i) if stored == "bytes" else {"bytes": png(i), "path": None} for i in range(42)]
    columns = {"image": images, "label": [labels[i % 3] for i in range(42)]}
    made = datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)})
    monkeypatch.setattr(datasets, "load_dataset", lambda name: made)
    pictures = load_images("hf:someone/set", size=9, channels=3)
    print(pictures.classes, pictures.description)
    assert pictures.classes == (("0", "1") if labels[0] == 0 else ("cat", "dog"))
    assert "14 rows without an image or a label left out" in pictures.description
    assert sum(map(sum, counts(pictures).values())) == 28
