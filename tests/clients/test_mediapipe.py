"""MediaPipe Tasks runs exported classifiers, and gives fusiform's answers."""

from __future__ import annotations

import numpy as np
import pytest

mediapipe = pytest.importorskip("mediapipe", exc_type=ImportError)  # without the system's libGL, too


def test_image_classifier(classifier):
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=str(classifier.path)), max_results=5)
    picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(classifier.pixels))
    if "normalised" in classifier.name:  # why files read pixels by default; said here to be seen when it changes
        with pytest.raises(NotImplementedError, match="Per-channel image normalization is not available"):
            vision.ImageClassifier.create_from_options(options)
        return
    with vision.ImageClassifier.create_from_options(options) as client:
        (head,) = client.classify(picture).classifications
    assert head.head_name == "probabilities"
    classifier.check([(category.category_name, category.score) for category in head.categories])
