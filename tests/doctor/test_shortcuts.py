"""Shortcuts that are planted are found, those that are not there are not, and images that show little are named."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fusiform.data.appearance import appearance
from fusiform.doctor.classification import examine
from fusiform.doctor.shortcuts import about_shortcuts

CLASSES = ("cat", "dog")
MAKE, MODEL, EXIF, TAKEN = 271, 272, 0x8769, 36867


def photograph(luck, size=(60, 40), level=110.0):
    """Coarse structure in random colours, some light, some dark."""
    coarse = luck.normal(level, 45, (6, 6, 3)) + luck.normal(0, 25)
    return Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)


def exif(*, camera="", taken=""):
    made = Image.Exif()
    if camera:
        made[MAKE], made[MODEL] = camera.split()
    if taken:
        made.get_ifd(EXIF)[TAKEN] = taken
    return made


def with_size(luck, label):
    side = int(luck.integers(50, 60)) + 12 * label
    return photograph(luck, (side, 40)), {}


def with_camera(luck, label):
    camera = ("Canon EOS", "Nikon D5")[label if luck.random() < 0.9 else 1 - label]
    return photograph(luck), {"exif": exif(camera=camera)}


def with_date(luck, label):
    return photograph(luck), {"exif": exif(taken=f"2026:0{label + 1}:{luck.integers(1, 28):02} 12:00:00")}


def with_quality(luck, label):
    return photograph(luck), {"quality": (60, 95)[label]}


def with_border(luck, label):
    image = photograph(luck)
    if label:
        framed = Image.new("RGB", image.size, (250, 250, 250))
        framed.paste(image.resize((image.width - 8, image.height - 8)), (4, 4))
        image = framed
    return image, {}


def with_light(luck, label):
    return photograph(luck, level=(60, 190)[label]), {}


def with_nothing(luck, label):
    size = (int(luck.integers(40, 80)), int(luck.integers(40, 80)))
    camera = ("Canon EOS", "Nikon D5")[int(luck.integers(2))]
    taken = f"2026:01:{luck.integers(1, 28):02} 12:00:00"
    return photograph(luck, size), {"quality": int(luck.integers(60, 96)), "exif": exif(camera=camera, taken=taken)}


def found_in(folder, make, *, count=40):
    luck = np.random.default_rng(1)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for k in range(count):
            image, how = make(luck, label)
            image.save(folder / name / f"{k}.jpg", **{"quality": 90, **how})
    return [finding for finding in examine(folder, threads=1).findings if finding.kind == "shortcut"]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (with_size, "size"),
        (with_camera, "camera"),
        (with_date, "date"),
        (with_quality, "file (format, compression, bytes a pixel)"),
        (with_border, "border"),
        (with_light, "brightness and contrast"),
    ],
)
def test_a_planted_shortcut_is_found(make, what, tmp_path):
    found = found_in(tmp_path, make)
    (finding,) = (each for each in found if f"told from its {what} alone" in each.message)
    assert finding.severity == "warning"
    assert finding.message.startswith("whether an image is cat or dog can be told from")
    # A frame changes how bright an image is and how it is compressed, and light the border; a small image has as long
    # a header as a large one. Nothing else is said.
    others = {"border": 2, "brightness and contrast": 2, "size": 1}
    assert len(found) <= 1 + others.get(what, 0), [each.message for each in found]


def test_what_is_spread_over_the_classes_is_none(tmp_path):
    assert found_in(tmp_path, with_nothing) == []


def test_false_alarms_are_rare():
    """Random properties, 60 times: with a level of 5 % over all, more than 8 would come once in a hundred times."""
    alarms = 0
    for seed in range(60):
        luck = np.random.default_rng(seed)
        image = Image.new("RGB", (64, 64))
        plain = appearance(b"", image)
        seen = [
            plain._replace(
                width=int(luck.integers(50, 60)),
                height=int(luck.integers(50, 60)),
                bytes=int(luck.integers(900, 9000)),
                camera=("a", "b", None)[luck.integers(3)],
                taken=float(luck.integers(1000)),
                brightness=float(luck.random()),
                border=tuple(luck.random(4)),
            )
            for _ in range(36)
        ]
        alarms += bool(list(about_shortcuts(seen, luck.integers(0, 3, 36).tolist(), ("a", "b", "c"))))
    assert alarms <= 8


def test_a_class_of_few_and_a_single_class_are_passed_over():
    luck = np.random.default_rng(0)
    plain = appearance(b"", photograph(luck))
    seen = [plain._replace(width=50 + (k >= 20)) for k in range(23)]
    assert list(about_shortcuts(seen, [0] * 20 + [1] * 3, CLASSES)) == []
    assert list(about_shortcuts(seen[:20], [0] * 20, CLASSES)) == []
    assert list(about_shortcuts([], [], CLASSES)) == []


def test_one_that_a_third_of_the_images_shows_is_a_note():
    luck = np.random.default_rng(0)
    plain = appearance(b"", photograph(luck))
    labels = [k % 2 for k in range(400)]
    seen = [plain._replace(width=50 + (label if luck.random() < 0.4 else int(luck.integers(2)))) for label in labels]
    (finding,) = about_shortcuts(seen, labels, CLASSES)
    assert finding.severity == "note"


def test_copies_are_not_counted(tmp_path):
    """An image that is there forty times is one image, and no property of its class."""
    luck = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (tmp_path / name).mkdir()
        for k in range(20):
            photograph(luck, (60, 40)).save(tmp_path / name / f"{k}.jpg")
        if label:
            copy = photograph(luck, (90, 40))
            for k in range(20, 60):
                copy.save(tmp_path / name / f"{k}.jpg")
    assert [each for each in examine(tmp_path, threads=1).findings if each.kind == "shortcut"] == []


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("dark", lambda image: image.point(lambda v: v // 8)),
        ("overexposed", lambda image: image.point(lambda v: 246 + v // 30)),
        ("blurred", lambda image: image.resize((4, 4)).resize(image.size, Image.Resampling.BICUBIC)),
        ("little to see", lambda image: image.convert("L").point(lambda v: 100 + 40 * (v > 110)).convert("RGB")),
    ],
)
def test_images_that_show_little_are_named(kind, make, tmp_path):
    luck = np.random.default_rng(3)
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for k in range(2):
            photograph(luck, (120, 120)).save(tmp_path / name / f"{k}.png")
    make(photograph(luck, (120, 120))).save(tmp_path / "cat" / "odd.png")
    found = [each for each in examine(tmp_path, threads=1).findings if each.kind in KINDS]
    assert [(each.kind, each.path.endswith("odd.png"), each.severity) for each in found] == [(kind, True, "note")]


KINDS = ("dark", "overexposed", "blurred", "little to see")


def test_a_blank_image_is_called_blank_alone(tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64), (3, 3, 3)).save(tmp_path / name / "blank.png")
    kinds = {each.kind for each in examine(tmp_path, threads=1).findings}
    assert "blank" in kinds
    assert not kinds & set(KINDS)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe1\xff\xff damaged"])
def test_a_file_that_says_nothing(data):
    seen = appearance(data, Image.new("RGB", (1, 300), (9, 9, 9)))
    assert (seen.camera, seen.taken, seen.quality) == (None, None, 0)
    assert (seen.width, seen.height, seen.entropy) == (1, 300, 0)


def test_what_exif_says(tmp_path):
    path = tmp_path / "a.jpg"
    photograph(np.random.default_rng(0)).save(path, exif=exif(camera="Canon EOS", taken="1970:01:02 00:00:01"))
    seen = appearance(path.read_bytes(), Image.open(path).convert("RGB"))
    assert (seen.camera, seen.taken, seen.format) == ("Canon EOS", 86401, "JPEG")
    for wrong in ("0000:00:00 00:00:00", "yesterday", "    :  :     :  :  "):
        photograph(np.random.default_rng(0)).save(path, exif=exif(taken=wrong))
        assert appearance(path.read_bytes(), Image.open(path).convert("RGB")).taken is None
