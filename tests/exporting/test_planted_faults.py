"""Faults that exports are known for, planted in every kind of file: verification has to find each of them."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from fusiform.data.dataset import Sample
from fusiform.errors import MissingExtraError
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.targets.targets import TARGETS
from fusiform.exporting.verification.verify import verify_answers
from fusiform.graph.build import build_graph
from fusiform.graph.conventions import for_litert
from fusiform.graph.ir import Conv, Graph, Linear
from fusiform.modules import build_network
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.load import load_state
from fusiform.zoo.model import open_model
from fusiform.zoo.programs import NO_DIGEST, executorch_digest

SIZE = 64
FAST = ("litert", "onnx")


def targets(precision):
    """Every target that has the precision, but the folder for the web, whose model is one of these."""
    return [
        pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow])
        for name, target in TARGETS.items()
        if name != "web" and precision in target.precisions
    ]


def soft_picture(seed, size=(80, 72)):
    """Soft blobs of colour: in noise the faults would average out as well."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for k in range(12):
        soft_picture(k).save(folder / f"{k}.png")
    return [Sample(folder / f"{k}.png", 0) for k in range(12)]


@pytest.fixture(scope="module", params=["mobilenet_v2", "shufflenet_v2"])
def healthy(request, small_spec, lived_in_state, tmp_path_factory):
    """The spec, the weights and the file of the unharmed network."""
    spec = small_spec(request.param, size=SIZE)
    state = lived_in_state(spec)
    path = tmp_path_factory.mktemp("healthy") / "healthy.safetensors"
    write_safetensors(path, state, spec)
    return spec, state, open_model(path)


def pixels(seeds):
    pictures = [np.array(soft_picture(seed, (SIZE, SIZE))) for seed in seeds]
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32))


def none(spec, state):
    return build_graph(spec, state)


def swapped_colors(spec, state):
    """Weights that read blue, green, red under a spec that says red, green, blue."""
    first = next(iter(name for name in state if name.endswith("weight")))
    return build_graph(spec, {**state, first: state[first][:, ::-1]})


def wrong_mean(spec, state):
    """None at all; a small change of the mean is less than int8 rounding, but stands in the file's description."""
    preprocess = dataclasses.replace(spec.preprocess, mean=(0.0, 0.0, 0.0))
    return build_graph(spec.replace(preprocess=preprocess), state)


def train_mode(spec, state):
    """The statistics of the batch that happened to be there instead of the running ones."""
    network = build_network(spec, dropout=0.0)
    load_state(network, state, source="test")
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    mean, std = (torch.tensor(v)[:, None, None] for v in (spec.preprocess.mean, spec.preprocess.std))
    with torch.no_grad():
        network.train()((pixels(range(50, 58)) / 255 - mean) / std)
    return build_graph(spec, {name: value.numpy() for name, value in network.state_dict().items()})


def shuffled_labels(spec, state):
    return build_graph(spec.replace(labels=(*spec.labels[1:], spec.labels[0])), state)


def changed_padding(spec, state):
    return build_graph(spec.replace(padding="same"), state)


def scaled(graph, which, factor):
    layers = [node for node in graph.nodes if isinstance(node, Conv | Linear)]
    layer = layers[which]
    changed = dataclasses.replace(layer, weight=layer.weight * np.float32(factor))
    return Graph(graph.spec, tuple(changed if node is layer else node for node in graph.nodes))


def scaled_layer(spec, state):
    return scaled(build_graph(spec, state), 20, 1.1)


def scaled_classifier(spec, state):
    return scaled(build_graph(spec, state), -1, 1.1)


FAULTS = [swapped_colors, wrong_mean, train_mode, shuffled_labels, changed_padding]


SLOWEST = {
    "float32": ("shufflenet_v2", (none, wrong_mean, shuffled_labels, changed_padding, scaled_layer)),
    "int8": ("mobilenet_v2", (none, swapped_colors, train_mode)),
}
"""An ExecuTorch export takes half a minute: each precision is tried on one network, each fault in one precision."""


def skip_slowest(target, precision, architecture, harm):
    if target == "executorch" and (architecture != SLOWEST[precision][0] or harm not in SLOWEST[precision][1]):
        pytest.skip("ExecuTorch files, half a minute each, have every fault once")


def write(target, graph, precision, folder):
    if target == "litert":
        graph = for_litert(graph)  # pixels in and probabilities out: what is compared has been through both
    try:
        written = TARGETS[target].writer()(graph, precision, folder)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return [open_model(one.path) for one in written]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The unharmed network as an ExecuTorch program, exported once."""
    made = []

    def export(graph):
        if not made:
            made.extend(write("executorch", graph, "float32", tmp_path_factory.mktemp("executorch")))
        return made[0]

    return export


def redescribed(model, harm, folder):
    """An ExecuTorch program with another description, whose texts are as long, in the place of its own."""
    data = re.sub(rb"fusiform\.sha256:\w{64}", NO_DIGEST.encode(), model.data)
    if harm is shuffled_labels:
        data = re.sub(rb"class (\d)", lambda found: b"class %d" % ((int(found[1]) + 1) % 10), data)
    else:
        data = data.replace(b"[0.485, 0.456, 0.406]", b"[0.000, 0.000, 0.000]")
    path = folder / "redescribed.pte"
    path.write_bytes(data.replace(NO_DIGEST.encode(), executorch_digest(data)))
    return open_model(path)


def quantised(graph):
    network = QuantizedNetwork(graph)
    network.calibrate([pixels(range(60, 76))])
    return network.freeze()


@pytest.fixture(scope="module")
def int8_graphs():
    """The quantised form of each harmed network, made once for all the targets."""
    made = {}

    def graph(spec, state, harm):
        if (spec.architecture, harm) not in made:
            made[spec.architecture, harm] = quantised(harm(spec, state))
        return made[spec.architecture, harm]

    return graph


@pytest.mark.parametrize("harm", [none, *FAULTS, scaled_layer])
@pytest.mark.parametrize("target", targets("float32"))
def test_float_files(target, harm, healthy, program, photographs, tmp_path):
    spec, state, reference = healthy
    skip_slowest(target, "float32", spec.architecture, harm)
    tolerance = TARGETS[target].tolerance["float32"]
    graph = harm(spec, state)
    if target == "executorch" and harm in (none, wrong_mean, shuffled_labels):
        healthy_program = program(none(spec, state))
        candidates = [healthy_program if harm is none else redescribed(healthy_program, harm, tmp_path)]
        assert candidates[0].spec == graph.spec
    else:
        candidates = write(target, graph, "float32", tmp_path)
    for candidate in candidates:
        parity = verify_answers(candidate, reference, photographs, labelled=False, tolerance=tolerance, threads=1)
        if harm is none:
            assert parity.failures == ()
            assert parity.largest_error < tolerance / 10
            continue
        assert not parity.passed
        # The answers show it, not only what the file says of itself; other labels do not change any number.
        wrong_answers = any("a logit differs" in failure for failure in parity.failures)
        assert wrong_answers == (harm is not shuffled_labels), parity.failures
        if harm is shuffled_labels:
            assert "10 of its labels are others: class 0 is 'class 1', not 'class 0'" in parity.failures


@pytest.mark.parametrize("harm", [none, *FAULTS, scaled_classifier])
@pytest.mark.parametrize("target", targets("int8"))
def test_int8_files(target, harm, healthy, int8_graphs, photographs, tmp_path):
    """Scaling one layer in the middle by a tenth changes less than rounding does; the classifier's counts in full."""
    spec, state, reference = healthy
    skip_slowest(target, "int8", spec.architecture, harm)
    (candidate,) = write(target, int8_graphs(spec, state, harm), "int8", tmp_path)
    parity = verify_answers(candidate, reference, photographs, labelled=False, tolerance=None, threads=1)
    assert parity.passed == (harm is none), parity.failures
    wrong_answers = any("the answers to the photographs are" in failure for failure in parity.failures)
    assert wrong_answers == (harm not in (none, shuffled_labels)), parity.failures


@pytest.mark.parametrize("which", [0, 1, 2, 7, 26, 39, -3, -2, -1])
def test_no_layer_of_a_float_file_can_be_scaled(which, healthy, photographs, tmp_path):
    spec, state, reference = healthy
    (candidate,) = write("litert", scaled(build_graph(spec, state), which, 1.1), "float32", tmp_path)
    tolerance = TARGETS["litert"].tolerance["float32"]
    parity = verify_answers(candidate, reference, photographs[:3], labelled=False, tolerance=tolerance, threads=1)
    assert not parity.passed


@pytest.mark.parametrize("which", [0, 2, 26, 39, -3])
def test_a_layer_of_an_int8_file_by_more_than_rounding_hides(which, healthy, photographs, tmp_path):
    spec, state, reference = healthy
    (candidate,) = write("litert", quantised(scaled(build_graph(spec, state), which, 1.5)), "int8", tmp_path)
    parity = verify_answers(candidate, reference, photographs, labelled=False, tolerance=None, threads=1)
    assert any("the answers to the photographs are" in failure for failure in parity.failures)


@pytest.mark.parametrize("harm", [none, swapped_colors, wrong_mean, train_mode, changed_padding])
@pytest.mark.parametrize("target", targets("float16"))
def test_float16_files(target, harm, healthy, photographs, tmp_path):
    """Half precision's tolerance is thirty times as wide, and still tells a harmed file."""
    spec, state, reference = healthy
    (candidate,) = write(target, harm(spec, state), "float16", tmp_path)
    tolerance = TARGETS[target].tolerance["float16"]
    parity = verify_answers(candidate, reference, photographs, labelled=False, tolerance=tolerance, threads=1)
    assert any("a logit differs" in failure for failure in parity.failures) == (harm is not none)
