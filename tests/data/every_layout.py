"""One dataset of 12 pictures, and what writes it in every layout of boxes and outlines."""

from __future__ import annotations

import base64
import csv
import io
import json
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fusiform.data.outlines import counts_of, encode_counts

WIDTH, HEIGHT = 64, 48
NAMES = ("disc", "square", "kite")


class Thing(NamedTuple):
    """An object: its class, its left, top, right and bottom from edge to edge, and its corners."""

    name: str
    box: tuple[int, int, int, int]
    corners: list[tuple[int, int]]


class Picture(NamedTuple):
    split: str
    name: str
    pixels: NDArray[np.uint8]
    things: list[Thing]


@cache
def pictures() -> list[Picture]:
    """Eight pictures to train on and four to validate, with up to three objects; one of each four has none."""
    random = np.random.default_rng(7)
    found = []
    for i in range(12):
        coarse = random.integers(60, 130, (6, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        image = Image.fromarray(coarse)
        things = []
        for k in range(0 if i % 4 == 3 else 1 + i % 3):
            name = NAMES[(i + k) % 3]
            left, top = (int(n) for n in random.integers(0, 30, 2))
            right, bottom = left + int(random.integers(9, 34)), min(HEIGHT, top + int(random.integers(9, 18)))
            across, down = (left + right) // 2, (top + bottom) // 2
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            if name == "kite":
                corners = [(across, top), (right, down), (across, bottom), (left, down)]
            ImageDraw.Draw(image).polygon(corners, fill=(200, 40 + 60 * NAMES.index(name), 40))
            things.append(Thing(name, (left, top, right, bottom), corners))
        found.append(Picture("train" if i < 8 else "val", f"p{i:02}", np.asarray(image), things))
    return found


def save(file: Path, picture: Picture) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.pixels).save(file)


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def coco_document(
    split: str,
    file_name: Callable[[Picture], str] = lambda picture: f"{picture.name}.png",
    segmentation: Callable[[Thing], Any] | None = None,
) -> str:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures(), 1):
        if picture.split != split:
            continue
        images.append({"id": number, "file_name": file_name(picture), "width": WIDTH, "height": HEIGHT})
        for thing in picture.things:
            left, top, right, bottom = thing.box
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": NAMES.index(thing.name) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "iscrowd": 0,
            }
            if segmentation is not None:
                entry["segmentation"] = segmentation(thing)
            annotations.append(entry)
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def flat(thing: Thing) -> list[int]:
    return [value for corner in thing.corners for value in corner]


def filled(thing: Thing) -> NDArray[np.bool_]:
    """The object's pixels by COCO's own tool."""
    mask = pytest.importorskip("pycocotools.mask")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, of NumPy 2
        return np.asarray(mask.decode(mask.frPyObjects([flat(thing)], HEIGHT, WIDTH))[:, :, 0].astype(bool))


def run_lengths(thing: Thing) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": counts_of(filled(thing))}


def compressed(thing: Thing) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": encode_counts(counts_of(filled(thing)))}


def coco(root: Path, segmentation: Callable[[Thing], Any] | None = None) -> Path:
    for picture in pictures():
        save(root / picture.split / f"{picture.name}.png", picture)
    for split in ("train", "val"):
        document = coco_document(split, segmentation=segmentation)
        write(root / "annotations" / f"instances_{split}.json", document)
    return root


def coco_of_roboflow(root: Path) -> Path:
    for picture in pictures():
        save(root / picture.split.replace("val", "valid") / f"{picture.name}.png", picture)
    for split in ("train", "val"):
        write(root / split.replace("val", "valid") / "_annotations.coco.json", coco_document(split))
    return root


def coco_of_label_studio(form: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        for picture in pictures():
            save(root / "images" / picture.split / f"{picture.name}.png", picture)
        for split in ("train", "val"):
            document = coco_document(split, lambda picture: form.format(name=picture.name))
            write(root / f"result_{split}.json", document)
        return root

    return make


def yolo(root: Path, outlines: bool = False) -> Path:
    for picture in pictures():
        save(root / "images" / picture.split / f"{picture.name}.png", picture)
        lines = []
        for thing in picture.things:
            left, top, right, bottom = thing.box
            numbers = [
                (left + right) / 2 / WIDTH,
                (top + bottom) / 2 / HEIGHT,
                (right - left) / WIDTH,
                (bottom - top) / HEIGHT,
            ]
            if outlines:
                numbers = [value / (HEIGHT if i % 2 else WIDTH) for i, value in enumerate(flat(thing))]
            lines.append(" ".join([str(NAMES.index(thing.name)), *(f"{number:.9f}" for number in numbers)]))
        write(root / "labels" / picture.split / f"{picture.name}.txt", "\n".join(lines))
    write(root / "data.yaml", "train: images/train\nval: images/val\nnames: [disc, square, kite]\n")
    return root


def voc_xml(picture: Picture) -> str:
    # Pixels count from 1, and the last one counts.
    objects = "".join(
        f"<object><name>{thing.name}</name><bndbox><xmin>{thing.box[0] + 1}</xmin><ymin>{thing.box[1] + 1}</ymin>"
        f"<xmax>{thing.box[2]}</xmax><ymax>{thing.box[3]}</ymax></bndbox></object>"
        for thing in picture.things
    )
    return (
        f"<annotation><filename>{picture.name}.png</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
        f"</size>{objects}</annotation>"
    )


def voc(root: Path) -> Path:
    for picture in pictures():
        save(root / "JPEGImages" / f"{picture.name}.png", picture)
        write(root / "Annotations" / f"{picture.name}.xml", voc_xml(picture))
    for split in ("train", "val"):
        names = [picture.name for picture in pictures() if picture.split == split]
        write(root / "ImageSets/Main" / f"{split}.txt", "\n".join(names))
    return root


def xml_in(pictures_at: str, xml_at: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        for picture in pictures():
            split = picture.split
            save(root / pictures_at.format(split=split) / f"{picture.name}.png", picture)
            write(root / xml_at.format(split=split) / f"{picture.name}.xml", voc_xml(picture))
        return root

    return make


def labelme(pictures_at: str, json_at: str, image_path: str = "{name}.png", shape: str = "") -> Callable[[Path], Path]:
    """Boxes as rectangles, kites as polygons; with ``shape`` mask all of them as pixels."""

    def entry(thing: Thing) -> dict[str, Any]:
        kind = shape or ("polygon" if thing.name == "kite" else "rectangle")
        points: list[list[float]] = [list(corner) for corner in thing.corners]
        packed = None
        if kind == "rectangle":
            points = [list(thing.box[2:]), list(thing.box[:2])]  # drawn from the lower right
        elif kind == "mask":
            pixels = filled(thing)
            rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
            points = [[float(columns[0]), float(rows[0])], [float(columns[-1]), float(rows[-1])]]
            stream = io.BytesIO()
            part = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            Image.fromarray(part).save(stream, "PNG")
            packed = base64.b64encode(stream.getvalue()).decode()
        flags: dict[str, bool] = {}
        return {"label": thing.name, "points": points, "shape_type": kind, "flags": flags, "mask": packed}

    def make(root: Path) -> Path:
        for picture in pictures():
            save(root / pictures_at.format(split=picture.split) / f"{picture.name}.png", picture)
            content = {
                "version": "5.4.1",
                "flags": {},
                "shapes": [entry(thing) for thing in picture.things],
                "imagePath": image_path.format(name=picture.name, split=picture.split),
                "imageData": "aGVsbG8=",
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
            }
            write(root / json_at.format(split=picture.split) / f"{picture.name}.json", json.dumps(content))
        return root

    return make


def cvat(place: str, subset: bool, masks: bool = False) -> Callable[[Path], Path]:
    def shape(thing: Thing) -> str:
        left, top, right, bottom = thing.box
        if masks:
            part = filled(thing)[top:bottom, left:right]
            counts = ",".join(map(str, counts_of(part.T)))  # row by row
            return (
                f'<mask label="{thing.name}" source="manual" occluded="0" rle="{counts}" left="{left}" top="{top}" '
                f'width="{right - left}" height="{bottom - top}" z_order="0"/>'
            )
        if thing.name == "kite":
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in thing.corners)
            return f'<polygon label="kite" source="manual" occluded="0" points="{points}" z_order="0"/>'
        return (
            f'<box label="{thing.name}" source="manual" occluded="1" xtl="{left:.2f}" ytl="{top:.2f}" '
            f'xbr="{right:.2f}" ybr="{bottom:.2f}" z_order="0"><attribute name="a">1</attribute></box>'
        )

    def make(root: Path) -> Path:
        images = []
        for i, picture in enumerate(pictures()):
            folder = place.format(split=picture.split, cap={"train": "Train", "val": "Validation"}[picture.split])
            save(root / folder / f"{picture.name}.png", picture)
            named = f' subset="{"Train" if picture.split == "train" else "Validation"}"' if subset else ""
            name = f"{picture.name}.png" if subset else f"{picture.split}/{picture.name}.png"
            shapes = "".join(map(shape, picture.things))
            images.append(f'<image id="{i}" name="{name}"{named} width="{WIDTH}" height="{HEIGHT}">{shapes}</image>')
        labels = "".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in NAMES)
        text = "".join(images)
        write(
            root / "annotations.xml",
            f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><labels>{labels}'
            f"</labels></task></meta>{text}</annotations>",
        )
        return root

    return make


def rows(split: str, form: Callable[[Picture, Thing | None], Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for picture in pictures():
        if split in ("all", picture.split):
            things: Sequence[Thing | None] = picture.things or [None]
            for thing in things:
                writer.writerow(form(picture, thing))
    return stream.getvalue()


def tensorflow(pictures_at: str, list_at: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        for picture in pictures():
            save(root / pictures_at.format(split=picture.split) / f"{picture.name}.png", picture)
        for split in ("train", "val"):
            text = rows(
                split,
                lambda picture, thing: [
                    f"{picture.name}.png",
                    WIDTH,
                    HEIGHT,
                    *((thing.name, *thing.box) if thing else [""] * 5),
                ],
            )
            write(root / list_at.format(split=split), "filename,width,height,class,xmin,ymin,xmax,ymax\n" + text)
        return root

    return make


def retinanet(root: Path) -> Path:
    for picture in pictures():
        save(root / "images" / picture.split / f"{picture.name}.png", picture)
    for split in ("train", "val"):
        text = rows(
            split,
            lambda picture, thing: [
                f"images/{picture.split}/{picture.name}.png",
                *((*thing.box, thing.name) if thing else [""] * 5),
            ],
        )
        write(root / f"{split}.csv", text)
    write(root / "classes.csv", "".join(f"{name},{i}\n" for i, name in enumerate(NAMES)))
    return root


def retinanet_list(root: Path) -> Path:
    """One list, of which the column of the split says more than its place."""
    for picture in pictures():
        save(root / "photos" / f"{picture.name}.png", picture)
    text = rows(
        "all",
        lambda picture, thing: [
            f"C:\\data\\{picture.name}.png",
            *((*thing.box, thing.name) if thing else [""] * 5),
            picture.split,
        ],
    )
    write(root / "list.csv", "path,x1,y1,x2,y2,label,set\n" + text)
    return root / "list.csv"


def open_images(root: Path) -> Path:
    for picture in pictures():
        save(root / picture.split / f"{picture.name}.png", picture)
    head = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    for split in ("train", "val"):

        def form(picture: Picture, thing: Thing | None) -> Sequence[object]:
            if thing is None:
                return [picture.name, *[""] * 12]
            left, top, right, bottom = thing.box
            edges = left / WIDTH, right / WIDTH, top / HEIGHT, bottom / HEIGHT
            return [picture.name, "x", f"/m/{thing.name[0]}", 1, *edges, 0, 0, 0, 0, 0]

        write(root / f"{split}-annotations-bbox.csv", f"{head}\n{rows(split, form)}")
    write(root / "class-descriptions-boxable.csv", "".join(f"/m/{name[0]},{name}\n" for name in NAMES))
    return root


def hugging_face(form: str) -> Callable[[Path], Path]:
    def objects(picture: Picture) -> Any:
        boxes = [[a, b, c - a, d - b] for a, b, c, d in (thing.box for thing in picture.things)]
        if form == "each":
            pairs = zip(boxes, picture.things, strict=True)
            return [{"bbox": box, "category": thing.name} for box, thing in pairs]
        if form in ("numbers", "readme"):
            return {"id": [], "bbox": boxes, "category": [NAMES.index(thing.name) for thing in picture.things]}
        return {"bbox": boxes, "categories": [thing.name for thing in picture.things]}

    def make(root: Path) -> Path:
        lines: dict[str, list[tuple[str, Any]]] = {"train": [], "val": []}
        for picture in pictures():
            save(root / picture.split / f"{picture.name}.png", picture)
            name = f"{picture.split}/{picture.name}.png" if form == "csv" else f"{picture.name}.png"
            lines[picture.split].append((name, objects(picture)))
        if form == "csv":
            stream = io.StringIO()
            writer = csv.writer(stream)
            writer.writerow(["file_name", "objects"])
            writer.writerows([(name, json.dumps(found)) for split in lines.values() for name, found in split])
            write(root / "metadata.csv", stream.getvalue())
        for split, entries in lines.items() if form != "csv" else ():
            text = "".join(json.dumps({"file_name": name, "objects": found}) + "\n" for name, found in entries)
            write(root / split / "metadata.jsonl", text)
        if form == "numbers":
            feature = {"category": {"names": list(NAMES), "_type": "ClassLabel"}}
            write(root / "dataset_info.json", json.dumps({"features": {"objects": {"feature": feature}}}))
        if form == "readme":
            names = "".join(f"            '{i}': {name}\n" for i, name in enumerate(NAMES))
            write(
                root / "README.md",
                "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: objects\n    sequence:\n"
                f"    - name: category\n      dtype:\n        class_label:\n          names:\n{names}---\n# Shapes\n",
            )
        return root

    return make


class Case(NamedTuple):
    layout: str
    make: Callable[[Path], Path]


BOXES = {
    "COCO": Case("COCO's boxes", coco),
    "Roboflow's COCO": Case("COCO's boxes", coco_of_roboflow),
    "Label Studio's uploads": Case(
        "COCO's boxes", coco_of_label_studio("/label-studio/data/media/upload/3/1a2b3c4d-{name}.png")
    ),
    "Label Studio's local files": Case("COCO's boxes", coco_of_label_studio("/data/local-files/?d=shots/{name}.png")),
    "paths of Windows": Case("COCO's boxes", coco_of_label_studio("C:\\shots\\{name}.png")),
    "addresses": Case("COCO's boxes", coco_of_label_studio("https://example.org/a/{name}.png?width=80")),
    "YOLO": Case("YOLO's boxes", yolo),
    "YOLO's outlines": Case("YOLO's boxes", lambda root: yolo(root, outlines=True)),
    "VOC": Case("Pascal VOC's boxes", voc),
    "XML beside": Case("boxes in XML beside the pictures", xml_in("{split}", "{split}")),
    "XML in folders of splits": Case(
        "boxes in XML beside the pictures", xml_in("{split}/images", "{split}/annotations")
    ),
    "XML in folders": Case("boxes in XML beside the pictures", xml_in("images/{split}", "annotations/xmls/{split}")),
    "LabelMe": Case("LabelMe's boxes", labelme("{split}", "{split}")),
    "LabelMe apart": Case(
        "LabelMe's boxes", labelme("images/{split}", "json/{split}", "..\\..\\images\\{split}\\{name}.png")
    ),
    "LabelMe renamed": Case("LabelMe's boxes", labelme("{split}/a", "{split}/b", "/home/me/{name}.JPG")),
    "CVAT": Case("CVAT's boxes", cvat("images/{split}", subset=False)),
    "CVAT's subsets": Case("CVAT's boxes", cvat("images/{cap}", subset=True)),
    "CVAT's masks": Case("CVAT's boxes", cvat("images", subset=True, masks=True)),
    "TensorFlow": Case("boxes in CSV lists", tensorflow("images", "data/{split}_labels.csv")),
    "TensorFlow in splits": Case("boxes in CSV lists", tensorflow("images/{split}", "{split}_labels.csv")),
    "Roboflow's CSV": Case("boxes in CSV lists", tensorflow("{split}", "{split}/_annotations.csv")),
    "keras-retinanet": Case("boxes in CSV lists", retinanet),
    "one list": Case("boxes in CSV lists", retinanet_list),
    "Open Images": Case("boxes in CSV lists", open_images),
    "Hugging Face": Case("Hugging Face's boxes", hugging_face("lists")),
    "Hugging Face, each": Case("Hugging Face's boxes", hugging_face("each")),
    "Hugging Face's numbers": Case("Hugging Face's boxes", hugging_face("numbers")),
    "Hugging Face's README": Case("Hugging Face's boxes", hugging_face("readme")),
    "Hugging Face's CSV": Case("Hugging Face's boxes", hugging_face("csv")),
}
OUTLINES = {
    "COCO": Case("COCO's outlines", lambda root: coco(root, lambda thing: [flat(thing)])),
    "COCO's run lengths": Case("COCO's outlines", lambda root: coco(root, run_lengths)),
    "COCO, compressed": Case("COCO's outlines", lambda root: coco(root, compressed)),
    "YOLO": Case("YOLO's outlines", lambda root: yolo(root, outlines=True)),
    "LabelMe": Case("LabelMe's outlines", labelme("{split}", "{split}")),
    "LabelMe's masks": Case("LabelMe's outlines", labelme("{split}", "{split}", shape="mask")),
    "CVAT": Case("CVAT's outlines", cvat("images/{split}", subset=False)),
    "CVAT's masks": Case("CVAT's outlines", cvat("images/{split}", subset=False, masks=True)),
}
