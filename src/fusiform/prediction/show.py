"""How answers look: in a line, as a picture, and in a notebook's cell."""

from __future__ import annotations

import base64
import html
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from fusiform.data.image import read_image
from fusiform.errors import ImageError
from fusiform.prediction.answer import ALONE, DRAWN_THUMBNAIL, THUMBNAIL, Answer
from fusiform.prediction.formats import NOTHING, OF_PICTURE, percent, promise
from fusiform.prediction.sheet import SAVED, Drawing
from fusiform.report import printable

if TYPE_CHECKING:
    from fusiform.spec import ModelSpec

NAMED = 3
"""Names in the line about an answer."""


def summary(prediction: Answer) -> str:
    """The answer in a line: the likeliest names, what was found, or the error."""
    if prediction.error is not None:
        return printable(prediction.error)
    if prediction.detections is not None:
        found = Counter(box.name for box in prediction.detections.boxes)
        parts = [name if count == 1 else f"{name} ({count})" for name, count in found.items()]
    elif prediction.segmentation is not None:
        parts = [f"{share.name} {percent(share.share).strip()}" for share in prediction.segmentation.shares()]
        return printable(", ".join(parts[:NAMED]) + OF_PICTURE + (", ..." if len(parts) > NAMED else ""))
    else:
        parts = [f"{guess.name} {guess.probability:.1%}" for guess in prediction.top]
        if (said := promise(prediction)) is not None:
            return printable(f"{said} ({parts[0]})")
    more = ", ..." if len(parts) > NAMED else ""
    return printable(", ".join(parts[:NAMED]) + more) or NOTHING


def draw(prediction: Answer) -> Image.Image:
    """See ``Prediction.draw``."""
    from fusiform.drawing.grid import Tile, draw_grid
    from fusiform.drawing.overlay import add_legend, draw_boxes, draw_mask

    if prediction.error is not None:
        raise ImageError(prediction.error)
    side = THUMBNAIL if prediction.classification is not None else ALONE
    image = prediction.thumbnail or _read(prediction.path, side)
    if prediction.detections is not None:
        return draw_boxes(image, prediction.detections)
    if prediction.segmentation is not None:
        shares = [share for share in prediction.segmentation.shares() if share.index]
        names = [(share.index, f"{share.name} {percent(share.share).strip()}{OF_PICTURE}") for share in shares]
        return add_legend(draw_mask(image, prediction.segmentation), names)
    best = prediction.top[0]
    return draw_grid([Tile(image, f"{prediction.prefix}{best.probability:.1%}  {best.name}")])


def contact_sheet(predictions: Sequence[Answer], spec: ModelSpec) -> Drawing:
    """The first pictures with their answers, read again from their paths where they brought no thumbnail along."""
    drawing = Drawing(spec)
    alone = len(predictions) == 1
    for prediction in predictions[:SAVED]:
        drawing.add(_with_picture(prediction, spec, alone=alone))
    return drawing


def to_png(prediction: Answer) -> bytes | None:
    """What ``draw`` gives as a PNG file's bytes; None where there is no picture."""
    try:
        return _png(draw(prediction))
    except ImageError:
        return None


def to_html(prediction: Answer) -> str:
    """The picture beside a bar for each name, or with boxes or a mask on it, for a notebook's cell."""
    title = f"<div><b>{html.escape(printable(prediction.path))}</b></div>"
    if (said := promise(prediction)) is not None:
        title += f"<div>{html.escape(printable(said))}</div>"
    if prediction.error is not None:
        return f"{title}<div>{html.escape(printable(prediction.error))}</div>"
    if prediction.classification is None:
        png = to_png(prediction)
        return title + (_picture(png) if png else f"<div>{html.escape(summary(prediction))}</div>")
    try:
        image = prediction.thumbnail or _read(prediction.path, THUMBNAIL)
        picture = _picture(_png(image))
    except ImageError:
        picture = ""
    bars = "".join(
        f'<tr><td style="text-align:right">{guess.probability:.1%}</td>'
        '<td style="text-align:left"><div style="background:#1565c0;height:.8em;'
        f'width:{8 * guess.probability:.2f}em"></div></td>'
        f'<td style="text-align:left">{html.escape(printable(guess.name))}</td></tr>'
        for guess in prediction.top
    )
    row = "display:flex;gap:1em;align-items:center"
    return f'{title}<div style="{row}">{picture}<table>{bars}</table></div>'


def list_to_html(predictions: Sequence[Answer], spec: ModelSpec) -> str:
    """The contact sheet of several answers, for a notebook's cell."""
    if len(predictions) == 1:
        return to_html(predictions[0])
    if not predictions:
        return "<div>no pictures</div>"
    more = f"<div>the first {SAVED} of {len(predictions)}</div>" if len(predictions) > SAVED else ""
    return _picture(_png(contact_sheet(predictions, spec).picture(len(predictions)))) + more


def _with_picture(prediction: Answer, spec: ModelSpec, *, alone: bool) -> Answer:
    if prediction.error is not None or prediction.thumbnail is not None:
        return prediction
    side = THUMBNAIL if spec.task == "classification" else ALONE if alone else DRAWN_THUMBNAIL
    try:
        return replace(prediction, thumbnail=_read(prediction.path, side))
    except ImageError:
        return prediction


def _read(path: str, side: int) -> Image.Image:
    """The picture at a path once more, at most ``side`` pixels a side."""
    if not os.path.isfile(path):  # noqa: PTH113  # an address is no path
        raise ImageError(f"{printable(path)}: is not there to be drawn: it was in memory, at an address, or has moved")
    image = read_image(Path(path))
    image.thumbnail((side, side))
    return image


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _picture(png: bytes) -> str:
    return f'<img style="max-width:100%" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
