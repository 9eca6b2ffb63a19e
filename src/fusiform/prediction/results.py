"""The answer for one image, and those for many, to hold: how they are shown, drawn and written down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from fusiform.prediction.answer import Answer
from fusiform.report import Cell, to_arrow, to_pandas

if TYPE_CHECKING:
    from fusiform.spec import ModelSpec


class Prediction(Answer):
    """The answer for one image: its ``path`` and what the model's task is to say of it, or an ``error`` to show.

    Exactly one is there of ``classification``, ``detections``, ``segmentation`` and ``error``. Boxes and masks are in
    pixels of the upright image.

    Example:
        >>> import fusiform
        >>> fusiform.predict("examples/cat.jpg", top=1)[0].to_dict()["top"][0]["name"]
        'Egyptian cat'

    """

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
        """The answer as plain values: ``path``, ``error`` (None where there is an answer), and what the task is to say.

        Of a classifier there is ``top``; of a detector ``boxes``, of a segmenter ``classes``, with the image's
        ``width`` and ``height``; nothing of these where there is an error. Probabilities, scores and shares are in
        [0, 1]; a box's ``bbox`` is its left, top, width and height in pixels.
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
    """The answers for several images, in their order; ``spec`` is the description of the model that gave them.

    Example:
        >>> import fusiform
        >>> predictions = fusiform.predict(["examples", "missing.jpg"], top=1)
        >>> len(predictions), len(predictions.errors), predictions.rows()[1]["name"]
        (3, 1, 'espresso')

    """

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

    def to_dict(self) -> dict[str, Any]:
        """What ``fusiform predict --format json`` prints: ``schema``, ``network``, ``task``, and ``predictions``.

        ``predictions`` has each answer's ``to_dict``.
        """
        from fusiform.prediction.formats import envelope

        return {**envelope(self.spec), "predictions": [prediction.to_dict() for prediction in self]}

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
