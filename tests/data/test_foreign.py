from __future__ import annotations

import json
from pathlib import Path

import pytest

from fusiform.data.foreign import check_unannotated
from fusiform.data.open import open_dataset
from fusiform.errors import UsageError

XML = "<annotation><object><name>{name}</name><bndbox><xmin>1</xmin></bndbox></object></annotation>"


def labelme(name: str) -> str:
    return json.dumps({"version": "5", "shapes": [{"label": name, "points": [[1, 1], [5, 5]]}], "imagePath": "p.jpg"})


COCO = json.dumps({"images": [], "annotations": [], "categories": []})

FOREIGN = {
    "darknet": ("{split}/p{i}.jpg", "{split}/p{i}.txt", "0 0.5 0.5 0.2 0.2\n", "YOLO's and darknet's"),
    "darknet in folders": (
        "obj/{split}/x/p{i}.jpg",
        "obj/{split}/x/p{i}.txt",
        "0 .5 .5 .2 .2\n1 .1 .1 .2 .2\n",
        "YOLO's",
    ),
    "outlines": ("{split}/im/p{i}.png", "{split}/lab/p{i}.txt", "1 0.1 0.1 0.5 0.1 0.5 0.5\n", "YOLO's"),
    "KITTI": ("a/{split}/p{i}.png", "b/{split}/p{i}.txt", "Car 0.00 0 -1.58 587.0 173.3 614.1 200.1\n", "text files"),
    "LabelMe": ("{split}/p{i}.jpg", "{split}/p{i}.json", labelme("disc"), "LabelMe's"),
    "LabelMe apart": ("{split}/img/p{i}.jpg", "{split}/ann/p{i}.json", labelme("disc"), "LabelMe's"),
    "Supervisely": ("{split}/img/p{i}.jpg", "{split}/ann/p{i}.jpg.json", '{"objects": [{"id": 3}]}', "boxes in JSON"),
    "XML beside": ("{split}/p{i}.jpg", "{split}/p{i}.xml", XML.format(name="disc"), "Pascal VOC's"),
    "XML apart": ("{split}/images/p{i}.JPG", "{split}/annotations/p{i}.XML", XML.format(name="disc"), "Pascal VOC's"),
    "COCO within": ("{split}/data/p{i}.jpg", "{split}/labels.json", COCO, "holds COCO's boxes"),
    "CreateML": (
        "{split}/p{i}.jpg",
        "{split}/_annotations.createml.json",
        '[{"image": "p0.jpg", "annotations": [{"label": "a", "coordinates": {"x": 1}}]}]',
        "holds boxes in JSON of a kind that is not read",
    ),
    "VGG's annotator": (
        "{split}/p{i}.jpg",
        "{split}/via_region_data.json",
        '{"p0.jpg9": {"filename": "p0.jpg", "regions": [{"shape_attributes": {"name": "rect"}}]}}',
        "holds boxes in JSON of a kind that is not read",
    ),
    "masks": ("images/{split}/p{i}.jpg", "masks/{split}/p{i}.png", "", "have masks"),
    "Carvana": ("{split}/p{i}.jpg", "{split}_masks/p{i}_mask.gif", "", "have masks"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_boxes_and_masks_are_no_classes(case: str, tmp_path: Path) -> None:
    picture, beside, text, message = FOREIGN[case]
    for split in ("train", "val"):
        for i in range(4):
            for name in (picture, beside):
                (tmp_path / name.format(split=split, i=i)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / picture.format(split=split, i=i)).touch()
            (tmp_path / beside.format(split=split, i=i)).write_text(text)
    with pytest.raises(UsageError) as raised:
        open_dataset(tmp_path, task="classification")
    assert str(raised.value).startswith(str(tmp_path))
    assert ": is no dataset of classes: " in str(raised.value)
    assert message in str(raised.value)


def classes(root: Path, beside: str, text: str) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            (root / name / f"{i}.jpg").touch()
            (root / name / beside.format(i=i)).write_text(text.format(name=name))
    return root


@pytest.mark.parametrize(
    ("beside", "text"),
    [
        ("{i}.txt", "a photograph of a {name} in 2024, 3 by 4\n"),
        ("{i}.json", '{{"label": "{name}"}}'),
        ("readme.txt", "0 0.5 0.5 0.2 0.2\n"),
        ("{i}.xml", "<xmpmeta>{name}</xmpmeta>"),
    ],
)
def test_other_files_beside_the_pictures_of_classes_are_no_boxes(beside: str, text: str, tmp_path: Path) -> None:
    data = open_dataset(classes(tmp_path / "data", beside, text), task="classification")
    assert (data.classes, data.notes) == (("cat", "dog"), ())


def test_boxes_that_name_nothing_but_their_folders_leave_classes_and_a_note(tmp_path: Path) -> None:
    root = classes(tmp_path / "data", "{i}.xml", XML)
    data = open_dataset(root, task="classification")
    assert data.classes == ("cat", "dog")
    assert [note for note in data.notes if "8 of 8 pictures have boxes in XML" in note]
    (root / "cat" / "0.xml").write_text(XML.format(name="dog"))
    with pytest.raises(UsageError, match="no dataset of classes"):
        open_dataset(root, task="classification")


def test_folders_of_numbered_pictures_called_mask_are_a_class(tmp_path: Path) -> None:
    for name in ("mask", "no_mask"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.jpg").touch()
    assert check_unannotated(tmp_path) == []
    assert open_dataset(tmp_path, task="classification").classes == ("mask", "no_mask")
