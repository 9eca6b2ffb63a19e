"""What each key of the machine formats means and counts, whatever prints it: one table for all of them.

Reports show people their values by it, and the JSON Schemas (``fusiform.schemas``) are made from it. A machine gets
each value as it is: shares in [0, 1], whole bytes, seconds, milliseconds under names that end in ``_ms``. People get
percent, MB (10^6 bytes) and units.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal[
    "text",
    "flag",
    "count",
    "number",
    "share",
    "difference",
    "ratio",
    "rate",
    "bytes",
    "seconds",
    "milliseconds",
    "shape",
    "texts",
    "numbers",
]
"""What a value is: a text; true or false; a whole number of something; any number; a share in [0, 1]; the difference
of two shares; a ratio, 0 or more; so many a second; bytes; a time; lists of whole numbers, of texts, of numbers."""


class Key(NamedTuple):
    """What a key's value is, in a few words, and what people's tables call it where that is not the key itself."""

    unit: Unit
    says: str
    label: str = ""


_INTERVALS: dict[str, Key] = {
    "top1": Key("share", "the share of the images whose likeliest class is the true one", "top-1"),
    "corrupted_top1": Key("share", "the mean of top1 over all corruptions and strengths", "corrupted top-1"),
    "top5": Key("share", "the share of the images whose five likeliest classes have the true one", "top-5"),
    "map": Key("share", "COCO's mean average precision, intersection over union 0.50 to 0.95", "mAP"),
    "map50": Key("share", "mean average precision at an intersection over union of 0.50", "mAP 0.50"),
    "miou": Key("share", "the mean over the classes of the intersection over union", "mean IoU"),
    "pixel_accuracy": Key("share", "the share of the labelled pixels whose class is right"),
    "agreement": Key("share", "the share of the images that file and reference name alike"),
    "reference_top1": Key("share", "the reference's top1", "reference's top-1"),
    "drop": Key("difference", "how much lower the file's top1, map or miou is than the reference's"),
    "top1_difference": Key("difference", "the first model's top1 less the other's", "top-1 difference"),
    "map_difference": Key("difference", "the first model's map less the other's", "mAP difference"),
    "map50_difference": Key("difference", "the first model's map50 less the other's", "mAP 0.50 difference"),
    "miou_difference": Key("difference", "the first model's miou less the other's", "mean IoU difference"),
    "coverage": Key("share", "the share of the images whose set of names holds the right one"),
    "set_size": Key("ratio", "the names that a set has on average", "names in a set"),
    "false_unknown": Key("share", "the share of the images that is called unknown though it shows one of the classes"),
    "auroc": Key("share", "how often an unknown image scores above a known one", "AUROC"),
    "caught": Key("share", "the share of the unknown images that is called so"),
    "pixel_accuracy_difference": Key("difference", "the first model's pixel_accuracy less the other's"),
}
"""Keys that have their 95 % interval beside them, in ``NAME_low`` and ``NAME_high``."""

_MEASURES: dict[str, Key] = {
    "ap": Key("share", "the class's average precision, intersection over union 0.50 to 0.95", "AP"),
    "ap50": Key("share", "the class's average precision at an intersection over union of 0.50", "AP 0.50"),
    "gain": Key("share", "the right labels that are expected to be more for each that is corrected"),
    "foretold": Key("share", "the top1 that is expected with more images"),
    "foretold_low": Key("share", "the lower end of the 90 % interval of foretold"),
    "foretold_high": Key("share", "the upper end of the 90 % interval of foretold"),
    "foretold_gain": Key("difference", "how much more foretold is than what the curve has now", "gain"),
    "false_alarms": Key("share", "the chance of an alarm where nothing has changed"),
    "margin": Key("share", "the likeliest class's probability less the next one's"),
    "balanced_accuracy": Key("share", "the mean of the classes' recalls"),
    "boxes_near": Key("share", "the share of the boxes of both sides with an IoU of 0.50 or more to one of the other"),
    "boxes_same": Key("share", "the share of the boxes of both sides with an IoU of 0.95 or more to one of the other"),
    "calibrated_error": Key("ratio", "the quantised network's error of the logits, of their root mean square"),
    "clean_top1": Key("share", "top1 on the images as they are"),
    "certain": Key("share", "the share of images that a calibrated model makes its promises for"),
    "detector_auroc": Key("share", "how well classes left out of the fit were told from the others"),
    "p_known": Key("share", "the p-value of an image's showing any of the classes"),
    "confidence": Key("share", "the probability of the likeliest class"),
    "ece": Key("share", "the expected calibration error", "calibration error"),
    "ece_after": Key("share", "the expected calibration error with the new temperature"),
    "ece_before": Key("share", "the expected calibration error with the old temperature"),
    "error": Key("text", "why there is no answer, or no more of it; null where all went well"),
    "f1": Key("share", "2 precision recall / (precision + recall)", "F1"),
    "iou": Key("share", "the class's intersection over union", "IoU"),
    "mean_corruption_error": Key("share", "1 - corrupted_top1, divided by no other network's"),
    "macro_f1": Key("share", "the mean of the classes' F1", "macro F1"),
    "map75": Key("share", "mean average precision at an intersection over union of 0.75", "mAP 0.75"),
    "map_large": Key("share", "map of objects above 96 x 96 pixels", "mAP large"),
    "map_medium": Key("share", "map of objects between", "mAP medium"),
    "map_small": Key("share", "map of objects below 32 x 32 pixels", "mAP small"),
    "nll": Key("ratio", "the mean negative log likelihood of the true class, in nats", "log likelihood loss"),
    "nll_after": Key("ratio", "the mean negative log likelihood with the new temperature, in nats"),
    "nll_before": Key("ratio", "the mean negative log likelihood with the old temperature, in nats"),
    "other_map": Key("share", "the other model's map", "other's mAP"),
    "other_map50": Key("share", "the other model's map50", "other's mAP 0.50"),
    "other_miou": Key("share", "the other model's miou", "other's mean IoU"),
    "other_pixel_accuracy": Key("share", "the other model's pixel_accuracy", "other's pixel accuracy"),
    "other_top1": Key("share", "the other model's top1", "other's top-1"),
    "p_value": Key("ratio", "the p-value of McNemar's test", "p"),
    "pixel_agreement": Key("share", "the share of the pixels that file and reference give one class"),
    "pixel_share": Key("share", "the class's share of the labelled pixels"),
    "precision": Key("share", "the share of what was found that is right"),
    "probability": Key("share", "a class's probability"),
    "top1_before": Key("share", "top1 of the model as it was"),
    "top1_after": Key("share", "top1 of the model that was written"),
    "recall": Key("share", "the share of what is there that was found"),
    "recall_low": Key("share", "the lower end of the 95 % interval of recall"),
    "recall_high": Key("share", "the upper end of the 95 % interval of recall"),
    "reference_map": Key("share", "the reference's map", "reference's mAP"),
    "reference_miou": Key("share", "the reference's miou", "reference's mean IoU"),
    "retained": Key("ratio", "corrupted_top1 of clean_top1"),
    "same": Key("share", "the share of boxes or pixels that the other side has too"),
    "near": Key("share", "the share of boxes that the other side has nearly"),
    "score": Key("share", "a box's confidence score, or the least that counts"),
    "share": Key("share", "the share of the image's pixels, or of the true class's images"),
    "strength_1": Key("share", "top1 on images corrupted at strength 1", "strength 1"),
    "strength_2": Key("share", "top1 on images corrupted at strength 2", "strength 2"),
    "strength_3": Key("share", "top1 on images corrupted at strength 3", "strength 3"),
    "strength_4": Key("share", "top1 on images corrupted at strength 4", "strength 4"),
    "strength_5": Key("share", "top1 on images corrupted at strength 5", "strength 5"),
    "train_object_accuracy": Key("share", "the share of the training's boxes with the right class"),
    "train_pixel_accuracy": Key("share", "the share of right pixels of the training images"),
    "train_top1": Key("share", "the top1 of the training images as they were augmented"),
    "val_map": Key("share", "the validation images' map", "validation mAP"),
    "val_map50": Key("share", "the validation images' map50", "validation mAP 0.50"),
    "val_miou": Key("share", "the validation images' miou", "validation mean IoU"),
    "val_pixel_accuracy": Key("share", "the validation images' pixel_accuracy"),
    "val_top1": Key("share", "the validation images' top1", "validation top-1"),
    "waited": Key("share", "the share of the epoch's time in which training waited for images"),
}
"""How good something is."""

_COUNTS: dict[str, Key] = {
    "unknown_images": Key("count", "the images that show none of the classes"),
    "best_epoch": Key("count", "the epoch whose weights are kept; 0 is what training started from"),
    "bits": Key("count", "the bits of a value of an activation"),
    "both": Key("count", "the images that both models are right about"),
    "boxes": Key("count", "the boxes of both sides"),
    "channels": Key("count", "the channels of a feature map"),
    "classes": Key("count", "the classes"),
    "cores": Key("count", "the cores that may be used"),
    "count": Key("count", "how many"),
    "crop": Key("count", "the side of the square that the network sees, in pixels"),
    "delegated": Key("count", "the operators that XNNPACK runs"),
    "dilation": Key("count", "the rate of a dilated convolution, else 1"),
    "epochs": Key("count", "the epochs of the training"),
    "error_count": Key("count", "the findings that are errors", "errors"),
    "expansions": Key("count", "the inverted residuals that can be computed in slices"),
    "findings": Key("count", "the findings of this kind"),
    "dropped": Key("count", "frames of a live source that came since the one answered before, and were passed over"),
    "found": Key("count", "the objects that were found"),
    "frame": Key("count", "the frame's number, from 0; null where there is only an error"),
    "feature_count": Key("count", "the numbers of an image's features"),
    "unread": Key("count", "the images that could not be read"),
    "rank": Key("count", "the place among the matches, 1 for the most similar"),
    "doubted": Key("count", "the training labels that are probably wrong"),
    "images": Key("count", "the images that count"),
    "alarm_after": Key("count", "the images after which a change was seen"),
    "images_to_compare": Key(
        "count", "the test images that tell two models apart, one of which is right a point more often"
    ),
    "images_to_tell": Key("count", "the test images that tell the accuracy from one that differs by a point"),
    "labelled_images": Key("count", "the images of the pool that are labelled already"),
    "more_images": Key("count", "the images of each class that are to come"),
    "input_channels": Key("count", "the channels of the network's input"),
    "input_size": Key("count", "the side of the network's square input, in pixels"),
    "int8_layers": Key("count", "the layers that OpenVINO computes in int8 here"),
    "layers": Key("count", "the convolutions and classifiers of the compiled network"),
    "layers_in_float": Key("count", "the layers of an int8 file that stay in float32"),
    "missed": Key("count", "the objects that were not found"),
    "model_classes": Key("count", "the classes that the model knows"),
    "multiply_adds": Key("count", "the multiplications and additions for an image, each pair counted once"),
    "multiply_adds_tensorflow": Key("count", "the same as TensorFlow computes dilated convolutions; null without any"),
    "neither": Key("count", "the images that neither model is right about"),
    "not_delegated": Key("count", "the operators that XNNPACK does not run"),
    "note_count": Key("count", "the findings that are notes", "notes"),
    "objects": Key("count", "the objects that are annotated"),
    "only_model": Key("count", "the images that the model alone is right about"),
    "only_other": Key("count", "the images that the other model alone is right about"),
    "other_class": Key("count", "the images with another class although the reference's margin is wide"),
    "output_stride": Key("count", "a segmenter's output stride"),
    "parameters": Key("count", "the weights and biases that are learned"),
    "pixels": Key("count", "the pixels that belong to a class"),
    "receptive_field": Key("count", "the side of what a value depends on, in pixels of the input"),
    "resamples": Key("count", "the resamples of the images that an interval is made from"),
    "resize": Key("count", "the shorter side that an image is resized to, in pixels"),
    "rounds": Key("count", "the turns that each contender had at latency"),
    "reference_images": Key("count", "the images that others are compared with"),
    "runs": Key("count", "the answers that were timed"),
    "skipped": Key("count", "the images that could not be read"),
    "slices": Key("count", "the slices of each expansion"),
    "small": Key("count", "the objects that the network sees as a few pixels"),
    "step": Key("count", "the steps since training began"),
    "steps": Key("count", "the steps that were taken"),
    "stride": Key("count", "a layer's stride"),
    "test_images": Key("count", "the images of the split test"),
    "test_objects": Key("count", "the objects in the split test"),
    "strangers": Key("count", "the images that are unlike all that are known"),
    "threads": Key("count", "the threads inside the runtime"),
    "train_images": Key("count", "the images of the split train"),
    "train_objects": Key("count", "the objects in the split train"),
    "val_images": Key("count", "the images of the split val"),
    "val_objects": Key("count", "the objects in the split val"),
    "warning_count": Key("count", "the findings that are warnings", "warnings"),
    "workers": Key("count", "the engines that answered at once"),
    "wrong": Key("count", "the boxes that found no object"),
}
"""Whole numbers."""

_SIZES: dict[str, Key] = {
    "arena_bytes": Key("bytes", "what LiteRT plans for its own kernels"),
    "arena_sliced_bytes": Key("bytes", "the same with the expansions in slices"),
    "bytes": Key("bytes", "the size of a file with all that belongs to it, or of a feature map", "size"),
    "formula_bytes": Key("bytes", "the memory by the formula of MobileNetV2's paper, Section 5.1"),
    "formula_sliced_bytes": Key("bytes", "the same with the expansions in slices"),
    "held_bytes": Key("bytes", "the largest of the paper's Table 3"),
    "memory_bytes": Key("bytes", "how much the process grew by the engine, at its peak", "memory"),
    "peak_bytes": Key("bytes", "held at once where each tensor stays until its last reader is done"),
    "peak_sliced_bytes": Key("bytes", "the same with the expansions in slices"),
    "process_bytes": Key("bytes", "the process at its peak, Python included", "process"),
}
"""Bytes."""

_TIMES: dict[str, Key] = {
    "age_ms": Key("milliseconds", "from a live frame's arrival to its answer", "age"),
    "best_ms": Key("milliseconds", "the fastest answer", "best"),
    "decode_ms": Key("milliseconds", "what making boxes or a mask of an answer takes, the median", "decode"),
    "load_ms": Key("milliseconds", "from a fresh process to the first answer", "load"),
    "median_ms": Key("milliseconds", "the latency of an image, the median", "median"),
    "p95_ms": Key("milliseconds", "the latency that 95 % of the answers keep", "p95"),
    "seconds": Key("seconds", "how long it took", "time"),
    "seconds_of_frame": Key("seconds", "when it is shown, from the beginning; of a live source when it came"),
    "slowest_ms": Key("milliseconds", "the slowest of several medians", "slowest"),
    "timed_seconds": Key("seconds", "how long each contender is timed", "timed"),
}
"""Times."""

_NUMBERS: dict[str, Key] = {
    "allowed_drop": Key("difference", "the drop that is allowed"),
    "batch": Key("count", "the images that are shown together"),
    "batch_error": Key("ratio", "the largest difference between an image alone and among others"),
    "best_temperature": Key("number", "the temperature that these images would give"),
    "bottom": Key("number", "a box's lower edge, in pixels"),
    "evidence": Key("number", "what bets on a change of this alone won, in powers of ten"),
    "now": Key("number", "the median of the images, or how often the class is named"),
    "reference_median": Key("number", "the same of the reference images", "reference"),
    "epoch": Key("number", "the epochs since training began"),
    "explained_error": Key("ratio", "what rounding alone makes of the logits' rms_error"),
    "explained_error_codes": Key("ratio", "what rounding alone makes of the box codes' rms_error"),
    "images_per_second": Key("rate", "the throughput", "images/s"),
    "largest_error": Key("ratio", "the largest difference of a number, of the image's largest"),
    "left": Key("number", "a box's left edge, in pixels"),
    "logit_error": Key("ratio", "the error of the logits by the rounding of the layer alone"),
    "lr": Key("number", "the learning rate"),
    "similarity": Key("number", "the cosine of the angle between two images' features"),
    "features_error": Key("ratio", "the largest difference of a feature, by the image's largest"),
    "features_cosine": Key("ratio", "the cosine similarity of the features to the reference's, on average"),
    "explained_error_features": Key("ratio", "the rms_error of the features that a plain quantisation makes"),
    "max_error_features": Key("ratio", "the rms_error of the features that is allowed"),
    "max_error": Key("ratio", "the rms_error of the logits that is allowed"),
    "max_error_codes": Key("ratio", "the rms_error of the box codes that is allowed"),
    "min_agreement": Key("share", "the least agreement that is allowed"),
    "right": Key("number", "a box's right edge, in pixels"),
    "rms_error": Key("ratio", "the root mean square of the differences, of the numbers' own"),
    "temperature": Key("number", "what logits are divided by before they become probabilities"),
    "tolerance": Key("ratio", "the largest_error that is allowed"),
    "top": Key("number", "a box's upper edge, in pixels"),
    "train_loss": Key("number", "the mean loss of the training images"),
    "val_loss": Key("number", "the mean loss of the validation images"),
    "width": Key("number", "the network's width multiplier"),
}
"""Other numbers."""

_FLAGS: dict[str, Key] = {
    "align_corners": Key("flag", "whether a segmenter's outermost logits stand on the outermost pixels"),
    "antialias": Key("flag", "whether resizing looks at all pixels"),
    "aspp": Key("flag", "whether a segmenter has atrous spatial pyramid pooling"),
    "bundled": Key("flag", "whether it comes with the package"),
    "distilled": Key("flag", "whether the network learned from a teacher"),
    "decoded": Key("flag", "whether the file decodes its answers itself"),
    "features": Key("flag", "whether a classifier's file answers with its features too"),
    "fits": Key("flag", "whether it is within the budget, with a margin"),
    "holds": Key("flag", "whether it was within the budget in all measurements but one"),
    "int8": Key("flag", "whether the file is held to what is asked of int8"),
    "multi_scale": Key("flag", "whether each image was shown at six scales and mirrored"),
    "passed": Key("flag", "whether the file gives the reference's answers"),
    "usable": Key("flag", "whether it can be opened here"),
    **{
        f"{name}_excludes_zero": Key("flag", f"whether the interval of {name}_difference leaves out 0")
        for name in ("map", "map50", "miou", "pixel_accuracy")
    },
}
"""True or false."""

_WORDS: dict[str, Key] = {
    "answer": Key("text", "the name of what the network answers"),
    "architecture": Key("text", "mobilenet_v2 or shufflenet_v2"),
    "changed": Key("text", "how images differ from the reference"),
    "class": Key("text", "the name of a class"),
    "corruption": Key("text", "a corruption of ImageNet-C"),
    "color_order": Key("text", "rgb or bgr"),
    "compared": Key("text", "what was compared: an answer of the network, boxes, masks, or a measure"),
    "data": Key("text", "the dataset, as it was named"),
    "engine": Key("text", "the runtime"),
    "files": Key("text", "the files that a runtime is for"),
    "float_engine": Key("text", "what float files and detectors and segmenters run in", "all other files run in"),
    "int8_engine": Key("text", "what int8 classifiers run in", "int8 classifiers run in"),
    "install": Key("text", "how to install it"),
    "instructions": Key("texts", "the processor's instructions that make networks fast"),
    "kernels": Key("texts", "the native engine's kernels that can run, the fastest first", "native kernels"),
    "machine": Key("text", "the kind of processor"),
    "why": Key("text", "why that is so"),
    "file": Key("text", "the path of a file"),
    "fit": Key("text", "how an image comes into the square: crop, stretch or pad"),
    "detected_by": Key("text", "the evidence that unknown images are told by"),
    "fitted_on": Key("text", "the images that the calibration was fitted on"),
    "refused": Key("text", "why the model's own temperature stays; empty where it does not"),
    "set_score": Key("text", "the score that sets of names are made by: lac, aps or raps"),
    "form": Key("text", "which of a target's forms the file has"),
    "format": Key("text", "the kind of file"),
    "fusiform": Key("text", "fusiform's version"),
    "golden": Key("text", "the folder with inputs and expected answers beside the file"),
    "input_type": Key(
        "text", "what the file reads: float32 (normalised images), uint8 (pixels), int8 (less 128)", "reads"
    ),
    "interpolation": Key("text", "how images are resized"),
    "kind": Key("text", "what a finding is about, or the images that were compared"),
    "layer": Key("text", "the name of a layer"),
    "layers_file": Key("text", "the CSV file with the rounding error of each layer"),
    "layout": Key("text", "how the dataset is laid out"),
    "license": Key("text", "the weights' licence"),
    "limit": Key("text", "what a class lacks most: labels that are right, or images"),
    "measure": Key("text", "what was measured of images, or the class that is named"),
    "measured": Key("text", "whose accuracy it is: the model's, or that of a last layer on its features"),
    "measured_by": Key("text", "who or what measured it"),
    "measured_on": Key("text", "the images that it was measured on"),
    "message": Key("text", "what was found, and what to do"),
    "modified": Key("text", "when the file was changed, in UTC, to the nanosecond"),
    "model": Key("text", "the model, as it was named, or its file"),
    "name": Key("text", "a name"),
    "network": Key("text", "the network with its width"),
    "operator": Key("text", "what a layer does"),
    "other": Key("text", "the other model"),
    "out": Key("text", "the folder that was written to"),
    "output": Key("text", "logits or probabilities"),
    "package": Key("text", "a Python package"),
    "padding": Key("text", "symmetric, or same as TensorFlow has it"),
    "query": Key("text", "the image that is asked about"),
    "path": Key("text", "an image, a folder or an address"),
    "peak_at": Key("text", "the layer of peak_bytes"),
    "peak_sliced_at": Key("text", "the layer of peak_sliced_bytes"),
    "phase": Key("text", "the phase of the training"),
    "plot": Key("text", "the drawing's file"),
    "precision_of_weights": Key("text", "float32, float16 or int8: how weights are stored, or given to the engine"),
    "predicted": Key("text", "the class that was named"),
    "processor": Key("text", "the processor"),
    "provenance": Key("text", "where the weights are from"),
    "python": Key("text", "Python's version"),
    "quantised": Key("text", "the way of calibration that was taken"),
    "reference": Key("text", "the model that a file is held against"),
    "run": Key("text", "the folder of the training run"),
    "runtime": Key("text", "the runtime that a web page has in its folder"),
    "scores": Key("text", "what makes a detector's scores of logits: softmax or sigmoid"),
    "sentence": Key("text", "the same in words"),
    "severity": Key("text", "error, warning or note"),
    "sha256": Key("text", "the hash of the file"),
    "sha256_prefix": Key("text", "its first digits, where no more is published"),
    "short": Key("text", "a shorter name"),
    "shortfall": Key("text", "what is short of what was asked for"),
    "source": Key("text", "who trained the weights, and how"),
    "split": Key("text", "train, val, test or all"),
    "suggested": Key("text", "the class that a picture probably is of"),
    "system": Key("text", "the operating system and the kind of machine"),
    "target": Key("text", "what was exported to"),
    "task": Key("text", "classification, detection or segmentation"),
    "true": Key("text", "the class that is right"),
    "unloadable": Key("text", "why it cannot be opened, and what to take instead"),
    "url": Key("text", "where it is downloaded from"),
    "verified_by": Key("text", "what ran the file, where that was not its own runtime"),
    "verified_on": Key("text", "the images that files were verified on"),
    "version": Key("text", "a version"),
}
"""Texts."""

_LISTS: dict[str, Key] = {
    "examples": Key("texts", "the images that show it most"),
    "failures": Key("texts", "what is not as it should be"),
    "kernel": Key("shape", "the height and width of a layer's window"),
    "label_ids": Key("texts", "the classes' identifiers"),
    "labels": Key("texts", "the names of the classes, in the order of the outputs"),
    "mean": Key("numbers", "what is subtracted from each channel, of values in [0, 1]"),
    "notes": Key("texts", "what one should know of it"),
    "others": Key("texts", "the other images that a finding is about"),
    "output_shape": Key("shape", "height, width and channels"),
    "resolution": Key("shape", "height and width of a feature map"),
    "shape": Key("shape", "the shape of an answer to one image"),
    "std": Key("numbers", "what each channel is then divided by"),
}
"""Lists."""

KEYS: dict[str, Key] = {
    **_INTERVALS,
    **{
        f"{name}_{end}": Key(key.unit, f"the {side} end of the 95 % interval of {name}")
        for name, key in _INTERVALS.items()
        for end, side in (("low", "lower"), ("high", "upper"))
    },
    **_MEASURES,
    **_COUNTS,
    **_SIZES,
    **_TIMES,
    **_NUMBERS,
    **_FLAGS,
    **_WORDS,
    **_LISTS,
}
"""All of them."""


SHOWN: dict[str, dict[str, str]] = {
    "input_type": {
        "float32": "normalised images (float32)",
        "uint8": "pixels (uint8)",
        "int8": "pixels less 128 (int8)",
    }
}
"""What people are told in place of a value."""


def label_of(name: str) -> str:
    """What people's tables call a key."""
    return (KEYS[name].label if name in KEYS else "") or name.replace("_", " ")
