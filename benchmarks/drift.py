"""Does ``fusiform drift`` raise no more false alarms than it says, and does it find what changes?

The scenes' test photographs are shown to MobileNetV2 once as they are, and 400 of them darkened, brightened, blurred
and in another camera's colours (red 8 % up, blue 10 % down, a gamma of 0.95); beside them photographs of ImageNet. A
last layer that has learned the scenes' training photographs is the model. What was seen is kept in ``--seen``.

``clean``: the photographs are shuffled, the model is calibrated on 800, which are the reference that it carries, and
ten streams are 200 of the 400 others each, until there are ``--streams``. The share of streams with an alarm, with its
exact 95 % interval, has to be at most what was stated, 1 %. ``kept``: a sketch grows to 2,048 images and is thinned
twice, and is looked at after each of them; images are drawn anew from the photographs, with repetition, for reference
and stream. The others: 100 times (of 25 calibrations) 800 are the reference, drawn anew for each, and the stream is 200
others that are changed, or of which a fifth is replaced: by ImageNet's, or by a scene that neither model nor reference
has seen, each scene in turn. Given are the share of streams in which it was found, after how many photographs in the
median and at most, and what was named. The interval takes the streams for independent; they share photographs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fusiform.advice.drift import ALARM, compare, look_at
from fusiform.advice.seen import Seen
from fusiform.advice.sketch import Sketch, own_sketch
from fusiform.calibration.fit import LastLayer, calibrate
from fusiform.calibration.reference import make_reference, rows_of, to_rows
from fusiform.calibration.unknown import Detector
from fusiform.data.image import read_image
from fusiform.data.looks import measure
from fusiform.data.preprocess import crop_pixels
from fusiform.engines import open_engine
from fusiform.prediction.kept import ROWS, Kept, Thinned
from fusiform.spec import ModelSpec
from fusiform.tasks.classification import softmax
from fusiform.tasks.linear_head import fit_head, out_of_fold
from fusiform.tasks.sample_size import exact_interval

CHANGED, STREAM, REFERENCE, TIMES, GROWN = 400, 200, 800, 100, 2048


def scaled(factors: tuple[float, float, float], gamma: float = 1.0) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        values = np.asarray(image) / 255 * np.array(factors)
        return Image.fromarray((255 * values.clip(0, 1) ** gamma).astype(np.uint8))

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "clean": lambda image: image,
    "darker (0.6)": scaled((0.6, 0.6, 0.6)),
    "brighter (1.5)": scaled((1.5, 1.5, 1.5)),
    "blurred (1.2 pixels)": lambda image: image.filter(ImageFilter.GaussianBlur(1.2)),
    "another camera's colours": scaled((1.08, 1.0, 0.9), 0.95),
}


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=common.SHARED_DATA, help="the shared data")
    parser.add_argument("--seen", type=Path, default=Path("drift_seen.npz"), help="where what was seen is kept")
    parser.add_argument("--streams", type=int, default=1000, help="clean streams (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.seen.exists():
        np.savez(arguments.seen, **look(arguments.data))
    kept = dict(np.load(arguments.seen))
    rows = [clean(kept, arguments.streams), grown(kept, arguments.streams)]
    rows += [changed(kept, name) for name in CHANGES if name != "clean"]
    rows.append(mixed(kept, "a fifth from ImageNet", None))
    rows += [mixed(kept, f"a fifth {name}, a new class", name) for name in np.unique(kept["train_y"])]
    common.finish("drift", common.machine("numpy"), {"stated": ALARM}, rows, arguments.json)


def look(data: Path) -> dict[str, NDArray[np.generic]]:
    """What MobileNetV2 sees in the photographs, and what they look like."""
    engine = open_engine("mobilenet_v2", features=True)

    def of(
        paths: list[Path], change: Callable[[Image.Image], Image.Image], name: str
    ) -> dict[str, NDArray[np.generic]]:
        features, looks = [], []
        for path in paths:
            image = change(read_image(path))
            pixels = crop_pixels(image, engine.spec.preprocess)
            features.append(engine.run(pixels[None])["features"][0].astype(np.float16))
            looks.append(measure(image, pixels))
        return {f"{name}_features": np.array(features), f"{name}_looks": np.array(looks)}

    random = np.random.default_rng(0)
    found: dict[str, NDArray[np.generic]] = {}
    for split in ("train", "test"):
        files = sorted((data / "intel_scenes" / split).glob("*/*.jpg"))
        files = [files[i] for i in random.permutation(len(files))]
        found[f"{split}_y"] = np.array([path.parent.name for path in files])
        found |= of(files, CHANGES["clean"], "train" if split == "train" else "clean")
    for name, change in CHANGES.items():
        if name != "clean":
            found |= of(files[:CHANGED], change, name)
    photographs = sorted((data / "imagenet_val").glob("*/*.JPEG"))
    photographs = [photographs[i] for i in random.permutation(len(photographs))[:300]]
    return found | of(photographs, lambda image: image.resize((150, 150)), "imagenet")


class Model:
    """A last layer on the features that has learned some of the scenes."""

    def __init__(self, kept: dict[str, NDArray[np.generic]], without: str | None = None) -> None:
        names = [name for name in np.unique(kept["train_y"]) if name != without]
        mine = np.isin(kept["train_y"], names)
        labels = np.searchsorted(names, kept["train_y"][mine])
        features = kept["train_features"][mine].astype(np.float32)
        slope = out_of_fold(features, labels, len(names)).slope
        self.head = fit_head(features, labels, len(names), slope=slope)
        self.names = names
        self.spec = ModelSpec("mobilenet_v2", 1.0, tuple(map(str, names)))

    def calibrated(self, seen: Seen, y: NDArray[np.generic], chosen: NDArray[np.int64]) -> tuple[Sketch, ModelSpec]:
        """The reference that a calibration on the chosen photographs makes, and the description that has it."""
        part = some(seen, chosen)
        last = LastLayer(self.head.weight.T.astype(np.float32), self.head.bias.astype(np.float32))
        truth = np.searchsorted(self.names, y[chosen])
        found = calibrate(part.values, truth, features=part.features, last=last)
        assert found.detector is not None
        probabilities = softmax(part.values / found.temperature.value)
        rows = to_rows(part.looks, probabilities, found.detector.scores, found.detector.residual)
        certainty = replace(found.certainty, reference=make_reference(rows, len(self.names)))
        spec = self.spec.replace(temperature=found.temperature.value, certainty=certainty)
        sketch = own_sketch(spec)
        assert sketch is not None
        return sketch, spec

    def sees(self, kept: dict[str, NDArray[np.generic]], name: str) -> Seen:
        features = kept[f"{name}_features"].astype(np.float32)
        values = self.head(features).astype(np.float32)
        return Seen(tuple(range(len(features))), features, values, kept[f"{name}_looks"], {})


def some(seen: Seen, numbers: NDArray[np.int64]) -> Seen:
    return Seen(tuple(range(len(numbers))), seen.features[numbers], seen.values[numbers], seen.looks[numbers], {})


def together(*parts: Seen) -> Seen:
    rows = (np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "values", "looks"))
    return Seen(tuple(range(sum(len(part.features) for part in parts))), *rows, {})


def clean(kept: dict[str, NDArray[np.generic]], streams: int) -> dict[str, object]:
    model = Model(kept)
    seen = model.sees(kept, "clean")
    alarms = 0
    for number in range(streams):
        random = np.random.default_rng([1, number])
        if number % 10 == 0:
            reference, others = np.split(random.permutation(len(seen.features)), [REFERENCE])
            sketch, spec = model.calibrated(seen, kept["test_y"], reference)
        stream = some(seen, random.permutation(others)[:STREAM])
        alarms += compare(sketch, stream, [""] * STREAM, spec, seed=number)[0] is not None
    low, high = exact_interval(alarms, streams)
    return row("clean", streams, alarms / streams, low, high, [], Counter())


def grown(kept: dict[str, NDArray[np.generic]], streams: int) -> dict[str, object]:
    model = Model(kept)
    seen = model.sees(kept, "clean")
    sketch, spec = model.calibrated(seen, kept["test_y"], np.arange(REFERENCE))
    assert spec.certainty is not None
    assert spec.certainty.unknown is not None
    detector = Detector.of(spec.certainty.unknown)
    rows = rows_of(seen.looks, softmax(seen.values / spec.temperature), seen.features, detector)
    alarms = 0
    for number in range(streams):
        random = np.random.default_rng([3, number])
        reference = make_reference(rows[random.integers(len(rows), size=REFERENCE)], len(model.names))
        assert reference is not None
        known, thinned = replace(sketch, reference=reference), Thinned(seed=number)
        looked: list[Kept] = []
        for _ in range(GROWN):
            if not thinned.wants():
                continue
            # Looked at just before it is thinned: whatever an earlier look would have found is still found then.
            before = thinned.kept() if len(thinned) == ROWS else None
            thinned.add(rows[random.integers(len(rows))])
            looked += [] if before is None else [before]
        looked.append(thinned.kept())
        alarm = any(look_at(known, each, spec, seed=number)[0] is not None for each in looked)
        alarms += alarm
    low, high = exact_interval(alarms, streams)
    return row(f"kept, {GROWN} images", streams, alarms / streams, low, high, [], Counter())


def changed(kept: dict[str, NDArray[np.generic]], name: str) -> dict[str, object]:
    model = Model(kept)
    seen, new = model.sees(kept, "clean"), model.sees(kept, name)
    rest = np.arange(CHANGED, len(seen.features))
    return found(name, model, kept, seen, rest, lambda random, _: some(new, random.permutation(CHANGED)[:STREAM]))


def mixed(kept: dict[str, NDArray[np.generic]], called: str, scene: str | None) -> dict[str, object]:
    model = Model(kept, scene)
    seen = model.sees(kept, "clean")
    foreign = model.sees(kept, "imagenet") if scene is None else some(seen, np.flatnonzero(kept["test_y"] == scene))

    def stream(random: np.random.Generator, fresh: NDArray[np.int64]) -> Seen:
        fifth = some(foreign, random.permutation(len(foreign.features))[: STREAM // 5])
        both = together(some(seen, random.permutation(fresh)[: STREAM - STREAM // 5]), fifth)
        return some(both, random.permutation(STREAM))

    return found(called, model, kept, seen, np.flatnonzero(kept["test_y"] != scene), stream)


def found(
    name: str,
    model: Model,
    kept: dict[str, NDArray[np.generic]],
    seen: Seen,
    rest: NDArray[np.int64],
    stream: Callable[[np.random.Generator, NDArray[np.int64]], Seen],
) -> dict[str, object]:
    after: list[int] = []
    named: Counter[str] = Counter()
    for number in range(TIMES):
        random = np.random.default_rng([2, number])
        if number % 4 == 0:
            reference, fresh = np.split(random.permutation(rest), [REFERENCE])
            sketch, spec = model.calibrated(seen, kept["test_y"], reference)
        alarm, rows = compare(sketch, stream(random, fresh), [""] * STREAM, spec, seed=number)
        if alarm is not None:
            after.append(alarm)
            named.update(sorted({str(each["changed"]) for each in rows if each["changed"]}))
    return row(name, TIMES, len(after) / TIMES, *exact_interval(len(after), TIMES), after, named)


def row(
    name: str, streams: int, share: float, low: float, high: float, after: list[int], named: Counter[str]
) -> dict[str, object]:
    middle = float(np.median(after)) if after else None
    told = ", ".join(f"{word} {count}" for word, count in named.most_common(4))
    intervals = {"alarms": share, "low": round(low, 4), "high": round(high, 4)}
    return {"stream": name, "streams": streams, **intervals, "median": middle, "last": max(after, default=None)} | {
        "named": told
    }


if __name__ == "__main__":
    main()
