"""What a model answers for one image, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image

from fusiform.tasks.classification import Classification, Guess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


@dataclass(frozen=True)
class Answer:
    """The answer for one picture: its ``path`` and what the model's task is to say of it, or an ``error`` to show.

    Exactly one is there of ``classification``, ``detections``, ``segmentation`` and ``error``. Boxes and masks are in
    pixels of the upright picture. ``thumbnail`` is the picture itself, RGB, upright and at most ``THUMBNAIL`` pixels a
    side, where it was asked for; to draw boxes or masks on ``DRAWN_THUMBNAIL``, or ``ALONE`` where there is no other.
    ``features`` (num_features,) float32 are what a classifier's last layer read, where they were asked for; ``row`` is
    what a sketch keeps of the picture, where one is kept.
    """

    path: str
    classification: Classification | None = None
    error: str | None = None
    thumbnail: Image.Image | None = field(default=None, repr=False, compare=False)
    detections: Detections | None = None
    segmentation: SegmentationMap | None = None
    features: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    row: NDArray[np.float16] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if [self.classification, self.detections, self.segmentation, self.error].count(None) != 3:
            raise ValueError(f"{self.path}: a prediction is either an answer of one task or an error")

    @property
    def top(self) -> tuple[Guess, ...]:
        """A classifier's likeliest classes, likeliest first; empty where the picture could not be read."""
        return self.classification.top if self.classification else ()

    @property
    def prefix(self) -> str:
        """What stands before the likeliest name in a drawing: that it is no answer, where a rule gives no class."""
        named = self.classification
        return "no class: " if named is not None and named.rule is not None and named.decided is None else ""

    def place(self) -> dict[str, Any]:
        """What says beside the path which picture it is, such as the number of a frame; of an image nothing."""
        return {}

    def title(self) -> str:
        """What stands above the answer for people: the path."""
        return self.path
