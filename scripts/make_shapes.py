"""Make a dataset of coloured shapes on photographs, with boxes and masks.

    python scripts/make_shapes.py --out shapes --count 2000 --photographs ../shared/data/imagenet_train_samples

One folder in two layouts. COCO's: ``annotations/instances_train.json`` and ``instances_val.json``, whose pictures lie
in ``JPEGImages``. Pascal VOC's: ``ImageSets/Segmentation/train.txt`` and ``val.txt``, ``SegmentationClass`` (the value
is the class, 0 the background) and ``SegmentationObject`` (the value n is the picture's n-th box in the JSON), with the
names in ``class_names.txt``. Every fifth picture is in val, and val has photographs of its own
where there are five or more.

A picture is 320 x 320 pixels with 1 to 5 shapes, which may lie over one another. A pixel belongs to the uppermost shape
that covers at least half of it. Masks and boxes are of what can be seen: a box is tight around its shape's visible
pixels, its ``area`` their number, and at least half of each shape's pixels stay visible. The same seed, photographs and
version of Pillow give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from fusiform.data.image import find_images, read_image
from fusiform.data.masks import PALETTE
from fusiform.errors import FusiformError, ImageError
from fusiform.files import write_file

CLASSES = ("circle", "square", "triangle", "star", "ring")
SIDE = 320  # pixels
SMALLEST, LARGEST = 24, 160  # pixels: the diameter of the circle around a shape
MOST_SHAPES = 5
VISIBLE = 0.5  # of a shape's pixels, at least
CONTRAST = 80  # of the shape's colour to the mean of what it covers, of 441 from black to white
OVERSAMPLING = 4
VAL_EVERY = 5


@dataclass(frozen=True)
class Shape:
    """One shape of a picture: its label, and its visible pixels as bool [SIDE, SIDE]."""

    label: int
    visible: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels, tight around the visible pixels."""
        rows, columns = np.flatnonzero(self.visible.any(1)), np.flatnonzero(self.visible.any(0))
        return (
            int(columns[0]),
            int(rows[0]),
            int(columns[-1] - columns[0] + 1),
            int(rows[-1] - rows[0] + 1),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, which must be new or empty")
    parser.add_argument("--count", type=int, default=2000, help="pictures in all, a fifth of them in val (2000)")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs; without it grounds are made up")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.count < VAL_EVERY:
        parser.error(f"--count must be at least {VAL_EVERY}, so that val has a picture")
    if options.seed < 0:
        parser.error("--seed must not be negative")
    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        parser.error(f"{options.out} is there already: name a new folder")
    try:
        photographs = find_images(options.photographs) if options.photographs else []
        if options.photographs and not photographs:
            parser.error(f"{options.photographs}: no photographs in it")
        print(make_shapes(options.out, options.count, photographs, seed=options.seed))
    except FusiformError as error:
        parser.exit(error.exit_code, f"{error}\n")


def make_shapes(out: Path, count: int, photographs: Sequence[Path], *, seed: int) -> str:
    """Write the dataset, and say in a line what was written."""
    for folder in ("annotations", "JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    grounds = {"train": Grounds(photographs), "val": Grounds(photographs)}
    if len(photographs) >= VAL_EVERY:
        val = photographs[::VAL_EVERY]
        grounds = {"train": Grounds([file for file in photographs if file not in set(val)]), "val": Grounds(val)}

    names: dict[str, list[str]] = {"train": [], "val": []}
    images: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    annotations: dict[str, list[dict[str, object]]] = {"train": [], "val": []}
    for number in range(1, count + 1):
        split = "train" if number % VAL_EVERY else "val"
        random = np.random.default_rng([seed, number])
        picture, shapes = draw_picture(random, grounds[split].draw(random))
        name = f"{number:06d}"
        write_file(out / "JPEGImages" / f"{name}.jpg", encode(picture, "JPEG"))
        for folder, values in (
            ("SegmentationClass", [shape.label + 1 for shape in shapes]),
            ("SegmentationObject", list(range(1, len(shapes) + 1))),
        ):
            write_file(out / folder / f"{name}.png", encode(mask_of(shapes, values), "PNG"))
        names[split].append(name)
        images[split].append({"id": number, "file_name": f"{name}.jpg", "width": SIDE, "height": SIDE})
        annotations[split] += [
            {
                "id": number * 10 + i,
                "image_id": number,
                "category_id": shape.label + 1,
                "bbox": shape.box,
                "area": int(shape.visible.sum()),
                "iscrowd": 0,
            }
            for i, shape in enumerate(shapes)
        ]

    categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
    for split in names:
        content = {"images": images[split], "annotations": annotations[split], "categories": categories}
        write_file(out / "annotations" / f"instances_{split}.json", json.dumps(content).encode())
        write_file(
            out / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{n}\n" for n in names[split]).encode()
        )
    write_file(out / "class_names.txt", "".join(f"{name}\n" for name in ("background", *CLASSES)).encode())
    total = sum(map(len, annotations.values()))
    return f"{out}: {len(names['train'])} + {len(names['val'])} pictures, {total} shapes"


def encode(picture: Image.Image, form: str) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, quality=90)  # PNG does not look at the quality
    return stream.getvalue()


def mask_of(shapes: Sequence[Shape], values: Sequence[int]) -> Image.Image:
    """A palette picture with each shape's visible pixels at its value."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for shape, value in zip(shapes, values, strict=True):
        mask[shape.visible] = value
    picture = Image.fromarray(mask)
    picture.putpalette(PALETTE.tobytes())  # makes it a palette picture; the values stay
    return picture


class Grounds:
    """What the shapes are drawn on: squares of photographs, or made-up ones where there are none."""

    def __init__(self, photographs: Sequence[Path]) -> None:
        self.photographs = list(photographs)

    def draw(self, random: np.random.Generator) -> Image.Image:
        """A ground of SIDE x SIDE pixels; photographs that cannot be read are told and passed over."""
        if not self.photographs:
            return make_ground(random)
        first = int(random.integers(len(self.photographs)))
        for file in self.photographs[first:] + self.photographs[:first]:
            try:
                photograph = read_image(file, shorter_side=SIDE)
            except ImageError as error:
                print(error)
                continue
            side = int(random.uniform(0.6, 1) * min(photograph.size))
            left, top = (int(random.integers(length - side + 1)) for length in photograph.size)
            return photograph.resize(
                (SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side), reducing_gap=3
            )
        raise ImageError("none of the photographs can be read: give others")


def make_ground(random: np.random.Generator) -> Image.Image:
    """Colours that run into one another, and noise of several grains: something like a photograph out of focus."""
    total = np.zeros((SIDE, SIDE, 3))
    for cells, strength in ((2, 110), (5, 50), (20, 25), (80, 15), (SIDE, 6)):
        noise = random.uniform(-1, 1, (cells, cells, 3))
        layers = [
            Image.fromarray(noise[..., c].astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            for c in range(3)
        ]
        total += strength * np.stack([np.asarray(layer) for layer in layers], 2)
    return Image.fromarray((128 + total).clip(0, 255).astype(np.uint8))


def draw_picture(random: np.random.Generator, ground: Image.Image) -> tuple[Image.Image, list[Shape]]:
    """A picture with its shapes, the lowest first."""
    pixels = np.asarray(ground, np.float64)
    labels: list[int] = []
    wholes: list[int] = []  # each shape's pixels before others were laid over it
    visible: list[NDArray[np.bool_]] = []
    # A shape that would hide too much of another is thrown away and another is drawn; the first always stays.
    for _ in range(int(random.integers(1, MOST_SHAPES + 1))):
        for _ in range(20):
            label = int(random.integers(len(CLASSES)))
            coverage = draw_shape(random, label)
            mask = coverage >= 0.5
            left = [seen & ~mask for seen in visible]
            if all(seen.sum() >= VISIBLE * whole for seen, whole in zip(left, wholes, strict=True)):
                colour = draw_colour(random, pixels[mask].mean(0))
                pixels = pixels + coverage[..., None] * (colour - pixels)
                labels.append(label)
                wholes.append(int(mask.sum()))
                visible = [*left, mask]
                break

    picture = Image.fromarray(np.rint(pixels).astype(np.uint8))
    if random.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.5)))
    picture = ImageEnhance.Brightness(picture).enhance(random.uniform(0.6, 1.3))
    return picture, [Shape(label, seen) for label, seen in zip(labels, visible, strict=True)]


def draw_shape(random: np.random.Generator, label: int) -> NDArray[np.float64]:
    """How much of each pixel a shape covers, 0 to 1, at a random place, size and angle; all of it is in the picture."""
    # As many small shapes as large ones: evenly spread in the logarithm.
    radius = math.exp(random.uniform(math.log(SMALLEST), math.log(LARGEST))) / 2
    x, y = random.uniform(radius + 1, SIDE - radius - 1, 2)
    angle = random.uniform(0, 2 * math.pi)
    left, top = math.floor(x - radius) - 1, math.floor(y - radius) - 1
    side = 2 * math.ceil(radius) + 4  # of a square of whole pixels around the shape
    large = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    draw = ImageDraw.Draw(large)
    middle = (x - left) * OVERSAMPLING, (y - top) * OVERSAMPLING
    reach = radius * OVERSAMPLING
    name = CLASSES[label]
    if name in ("circle", "ring"):
        draw.ellipse(around(middle, reach), fill=255)
        if name == "ring":
            draw.ellipse(around(middle, reach * random.uniform(0.5, 0.65)), fill=0)
    else:
        radii = {"square": [1.0] * 4, "triangle": [1.0] * 3, "star": [1.0, 0.42] * 5}[name]
        turns = angle + 2 * math.pi * np.arange(len(radii)) / len(radii)
        corners = [
            (middle[0] + reach * r * math.cos(turn), middle[1] + reach * r * math.sin(turn))
            for r, turn in zip(radii, turns, strict=True)
        ]
        draw.polygon(corners, fill=255)
    small = np.asarray(large.resize((side, side), Image.Resampling.BOX), np.float64) / 255
    padded = np.zeros((SIDE + 2 * side, SIDE + 2 * side))
    padded[top + side : top + 2 * side, left + side : left + 2 * side] = small
    return padded[side:-side, side:-side]


def around(middle: tuple[float, float], reach: float) -> tuple[float, float, float, float]:
    return middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach


def draw_colour(random: np.random.Generator, ground: NDArray[np.float64]) -> NDArray[np.float64]:
    """A random colour that can be told from the ground's mean, both RGB from 0 to 255."""
    while True:
        colour = random.uniform(0, 255, 3)
        if np.linalg.norm(colour - ground) >= CONTRAST:
            return colour


if __name__ == "__main__":
    main()
