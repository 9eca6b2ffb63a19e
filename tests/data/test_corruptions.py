from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fusiform.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from fusiform.errors import UsageError


@pytest.fixture(scope="module")
def photograph():
    """Smooth and coarse, dark and light, as photographs are."""
    down, across = np.mgrid[0:96, 0:96] / 96
    waves = np.stack([np.sin(9 * down), np.cos(7 * across), np.sin(5 * (down + across))], 2)
    checks = ((np.mgrid[0:96, 0:96] // 12).sum(0) % 2)[..., None]
    return (127 + 60 * waves + 40 * checks).clip(0, 255).astype(np.uint8)


def difference(one, other):
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_image_and_each_strength_changes_it(name, photograph):
    given_ = photograph.copy()
    for strength in STRENGTHS:
        found = corrupt(photograph, name, strength, seed=3)
        assert found.shape == photograph.shape
        assert found.dtype == np.uint8
        assert np.array_equal(found, corrupt(photograph, name, strength, seed=3))
        assert difference(found, photograph) > 0.5
    assert np.array_equal(photograph, given_)


# The authors' strengths of these do not grow with their number, and pixels of 4 fit into this image's squares of 12.
UNEVEN = ("elastic_transform", "fog", "frost", "pixelate")


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in UNEVEN])
def test_the_strongest_changes_more_than_the_weakest(name, photograph):
    weakest, strongest = (difference(corrupt(photograph, name, k), photograph) for k in (1, 5))
    assert strongest > 1.2 * weakest


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(CORRUPTIONS)),
    st.sampled_from(STRENGTHS),
    st.integers(32, 70),
    st.integers(32, 70),
    st.sampled_from([0, 255, None]),
)
def test_any_size_and_any_flat_image(name, strength, height, width, level):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3)) if level is None else np.full((height, width, 3), level)
    assert corrupt(image.astype(np.uint8), name, strength).shape == (height, width, 3)


def test_by_hand(photograph):
    # Contrast: a tenth of the distance to the mean of the whole image's channel.
    mean = photograph.mean((0, 1))
    flat = np.float64(photograph - mean) * 0.1 + mean
    assert np.abs(corrupt(photograph, "contrast", 4) - flat).max() <= 1
    # Brightness: HSV's value grows by 0.3, hue and saturation stay.
    dim = np.full((8, 8, 3), (20, 40, 80), np.uint8)
    brighter = corrupt(dim, "brightness", 3)[0, 0].astype(int)
    assert abs(brighter[2] - (80 + 0.3 * 255)) <= 1
    assert np.abs(brighter - np.array([20, 40, 80]) * brighter[2] / 80).max() <= 1
    # Black becomes grey.
    assert corrupt(np.zeros((8, 8, 3), np.uint8), "brightness", 1)[0, 0].tolist() == [25, 25, 25]
    # JPEG: as Pillow writes it.
    file = io.BytesIO()
    Image.fromarray(photograph).save(file, "JPEG", quality=7)
    assert np.array_equal(corrupt(photograph, "jpeg_compression", 5), np.asarray(Image.open(file)))
    # Pixels of a quarter of the side.
    coarse = corrupt(photograph, "pixelate", 5)
    assert (coarse[::4, ::4] == coarse[3::4, 3::4]).all()


def test_noises_have_their_strength():
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert abs(np.std(corrupt(grey, "gaussian_noise", 1) / 255.0) - 0.08) < 0.002
    assert abs(np.std(corrupt(grey, "shot_noise", 1) / 255.0) - np.sqrt(0.5 / 60)) < 0.003
    struck = corrupt(grey, "impulse_noise", 5)
    assert abs(np.isin(struck, (0, 255)).mean() - 0.27) < 0.01
    assert abs((struck == 0).mean() - (struck == 255).mean()) < 0.01


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "zoom_blur", "glass_blur"])
def test_blurs_keep_a_flat_image_and_the_mean(name, photograph):
    grey = np.full((64, 64, 3), 100, np.uint8)
    assert np.abs(corrupt(grey, name, 5).astype(int) - 100).max() <= 1
    assert abs(corrupt(photograph, name, 2).mean() - photograph.mean()) < 3


def test_lengths_grow_with_the_image():
    """A blurred large image is the blurred small one, enlarged."""
    small = np.zeros((112, 112, 3), np.uint8)
    small[40:70, 40:70] = 255
    large = np.asarray(Image.fromarray(small).resize((224, 224), Image.Resampling.NEAREST))
    reduced = np.asarray(Image.fromarray(corrupt(large, "defocus_blur", 4)).resize((112, 112), Image.Resampling.BOX))
    assert difference(reduced, corrupt(small, "defocus_blur", 4)) < 1.5


def test_what_is_not_there_is_refused(photograph):
    with pytest.raises(UsageError, match="there is no corruption 'rain'; there are gaussian_noise"):
        corrupt(photograph, "rain", 1)
    with pytest.raises(UsageError, match="strength must be 1 to 5, got 6"):
        corrupt(photograph, "snow", 6)
