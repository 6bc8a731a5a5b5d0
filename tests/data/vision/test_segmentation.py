"""Segmentation data: OpenMoji's layers, one's own folder, and masks that move with their images."""

import struct
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import max_pool2d

from torchstone.data import download
from torchstone.data.vision import openmoji, segmentation_batches
from torchstone.data.vision.segmentation import SegmentationSplit, load_segmentation, preprocess
from torchstone.data.vision.segmentation_batches import RandomAffine, SegmentationBatches
from torchstone.data.vision.segmentation_folder import IGNORE_INDEX
from torchstone.errors import BadInput

CARD = {"mean": [0.0] * 3, "std": [1 / 255] * 3, "size": 16, "channels": 3}
SVG = (
    '<svg id="emoji" viewBox="0 0 8 8" xmlns="http://www.w3.org/2000/svg">'
    '<g id="color"><rect width="8" height="4" fill="#ff0000"/></g><g id="hair"/>'
    '<g id="skin-2"><rect x="2" y="2" width="4" height="4" fill="#00ff00"/></g>'
    '<g id="line"><rect x="3" width="1" height="8" fill="#000000"/></g>'
    '<g id="grid"><rect width="8" height="8" fill="none"/></g></svg>'
)


def test_openmoji_layers_become_classes():
    picture, mask = openmoji.render(SVG, 8)
    wanted = np.zeros((8, 8), int)
    wanted[:4], wanted[2:6, 2:6], wanted[:, 3] = 1, 3, 4
    print(mask)
    assert (mask == wanted).all()
    colours = {0: (255, 255, 255), 1: (255, 0, 0), 3: (0, 255, 0), 4: (0, 0, 0)}
    assert all((picture[wanted == c] == colour).all() for c, colour in colours.items())


def test_openmoji_family_groups_variants():
    kin = ["1F468-1F3FD-200D-1F680", "1F469-200D-1F680", "1F9D1-1F3FF-200D-1F680"]
    assert {openmoji.family(stem) for stem in kin} == {"1F9D1-1F680"}
    assert openmoji.family("1F680") == "1F680"
    assert openmoji.family("1F3FB") == "1F3FB"  # the tone alone is a drawing too


def test_openmoji_archive_contents():
    with download.fetch_archive(*openmoji.OPENMOJI) as opened:
        names = sorted(n for n in opened.namelist() if n.endswith(".svg"))
        some = [openmoji.render(opened.read(n).decode(), 24) for n in names[::75]]
    counts = np.bincount(np.stack([mask for _, mask in some]).ravel(), minlength=5)
    print(len(names), len(some), counts / counts.sum())
    assert len(names) == 4495
    assert (counts > 0).all()
    assert 0.6 < counts[0] / counts.sum() < 0.8


def test_openmoji_cache_rebuilt_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHSTONE_CACHE", str(tmp_path))
    drawn = []

    class Opened:
        def read(self, name):
            drawn.append(name)
            return SVG.encode()

    for damage in (False, False, True):
        kept = list((tmp_path / "drawn").glob("*.npz"))
        if damage:
            kept[0].write_bytes(kept[0].read_bytes()[:100])
        pictures, masks = openmoji._load_cached.__wrapped__(Opened(), ["a", "b"], 8)
        assert pictures.shape == (2, 8, 8, 3)
        assert masks[1, 0, 3] == 4
    print(drawn)
    assert len(drawn) == 4


@pytest.fixture
def folder(tmp_path):
    """Ten pictures of 20x16: red above, green below; the mask says 1, 2 and a void corner."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    picture, mask = np.zeros((16, 20, 3), np.uint8), np.ones((16, 20), np.uint8)
    picture[:8, :, 0], picture[8:, :, 1], mask[8:] = 200, 100, 2
    mask[:4, :4] = IGNORE_INDEX
    for i in range(10):
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
        image = Image.fromarray(mask)
        if i % 2:  # a palette whose colours are not the indices
            image = Image.fromarray(mask, mode="P")
            image.putpalette([c for i in range(256) for c in (255 - i, i, 7)])
        image.save(tmp_path / "masks" / f"{i}.png")
    return tmp_path


def test_load_segmentation_folder(folder):
    data = load_segmentation(folder, size=16)
    print(data.description)
    assert data.classes == ("background", "class 1", "class 2")
    assert [len(s) for s in (data.train, data.val, data.test)] == [7, 1, 2]
    pictures, masks = data.train.take(torch.arange(7))
    assert pictures.shape == (7, 3, 16, 16)
    assert (masks[:, 8:] == 2).all()
    assert (masks[:, 4:8] == 1).all()
    assert (masks[:, :4, :2] == IGNORE_INDEX).all()  # two columns were cut off
    assert (pictures[:, 0, :8] == 200).all()
    assert data.metadata["mean"] == pytest.approx([100 / 255, 50 / 255, 0])
    (folder / "classes.txt").write_text("\ufeffsky\nhouse\ngrass\n", encoding="utf-8")
    assert load_segmentation(folder, size=16).classes == ("sky", "house", "grass")


def test_load_segmentation_class_without_pixels_is_listed(folder):
    (folder / "classes.txt").write_text("sky\nhouse\ngrass\nriver\n")
    data = load_segmentation(folder, size=16)
    print(data.description)
    assert data.classes == ("sky", "house", "grass", "river")
    assert "in no mask: 'sky', 'river'" in data.description


def write_masks(folder, masks, names=""):
    """Images with these masks, and classes.txt."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for i, mask in enumerate(masks):
        Image.new("RGB", mask.shape[::-1], (9 * i % 256, 50, 90)).save(folder / "images" / f"{i:02}.png")
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{i:02}.png")
    if names:
        (folder / "classes.txt").write_text(names)


def halves(low, high, side=16):
    mask = np.full((side, side), low)
    mask[side // 2 :] = high
    return mask


VALUES = {
    "0 and 255, named": (0, 255, "background\nobject\n", "hold 0 and 255 only, and 255 .* make it 1"),
    "0 and 255": (0, 255, "", "hold 0 and 255 only"),
    "1 and 255": (1, 255, "", "hold 1 and 255 only, and 255 .* make it 0"),
    "255 only": (255, 255, "", "hold 255 only"),
    "0 and 128": (0, 128, "", "values 0, 128: if these are gray levels, .* 0 to 1; .* all 129 classes"),
}


@pytest.mark.parametrize("values", VALUES)
def test_load_segmentation_ambiguous_values_refused(tmp_path, values):
    low, high, names, said = VALUES[values]
    write_masks(tmp_path, [halves(low, high)] * 10, names)
    with pytest.raises(BadInput, match=said) as caught:
        load_segmentation(tmp_path, size=16)
    print(caught.value)


def test_load_segmentation_void_masks_left_out_and_counted(tmp_path):
    write_masks(tmp_path, [halves(255, 255) if i % 5 == 0 else halves(0, 1) for i in range(20)])
    data = load_segmentation(tmp_path, size=16)
    print(data.description)
    assert "4 left out whose masks are all void" in data.description
    assert [len(s) for s in (data.train, data.val, data.test)] == [12, 1, 3]
    for split in (data.train, data.val, data.test):
        _, masks = split.take(torch.arange(len(split)))
        assert (masks != IGNORE_INDEX).all()


def test_load_segmentation_splits_have_two_classes(tmp_path):
    """Three of twelve masks show the object: a test split without it would call a constant perfect."""
    write_masks(tmp_path / "rare", [halves(0, int(i in (2, 5, 11))) for i in range(12)])
    data = load_segmentation(tmp_path / "rare", size=16)
    for split in (data.train, data.val, data.test):
        seen = split.take(torch.arange(len(split)))[1].unique().tolist()
        print(len(split), seen)
        assert seen == [0, 1]
    write_masks(tmp_path / "published" / "train", [halves(0, 1)] * 6)
    write_masks(tmp_path / "published" / "test", [halves(0, 0)] * 3)
    with pytest.raises(BadInput, match=r"the test split of .* show only 'background'") as caught:
        load_segmentation(tmp_path / "published", size=16)
    print(caught.value)


def png(mask, depth):
    """A gray PNG file of so many bits a pixel, as Pillow cannot write it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b""
    for row in mask:
        bits = "".join(f"{value:0{depth}b}" for value in row.tolist())
        bits += "0" * (-len(bits) % 8)
        lines += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    head = struct.pack(">IIBBBBB", *mask.shape[::-1], depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    )


@pytest.mark.parametrize(
    "kind", ["1", "2", "4", "8", "16", "palette 1", "palette 2", "palette 4", "LA", "RGB", "RGBA"]
)
def test_load_segmentation_masks_keep_stored_numbers(tmp_path, kind):
    bits = int(kind.split()[-1]) if kind.split()[-1].isdigit() else 8
    wanted = np.arange(256).reshape(16, 16) % min(2**bits, 6)
    write_masks(tmp_path, [wanted] * 10)
    for file in (tmp_path / "masks").iterdir():
        if kind.startswith("palette"):
            image = Image.fromarray(wanted.astype(np.uint8), mode="P")
            image.putpalette([c for i in range(256) for c in (255 - i, i, 7)])
            image.save(file, bits=bits)
        elif not kind.isdigit():
            Image.fromarray(wanted.astype(np.uint8)).convert(kind).save(file)
        else:
            file.write_bytes(png(wanted, bits))
    data = load_segmentation(tmp_path, size=16)
    _, masks = data.train.take(torch.arange(1))
    print(kind, data.classes, masks.unique().tolist())
    assert len(data.classes) == wanted.max() + 1
    assert (masks[0].numpy() == wanted).all()


def test_load_segmentation_16_bit_mask_out_of_range_refused(tmp_path):
    write_masks(tmp_path, [halves(0, 1)] * 10)
    (tmp_path / "masks" / "03.png").write_bytes(png(halves(0, 257), 16))
    with pytest.raises(BadInput, match=r"03\.png holds values from 0 to 257: .* class indices"):
        load_segmentation(tmp_path, size=16)


def test_load_segmentation_published_splits(folder, tmp_path_factory):
    above = tmp_path_factory.mktemp("splits")
    for split in ("Train", "Testing"):
        (above / split).mkdir()
        for kind in ("images", "masks"):
            (above / split / kind).symlink_to(folder / kind)
    data = load_segmentation(above, size=16)
    assert [len(s) for s in (data.train, data.val, data.test)] == [9, 1, 10]


def spoil(folder, how):
    picture, mask = folder / "images" / "3.png", folder / "masks" / "3.png"
    if how == "no mask":
        mask.unlink()
    elif how == "no PNG":
        mask.rename(mask.with_suffix(".npy"))
    elif how == "two names":
        (folder / "Train").mkdir()
        (folder / "training").mkdir()
    elif how == "no picture":
        picture.unlink()
    elif how == "other sides":
        Image.new("L", (20, 17)).save(mask)
    elif how == "colours":
        Image.new("RGB", (20, 16), "red").save(mask)
    elif how == "out of range":
        (folder / "classes.txt").write_text("sky\nhouse\n")
    elif how == "corrupt":
        picture.write_bytes(picture.read_bytes()[:60])
    elif how == "no folder":
        (folder / "masks").rename(folder / "labels")
    elif how == "one class":
        for file in (folder / "masks").iterdir():
            Image.new("L", (20, 16), 0).save(file)
    elif how == "twice":
        Image.new("RGB", (20, 16)).save(folder / "images" / "3.jpg")


SAID = {
    "no mask": r"3\.png has no mask: put .*3\.png there",
    "no PNG": r"3\.npy is no PNG: save masks as PNG",
    "two names": r"has Train and training, which are both a train split",
    "no picture": r"3\.png has no image",
    "other sides": r"is 20x17, its image 20x16",
    "colours": r"no index mask .*8-bit PNG",
    "out of range": r"has the label 2, but classes.txt names 2 classes, 0 to 1",
    "corrupt": r"3\.png is not a readable image",
    "no folder": r"masks does not exist: give a folder with images/ and masks/",
    "one class": r"one class only",
    "twice": r"have one mask",
}


@pytest.mark.parametrize("how", SAID)
def test_load_segmentation_error_messages(folder, how):
    spoil(folder, how)
    with pytest.raises(BadInput, match=SAID[how]) as caught:
        load_segmentation(folder, size=16)
    print(caught.value)
    assert "\n" not in str(caught.value)


def test_load_segmentation_unknown_name_suggests_nearest():
    with pytest.raises(BadInput, match="openmoji"):
        load_segmentation("openmojis", size=16)


def numbered(count=21, size=12):
    """Pictures whose red says the label of each pixel, and whose labels are chequered."""
    labels = (torch.arange(count)[:, None, None] + torch.arange(size)[:, None] // 3) % 7
    labels = labels.expand(-1, -1, size).contiguous().to(torch.uint8)
    pictures = labels[:, None].expand(-1, 3, -1, -1).contiguous() * 30
    return SegmentationSplit((pictures, labels), torch.device("cpu"))


def drawn(count, augment="flip+scale0.5-2+shift0.1", **options):
    batches = SegmentationBatches(
        numbered(),
        6,
        seed=5,
        metadata=CARD,
        augment=segmentation_batches.make_augmentation(augment),
        **options,
    )
    return [next(batches) for _ in range(count)]


def same(ones, others):
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(ones, others, strict=True))


@pytest.mark.parametrize("augment", ["none", "flip", "flip+scale0.5-2+shift0.1"])
def test_segmentation_batches_resume_and_share_exactly(augment):
    whole = drawn(12, augment)
    for position in (1, 5):
        batches = SegmentationBatches(
            numbered(), 6, seed=5, metadata=CARD, augment=segmentation_batches.make_augmentation(augment)
        )
        batches.load_state_dict({"position": 6 * position})
        assert same(whole[position:], [next(batches) for _ in range(12 - position)])
    shares = [drawn(12, augment, rank=rank, world_size=3) for rank in range(3)]
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*shares, strict=True)]
    assert same(whole, joined)
    assert not same(whole[:3], whole[3:6])


def test_segmentation_batches_augment_differently_each_time():
    labels = torch.arange(144, dtype=torch.uint8).view(1, 12, 12)
    one = SegmentationSplit((labels[:, None].expand(-1, 3, -1, -1).contiguous(), labels), torch.device("cpu"))
    augment = segmentation_batches.make_augmentation("scale0.5-2")
    batches = SegmentationBatches(one, 2, seed=0, metadata=CARD, augment=augment)
    seen = {tuple(mask.flatten().tolist()) for _ in range(5) for mask in next(batches)[1]}
    print(len(seen), "of 10 differ")
    assert len(seen) == 10


def lowest(x, **window):
    return -max_pool2d(-x, **window)


def test_random_affine_moves_mask_with_image():
    """Inside a patch of one label the moved picture must show that label's colour."""
    checked = voids = 0
    least, most = (partial(pool, kernel_size=3, stride=1) for pool in (lowest, max_pool2d))
    for images, masks in drawn(30):
        red, inner = images[:, 0, 1:-1, 1:-1], masks[:, 1:-1, 1:-1]
        low, high = (pool(masks.float()[:, None])[:, 0] for pool in (least, most))
        flat, outside = (low == high) & (inner != IGNORE_INDEX), low == IGNORE_INDEX
        checked, voids = checked + int(flat.sum()), voids + int(outside.sum())
        assert torch.allclose(red[flat], 30.0 * inner[flat], atol=1e-2)
        assert (red[outside].abs() < 1e-3).all()
    print(checked, "pixels in flat patches,", voids, "void")
    assert checked > 2000
    assert voids > 500


def test_random_affine_identity_and_mirror():
    images, masks = torch.randn(64, 3, 9, 7), torch.randint(0, 5, (64, 9, 7))

    def draw(*shape):
        return torch.rand(64, *shape, generator=torch.Generator().manual_seed(1))

    moved, labels = RandomAffine(False, 1.0, 1.0, 0.0)(images, masks, draw)
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)
    assert torch.equal(labels, masks)
    moved, labels = RandomAffine(True, 1.0, 1.0, 0.0)(images, masks, draw)
    mirrored = (labels == masks.flip(2)).flatten(1).all(1)
    kept = (labels == masks).flatten(1).all(1)
    print(int(mirrored.sum()), "of 64 mirrored")
    assert (mirrored ^ kept).all()
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize("name", ["flop", "scale2-0.5", "scale0-1", "shift1", "scale", "flip+crop4"])
def test_make_augmentation_rejects_invalid_names(name):
    with pytest.raises(BadInput):
        segmentation_batches.make_augmentation(name)


def test_preprocess_preserves_aspect_ratio():
    pixels, image = preprocess(Image.new("RGB", (90, 30), "red"), CARD)
    assert pixels.shape == (1, 3, 16, 48)
    assert image.size == (90, 30)
    with pytest.raises(BadInput, match="does not exist"):
        preprocess("nowhere.png", CARD)


def test_load_segmentation_large_set_stays_on_disk(folder, monkeypatch):
    from torchstone.data.vision import segmentation

    small = load_segmentation(folder, size=16)
    monkeypatch.setattr(segmentation, "MEMORY_LIMIT", 100)
    large = load_segmentation(folder, size=16)
    index = torch.tensor([3, 0, 6])
    assert not isinstance(large.train.pairs, tuple)
    assert same([small.train.take(index)], [large.train.take(index)])
    assert small.metadata == large.metadata


def test_load_segmentation_of_16_bit_images_fills_the_range(tmp_path):
    write_masks(tmp_path, [halves(0, 1)] * 10)
    for i, file in enumerate(sorted((tmp_path / "images").iterdir())):
        file.write_bytes(png(halves(2000 + i, 2086 - i), 16))
    data = load_segmentation(tmp_path, size=16)
    print(data.description, data.metadata["levels"])
    low, high = data.metadata["levels"]
    assert 2000 <= low <= 2003
    assert 2083 <= high <= 2086
    pixels = data.train.take(torch.arange(len(data.train)))[0]
    assert pixels.min() == 0
    assert pixels.max() == 255
    own, _ = preprocess(tmp_path / "images" / "00.png", data.metadata)
    assert own.unique().tolist() == [0, 255]
