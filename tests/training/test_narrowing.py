from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fusiform.data.image import read_image
from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.errors import UsageError
from fusiform.graph.shapes import expected_shapes
from fusiform.modules import build_network
from fusiform.modules.shufflenet_v2 import channel_shuffle
from fusiform.spec import ModelSpec, Preprocess
from fusiform.tables import MOBILENET_V2_BOTTLENECKS, SHUFFLENET_V2_CHANNELS, SHUFFLENET_V2_REPEATS
from fusiform.training.batch_norm import unfold
from fusiform.training.narrowing import slice_state
from fusiform.zoo.checkpoint import read_safetensors
from fusiform.zoo.load import load_state

State = dict[str, NDArray[Any]]


def answers(spec: ModelSpec, state: State, pictures: torch.Tensor) -> NDArray[Any]:
    network = build_network(spec).double().eval()
    load_state(network, state, source="the test")
    with torch.no_grad():
        return network(pictures.double()).numpy()


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_the_same_width_gives_back_the_same_weights(
    architecture: Any, small_spec: Callable[..., ModelSpec], lived_in_state: Callable[..., State]
) -> None:
    spec = small_spec(architecture, 1.0)
    state = lived_in_state(spec)
    cut = slice_state(state, spec, 1.0)
    assert cut.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(cut[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("architecture", "width", "narrow"),
    [
        ("mobilenet_v2", 1.0, 0.35),
        ("mobilenet_v2", 1.4, 1.0),
        *(("shufflenet_v2", w, n) for w in SHUFFLENET_V2_CHANNELS for n in SHUFFLENET_V2_CHANNELS if n < w),
    ],
)
def test_every_shape_is_that_of_the_narrow_network(
    architecture: Any,
    width: float,
    narrow: float,
    small_spec: Callable[..., ModelSpec],
    lived_in_state: Callable[..., State],
) -> None:
    spec = small_spec(architecture, width)
    cut = slice_state(lived_in_state(spec), spec, narrow)
    expected = expected_shapes(architecture, narrow, num_classes=10, input_channels=3)
    assert {name: array.shape for name, array in cut.items()} == expected
    assert {array.dtype for name, array in cut.items() if array.ndim} == {np.dtype(np.float32)}


# A narrow network is hidden in a wide one whose other channels are dead. Whoever finds its channels, and takes those
# together that belong together, gets a network with the same answers.


def hide(narrow: State, wide_shapes: dict[str, tuple[int, ...]], places: dict[str, Any], *, folded: bool) -> State:
    """``places`` gives the outputs and inputs (or None) of each convolution with its batch normalisation."""
    wide: State = {name: np.zeros(shape, np.float32) for name, shape in wide_shapes.items()}
    for name in wide:
        if name.endswith("running_var") or (folded and name.endswith("weight") and wide[name].ndim == 1):
            wide[name][:] = 1
    for (conv, norm), (outputs, inputs) in places.items():
        weight = narrow[f"{conv}.weight"]
        if norm is None:
            wide[f"{conv}.weight"][:, inputs] = weight
            wide[f"{conv}.bias"] = narrow[f"{conv}.bias"]
            continue
        columns = np.arange(weight.shape[1]) if inputs is None else inputs
        wide[f"{conv}.weight"][np.ix_(outputs, columns)] = weight
        for name in ("weight", "bias", "running_mean", "running_var"):
            wide[f"{norm}.{name}"][outputs] = narrow[f"{norm}.{name}"]
    return wide


def as_if_folded(state: State) -> State:
    """The same weights with batch normalisations that only add a bias."""
    constants = {"running_mean": 0.0, "running_var": 1.0}
    changed = dict(state)
    for name in state:
        if name.endswith("running_mean"):
            norm = name.removesuffix(".running_mean")
            changed |= {f"{norm}.{key}": np.full_like(state[name], value) for key, value in constants.items()}
            changed[f"{norm}.weight"] = np.ones_like(state[name])
    return changed


def some(random: np.random.Generator, of: int, count: int) -> NDArray[np.intp]:
    return np.sort(random.permutation(of)[:count])


def mobilenet_places(narrow: dict[str, Any], wide: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    def chosen(conv: str) -> NDArray[np.intp]:
        return some(random, wide[f"{conv}.weight"][0], narrow[f"{conv}.weight"][0])

    stream = chosen("features.0.0")
    places: dict[Any, Any] = {("features.0.0", "features.0.1"): (stream, None)}
    layer = 0
    for t, _, n, _ in MOBILENET_V2_BOTTLENECKS:
        outputs: Any = None
        for _ in range(n):
            layer += 1
            path = f"features.{layer}.conv"
            hidden = stream
            at = 0
            if t > 1:
                hidden = chosen(f"{path}.0.0")
                places[f"{path}.0.0", f"{path}.0.1"] = (hidden, stream)
                at = 1
            places[f"{path}.{at}.0", f"{path}.{at}.1"] = (hidden, None)
            outputs = chosen(f"{path}.{at + 1}") if outputs is None else outputs
            places[f"{path}.{at + 1}", f"{path}.{at + 2}"] = (outputs, hidden)
            stream = outputs
    last = chosen("features.18.0")
    places["features.18.0", "features.18.1"] = (last, stream)
    places["classifier.1", None] = (None, last)
    return places


def fates(channels: int, units: int) -> list[NDArray[np.intp]]:
    """For the channels that each unit of a stage makes, by their place: in which unit they are filtered.

    Found by sending numbered channels through the real shuffle.
    """
    answer = []
    for born in range(units):
        x = torch.arange(channels).reshape(1, channels, 1, 1)
        fate = np.full(channels, units)
        for unit in range(born + 1, units):
            passing, filtered = x.chunk(2, dim=1)
            numbers = filtered.flatten()
            fate[numbers[numbers >= 0].numpy()] = unit
            x = channel_shuffle(torch.cat([passing, torch.full_like(filtered, -1)], dim=1))
        answer.append(fate)
    return answer


def shufflenet_places(width: float, wide_width: float, random: np.random.Generator) -> dict[str, Any]:
    channels, wide = SHUFFLENET_V2_CHANNELS[width], SHUFFLENET_V2_CHANNELS[wide_width]
    stream = np.arange(24)
    places: dict[Any, Any] = {("conv1.0", "conv1.1"): (stream, None)}
    for stage, units in enumerate(SHUFFLENET_V2_REPEATS):
        n, m = channels[stage + 1], wide[stage + 1]
        small, large = fates(n, units), fates(m, units)
        for unit in range(units):
            path = f"stage{stage + 2}.{unit}"

            def matching(side: int, small: Any = small[unit], large: Any = large[unit], n: int = n) -> Any:
                outputs = np.empty(n // 2, np.intp)
                for fate in set(small[side::2]):
                    slots = np.flatnonzero(small[side::2] == fate)
                    free = np.flatnonzero(large[side::2] == fate)
                    outputs[slots] = random.permutation(free)[: len(slots)]
                return outputs

            right, middle = matching(1), some(random, m // 2, n // 2)
            if unit == 0:
                left, filtered = matching(0), stream
                places[f"{path}.branch1.0", f"{path}.branch1.1"] = (stream, None)
                places[f"{path}.branch1.2", f"{path}.branch1.3"] = (left, stream)
            else:
                left, filtered = stream[: n // 2], stream[n // 2 :] - m // 2
            places[f"{path}.branch2.0", f"{path}.branch2.1"] = (middle, filtered)
            places[f"{path}.branch2.3", f"{path}.branch2.4"] = (middle, None)
            places[f"{path}.branch2.5", f"{path}.branch2.6"] = (right, middle)
            stream = np.stack([2 * left, 2 * right + 1], 1).ravel()
    last = some(random, wide[4], channels[4])
    places["conv5.0", "conv5.1"] = (last, stream)
    places["fc", None] = (None, last)
    return places


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    ("architecture", "width", "wide_width"),
    [
        ("mobilenet_v2", 0.35, 1.0),
        ("mobilenet_v2", 1.0, 1.3),
        ("shufflenet_v2", 0.5, 1.0),
        ("shufflenet_v2", 0.5, 2.0),
        ("shufflenet_v2", 1.0, 1.5),
    ],
)
def test_a_network_hidden_in_a_wider_one_is_found(
    architecture: Any,
    width: float,
    wide_width: float,
    folded: bool,
    small_spec: Callable[..., ModelSpec],
    lived_in_state: Callable[..., State],
) -> None:
    spec, wide_spec = small_spec(architecture, width), small_spec(architecture, wide_width)
    state = as_if_folded(lived_in_state(spec)) if folded else lived_in_state(spec)
    shapes = expected_shapes(architecture, wide_width, num_classes=10, input_channels=3)
    random = np.random.default_rng(3)
    if architecture == "mobilenet_v2":
        places = mobilenet_places({name: array.shape for name, array in state.items()}, shapes, random)
    else:
        places = shufflenet_places(width, wide_width, random)
    wide = hide(state, shapes, places, folded=folded)

    pictures = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = answers(spec, state, pictures)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(answers(wide_spec, wide, pictures), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answers(spec, slice_state(wide, wide_spec, width), pictures), expected, rtol=1e-4)


def test_a_filter_that_lost_inputs_keeps_its_norm(
    small_spec: Callable[..., ModelSpec], lived_in_state: Callable[..., State]
) -> None:
    spec = small_spec("mobilenet_v2", 1.0)
    state = lived_in_state(spec)
    cut = slice_state(state, spec, 0.5)
    norms = np.linalg.norm(state["classifier.1.weight"], axis=1)
    np.testing.assert_allclose(np.linalg.norm(cut["classifier.1.weight"], axis=1), norms, rtol=1e-6)
    wide = np.linalg.norm(state["features.18.0.weight"][:, :, 0, 0], axis=1)
    narrow = np.linalg.norm(cut["features.18.0.weight"][:, :, 0, 0], axis=1)
    assert np.isclose(narrow[:, None], wide, rtol=1e-5).any(1).all()


@pytest.mark.parametrize(("architecture", "head"), [("mobilenet_v2", "classifier.1"), ("shufflenet_v2", "fc")])
def test_a_state_without_classifier_is_cut_too(
    architecture: Any, head: str, small_spec: Callable[..., ModelSpec], lived_in_state: Callable[..., State]
) -> None:
    spec = small_spec(architecture, 1.0)
    state = {name: array for name, array in lived_in_state(spec).items() if not name.startswith(head)}
    cut = slice_state(state, spec, 0.5)
    expected = expected_shapes(architecture, 0.5, num_classes=10, input_channels=3)
    assert {name: array.shape for name, array in cut.items()} == {
        name: shape for name, shape in expected.items() if not name.startswith(head)
    }


@pytest.mark.parametrize(
    ("architecture", "width", "message"),
    [
        ("mobilenet_v2", 1.3, "cut to a smaller one, not to 1.3"),
        ("mobilenet_v2", 0.0, "not to 0"),
        ("mobilenet_v2", float("nan"), "not to nan"),
        ("shufflenet_v2", 1.5, "cut to a smaller one, not to 1.5"),
        ("shufflenet_v2", 0.75, "has widths 0.5, 1.0, 1.5, 2.0, not 0.75"),
    ],
)
def test_a_width_that_cannot_be_cut_is_refused(
    architecture: Any, width: float, message: str, small_spec: Callable[..., ModelSpec]
) -> None:
    with pytest.raises(UsageError, match=message):
        slice_state({}, small_spec(architecture, 1.0), width)


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """Linear CKA of two sets of features (arXiv 1905.00414, Section 3), 1 for the same up to a rotation."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a.T @ b).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "file", "width"),
    [
        ("mobilenet_v2", "mobilenet_v2_1.0_224", 0.75),
        ("mobilenet_v2", "mobilenet_v2_1.0_224", 0.35),
        ("shufflenet_v2", "shufflenet_v2_x1_0", 0.5),
    ],
)
def test_features_resemble_the_wide_networks_more_than_random_ones_do(
    architecture: Any, file: str, width: float, shared_data: Path
) -> None:
    pictures = sorted((shared_data / "imagenet_val").glob("*/*"))[::10]
    way = Preprocess(resize=146, crop=128)
    inputs = [normalize(crop_pixels(read_image(path), way), way) for path in pictures]
    batch = torch.from_numpy(np.stack(inputs))
    spec = ModelSpec(architecture, 1.0, tuple(map(str, range(1000))))
    network = build_network(spec)
    load_state(network, read_safetensors(shared_data / "weights" / f"{file}.safetensors")[1], source=file)
    network.eval()

    def features(of: Any) -> torch.Tensor:
        with torch.no_grad():
            return of.eval().forward_stages(batch)["last"].mean((2, 3))

    wide = features(network)
    unfold(network, [batch])
    cut = slice_state({name: tensor.numpy() for name, tensor in network.state_dict().items()}, spec, width)
    torch.manual_seed(0)
    narrow = build_network(spec.replace(width=width), dropout=0.0)
    likeness = []
    for state in (None, cut):
        if state is not None:
            load_state(narrow, state, source="cut")
        torch.optim.swa_utils.update_bn([batch], narrow)
        likeness.append(similarity(wide, features(narrow)))
    random, sliced = likeness
    assert sliced > random + 0.02
