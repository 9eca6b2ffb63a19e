"""What OpenVINO's Model API reads of a file: which of its models answers, with which labels and preprocessing.

It reads the same keys from an OpenVINO file's ``rt_info`` and from an ONNX file's ``metadata_props``.
"""

from __future__ import annotations

from fusiform.graph.priors import IOU_THRESHOLD, SCORE_THRESHOLD
from fusiform.spec import ModelSpec


def model_info(spec: ModelSpec, *, reads_pixels: bool) -> dict[str, str]:
    """What OpenVINO's Model API reads: pictures come in BGR, are brought into the square, and normalised.

    Its crop takes in the whole shorter side, and has no margin as ``preprocess.resize`` above ``crop`` leaves; what its
    ``fit_to_window`` leaves free is black. Its mean and scale apply to values in [0, 255], and only where the network
    does not normalise itself. Only classifiers and decoded files are given a type: its detectors answer with boxes, its
    segmenters with channels first, and it would decode the networks' own answers to nonsense.
    """
    info = {
        **({"model_type": "Classification"} if spec.task == "classification" else {}),
        **(_decoded(spec) if spec.decoded else {}),
        "labels": " ".join("_".join(label.split()) or "_" for label in spec.labels),  # it splits them at spaces
        "resize_type": {"crop": "crop", "stretch": "standard", "pad": "fit_to_window"}[spec.preprocess.fit],
        "reverse_input_channels": str(spec.preprocess.color_order == "rgb"),
    }
    if not reads_pixels and spec.input_channels == len(spec.preprocess.mean):
        info["mean_values"] = " ".join(f"{255 * value:.9g}" for value in spec.preprocess.mean)
        info["scale_values"] = " ".join(f"{255 * value:.9g}" for value in spec.preprocess.std)
    return info


def _decoded(spec: ModelSpec) -> dict[str, str]:
    """What it has to know of a decoded file beside labels and preprocessing."""
    if spec.task == "segmentation":
        return {"model_type": "Segmentation"}
    return {"model_type": "SSD", "confidence_threshold": f"{SCORE_THRESHOLD:g}", "iou_threshold": f"{IOU_THRESHOLD:g}"}
