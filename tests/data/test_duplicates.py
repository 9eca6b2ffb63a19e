from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from fusiform.data.dataset import Sample
from fusiform.data.duplicates import Fingerprint, Group, find_groups, fingerprint, fingerprint_all
from fusiform.data.image import find_images, read_image
from fusiform.errors import ImageError, UsageError


def encoded(picture: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def scene(seed: int, width: int = 200, height: int = 150) -> Image.Image:
    """Something with coarse and fine structure: noise at three scales."""
    noise = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(noise.integers(0, 256, (n, n, 3), np.uint8)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for n in (4, 9, 24)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def horizon(seed: int) -> Image.Image:
    """Sky over sea, darker towards the corners, with sensor noise and about the same height."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:150, 0:200]
    sky = 170 - ((x - 90) ** 2 / 240 + (y - 60) ** 2 / 180) - 40 * (y > 75 + seed % 3)
    return Image.fromarray((sky + noise.normal(0, 4, sky.shape)).clip(0, 255).astype(np.uint8)).convert("RGB")


def cut(picture: Image.Image, share: float, chance: random.Random) -> Image.Image:
    """Up to ``share`` of width and height taken away, at any of the edges."""
    (width, height), x, y = picture.size, share * chance.random(), share * chance.random()
    box = (x * width, y * height, (1 - share + x) * width, (1 - share + y) * height)
    return picture.crop(tuple(map(round, box)))  # type: ignore[arg-type]  # four of them


def scaled(picture: Image.Image, factor: float) -> Image.Image:
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)


DISTORTIONS: dict[str, Callable[[Image.Image], bytes]] = {
    "quality 30": lambda picture: encoded(picture, 30),
    "half": lambda picture: encoded(scaled(picture, 0.5)),
    "double": lambda picture: encoded(scaled(picture, 2)),
    "squeezed": lambda picture: encoded(picture.resize((224, 224))),
    "lighter": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(1.15)),
    "darker": lambda picture: encoded(ImageEnhance.Brightness(picture).enhance(0.85)),
    "contrast": lambda picture: encoded(ImageEnhance.Contrast(picture).enhance(1.15)),
    "grey": lambda picture: encoded(picture.convert("L")),
    "cut by 2 %": lambda picture: encoded(cut(picture, 0.02, random.Random(1))),
}


def test_the_hash_is_the_cosine_transform_written_out() -> None:
    data = encoded(scene(0))
    found = fingerprint(data)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    assert found.thumbnail.shape == (32, 32)
    assert found.thumbnail.dtype == np.uint8
    at = np.arange(32)

    def frequency(u: int, v: int) -> float:
        wave = np.outer(np.cos(np.pi * u * (at + 0.5) / 32), np.cos(np.pi * v * (at + 0.5) / 32))
        return float((wave * found.thumbnail).sum())

    # Along the diagonals from the second on; 65 of the 66 places of the first eleven diagonals, without the mean.
    places = [(u, total - u) for total in range(1, 11) for u in range(total + 1)][:64]
    values = np.array([frequency(u, v) for u, v in places])
    assert found.hash == int("".join("1" if value > np.median(values) else "0" for value in values), 2)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_copy_saved_differently_is_found_among_others(name: str) -> None:
    originals = [fingerprint(encoded(scene(seed))) for seed in range(12)]
    copies = [fingerprint(DISTORTIONS[name](scene(seed))) for seed in range(12)]
    assert find_groups(originals + copies) == [Group("near", (k, k + 12)) for k in range(12)]


def test_pictures_without_a_pattern_are_no_copies_of_each_other() -> None:
    pictures = [horizon(seed) for seed in range(30)]
    pictures += [Image.new("RGB", (90, 60), (level, level, level)) for level in range(200, 220, 4)]
    known = [fingerprint(encoded(picture)) for picture in pictures]
    assert find_groups(known) == []
    # Nor where the hash, mostly noise in such pictures, happens to be the same.
    assert find_groups([Fingerprint(each.sha256, 0, each.thumbnail) for each in known]) == []


def test_exact_copies_need_no_pattern_and_near_groups_hold_exact_ones_too() -> None:
    plain, one, other = encoded(Image.new("RGB", (64, 64))), encoded(scene(1)), encoded(scene(1), 40)
    known = [fingerprint(data) for data in (plain, one, plain, encoded(scene(2)), other, one)]
    assert find_groups([None, *known, None]) == [Group("exact", (1, 3)), Group("near", (2, 5, 6))]
    assert find_groups([]) == []
    assert find_groups([None]) == []


def test_the_distance_is_counted_in_bits_and_copies_of_copies_come_together() -> None:
    thumbnail = fingerprint(encoded(scene(3))).thumbnail
    far = [Fingerprint(str(k), (1 << 10 * k) - 1, thumbnail) for k in range(5)]  # 0, 10, 20, ... bits set
    assert find_groups(far, max_distance=9) == []
    assert find_groups(far, max_distance=10) == [Group("near", (0, 1, 2, 3, 4))]
    assert find_groups([far[0], far[2]], max_distance=19) == []
    assert find_groups([far[0], far[2]], max_distance=20) == [Group("near", (0, 1))]
    with pytest.raises(UsageError, match="0 to 64"):
        find_groups(far, max_distance=65)


def test_pairs_are_found_wherever_they_stand_in_a_long_list() -> None:
    random_bits = random.Random(0)
    thumbnail = fingerprint(encoded(scene(4))).thumbnail
    known = [Fingerprint(str(k), random_bits.getrandbits(64), thumbnail) for k in range(6000)]
    pairs = [(0, 5999), (1023, 1024), (1500, 4096), (5998, 5997), (2047, 3)]
    for one, other in pairs:
        known[other] = Fingerprint(f"copy {other}", known[one].hash ^ 0b1011, thumbnail)
    near = {group.members for group in find_groups(known, max_distance=3)}
    assert near == {tuple(sorted(pair)) for pair in pairs}


def test_all_are_read_in_order_and_the_unreadable_are_told(tmp_path: Path) -> None:
    samples = []
    for k in range(70):
        file = tmp_path / f"{k}.jpg"
        file.write_bytes(b"" if k == 40 else encoded(scene(k % 35, 40, 30)))
        samples.append(Sample(file, 0))
    samples.append(Sample(tmp_path / "none.jpg", 0))
    found, messages = fingerprint_all(samples, threads=3)
    assert [k for k, each in enumerate(found) if each is None] == [40, 70]
    assert [message.partition(": ")[0] for message in messages] == [
        str(tmp_path / "40.jpg"),
        str(tmp_path / "none.jpg"),
    ]
    assert [each.sha256 for each in found[:3] if each] == [
        hashlib.sha256(sample.file.read_bytes()).hexdigest() for sample in samples[:3]
    ]
    assert find_groups(found) == [Group("exact", (k, k + 35)) for k in range(35) if k != 5]
    assert fingerprint_all([]) == ([], [])
    with pytest.raises(UsageError, match="threads"):
        fingerprint_all(samples, threads=0)


def test_one_that_cannot_be_decoded_is_named() -> None:
    with pytest.raises(ImageError, match="here: is not a picture"):
        fingerprint(b"no picture", name="here")


def test_real_photographs_are_told_apart_and_their_copies_found(shared_data: Path) -> None:
    chance = random.Random(0)
    files = find_images(shared_data / "imagenet_val")[::10] + find_images(shared_data / "intel_scenes" / "test")[::40]
    originals = [fingerprint(file.read_bytes()) for file in files]
    assert find_groups(originals) == []
    cropped = [fingerprint(encoded(cut(read_image(file), 0.03, chance), 80)) for file in files]
    found = {group.members for group in find_groups(originals + cropped)}
    assert found <= {(k, k + len(files)) for k in range(len(files))}
    assert len(found) >= 0.95 * len(files)


@pytest.mark.slow
def test_the_copies_in_the_scenes_are_found(shared_data: Path) -> None:
    root = shared_data / "intel_scenes"
    files = find_images(root)
    fingerprints, messages = fingerprint_all([Sample(file, 0) for file in files])
    assert messages == []
    groups = [
        (group.kind, [files[k].relative_to(root).as_posix() for k in group.members])
        for group in find_groups(fingerprints)
    ]
    # Looked at one by one: each is one scene, and the last stands in two classes.
    assert len(groups) == 12
    assert ("near", ["test/forest/21126.jpg", "train/forest/2339.jpg"]) in groups
    assert ("near", ["test/forest/24324.jpg", "train/forest/18807.jpg"]) in groups
    assert ("exact", ["train/glacier/10234.jpg", "train/mountain/7654.jpg"]) in groups
