from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as tv
from torchvision.transforms.v2 import functional as tv2

from fusiform.data.image import find_images, read_image
from fusiform.data.preprocess import Placement, crop_pixels, normalize, placement
from fusiform.errors import SpecError
from fusiform.spec import Interpolation, Preprocess

# Torchvision makes the whole resized picture: 1:60 is 4 megapixels, and a few still longer ones are given by hand.
SIZES = st.tuples(st.integers(1, 700), st.integers(1, 700)).filter(lambda size: max(size) <= 60 * min(size))
INTERPOLATIONS = st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"])
CROPS = st.tuples(st.sampled_from([32, 33, 96, 224, 232, 256]), st.sampled_from([32, 33, 95, 224, 256]))


def picture(width: int, height: int, seed: int) -> Image.Image:
    """Noise and gradients: every rounding and every pixel of shift shows."""
    random = np.random.default_rng(seed)
    gradient = np.linspace(0, 200, width)[None, :, None] * np.linspace(0, 1, height)[:, None, None]
    noise = random.integers(0, 56, (height, width, 3))
    return Image.fromarray((gradient + noise).astype(np.uint8))


def reference(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Torchvision's own Resize and CenterCrop on a PIL picture."""
    resized = tv.resize(image, [preprocess.resize], tv.InterpolationMode(preprocess.interpolation))
    return tv.center_crop(resized, [preprocess.crop])


@settings(max_examples=60, deadline=None)
@given(size=SIZES, crops=CROPS, interpolation=INTERPOLATIONS, seed=st.integers(0, 9))
@example(size=(1, 1), crops=(256, 224), interpolation="bilinear", seed=0)
@example(size=(1, 700), crops=(256, 224), interpolation="bilinear", seed=0)
@example(size=(700, 1), crops=(256, 224), interpolation="lanczos", seed=0)
@example(size=(256, 256), crops=(256, 224), interpolation="bicubic", seed=0)
@example(size=(257, 256), crops=(256, 256), interpolation="bilinear", seed=0)
@example(size=(300, 200), crops=(96, 224), interpolation="bilinear", seed=0)
def test_exact_mode_is_torchvision(
    size: tuple[int, int], crops: tuple[int, int], interpolation: Interpolation, seed: int
) -> None:
    image = picture(*size, seed)
    preprocess = Preprocess(resize=crops[0], crop=crops[1], interpolation=interpolation)
    expected = reference(image, preprocess)
    pixels = crop_pixels(image, preprocess)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, np.asarray(expected))

    expected_input = tv.normalize(tv.to_tensor(expected), list(preprocess.mean), list(preprocess.std)).numpy()
    values = normalize(pixels, preprocess)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values, expected_input, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, crops=CROPS, interpolation=INTERPOLATIONS, seed=st.integers(0, 9))
@example(size=(1, 700), crops=(256, 224), interpolation="bilinear", seed=0)
@example(size=(700, 1), crops=(96, 224), interpolation="lanczos", seed=0)
def test_fast_mode_is_within_a_few_grey_levels(
    size: tuple[int, int], crops: tuple[int, int], interpolation: Interpolation, seed: int
) -> None:
    image = picture(*size, seed)
    preprocess = Preprocess(resize=crops[0], crop=crops[1], interpolation=interpolation)
    exact, fast = (crop_pixels(image, preprocess, fast=f).astype(int) for f in (False, True))
    assert fast.shape == exact.shape
    if interpolation == "nearest":
        np.testing.assert_array_equal(fast, exact)
        return
    if min(size) >= 3.8 * preprocess.resize:  # blocks are averaged first, and noise suffers most from it
        most, mean = 16, 1.5
    else:
        # Pillow may take the region's two sides in the other order, rounding and cutting off what bicubic overshoots
        # in between.
        most, mean = (2 if interpolation == "bilinear" else 16), 0.5
    assert np.abs(fast - exact).max() <= most
    assert np.abs(fast - exact).mean() <= mean


def test_fast_mode_of_a_large_picture_averages_blocks_first() -> None:
    y, x = np.mgrid[0:1800, 0:2400]
    waves = 127 + 120 * np.sin(x / 23.0) * np.cos(y / 31.0)
    image = Image.fromarray(waves.astype(np.uint8)).convert("RGB")
    exact, fast = (crop_pixels(image, Preprocess(), fast=f).astype(int) for f in (False, True))
    assert np.abs(fast - exact).mean() < 1


@settings(max_examples=60, deadline=None)
@given(
    size=SIZES,
    crops=CROPS,
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    seed=st.integers(0, 9),
)
@example(size=(1, 1), crops=(256, 224), interpolation="bicubic", seed=0)
@example(size=(256, 300), crops=(256, 224), interpolation="bilinear", seed=0)
def test_without_antialiasing_is_torchvision_on_tensors(
    size: tuple[int, int], crops: tuple[int, int], interpolation: Interpolation, seed: int
) -> None:
    image = picture(*size, seed)
    preprocess = Preprocess(resize=crops[0], crop=crops[1], interpolation=interpolation, antialias=False)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized = tv.resize(tensor, [crops[0]], tv.InterpolationMode(interpolation), antialias=False)
    expected = tv.center_crop(resized, [crops[1]]).permute(1, 2, 0).numpy().astype(int)
    pixels = crop_pixels(image, preprocess)
    difference = np.abs(pixels.astype(int) - expected)
    if interpolation == "nearest":
        np.testing.assert_array_equal(pixels, expected)
    assert difference.max() <= 1
    assert difference.mean() < 0.05
    np.testing.assert_array_equal(crop_pixels(image, preprocess, fast=True), pixels)


def test_antialiasing_matters_and_lanczos_cannot_do_without() -> None:
    image = picture(1200, 900, 0)
    smooth, rough = (crop_pixels(image, Preprocess(antialias=a)).astype(int) for a in (True, False))
    assert np.abs(smooth - rough).mean() > 5
    with pytest.raises(SpecError, match="set antialias to true"):
        crop_pixels(image, Preprocess(interpolation="lanczos", antialias=False))


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    # PyTorch's coordinates without antialiasing are single precision, and so are ours: good for 16 million pixels.
    ("width", "height", "antialias"),
    [(1, 60_000, True), (1, 60_000, False), (3, 90_000, True), (3, 90_000, False), (1, 5_000_000, True)],
)
def test_long_and_narrow_pictures(width: int, height: int, antialias: bool, turned: bool, fast: bool) -> None:
    """Resized as a whole they would be 2 to 330 gigapixels; the crop is that of their middle alone."""
    image = picture(width, height, 0)
    middle = image.crop((0, height // 2 - 18, width, height // 2 + 18))
    if turned:
        image, middle = (part.transpose(Image.Transpose.TRANSPOSE) for part in (image, middle))
    preprocess = Preprocess(antialias=antialias)
    expected = crop_pixels(middle, preprocess).astype(int)
    assert expected.std() > 1
    assert np.abs(crop_pixels(image, preprocess, fast=fast) - expected).max() <= 1


def test_region_of_a_long_picture_is_where_torchvision_finds_it() -> None:
    # 41 megapixels for torchvision, and beyond single precision for Pillow: the margin has to be cut first.
    image = picture(20_001, 41, 0)
    preprocess = Preprocess(resize=64, crop=64)
    exact = np.asarray(reference(image, preprocess)).astype(int)
    fast = crop_pixels(image, preprocess, fast=True).astype(int)
    assert np.abs(fast - exact).max() <= 1
    assert np.abs(fast - exact).mean() < 0.01


def test_colour_order_and_modes() -> None:
    image = picture(300, 200, 0)
    preprocess = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    rgb = crop_pixels(image, preprocess)
    bgr_preprocess = dataclasses.replace(preprocess, color_order="bgr")
    bgr = crop_pixels(image, bgr_preprocess)
    assert bgr.flags.c_contiguous
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])
    # The mean and std go with the channels as they lie, not with their names.
    np.testing.assert_allclose(normalize(bgr, bgr_preprocess)[0], (rgb[..., 2] / 255 - 0.1) / 0.5, atol=1e-6)

    grey = crop_pixels(image.convert("L"), preprocess)
    assert grey.shape == (224, 224, 3)
    assert (grey[..., 0] == grey[..., 2]).all()


@pytest.mark.parametrize("lead", [(), (1,), (5,)])
def test_normalize_layouts_and_batches(lead: tuple[int, ...]) -> None:
    preprocess = Preprocess()
    pixels = np.random.default_rng(0).integers(0, 256, (*lead, 7, 5, 3), np.uint8)
    tensor = torch.from_numpy(pixels).movedim(-1, -3)
    expected = tv2.normalize(tensor.float().div(255), list(preprocess.mean), list(preprocess.std)).numpy()
    for layout, want in (("nchw", expected), ("nhwc", np.moveaxis(expected, -3, -1))):
        values = normalize(pixels, preprocess, layout=layout)
        assert values.dtype == np.float32
        assert values.flags.c_contiguous
        np.testing.assert_allclose(values, want, rtol=0, atol=1e-6)


def test_normalize_knows_every_level() -> None:
    pixels = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=-1)
    for preprocess in (Preprocess(), Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))):
        exact = (np.arange(256)[None] / 255 - np.array(preprocess.mean)[:, None]) / np.array(preprocess.std)[:, None]
        np.testing.assert_allclose(normalize(pixels, preprocess)[..., 0], exact, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_fast_mode_on_real_photographs(shared_data: Path) -> None:
    """Scaled decoding and all: the mean grey level by which fast mode differs, over a folder and in its worst picture.

    No shorter side in imagenet_val reaches 512, so none is decoded at a reduced scale; seven of the training
    photographs are, at 1/2, and come out sharper the more fine detail they have.
    """
    preprocess = Preprocess()
    for folder, pictures, mean, worst in (("imagenet_val", 500, 0.05, 0.5), ("imagenet_train_samples", 300, 0.15, 8)):
        differences = []
        for path in find_images(shared_data / folder):
            exact = crop_pixels(read_image(path), preprocess).astype(int)
            fast = crop_pixels(read_image(path, shorter_side=preprocess.resize), preprocess, fast=True).astype(int)
            differences.append(np.abs(fast - exact).mean())
        assert len(differences) == pictures
        assert np.mean(differences) < mean
        assert max(differences) < worst


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(
    ("size", "width", "height"), [((100, 60), 65, 39), ((60, 100), 39, 65), ((65, 65), 65, 65), ((1000, 3), 65, 1)]
)
def test_pad_shows_all_of_a_photograph_at_its_own_aspect(
    size: tuple[int, int], width: int, height: int, fast: bool
) -> None:
    preprocess = Preprocess(resize=65, crop=65, fit="pad", mean=(0.2, 0.4, 0.6), color_order="bgr")
    assert placement(size, preprocess) == Placement(65, 65, 0, 0, width, height)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    pixels = crop_pixels(image, preprocess, fast=fast)
    expected = np.array(image.resize((width, height), Image.Resampling.BILINEAR))[..., ::-1]
    assert np.abs(pixels[:height, :width].astype(int) - expected).mean() < (12 if fast else 1e-9)
    around = np.ones((65, 65), bool)
    around[:height, :width] = False
    assert (pixels[around] == np.array([51, 102, 153])).all()
    # Which normalisation turns into nothing, to half a grey level.
    assert not around.any() or np.abs(normalize(pixels, preprocess)[:, around]).max() < 0.5 / 255 / 0.22


def test_stretch_shows_all_of_a_photograph_in_the_square() -> None:
    preprocess = Preprocess(resize=48, crop=48, fit="stretch")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8))
    expected = np.array(image.resize((48, 48), Image.Resampling.BILINEAR))
    assert np.array_equal(crop_pixels(image, preprocess), expected)
    assert placement((100, 60), preprocess) == Placement(48, 48, 0, 0, 48, 48)
    with pytest.raises(ValueError, match="does not lie in the input as a whole"):
        placement((100, 60), Preprocess())
