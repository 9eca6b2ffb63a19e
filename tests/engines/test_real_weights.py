"""Real weights on real validation photographs: against torchvision, and int8 against float32."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from fusiform.data.image import find_images, read_image
from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.engines import open_engine
from fusiform.tasks.classification import to_logits
from fusiform.zoo.catalog import imagenet_labels
from fusiform.zoo.checkpoint import read_safetensors

torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision.models")
transforms = pytest.importorskip("torchvision.transforms")

from fusiform.zoo.load import load

pytestmark = pytest.mark.slow

FILES = {
    "mobilenet_v2": "mobilenet_v2_1.0_224.safetensors",
    "shufflenet_v2_x1_0": "shufflenet_v2_x1_0.safetensors",
}
SAMOYED = 258
each_network = pytest.mark.parametrize("name", FILES)


def logits(engine, pixels):
    """What an engine says of a picture, up to a constant where its file answers with probabilities."""
    return to_logits(engine.run(pixels[None])[engine.spec.output], engine.spec)[0]


class Answers(NamedTuple):
    """The five best classes of each photograph, and the figures in percent."""

    best: np.ndarray
    top1: float
    top5: float

    def agreement(self, other: Answers) -> float:
        return 100 * float((self.best[:, 0] == other.best[:, 0]).mean())


@pytest.fixture(scope="module")
def photographs(shared_data):
    """Paths, the true classes, and the pixels as fusiform's exact preprocessing cuts them."""
    paths = find_images(shared_data / "imagenet_val")
    truth = np.array([imagenet_labels()[1].index(path.parent.name) for path in paths])
    preprocess = open_engine("mobilenet_v2").spec.preprocess
    assert len(paths) == 500
    return paths, truth, [crop_pixels(read_image(path), preprocess) for path in paths]


@pytest.fixture(scope="module")
def measure(photographs):
    """The answers of a function from one photograph's pixels to its logits, or from its path."""
    paths, truth, pixels = photographs

    def measured(logits_of, *, of_path=False):
        logits = np.stack([logits_of(given) for given in (paths if of_path else pixels)])
        best = np.argsort(-logits, 1, kind="stable")[:, :5]
        hits = best == truth[:, None]
        return Answers(best, 100 * float(hits[:, 0].mean()), 100 * float(hits.any(1).mean()))

    return measured


@pytest.fixture(scope="module")
def float_answers(shared_data, measure):
    def answers(name):
        engine = open_engine(shared_data / "weights" / FILES[name])
        return measure(lambda pixels: logits(engine, pixels))

    made = {}
    return lambda name: made[name] if name in made else made.setdefault(name, answers(name))


def in_pytorch(network, preprocess):
    def logits(pixels):
        with torch.inference_mode():
            return network(torch.from_numpy(normalize(pixels, preprocess))[None])[0].numpy()

    return logits


@each_network
def test_accuracy_is_torchvisions(name, shared_data, measure, float_answers):
    _, state = read_safetensors(shared_data / "weights" / FILES[name])
    network = getattr(models, name)().eval()
    network.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def logits(path):
        with Image.open(path) as picture, torch.inference_mode():
            return network(transform(picture.convert("RGB"))[None])[0].numpy()

    expected, actual = measure(logits, of_path=True), float_answers(name)
    print(
        f"\n{name}: torchvision {expected.top1:.1f} / {expected.top5:.1f}, LiteRT {actual.top1:.1f} / {actual.top5:.1f}"
    )
    assert abs(actual.top1 - expected.top1) <= 0.2
    assert abs(actual.top5 - expected.top5) <= 0.2
    assert actual.agreement(expected) >= 99.8


@each_network
@pytest.mark.parametrize("form", ["int8", "dequantised"])
def test_bundled_weights_answer_like_the_float_ones_they_came_from(name, form, measure, float_answers):
    if form == "int8":
        engine = open_engine(name)
        actual = measure(lambda pixels: logits(engine, pixels))
    else:
        actual = measure(in_pytorch(load(name), open_engine(name).spec.preprocess))
    original = float_answers(name)
    agreement = actual.agreement(original)
    print(
        f"\n{name} {form}: {actual.top1:.1f} / {actual.top5:.1f}, float {original.top1:.1f} / {original.top5:.1f}, "
        f"agreement {agreement:.1f} %"
    )
    assert actual.top1 >= original.top1 - 1.0
    assert agreement >= 93


@each_network
def test_the_stated_accuracy_is_the_measured_one(name, measure):
    engine = open_engine(name)
    (stated,) = engine.spec.accuracy
    actual = measure(lambda pixels: logits(engine, pixels))
    assert stated.pictures == 500
    # Another processor's kernels may round a few photographs another way.
    assert abs(100 * stated.top1 - actual.top1) <= 0.4
    assert abs(100 * stated.top5 - actual.top5) <= 0.4


@each_network
@pytest.mark.parametrize("engine", ["litert", "onnxruntime", "torch"])
@pytest.mark.parametrize("weights", ["float32", "bundled"])
def test_the_hub_pages_dog_is_a_samoyed(name, engine, weights, shared_data):
    if engine == "onnxruntime":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    model = name if weights == "bundled" else shared_data / "weights" / FILES[name]
    opened = open_engine(model, engine=engine)
    pixels = crop_pixels(read_image(shared_data / "dog.jpg"), opened.spec.preprocess)
    assert logits(opened, pixels).argmax() == SAMOYED
    assert opened.spec.labels[SAMOYED] == "Samoyed"
