#!/usr/bin/env bash
# One polygon, five rasterizers, three areas. A square with corners at 2 and 12 has 100 pixels for
# pycocotools, which counts corners as points between pixels, 121 for OpenCV, Pillow and scikit-image, which
# count them as pixels that belong to the shape, and 110 for matplotlib, which leaves one edge out.
#
# It matters where polygons of a labelling tool become masks with one library and are judged with another:
# exactly the same polygon has an intersection over union of 0.83 with itself at a side of 10 pixels, 0.64
# at 4. Small objects lose most. Two squares that share an edge overlap in 11 pixels in the inclusive
# convention, so the order of drawing decides.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet numpy==2.4.6 pycocotools==2.0.11 opencv-python-headless==5.0.0.93 \
  pillow==13.0.0 scikit-image==0.26.0 matplotlib==3.11.2
MPLCONFIGDIR="$work" OMP_NUM_THREADS=1 venv/bin/python -I - <<'PY'
import sys
from importlib.metadata import version

import cv2
import numpy as np
from matplotlib.path import Path
from PIL import Image, ImageDraw
from pycocotools import mask
from skimage.draw import polygon

SIZE = 32
packages = ("pycocotools", "opencv-python-headless", "pillow", "scikit-image", "matplotlib")
print(", ".join(f"{name} {version(name)}" for name in packages))


def coco(points):
    flat = [float(number) for point in points for number in point]
    return mask.decode(mask.frPyObjects([flat], SIZE, SIZE))[:, :, 0] > 0


def opencv(points):
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(canvas, [np.array(points, np.int32)], 1)
    return canvas > 0


def pillow(points):
    canvas = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(canvas).polygon(points, fill=1)
    return np.array(canvas) > 0


def skimage(points):
    canvas = np.zeros((SIZE, SIZE), bool)
    canvas[polygon([y for _, y in points], [x for x, _ in points], canvas.shape)] = True
    return canvas


def matplotlib(points):
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).reshape(-1, 2)
    return Path([*points, points[0]]).contains_points(grid).reshape(SIZE, SIZE)


def square(left, side):
    return [(left, 2), (left + side, 2), (left + side, 2 + side), (left, 2 + side)]


print("expected: a square with a side of 10 has one area, 100 (or 121) in all libraries")
every = (coco, opencv, pillow, skimage, matplotlib)
areas = {draw.__name__: int(draw(square(2, 10)).sum()) for draw in every}
print("pixels:", areas)
overlaps = {}
for side in (4, 10, 20):
    a, b = coco(square(2, side)), opencv(square(2, side))
    overlaps[side] = round(float((a & b).sum() / (a | b).sum()), 2)
print("intersection over union of one square by pycocotools and by OpenCV, by its side:", overlaps)
left, right = square(2, 10), square(12, 10)
shared = {draw.__name__: int((draw(left) & draw(right)).sum()) for draw in (coco, opencv)}
print("pixels that two squares with a common edge share:", shared)
if areas != {"coco": 100, "opencv": 121, "pillow": 121, "skimage": 121, "matplotlib": 110}:
    sys.exit("CHANGED: the areas are others")
if overlaps != {4: 0.64, 10: 0.83, 20: 0.91} or shared != {"coco": 0, "opencv": 11}:
    sys.exit("CHANGED: the overlaps are others")
print("confirmed: the area of a polygon depends on the library")
PY
