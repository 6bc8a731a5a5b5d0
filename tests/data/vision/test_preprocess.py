"""Preprocessing of images from anywhere, against the training images that they were made from."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from torchstone.data.vision.dataset import load_images, normalize
from torchstone.data.vision.preprocess import decode, longer_sides, preprocess
from torchstone.errors import BadInput


@pytest.fixture(scope="module")
def digits():
    return load_images("mnist5k", size=32, channels=1)


def large(array, corner):
    """A digit drawn 200 pixels high on an empty 300 x 400 canvas, 0..1."""
    canvas = np.zeros((300, 400))
    drawn = Image.fromarray(array).resize((200, 200), Image.Resampling.BICUBIC)
    canvas[corner[0] : corner[0] + 200, corner[1] : corner[1] + 200] = np.asarray(drawn) / 255
    return canvas


def photo(canvas, numbers):
    y, x = np.mgrid[0:300, 0:400]
    paper = 110 + 90 * x / 400 + 50 * y / 300
    grey = paper * (1 - 0.75 * canvas) + numbers.normal(0, 6, canvas.shape)
    return Image.fromarray(np.stack([grey * 0.95, grey, grey * 0.9], -1).clip(0, 255).astype(np.uint8))


def clear(canvas, numbers):
    array = np.zeros((300, 400, 4), np.uint8)  # black ink on nothing
    array[..., 3] = (canvas * 255).round()
    return Image.fromarray(array)


def turned(canvas, numbers):
    image = dark(canvas, numbers).transpose(Image.Transpose.ROTATE_90)
    image.getexif()[0x0112] = 6  # to be shown turned back
    return image


def dark(canvas, numbers):
    return Image.fromarray((255 * (1 - canvas)).round().astype(np.uint8))


def light(canvas, numbers):
    return Image.fromarray((255 * canvas).round().astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize(
    "kind", [dark, photo, *(pytest.param(each, marks=pytest.mark.sweep) for each in (light, clear, turned))]
)
def test_preprocess_recovers_training_digit(digits, kind):
    numbers, found = np.random.RandomState(0), []
    for image in digits.test.images[::20, 0].numpy():
        corner = numbers.randint(0, 100), numbers.randint(0, 200)
        made = preprocess(kind(large(image, corner), numbers), digits.metadata)
        assert made.shape == (1, 1, 32, 32)
        assert made.dtype == torch.uint8
        found.append(np.corrcoef(made.flatten(), image.flatten())[0, 1])
    print(f"{kind.__name__}: correlation median {np.median(found):.3f}, least {min(found):.3f}")
    assert np.median(found) > 0.9
    assert min(found) > 0.5


def test_preprocess_leaves_training_images_unchanged(digits):
    ours = digits.test.images[::10]
    framed = torch.cat([preprocess(Image.fromarray(i[0].numpy()), digits.metadata) for i in ours])
    native = torch.cat([preprocess(Image.fromarray(i[0, 2:30, 2:30].numpy()), digits.metadata) for i in ours])
    print("unchanged:", (framed == ours).float().mean().item(), (native == ours).float().mean().item())
    assert torch.equal(framed, ours)
    assert torch.equal(native, ours)


def test_preprocess_removes_specks(digits):
    image = digits.test.images[7, 0].numpy()
    canvas = large(image, (40, 60))
    clean = preprocess(dark(canvas, None), digits.metadata)
    canvas[2:7, 3:8] = canvas[280:286, 390:395] = 1
    assert torch.equal(preprocess(dark(canvas, None), digits.metadata), clean)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_preprocess_rejects_blank_image(digits, tmp_path, shade):
    numbers = np.random.RandomState(1)
    noisy = (shade + numbers.normal(0, 5, (200, 300))).clip(0, 255).astype(np.uint8)
    for i, array in enumerate((np.full((60, 60), shade, np.uint8), noisy)):
        Image.fromarray(array).save(tmp_path / f"empty{i}.png")
        with pytest.raises(BadInput, match=f"empty{i}.png shows no ink"):
            preprocess(tmp_path / f"empty{i}.png", digits.metadata)


def test_preprocess_rejects_non_images(digits, tmp_path):
    (tmp_path / "text.png").write_text("words")
    with pytest.raises(BadInput, match=r"text\.png is not a readable image"):
        preprocess(tmp_path / "text.png", digits.metadata)
    with pytest.raises(BadInput, match=r"none\.png does not exist"):
        preprocess(str(tmp_path / "none.png"), digits.metadata)


def test_preprocess_photos_as_in_training(tmp_path):
    numbers = np.random.RandomState(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            array = numbers.randint(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / name / f"{i}.png")
    pictures = load_images(tmp_path, size=16, channels=3)
    assert not pictures.metadata["ink"]
    known = {bytes(i.numpy()) for s in ("train", "val", "test") for i in getattr(pictures, s).images}
    made = {bytes(preprocess(f, pictures.metadata).numpy()) for f in tmp_path.rglob("*.png")}
    assert made == known
    train = normalize(pictures.train.images, pictures.metadata)
    print("mean", train.mean((0, 2, 3)).tolist(), "std", train.std((0, 2, 3), correction=0).tolist())
    assert train.mean((0, 2, 3)).abs().max() < 1e-5
    assert (train.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


def test_decode_every_color_mode():
    grey = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(grey)
    assert np.array_equal(decode(image, 1), grey)
    assert np.array_equal(decode(Image.fromarray(grey.astype(np.uint16) * 257), 1), grey)
    assert np.array_equal(decode(Image.fromarray(grey.astype(np.int32) * 257), 1), grey)
    assert np.array_equal(decode(Image.fromarray(grey.astype(np.float32) / 255), 1), grey)
    for mode in ("RGB", "P", "LA", "RGBA", "1", "CMYK", "YCbCr"):
        assert decode(image.convert(mode), 3).mode == "RGB"
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert np.asarray(decode(clear, 3)).min() == 255
    wide = Image.new("L", (4, 2))
    wide.getexif()[0x0112] = 6
    assert decode(wide, 1).size == (2, 4)


@pytest.mark.parametrize("size", [27, 28, 63, 64, 224])
def test_preprocess_ink_that_fills_the_frame_stays_inside(size, tmp_path):
    """A box of the whole frame: the soft edge of the ink once rounded to a pixel more than there are."""
    page = np.full((200, 200), 255, dtype=np.uint8)
    page[20:180, 30:60] = page[20:50, 30:170] = 0
    Image.fromarray(page).save(tmp_path / "corner.png")
    metadata = {"size": size, "channels": 1, "ink": True, "box": 1.0, "native": size}
    pixels = preprocess(tmp_path / "corner.png", metadata)
    print(size, pixels.shape, float(pixels.float().mean()))
    assert pixels.shape[-2:] == (size, size)
    assert pixels.max() == 255


def deep_png(values):
    """A 16-bit PNG file of (height, width) or (height, width, 2 to 4) values; Pillow writes gray alone."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    color = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2] if values.ndim == 3 else 1]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    )


def deep_tiff(values, order, zipped):
    """A TIFF file of 16 bits a color, which Pillow does not write; `order` as `struct` has it."""
    height, width, colors = values.shape
    data = values.astype(order + "u2").tobytes()
    data = zlib.compress(data) if zipped else data
    end = 10 + 12 * 10 + 4  # of the directory, where the bits of each color stand
    fields = [
        *((256, 4, width), (257, 4, height), (258, 3, None), (259, 3, 8 if zipped else 1), (262, 3, 2)),
        *((273, 4, end + 2 * colors), (277, 3, colors), (278, 4, height), (279, 4, len(data)), (284, 3, 1)),
    ]
    directory = b""
    for tag, kind, value in fields:
        head = struct.pack(order + "HHI", tag, kind, colors if value is None else 1)
        number = struct.pack(
            order + ("I" if kind == 4 or value is None else "H"), end if value is None else value
        )
        directory += head + number.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(fields))
    bits = struct.pack(f"{order}{colors}H", *[16] * colors)
    return start + directory + struct.pack(order + "I", 0) + bits + data


def write_deep(folder, kind):
    """Two classes of noise in 86 of 65,536 values; what an image of each is as stored."""
    numbers = np.random.RandomState(0)
    for label in range(2):
        (folder / str(label)).mkdir(parents=True)
        for i in range(12):
            values = 2000 + 25 * label + numbers.randint(0, 60, (12, 12))
            values[0, 0], values[0, 1] = 2000, 2085
            file = folder / str(label) / f"{i:02}"
            if kind == "16-bit gray":
                file.with_suffix(".png").write_bytes(deep_png(values))
            elif kind == "16-bit color":
                file.with_suffix(".png").write_bytes(deep_png(np.stack([values] * 3, 2)))
            elif kind == "16-bit gray with alpha":
                opaque = np.stack([values, np.full_like(values, 65535)], 2)
                file.with_suffix(".png").write_bytes(deep_png(opaque))
            elif kind.startswith("TIFF"):
                order, zipped = "<" if "little" in kind else ">", "zipped" in kind
                file.with_suffix(".tif").write_bytes(deep_tiff(np.stack([values] * 3, 2), order, zipped))
            elif kind == "floats":
                Image.fromarray((values / 1000).astype(np.float32)).save(file.with_suffix(".tiff"))
            else:
                Image.fromarray((values - 3000).astype(np.int32)).save(file.with_suffix(".tiff"))
    return {"floats": (2.0, 2.085), "signed": (-1000, -915)}.get(kind, (2000, 2085))


TIFFS = ["TIFF little", "TIFF big", "TIFF little zipped", "TIFF big zipped"]


@pytest.mark.parametrize(
    "kind", ["16-bit gray", "16-bit color", "16-bit gray with alpha", "floats", "signed", *TIFFS]
)
def test_images_of_more_than_8_bits_fill_the_range_of_their_set(kind, tmp_path):
    low, high = write_deep(tmp_path, kind)
    channels = 3 if kind == "16-bit color" or kind in TIFFS else 1
    data = load_images(tmp_path, size=12, channels=channels)
    print(data.description, data.metadata)
    assert data.metadata["levels"] == pytest.approx([low, high])
    assert f"{low:g} is black, {high:g} white" in data.description
    grays = data.train.images[:, 0].unique().tolist()
    print(len(grays), "gray levels", grays[:5])
    assert len(grays) > 80
    assert (grays[0], grays[-1]) == (0, 255)
    # a file of one's own gets the levels of the model's data, and so does other data
    file = sorted((tmp_path / "1").iterdir())[-1]
    own = preprocess(file, data.metadata)
    assert own.shape == (1, channels, 12, 12)
    split = torch.cat([data.train.images, data.val.images, data.test.images])
    assert any(torch.equal(own[0], each) for each in split)
    for each in (tmp_path / "0").iterdir():
        if each.stem > "02":
            each.unlink()
    other = load_images(tmp_path, size=12, channels=channels, model=data.metadata)
    assert other.metadata["levels"] == data.metadata["levels"]


def test_images_of_8_bits_have_no_levels(tmp_path):
    for label in range(2):
        (tmp_path / str(label)).mkdir()
        for i in range(9):
            Image.fromarray(np.full((9, 9), 20 * i, np.uint8)).save(tmp_path / str(label) / f"{i}.png")
    data = load_images(tmp_path, size=9, channels=1)
    assert "levels" not in data.metadata
    assert set(data.train.images.unique().tolist()) <= set(range(0, 180, 20))


def test_decode_16_bit_color_with_alpha_keeps_low_bytes():
    values = np.random.RandomState(0).randint(0, 4096, (5, 6, 4))
    values[..., 3] = 65535
    with Image.open(io.BytesIO(deep_png(values))) as image:
        found = np.asarray(decode(image, 3, (0, 4095)))
    wanted = np.round(values[..., :3] * 255 / 4095)
    print(np.abs(found - wanted).max())
    assert np.abs(found - wanted).max() <= 1


def test_images_that_are_not_finite_are_named(tmp_path):
    write_deep(tmp_path, "floats")
    bad = np.ones((12, 12), np.float32)
    bad[3, 3] = np.nan
    Image.fromarray(bad).save(tmp_path / "0" / "bad.tiff")
    with pytest.raises(
        BadInput, match=r"bad\.tiff cannot be used: it has pixels that are not finite"
    ) as caught:
        load_images(tmp_path, size=12, channels=1)
    print(caught.value)


def test_longer_sides_of_boxes_around_ink():
    images = np.zeros((5, 1, 6, 9), np.uint8)
    images[1, 0, 5, 8] = 1  # one pixel in the corner
    images[2, 0, 1:4, 2] = 200  # three rows
    images[3, 0, 2, [0, 8]] = 7  # nine columns, most of them empty
    images[4, 0, [0, 5], [3, 4]] = 255  # six rows
    sides = longer_sides(images).tolist()
    print(sides)
    assert sides == [0, 1, 3, 9, 6]
