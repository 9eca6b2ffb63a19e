"""Training with quantisation in the loop: that it brings int8 answers back, and what it leaves as it was."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from fusiform.data.dataset import Sample
from fusiform.data.preprocess import crop_pixels, normalize
from fusiform.engines.litert import LiteRTEngine
from fusiform.errors import ImageError, UsageError
from fusiform.exporting.quantization.quantize import QuantizedNetwork
from fusiform.exporting.quantization.train_quantized import HeldOut, QuantizedTask, train_quantized
from fusiform.graph.build import build_graph
from fusiform.graph.ir import Scale
from fusiform.graph.tflite import to_tflite
from fusiform.training import loop
from fusiform.training.distributed import World
from fusiform.training.loader import Batch, ClassExamples, Pictures, load
from fusiform.training.recipe import Recipe
from fusiform.training.recipes import quantize_small

SIZE = 32
HERE = World(0, 1, torch.device("cpu"))
QUICK = Recipe(
    name="quick",
    epochs=3,
    batch=16,
    size=SIZE,
    optimizer="adamw",
    lr=1e-4,
    augment="crop",
    crop_scale=(0.7, 1.0),
    channels_last=True,
    fused=False,
    metric="loss",
    cache="memory",
)


def save_pictures(folder, count, seed):
    """Soft blobs as PNG files, larger than the network's input and not square."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    samples = []
    for k in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
        coarse.resize((44, 40), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
        samples.append(Sample(folder / f"{k}.png", label=-1))
    return samples


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return save_pictures(folder / "seen", 48, 1), save_pictures(folder / "unseen", 40, 2)


def pixels_of(samples, spec):
    return np.stack([crop_pixels(sample.read(), spec.preprocess) for sample in samples])


def float_answers(graph, samples):
    pixels = pixels_of(samples, graph.spec)
    return LiteRTEngine(to_tflite(graph), graph.spec).run(normalize(pixels, graph.spec.preprocess))["logits"]


def told_apart(graph, samples):
    """The network with a classifier that gives different pictures different classes, which random weights do not."""
    logits = float_answers(graph, samples)
    last = graph.nodes[-1]
    stretch = np.float32(2) / logits.std(0)
    changed = dataclasses.replace(
        last, weight=last.weight * stretch[:, None], bias=(last.bias - logits.mean(0)) * stretch
    )
    return dataclasses.replace(graph, nodes=(*graph.nodes[:-1], changed))


@pytest.fixture(scope="module")
def pair(pictures, small_spec, lived_in_state):
    """A float graph, and an int8 network of it whose ranges are far too narrow, by architecture; made once."""
    made = {}

    def get(architecture):
        if architecture not in made:
            width = 0.35 if architecture == "mobilenet_v2" else 0.5
            spec = small_spec(architecture, width, size=SIZE, classes=6)
            graph = told_apart(build_graph(spec, lived_in_state(spec)), pictures[0])
            student = QuantizedNetwork(graph)
            student.calibrate([torch.from_numpy(pixels_of(pictures[0], spec)).permute(0, 3, 1, 2).float()])
            # Zero stays at the same place of the range, and much of what was within it is clipped.
            narrow = {name: Scale(0.8 * scale.scale, scale.zero_point) for name, scale in student.scales.items()}
            student.scales = narrow
            made[architecture] = graph, student
        return made[architecture]

    return get


def weights(network):
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def answers(network, samples):
    """LiteRT's, of the int8 file."""
    frozen = network.freeze()
    return LiteRTEngine(to_tflite(frozen), frozen.spec).run(pixels_of(samples, frozen.spec))["logits"]


def divergence(network, wanted, samples):
    """KL(float || int8) in nats by its definition, and how often the first answers agree."""
    given = answers(network, samples)
    p, q = (np.exp(x.astype(float)) / np.exp(x.astype(float)).sum(1, keepdims=True) for x in (wanted, given))
    return (p * np.log(p / q)).sum(1).mean(), (wanted.argmax(1) == given.argmax(1)).mean()


def correlation(first, second):
    return np.corrcoef(first.ravel(), second.ravel())[0, 1]


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_it_answers_more_like_the_float_network_and_litert_answers_like_it(architecture, pair, pictures):
    seen, unseen = pictures
    graph, student = pair(architecture)
    before = weights(student)
    said = []
    trained = train_quantized(student, graph, seen, held_out=unseen, recipe=QUICK, threads=1, say=said.append)

    wanted = float_answers(graph, unseen)
    harmed, agreement = divergence(student, wanted, unseen)
    learned, _ = divergence(trained, wanted, unseen)
    assert learned < 0.6 * harmed
    assert correlation(answers(trained, unseen), wanted) > correlation(answers(student, unseen), wanted) + 0.05
    assert_same(before, weights(student))
    assert trained.scales == student.scales

    assert [line.split(":")[0] for line in said] == ["calibrated", "epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert said[0] == (
        f"calibrated: {agreement:.1%} of 40 held-out pictures are named as by the float network, "
        f"divergence {harmed:.4f}"
    )
    assert any(f"divergence {learned:.4f}" in line for line in said[1:])

    # The file that is written computes what was trained, as nearly as a classifier so stretched lets one see.
    actual = answers(trained, unseen)
    with torch.no_grad():
        simulated = trained(torch.from_numpy(pixels_of(unseen, graph.spec)).permute(0, 3, 1, 2).float()).numpy()
    assert np.abs(actual - wanted).mean() < 1.3 * np.abs(simulated - wanted).mean()
    assert correlation(actual, simulated) > 0.9
    assert correlation(actual, simulated) > correlation(answers(student, unseen), simulated) + 0.05


def test_the_same_seed_gives_the_same_weights_and_another_one_others(pair, pictures):
    seen, _ = pictures
    graph, student = pair("mobilenet_v2")
    recipe = dataclasses.replace(QUICK, epochs=1)
    first, second, other = (
        weights(train_quantized(student, graph, seen, recipe=dataclasses.replace(recipe, seed=seed), threads=1))
        for seed in (0, 0, 1)
    )
    assert_same(first, second)
    # Without held-out pictures the last weights are kept, whatever they are worth.
    assert any((first[name] != value).any() for name, value in weights(student).items())
    assert any((first[name] != other[name]).any() for name in first)


def test_what_does_not_help_is_not_kept(pair, pictures):
    seen, unseen = pictures
    graph, student = pair("mobilenet_v2")
    recipe = dataclasses.replace(QUICK, epochs=2, lr=3.0, schedule="constant")
    said = []
    kept = train_quantized(student, graph, seen, held_out=unseen, recipe=recipe, threads=1, say=said.append)
    figures = [float(line.rpartition(" ")[2]) for line in said]
    assert len(figures) == 3
    assert min(figures) == figures[0]
    assert_same(weights(student), weights(kept))


def test_an_interrupted_training_leaves_nothing(pair, pictures, tmp_path, monkeypatch):
    seen, unseen = pictures
    graph, student = pair("mobilenet_v2")
    before = weights(student)
    files = {path: path.stat().st_mtime_ns for path in seen[0].file.parents[1].rglob("*")}
    monkeypatch.chdir(tmp_path)
    one_step, taken = loop._Fit._step, []

    def interrupted(self, batches):
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append(1)
        one_step(self, batches)

    monkeypatch.setattr(loop._Fit, "_step", interrupted)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_quantized(student, graph, seen, held_out=unseen, recipe=QUICK, threads=1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert len(taken) == 2
    assert_same(before, weights(student))
    assert list(tmp_path.iterdir()) == []
    assert files == {path: path.stat().st_mtime_ns for path in seen[0].file.parents[1].rglob("*")}


def test_pictures_that_cannot_be_read_are_left_out_and_said(pair, pictures, tmp_path):
    seen, unseen = pictures
    graph, student = pair("mobilenet_v2")
    (tmp_path / "torn.png").write_bytes(seen[0].read_bytes()[:60])
    (tmp_path / "note.png").write_text("no picture")
    torn, note = (Sample(tmp_path / name, -1) for name in ("torn.png", "note.png"))
    recipe = dataclasses.replace(QUICK, epochs=1, lr=1e-6)
    said = []
    train_quantized(
        student, graph, [note, *seen[:16]], held_out=[torn, *unseen[:8]], recipe=recipe, threads=1, say=said.append
    )
    left_out = [line for line in said if line.startswith("left out: ")]
    assert len(left_out) == 2
    assert "note.png" in left_out[0]
    assert "torn.png" in left_out[1]
    assert any("of 8 held-out pictures" in line for line in said)

    with pytest.raises(ImageError):
        note.read()
    many = [note] * 12
    said.clear()
    with pytest.raises(UsageError, match="none of the 12 pictures to train on can be read: name a folder"):
        train_quantized(student, graph, many, recipe=recipe, threads=1, say=said.append)
    assert len(said) == 11
    assert said[-1] == "left out: 2 more; fusiform doctor lists all"


def make_task(graph, student, samples, recipe):
    examples = ClassExamples(recipe, shorter_side=64)
    loaded = load(samples, examples, cache="memory", threads=1, progress=loop.silent)
    made = Pictures(loaded, examples, recipe, HERE)
    return QuantizedTask(student, graph, made, held_out=HeldOut(graph, []), recipe=recipe)


def test_the_loss_by_hand(pair, pictures):
    """4 KL at temperature 2, and a tenth of the squared distance."""
    graph, student = pair("mobilenet_v2")
    task = make_task(graph, student, pictures[0], QUICK)
    batch = next(task.batches(0, 0))
    given = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    loss, right = task.loss(lambda pixels: given, batch, 0)

    teacher = QuantizedNetwork(graph)
    with torch.no_grad(), teacher.in_float():
        wanted = teacher(batch.pictures.float()).double().numpy()
    answer = given.double().numpy()
    p, q = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (wanted, answer))
    expected = 4 * (p * np.log(p / q)).sum(1).mean() + 0.1 * ((wanted - answer) ** 2).mean()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-4)
    assert right == (wanted.argmax(1) == answer.argmax(1)).sum()

    with pytest.raises(UsageError, match="the loss became nan: check the float model"):
        task.loss(lambda pixels: given * torch.nan, batch, 0)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_it_sees_what_the_runtime_sees(order, pair, pictures, small_spec, lived_in_state):
    graph, _ = pair("mobilenet_v2")
    spec = graph.spec.replace(preprocess=dataclasses.replace(graph.spec.preprocess, color_order=order))
    graph = dataclasses.replace(graph, spec=spec)
    task = make_task(graph, QuantizedNetwork(graph), pictures[0], dataclasses.replace(QUICK, augment="none"))
    numbers = task.pictures.order(0)[:16].tolist()
    expected = pixels_of([pictures[0][i] for i in numbers], spec).transpose(0, 3, 1, 2).astype(np.float32)
    actual = task.pixels(next(task.batches(0, 0)).pictures)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    # torchvision resizes tensors of bytes a grey level away from Pillow here and there.
    np.testing.assert_allclose(actual.numpy(), expected, atol=1)
    swapped = np.abs(actual.numpy() - expected[:, ::-1]).max()
    assert swapped > 50


def test_the_held_out_figures_by_hand(pair, pictures):
    _, unseen = pictures
    graph, student = pair("shufflenet_v2")
    frozen = student.freeze()
    wanted = float_answers(graph, unseen)
    given = answers(student, unseen)
    # Two in three have a label: the first half what the float network says, the second half class 0.
    labels = [-1 if k % 3 == 0 else int(wanted[k].argmax()) if k < 20 else 0 for k in range(len(unseen))]
    samples = [dataclasses.replace(sample, label=label) for sample, label in zip(unseen, labels, strict=True)]
    likeness = HeldOut(graph, samples, threads=1).measure(frozen)
    assert likeness is not None
    expected, agreement = divergence(student, wanted, unseen)
    assert likeness.pictures == 40
    assert likeness.agreement == pytest.approx(agreement)
    assert likeness.divergence == pytest.approx(expected, rel=1e-4)
    known = [k for k in range(40) if labels[k] >= 0]
    assert likeness.top1 == pytest.approx(np.mean([given[k].argmax() == labels[k] for k in known]))
    assert likeness.float_top1 == pytest.approx(np.mean([wanted[k].argmax() == labels[k] for k in known]))
    # The network's answers are compared before any softmax that its file ends in.
    softmax = dataclasses.replace(graph, spec=graph.spec.replace(output="probabilities"))
    assert HeldOut(softmax, samples, threads=1).measure(dataclasses.replace(frozen, spec=softmax.spec)) == likeness
    assert HeldOut(graph, unseen[:4], threads=1).measure(graph) == (4, 1.0, pytest.approx(0, abs=1e-6), None, None)
    assert HeldOut(graph, []).measure(frozen) is None


def test_crops_are_no_larger_than_the_networks_input(pair, pictures, monkeypatch):
    graph, student = pair("mobilenet_v2")
    seen_sizes = set()
    loss = QuantizedTask.loss

    def look(self, network, batch: Batch, seed):
        seen_sizes.add(tuple(batch.pictures.shape[2:]))
        return loss(self, network, batch, seed)

    monkeypatch.setattr(QuantizedTask, "loss", look)
    recipe = dataclasses.replace(quantize_small, epochs=1, sizes=(160,), cache="memory")
    train_quantized(student, graph, pictures[0][:32], recipe=recipe, threads=1)
    assert seen_sizes == {(SIZE, SIZE)}


def test_a_moving_average_is_what_is_kept(pair, pictures):
    graph, student = pair("mobilenet_v2")
    start = weights(student)
    recipe = dataclasses.replace(QUICK, epochs=1, schedule="constant")
    last = weights(train_quantized(student, graph, pictures[0], recipe=recipe, threads=1))
    averaged = weights(
        train_quantized(student, graph, pictures[0], recipe=dataclasses.replace(recipe, ema=0.999), threads=1)
    )
    far, near = (sum(np.abs(w[name] - start[name]).sum() for name in start) for w in (last, averaged))
    assert 0 < near < far


def test_what_it_refuses(pair, pictures, small_spec, lived_in_state):
    seen, _ = pictures
    graph, student = pair("mobilenet_v2")
    with pytest.raises(UsageError, match="no scales of activations yet: calibrate it"):
        train_quantized(QuantizedNetwork(graph), graph, seen, recipe=QUICK)
    with pytest.raises(UsageError, match="float32, not in bfloat16: set precision=float32"):
        train_quantized(student, graph, seen, recipe=dataclasses.replace(QUICK, precision="bfloat16"))
    with pytest.raises(UsageError, match="int8 already"):
        train_quantized(student, student.freeze(), seen, recipe=QUICK, threads=1)
    spec = small_spec("mobilenet_v2", 0.35, size=SIZE, classes=7)
    with pytest.raises(UsageError, match="other labels or another preprocessing"):
        train_quantized(student, build_graph(spec, lived_in_state(spec)), seen, recipe=QUICK)
    with pytest.raises(UsageError, match="none of the 0 pictures"):
        train_quantized(student, graph, [], recipe=QUICK, threads=1)


def test_layers_in_float_stay_in_float(pair, pictures):
    """A network that keeps its first layer in float32 is trained and frozen as such."""
    graph, student = pair("mobilenet_v2")
    student = copy.deepcopy(student)
    first = graph.nodes[0].name
    student.kept = frozenset({first})
    recipe = dataclasses.replace(QUICK, epochs=1)
    frozen = train_quantized(student, graph, pictures[0], recipe=recipe, threads=1).freeze()
    assert frozen.quantization is not None
    assert frozen.quantization.in_float == {first}
    assert frozen.nodes[0].weight.dtype == np.float32
    assert frozen.nodes[1].weight.dtype == np.int8
