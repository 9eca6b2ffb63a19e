"""The answer for one image, and the answers for many: how they are shown, drawn and written down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from fusiform.report import Cell, to_arrow, to_pandas
from fusiform.tasks.classification import Classification, Guess

if TYPE_CHECKING:
    from fusiform.spec import ModelSpec
    from fusiform.tasks.detection import Detections
    from fusiform.tasks.segmentation import SegmentationMap


TOP = 5
"""How many names a classifier gives if nothing else is asked for."""
THUMBNAIL = 220
"""The longer side, in pixels, above which a thumbnail is made smaller."""
DRAWN_THUMBNAIL = 400
"""The same for a picture that boxes or a mask are to be drawn on."""
ALONE = 1600
"""The same for one to be drawn on that is the only one."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """The answer for one picture: its ``path`` and what the model's task is to say of it, or an ``error`` to show.

    Exactly one is there of ``classification``, ``detections``, ``segmentation`` and ``error``. Boxes and masks are in
    pixels of the upright picture. ``thumbnail`` is the picture itself, RGB, upright and at most ``THUMBNAIL`` pixels a
    side, where it was asked for; to draw boxes or masks on ``DRAWN_THUMBNAIL``, or ``ALONE`` where there is no other.
    """

    path: str
    classification: Classification | None = None
    error: str | None = None
    thumbnail: Image.Image | None = field(default=None, compare=False)
    detections: Detections | None = None
    segmentation: SegmentationMap | None = None

    def __post_init__(self) -> None:
        if [self.classification, self.detections, self.segmentation, self.error].count(None) != 3:
            raise ValueError(f"{self.path}: a prediction is either an answer of one task or an error")

    @property
    def top(self) -> tuple[Guess, ...]:
        """A classifier's likeliest classes, likeliest first; empty where the picture could not be read."""
        return self.classification.top if self.classification else ()

    def draw(self) -> Image.Image:
        """The picture, RGB, with its likeliest name below, or with its boxes or mask on it.

        It is the thumbnail, or else read again from its path. Raises ImageError where neither is there.
        """
        from fusiform.prediction.show import draw

        return draw(self)

    def save(self, path: str | Path) -> None:
        """Write what ``draw`` gives as a PNG or JPEG; raises what ``save_picture`` does."""
        from fusiform.drawing.grid import save_picture

        save_picture(self.draw(), path)

    def to_dict(self) -> dict[str, Any]:
        """The answer as plain values: ``path`` and ``top``, ``boxes`` or ``classes``, or ``error``.

        Probabilities, scores and shares are in [0, 1]; a box's ``bbox`` is its left, top, width and height in pixels.
        """
        from fusiform.prediction.formats import to_dict

        return to_dict(self)

    def to_json(self, *, indent: int | None = None) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def __repr__(self) -> str:
        from fusiform.prediction.show import summary

        return f"<Prediction {self.path}: {summary(self)}>"

    def _repr_html_(self) -> str:
        from fusiform.prediction.show import to_html

        return to_html(self)

    def _repr_png_(self) -> bytes | None:
        from fusiform.prediction.show import to_png

        return to_png(self)


class Predictions(list[Prediction]):
    """The answers for several pictures, in their order; ``spec`` is the description of the model that gave them."""

    def __init__(self, predictions: Iterable[Prediction], spec: ModelSpec) -> None:
        super().__init__(predictions)
        self.spec = spec

    @property
    def errors(self) -> list[Prediction]:
        """The pictures that could not be read."""
        return [prediction for prediction in self if prediction.error is not None]

    def rows(self) -> list[Mapping[str, Cell]]:
        """A row for each name, box or class that was found, with the columns of ``fusiform predict --format csv``."""
        from fusiform.prediction.formats import to_rows

        return to_rows(self, self.spec)

    def to_dict(self) -> list[dict[str, Any]]:
        """Each answer's ``to_dict``."""
        return [prediction.to_dict() for prediction in self]

    def to_json(self, *, indent: int | None = None) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def to_pandas(self) -> Any:
        """``rows`` as a pandas.DataFrame; raises UsageError where pandas is not installed."""
        return to_pandas(self.rows())

    def to_arrow(self) -> Any:
        """``rows`` as a pyarrow.Table; raises UsageError where pyarrow is not installed."""
        return to_arrow(self.rows())

    def save(self, path: str | Path) -> list[str]:
        """Draw the first 64 as one picture, PNG or JPEG; returns what there is to say about it, in words.

        Raises UsageError and OutputError as ``fusiform predict --save`` does.
        """
        from fusiform.prediction.show import contact_sheet

        return contact_sheet(self, self.spec).save(Path(path), len(self))

    def __repr__(self) -> str:
        errors = f", {len(self.errors)} could not be read" if self.errors else ""
        first = f": {self[0]!r}{', ...' if len(self) > 1 else ''}" if self else ""
        return f"<{len(self)} predictions of {self.spec.name}{errors}{first}>"

    def _repr_html_(self) -> str:
        from fusiform.prediction.show import list_to_html

        return list_to_html(self, self.spec)
