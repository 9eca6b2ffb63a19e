"""Whether a calibrated classifier keeps its promises: coverage of sets, false alarms, and unknown images.

    python benchmarks/certainty.py DATA [--model NAME] [--float RUN --int8 FILE] [--splits 200] [--json FILE]

DATA is the folder with ``intel_scenes``, ``imagenet_val`` and ``imagenet_train_samples``. The features of ``--model``
(mobilenet_v2) are computed once; a last layer learns the six scenes on nine tenths of the training photographs (seed
0), and the other tenth is what detectors learn from. A second, weak layer learns on ten photographs of each scene.

- coverage: over random halvings of the 1,200 test photographs (seeds 0, 1, ...), one half calibrates and the other is
  judged: the mean share of sets with the right name, its standard deviation beside that of theory (a beta-binomial
  distribution), and the mean number of names. ``lac_plain`` is the literature's score, whose sets may be empty;
  ``product`` is all that ``fusiform evaluate --calibrate`` does, temperature included; ``kept`` is what it promises,
  which is more than was asked for where the first name alone is right more often. With MAPIE installed its sets
  for the same probabilities are beside them.
- unknown: over the same halvings, the share of known photographs that are called unknown at 5 %, and how often that
  lies in the central 95 % of theory; ImageNet's photographs that are caught; and each scene left out in turn of
  everything but the features, beside pytorch-ood's detectors on the same features if that is installed.
- engines: a run's weights in PyTorch and its int8 file in LiteRT, each calibrated on the run's validation photographs
  with its own answers: the share of test photographs with the same set, the same word on whether they are known.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray

from fusiform.calibration.answer import Reader
from fusiform.calibration.conformal import in_sets, make_table, set_scores
from fusiform.calibration.fit import LastLayer, calibrate
from fusiform.calibration.unknown import Detector, auroc, auroc_interval, fit_unknown
from fusiform.certainty import SetScore
from fusiform.report import Cell

SHARES = (0.9, 0.95, 0.99)
RATE = 0.05


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA")
    parser.add_argument("--model", default="mobilenet_v2", help="whose features (default: %(default)s)")
    parser.add_argument("--splits", type=int, default=200, help="random halvings (default: %(default)s)")
    parser.add_argument("--float", type=Path, metavar="RUN", help="the folder of a training run on the scenes")
    parser.add_argument("--int8", type=Path, metavar="FILE", help="its int8 file")
    parser.add_argument("--keep", type=Path, metavar="FILE.npz", help="where to keep the features for another time")
    arguments = parser.parse_args()
    if arguments.data is None:
        sys.exit("certainty: name the folder with the photographs")
    about = common.machine("numpy")
    seen = look(arguments.data, arguments.model, arguments.keep)
    rows: list[dict[str, Cell]] = []
    order = np.random.default_rng(0).permutation(len(seen["train_y"]))
    held, train = order[: len(order) // 10], order[len(order) // 10 :]
    few = np.concatenate([train[seen["train_y"][train] == label][:10] for label in range(6)])
    for name, chosen in (("scenes", train), ("scenes, ten photographs a class", few)):
        layer = last_layer(seen["train_x"][chosen], seen["train_y"][chosen], 6)
        logits = seen["test_x"] @ layer.weight.T + layer.bias
        rows += coverage(name, logits, seen["test_y"], arguments.splits)
    layer = last_layer(seen["train_x"][train], seen["train_y"][train], 6)
    rows += alarms(seen, layer, min(arguments.splits, 50))
    rows += left_out(seen, train, held)
    if arguments.float and arguments.int8:
        rows.append(engines_agree(arguments.float, arguments.int8))
    common.finish("certainty", about, {"rate": RATE, "splits": arguments.splits}, rows, arguments.json)


def look(data: Path, model: str, keep: Path | None) -> dict[str, NDArray[Any]]:
    """Features and classes of all photographs."""
    if keep is not None and keep.is_file():
        return dict(np.load(keep))
    from fusiform.data.dataset import Sample
    from fusiform.data.image import find_images
    from fusiform.data.open import open_dataset
    from fusiform.evaluation.classification import answers

    scenes = open_dataset(data / "intel_scenes", task="classification")
    strange = [find_images(data / name) for name in ("imagenet_val", "imagenet_train_samples")]
    samples = {
        "train": scenes.splits["train"],
        "test": scenes.splits["test"],
        "imagenet": [Sample(path, 0) for paths in strange for path in paths],
    }
    found: dict[str, NDArray[Any]] = {}
    for name, chosen in samples.items():
        told = answers(model, chosen, features=True)
        read = [k for k in range(len(chosen)) if k not in told.errors]
        assert told.features is not None
        found |= {f"{name}_x": told.features[read], f"{name}_y": np.array([chosen[k].label for k in read])}
    if keep is not None:
        np.savez(keep, **found)
    return found


def last_layer(features: NDArray[Any], truth: NDArray[Any], classes: int) -> LastLayer:
    """As the first phase of ``finetune_small`` trains it."""
    from fusiform.training.classification import train_head
    from fusiform.training.recipes import finetune_small

    return LastLayer(*train_head(features, truth.astype(np.int64), classes, finetune_small))


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    from fusiform.tasks.classification import softmax as of

    return of(logits)


def halvings(images: int, splits: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    orders = [np.random.default_rng(seed).permutation(images) for seed in range(splits)]
    return [(order[: images // 2], order[images // 2 :]) for order in orders]


def in_theory(share: float, calibrated: int, judged: int) -> tuple[float, float]:
    """Mean and standard deviation of the coverage of ``judged`` images: beta-binomial (Vovk, arXiv 1209.2673)."""
    a = math.ceil((calibrated + 1) * share - 1e-9)
    b, n = calibrated + 1 - a, calibrated + 1
    variance = a * b * (n + judged) / (judged * n**2 * (n + 1))
    return a / n, math.sqrt(variance)


def coverage(name: str, logits: NDArray[Any], truth: NDArray[Any], splits: int) -> list[dict[str, Cell]]:
    """A row for each rule and promise."""
    probabilities = softmax(logits)
    accuracy = float((logits.argmax(1) == truth).mean())

    def by(score: SetScore, *, empty: bool) -> Callable[[Any, Any, float], NDArray[np.bool_]]:
        scores = set_scores(probabilities, score, empty=empty)
        own = scores[np.arange(len(truth)), truth]

        def inside(known: Any, judged: Any, share: float) -> NDArray[np.bool_]:
            threshold = make_table(own[known]).threshold(share)
            assert threshold is not None
            found: NDArray[np.bool_] = scores[judged] <= threshold
            return found

        return inside

    def product(known: Any, judged: Any, share: float) -> NDArray[np.bool_]:
        found = calibrate(logits[known], truth[known])
        return in_sets(softmax(logits[judged] / found.temperature.value), found.certainty.sets, share)

    def kept(known: Any, share: float) -> float:
        return calibrate(logits[known], truth[known]).certainty.sets.kept(share)

    rules: dict[str, Callable[[Any, Any, float], NDArray[np.bool_]]] = {
        "lac_plain": by("lac", empty=True),
        "lac": by("lac", empty=False),
        "aps": by("aps", empty=False),
        "raps": by("raps", empty=False),
        "product": product,
    }
    rules |= {f"mapie {score}": of_mapie(probabilities, truth, score) for score in (("lac", "aps") if mapie() else ())}
    rows: list[dict[str, Cell]] = []
    for rule, inside in rules.items():
        for share in SHARES:
            shown = halvings(len(truth), splits if not rule.startswith("mapie") else min(splits, 50))
            found, sizes = [], []
            for known, judged in shown:
                sets = inside(known, judged, share)
                found.append(float(sets[np.arange(len(judged)), truth[judged]].mean()))
                sizes.append(float(sets.sum(1).mean()))
            mean, spread = float(np.mean(found)), float(np.std(found, ddof=1))
            half = 1.96 * spread / math.sqrt(len(found))
            expected, of_theory = in_theory(share, len(shown[0][0]), len(shown[0][1]))
            rows.append(
                {
                    "what": f"coverage, {name}",
                    "rule": rule,
                    "top1": round(accuracy, 4),
                    "promise": share,
                    "splits": len(found),
                    "mean": round(mean, 4),
                    "mean_low": round(mean - half, 4),
                    "mean_high": round(mean + half, 4),
                    "mean_in_theory": round(expected, 4),
                    "deviation": round(spread, 4),
                    "deviation_in_theory": round(of_theory, 4),
                    "names": round(float(np.mean(sizes)), 3),
                }
            )
            if rule == "product":
                rows[-1]["kept"] = round(float(np.mean([kept(known, share) for known, _ in shown])), 4)
            print(rows[-1], flush=True)
    return rows


def mapie() -> bool:
    return find_spec("mapie") is not None


def of_mapie(
    probabilities: NDArray[Any], truth: NDArray[Any], score: str
) -> Callable[[Any, Any, float], NDArray[np.bool_]]:
    """MAPIE's sets for the same probabilities; of ``aps`` those with the class that crosses the threshold."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Known(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(probabilities.shape[1])

        def fit(self, *_: Any) -> Any:
            return self

        def predict_proba(self, x: Any) -> NDArray[Any]:
            found = probabilities[np.asarray(x)[:, 0].astype(int)]
            return found / found.sum(1, keepdims=True)

        def predict(self, x: Any) -> NDArray[Any]:
            found: NDArray[Any] = self.predict_proba(x).argmax(1)
            return found

        def __sklearn_is_fitted__(self) -> bool:
            return True

    def inside(known: Any, judged: Any, share: float) -> NDArray[np.bool_]:
        made = SplitConformalClassifier(Known(), confidence_level=share, conformity_score=score, prefit=True)
        made.conformalize(known[:, None], truth[known])
        _, sets = made.predict_set(judged[:, None])
        return np.asarray(sets[:, :, 0], bool)

    return inside


def alarms(seen: dict[str, NDArray[Any]], layer: LastLayer, splits: int) -> list[dict[str, Cell]]:
    """False alarms on held-out known photographs, and what is caught of ImageNet's."""
    x, truth, strange = seen["test_x"], seen["test_y"], seen["imagenet_x"]
    false, caught, areas, within = [], [], [], 0
    for known, judged in halvings(len(truth), splits):
        fitted = fit_unknown(x[known], truth[known], layer.weight, layer.bias)
        assert fitted is not None
        detector, table = Detector.of(fitted.unknown), fitted.unknown.table
        here, there = detector.scores(x[judged]), detector.scores(strange)
        rejected = np.array([table.p_value(float(score)) <= RATE for score in here])
        false.append(float(rejected.mean()))
        caught.append(float(np.mean([table.p_value(float(score)) <= RATE for score in there])))
        areas.append(auroc(here, there))
        mean, spread = in_theory(1 - RATE, len(known), len(judged))
        within += abs(1 - false[-1] - mean) <= 1.96 * spread
    half = 1.96 / math.sqrt(splits)
    row: dict[str, Cell] = {"what": "unknown: ImageNet's photographs against scenes", "splits": splits}
    for name, values in (("false", false), ("caught", caught), ("auroc", areas)):
        mean, off = float(np.mean(values)), half * float(np.std(values, ddof=1))
        row |= {name: round(mean, 4), f"{name}_low": round(mean - off, 4), f"{name}_high": round(mean + off, 4)}
    row |= {"within_the_band": round(within / splits, 3), "least_caught": round(min(caught), 4)}
    row |= {"deviation": round(float(np.std(false, ddof=1)), 4)}
    row |= {"deviation_in_theory": round(in_theory(1 - RATE, 600, 600)[1], 4)}
    print(row, flush=True)
    return [row]


def left_out(seen: dict[str, NDArray[Any]], train: NDArray[Any], held: NDArray[Any]) -> list[dict[str, Cell]]:
    """Each scene left out in turn: a row for each detector, with its AUROC for each scene and their mean."""
    found: dict[str, list[float]] = {}
    intervals = []
    for scene in range(6):
        place = np.full(6, -1)
        place[[k for k in range(6) if k != scene]] = range(5)
        learning, fitting = (rows[seen["train_y"][rows] != scene] for rows in (train, held))
        layer = last_layer(seen["train_x"][learning], place[seen["train_y"][learning]], 5)
        x, truth = seen["train_x"][fitting], place[seen["train_y"][fitting]]
        known, strange = seen["test_x"][seen["test_y"] != scene], seen["test_x"][seen["test_y"] == scene]
        fitted = fit_unknown(x, truth, layer.weight, layer.bias)
        assert fitted is not None
        detector = Detector.of(fitted.unknown)
        here, there = detector.scores(known), detector.scores(strange)
        intervals.append(auroc_interval(here, there))
        areas = {"fusiform": intervals[-1][0], **of_others(x, truth, layer, known, strange)}
        print(scene, {name: round(area, 4) for name, area in areas.items()}, flush=True)
        for name, area in areas.items():
            found.setdefault(name, []).append(area)
    rows: list[dict[str, Cell]] = []
    for name, of_scenes in sorted(found.items(), key=lambda item: -float(np.mean(item[1]))):
        row: dict[str, Cell] = {"what": "unknown: each scene left out", "rule": name}
        row |= {"auroc": round(float(np.mean(of_scenes)), 4)}
        row |= {f"auroc_{k}": round(area, 4) for k, area in enumerate(of_scenes)}
        if name == "fusiform":
            row |= {f"auroc_{k}_low": round(low, 4) for k, (_, low, _) in enumerate(intervals)}
            row |= {f"auroc_{k}_high": round(high, 4) for k, (_, _, high) in enumerate(intervals)}
        rows.append(row)
        print(name, row["auroc"], flush=True)
    return rows


def of_others(
    x: NDArray[Any], truth: NDArray[Any], layer: LastLayer, known: NDArray[Any], strange: NDArray[Any]
) -> dict[str, float]:
    """The AUROC of softmax and energy on the logits, and of pytorch-ood's detectors on the same features."""
    logits = [part @ layer.weight.T + layer.bias for part in (known, strange)]
    energies = [-np.log(np.exp(each - each.max(1, keepdims=True)).sum(1)) - each.max(1) for each in logits]
    found = {
        "softmax": auroc(*(-softmax(each).max(1) for each in logits)),
        "energy": auroc(*energies),
        "largest logit": auroc(*(-each.max(1) for each in logits)),
    }
    try:
        from pytorch_ood import detector as ood
    except ImportError:
        return found
    import torch

    weight, bias = torch.tensor(layer.weight), torch.tensor(layer.bias)
    head = torch.nn.Linear(*weight.T.shape)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    made: dict[str, Callable[[], Any]] = {
        "Mahalanobis": lambda: ood.Mahalanobis(None),
        "RMD": lambda: ood.RMD(None),
        "ViM, 64": lambda: ood.ViM(None, 64, weight, bias),
        "ViM, 256": lambda: ood.ViM(None, 256, weight, bias),
        "KNN, 10": lambda: ood.KNN(None, k=10),
        "KNN, 50": lambda: ood.KNN(None, k=50),
        "NNGuide": lambda: ood.NNGuide(None, head),
        "fDBD": lambda: ood.fDBD(None, head),
        "NCI": lambda: ood.NCI(None, head),
        "SHE": lambda: ood.SHE(None, head),
    }
    for name, make in made.items():
        try:
            detector = make().fit_features(torch.tensor(x), torch.tensor(truth))
            with torch.no_grad():
                scores = [np.asarray(detector.predict_features(torch.tensor(part))) for part in (known, strange)]
        except (RuntimeError, ValueError, TypeError) as error:
            print(f"{name}: {error}", flush=True)
            continue
        found[f"pytorch-ood: {name}"] = auroc(*scores)
    return found


def engines_agree(run: Path, int8: Path) -> dict[str, Cell]:
    """How often PyTorch's float and LiteRT's int8 say the same, each calibrated on the run's validation photographs."""
    from fusiform.evaluation.calibration import calibrated_spec, fit_calibration
    from fusiform.evaluation.classification import answers
    from fusiform.evaluation.promises import Seen
    from fusiform.training.classification_job import read_list
    from fusiform.zoo.model import open_model

    splits = read_list(run).splits
    said: list[Sequence[Any]] = []
    right: list[NDArray[np.bool_]] = []
    for file, engine in ((run / "best.safetensors", "torch"), (int8, "litert")):
        model = open_model(file)
        told = {name: answers(model, splits[name], engine=engine, features=True) for name in ("val", "test")}
        truth = {name: np.array([sample.label for sample in splits[name]]) for name in ("val", "test")}
        seen = Seen(tuple(splits["val"]), told["val"].values, told["val"].features)
        spec = calibrated_spec(model.spec, fit_calibration(model, seen, truth["val"], source="val"))
        assert spec.certainty is not None
        reader = Reader(spec.certainty)
        found = reader.read(softmax(told["test"].values / spec.temperature), told["test"].features, 1 - RATE)
        said.append((found.sets, [p is not None and p > RATE for p in found.p_known]))
        right.append(np.array([label in names for label, names in zip(truth["test"], found.sets, strict=True)]))
    same = np.array([set(one) == set(two) for one, two in zip(said[0][0], said[1][0], strict=True)])
    known = np.array(said[0][1]) == np.array(said[1][1])
    row: dict[str, Cell] = {
        "what": "PyTorch float and LiteRT int8",
        "images": len(same),
        "same_set": round(float(same.mean()), 4),
        "same_known": round(float(known.mean()), 4),
        "coverage_float": round(float(right[0].mean()), 4),
        "coverage_int8": round(float(right[1].mean()), 4),
    }
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
