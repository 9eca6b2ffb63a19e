"""Photographs that the native library resizes: Pillow's bytes, whatever their size and shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fusiform.data import preprocess as pillow
from fusiform.engines.native import resize
from fusiform.engines.native.compiled import fast_kernels
from fusiform.zoo.model import open_model

fast = pytest.mark.skipif(fast_kernels() is None, reason="the library was not compiled, or is not fast here")


def photograph(width, height, seed=0):
    """Noise, with runs of black and white: the largest differences that there are."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[random.integers(0, 4, (height, width)) == 0] = 255
    pixels[: height // 3, : width // 3] = random.integers(0, 2, (height // 3, width // 3, 1)) * 255
    return Image.fromarray(pixels)


@pytest.fixture
def counted(monkeypatch):
    """How many pictures the library resized, and how many it left to Pillow."""
    counts = {"library": 0, "Pillow": 0}
    own = resize._resize

    def count(*arguments):
        found = own(*arguments)
        counts["Pillow" if found is None else "library"] += 1
        return found

    monkeypatch.setattr(resize, "_resize", count)
    return counts


@fast
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [224, 96, 33])
def test_bytes_are_pillows(interpolation, crop, counted):
    preprocess = open_model("mobilenet_v2").spec.preprocess
    preprocess = replace(preprocess, interpolation=interpolation, crop=crop, resize=crop * 8 // 7)
    random = np.random.default_rng(crop)
    sizes = [(1, 1), (2, 1), (224, 224), (256, 256), (500, 375), (375, 500), (301, 1), (1, 300), (1200, 900)]
    sizes += [tuple(int(side) for side in random.integers(1, 700, 2)) for _ in range(10)]
    for width, height in sizes:
        image = photograph(width, height, width)
        for chosen in (preprocess, replace(preprocess, fit="pad", resize=crop), replace(preprocess, color_order="bgr")):
            wanted = pillow.crop_pixels(image, chosen)
            found = resize.crop_pixels(image, chosen)
            assert found.flags.c_contiguous
            np.testing.assert_array_equal(found, wanted, err_msg=f"{width} x {height} {chosen.fit}")
    assert counted["library"] > counted["Pillow"]


@fast
def test_what_pillow_makes_otherwise_is_left_to_it(counted, monkeypatch):
    preprocess = open_model("mobilenet_v2").spec.preprocess
    tall, wide = photograph(300, 900), photograph(900, 300)
    for image, chosen in ((tall, preprocess), (wide, replace(preprocess, interpolation="lanczos"))):
        np.testing.assert_array_equal(resize.crop_pixels(image, chosen), pillow.crop_pixels(image, chosen))
    assert counted == {"library": 0, "Pillow": 2}
    resize.crop_pixels(tall.convert("L"), replace(preprocess, antialias=False))
    assert sum(counted.values()) == 2
    # A Pillow that rounds otherwise makes all of them.
    monkeypatch.setattr(resize, "_resize", lambda *_: np.zeros((23, 23, 3), np.uint8))
    assert not resize._is_pillow.__wrapped__()


@fast
def test_fast_is_exact_with_it(counted):
    preprocess = open_model("mobilenet_v2").spec.preprocess
    image = photograph(1500, 1100)
    found = resize.crop_pixels(image, preprocess, fast=True)
    np.testing.assert_array_equal(found, pillow.crop_pixels(image, preprocess))
    assert counted["library"] == 1


@fast
@pytest.mark.parametrize("size", [(2500, 1801), (1777, 2411), (6000, 900)])
def test_large_pictures_some_rows_at_a_time(size, counted):
    preprocess = open_model("mobilenet_v2").spec.preprocess
    image = photograph(*size)
    np.testing.assert_array_equal(resize.crop_pixels(image, preprocess), pillow.crop_pixels(image, preprocess))
    assert counted == {"library": 1, "Pillow": 0}


@fast
def test_an_older_pillow_without_arrow(counted, monkeypatch):
    preprocess = open_model("mobilenet_v2").spec.preprocess
    monkeypatch.delattr(Image.Image, "__arrow_c_array__")
    image = photograph(320, 240)
    np.testing.assert_array_equal(resize.crop_pixels(image, preprocess), pillow.crop_pixels(image, preprocess))
    assert counted == {"library": 0, "Pillow": 1}


@fast
@pytest.mark.slow
def test_bytes_of_500_photographs_are_pillows(shared_data, counted):
    from fusiform.data.image import find_images, read_image

    preprocess = open_model("mobilenet_v2").spec.preprocess
    for path in find_images(shared_data / "imagenet_val"):
        image = read_image(path)
        np.testing.assert_array_equal(resize.crop_pixels(image, preprocess), pillow.crop_pixels(image, preprocess))
    assert counted["library"] > 490
