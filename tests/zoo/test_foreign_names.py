"""Checkpoints of other people: their prefixes, keys, names, and what stands beside the weights."""

from __future__ import annotations

import argparse
import datetime
import io
import pathlib
import types
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.numpy import save_file

from fusiform.errors import FusiformError, WeightsError
from fusiform.graph.shapes import expected_shapes
from fusiform.porting.port import read_foreign
from fusiform.zoo.checkpoint import guess_architecture, read_pth, read_safetensors
from fusiform.zoo.model import open_model

State = dict[str, np.ndarray]


def network(architecture: str = "mobilenet_v2", width: float = 0.35, classes: int = 5, seed: int = 0) -> State:
    numbers = np.random.default_rng(seed)
    return {
        name: np.array(3, np.int64) if name.endswith("tracked") else numbers.random(shape, np.float32)
        for name, shape in expected_shapes(architecture, width, num_classes=classes).items()
    }


MOBILENET = network()
SHUFFLENET = network("shufflenet_v2", 0.5)


def tensors(state: State) -> dict[str, Any]:
    return {name: torch.from_numpy(np.array(array)) for name, array in state.items()}


def timm(state: State) -> State:
    """The names of timm's mobilenetv2_*."""
    rows = [(1, 1), (6, 2), (6, 3), (6, 4), (6, 3), (6, 3), (6, 1)]
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"}
    names["classifier.1"] = "classifier"
    block = 1
    for stage, (expansion, repeats) in enumerate(rows):
        for repeat in range(repeats):
            theirs = ["conv_dw", "bn1", "conv_pw", "bn2"]
            ours = ["conv.0.0", "conv.0.1", "conv.1", "conv.2"]
            if expansion != 1:
                theirs = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
                ours = ["conv.0.0", "conv.0.1", "conv.1.0", "conv.1.1", "conv.2", "conv.3"]
            for our, their in zip(ours, theirs, strict=True):
                names[f"features.{block}.{our}"] = f"blocks.{stage}.{repeat}.{their}"
            block += 1
    return {f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": a for name, a in state.items()}


def original(state: State, *, last_in_features: bool = False) -> State:
    """The names of pytorch-mobilenet-v2: a block is one list of convolutions, normalisations and activations."""
    renamed = {}
    for name, array in state.items():
        block, _, rest = name.partition(".conv.")
        if rest:
            *place, leaf = rest.split(".")
            # Convolution, normalisation and activation take three places; the last convolution has no activation.
            last = int(place[0]) if len(place) == 1 else 0
            narrow = block == "features.1"
            position = last + (2 if narrow else 4) if len(place) == 1 else 3 * int(place[0]) + int(place[1])
            name = f"{block}.conv.{position}.{leaf}"
        if not last_in_features:
            name = name.replace("features.18.", "conv.")
        renamed[name.replace("classifier.1.", "classifier.")] = array
    return renamed


def plain(state: State) -> State:
    """Names of no known scheme, in the order of the layers."""
    parents: dict[str, str] = {}
    for name in state:
        parents.setdefault(name.rpartition(".")[0], f"layer{len(parents)}")
    return {f"{parents[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": array for name, array in state.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: array for name, array in state.items()}


def check(path: Path, expected: State = MOBILENET) -> None:
    state = read_pth(path) if path.suffix != ".safetensors" else read_safetensors(path)[1]
    assert state.keys() == expected.keys()
    assert all(np.array_equal(state[name], array) for name, array in expected.items())
    assert guess_architecture(state).num_classes == 5
    assert open_model(path).spec.num_classes == 5
    spec, ported = read_foreign(path)
    assert spec.num_classes == 5
    assert all(np.array_equal(ported[name], array) for name, array in expected.items())


STATES = {
    "module.": (prefixed("module.", MOBILENET), MOBILENET),
    "model.": (prefixed("model.", MOBILENET), MOBILENET),
    "net.backbone.": (prefixed("net.backbone.", MOBILENET), MOBILENET),
    "shufflenet": (prefixed("student.module.", SHUFFLENET), SHUFFLENET),
    "beside": (prefixed("model.", MOBILENET) | {"criterion.weight": np.ones(5, np.float32)}, MOBILENET),
    "average": (
        prefixed("model.", network(seed=1)) | prefixed("model_ema.module.", MOBILENET) | {"x": np.ones(1)},
        MOBILENET,
    ),
    "timm": (timm(MOBILENET), MOBILENET),
    "timm, prefix": (prefixed("module.", timm(MOBILENET)), MOBILENET),
    "original": (original(MOBILENET), MOBILENET),
    "original, older": (original(MOBILENET, last_in_features=True), MOBILENET),
    "original, prefix": (prefixed("module.", original(MOBILENET)), MOBILENET),
    "linear": ({n.replace("classifier.1.", "classifier."): a for n, a in MOBILENET.items()}, MOBILENET),
    "nested linear": ({n.replace("classifier.1.", "classifier.1.3."): a for n, a in MOBILENET.items()}, MOBILENET),
    "shufflenet head": ({n.replace("fc.", "fc.1."): a for n, a in SHUFFLENET.items()}, SHUFFLENET),
}


@pytest.mark.parametrize("ending", [".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize(("state", "expected"), STATES.values(), ids=STATES)
def test_any_prefix_and_any_scheme_in_every_kind_of_file(
    tmp_path: Path, state: State, expected: State, ending: str
) -> None:
    path = tmp_path / f"m{ending}"
    if ending == ".safetensors":
        save_file({name: np.array(array) for name, array in state.items()}, path)
    else:
        torch.save(tensors(state), path)
    check(path, expected)


def test_the_names_that_the_tests_make_are_the_schemes() -> None:
    assert {"features.1.conv.0.weight", "features.1.conv.4.bias", "features.2.conv.7.weight", "conv.0.weight"} < set(
        original(MOBILENET)
    )
    assert {"features.17.conv.6.weight", "classifier.weight", "conv.1.running_var"} < set(original(MOBILENET))
    assert {"conv_stem.weight", "blocks.0.0.conv_pw.weight", "blocks.6.0.bn3.bias"} < set(timm(MOBILENET))
    counts = {len(names) for names in (MOBILENET, original(MOBILENET), timm(MOBILENET), plain(MOBILENET))}
    assert counts == {len(MOBILENET)}


def test_layers_of_unknown_names_are_told_by_their_order_where_that_is_sure(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(tensors(plain(MOBILENET)), path)
    check(path)
    # Two layers of the same shapes the other way round: nothing but their numbers tells them apart.
    layers = plain(MOBILENET)
    shape = MOBILENET["features.8.conv.0.0.weight"].shape
    alike = [name.partition(".")[0] for name, array in layers.items() if array.shape == shape]
    exchanged = {alike[0]: alike[1], alike[1]: alike[0]}
    order = [(exchanged.get(layer, layer), leaf) for layer, _, leaf in (name.partition(".") for name in layers)]
    torch.save(tensors({f"{layer}.{leaf}": layers[f"{layer}.{leaf}"] for layer, leaf in order}), path)
    with pytest.raises(WeightsError, match="is no MobileNetV2"):
        guess_architecture(read_pth(path))


@pytest.mark.parametrize("key", ["net", "model_state", "network", "weights", "params_ema", "module"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_any_key(tmp_path: Path, key: str, prefix: str) -> None:
    path = tmp_path / "m.pth"
    state = tensors(prefixed(prefix, MOBILENET))
    optimizer = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 3, "optimizer": optimizer, key: state, "acc": 90.0}, path)
    check(path)
    torch.save({"a": {"b": {key: state}}, "epoch": 3}, path)
    check(path)


def test_weights_among_other_values_and_the_walk_through(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({**tensors(MOBILENET), "epoch": 3, "arch": "mobilenet_v2"}, path)
    check(path)
    torch.save({"model": tensors(original(MOBILENET)), "acc": np.float32(91.2), "epoch": 4}, path)
    check(path)


def test_several_networks_are_refused_unless_one_is_the_average(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    one, other = tensors(network(seed=1)), tensors(MOBILENET)
    torch.save({"student": one, "teacher": other}, path)
    with pytest.raises(WeightsError, match=r"holds several networks \(student, teacher\): save the state dict of the"):
        read_pth(path)
    torch.save({"net": one, "net_ema": other}, path)
    check(path)
    save_file(prefixed("student.", network(seed=1)) | prefixed("teacher.", MOBILENET), tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match=r"holds several networks \(student\., teacher\.\)"):
        read_safetensors(tmp_path / "m.safetensors")


class AttributeDict(dict[str, Any]):
    """Lightning's, which keeps hyperparameters."""


AttributeDict.__module__ = "pytorch_lightning.utilities.parsing"


@pytest.mark.parametrize(
    "value",
    [
        np.float64(81.5),
        np.float32(81.5),
        np.int64(3),
        np.bool_(True),
        np.arange(6.0).reshape(2, 3),
        np.dtype("float32"),
        argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("x")),
        types.SimpleNamespace(lr=0.1),
        OrderedDict(lr=0.1),
        defaultdict(list, lr=[0.1]),
        datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
        datetime.timedelta(seconds=3),
        Path("runs/1"),
        {1, 2},
        torch.float16,
        torch.Size([1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("zipped", [True, False])
def test_values_that_hold_no_code_may_stand_beside(tmp_path: Path, value: object, zipped: bool) -> None:
    path = tmp_path / "m.pth"
    torch.save(
        {"state_dict": tensors(MOBILENET), "args": {"x": value, "y": [value]}},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    check(path)


def test_lightnings_hyperparameters_need_no_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pytorch_lightning.utilities.parsing")
    module.AttributeDict = AttributeDict  # type: ignore[attr-defined]
    path = tmp_path / "m.ckpt"
    with monkeypatch.context() as patch:
        for name in ("pytorch_lightning", "pytorch_lightning.utilities"):
            patch.setitem(__import__("sys").modules, name, types.ModuleType(name))
        patch.setitem(__import__("sys").modules, module.__name__, module)
        torch.save(
            {"state_dict": tensors(prefixed("model.", MOBILENET)), "hyper_parameters": AttributeDict(lr=0.1)}, path
        )
    check(path)


def test_programs_and_newer_pickles_are_named_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    for entry, title in (
        ("m/code/__torch__.py", "TorchScript program"),
        ("m/archive_format", r"program of torch\.export"),
        ("serialized_exported_program.json", r"program of torch\.export"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, "pt2")
            archive.writestr("m/data.pkl", b"")
        with pytest.raises(WeightsError, match=rf"m\.pt is a {title}.*torch\.save\(.*give that file"):
            read_foreign(path)
    for zipped in (True, False):
        torch.save(tensors(MOBILENET), path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=r"saved with pickle protocol 4.*torch\.save\(model\.state_dict"):
            read_foreign(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_port_sends_nobody_to_port(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"m{ending}"
    for state in ({"layer1.0.conv1.weight": np.zeros((64, 3, 7, 7), np.float32)}, timm(MOBILENET) | {"x": np.zeros(1)}):
        if ending == ".safetensors":
            save_file(state, path)
        else:
            torch.save(tensors(state), path)
        with pytest.raises(WeightsError) as caught:
            read_foreign(path)
        assert "ported" not in str(caught.value)
        assert "fusiform port" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_deeper_networks_of_timms_are_named(tmp_path: Path) -> None:
    deeper = timm(MOBILENET)
    deeper |= {
        name.replace("blocks.6.0.", "blocks.6.1."): array for name, array in deeper.items() if "blocks.6" in name
    }
    save_file(deeper, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match=r"has timm's names, but not exactly the layers of .* mobilenetv2_110d"):
        open_model(tmp_path / "m.safetensors")


def test_hostile_states_take_bounded_work(tmp_path: Path) -> None:
    many = {f"a{k}.features.0.0.weight": np.zeros((16, 3, 3, 3), np.float32) for k in range(3000)}
    save_file(many, tmp_path / "m.safetensors")
    with pytest.raises(FusiformError):
        open_model(tmp_path / "m.safetensors")
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(100):
        inner["x"] = {}
        inner = inner["x"]
    wide = {f"k{k}": {f"j{j}": {"w": torch.zeros(1)} for j in range(100)} for k in range(100)}
    loop: dict[str, Any] = {"epoch": 1}
    loop["again"] = {"x": loop}
    for checkpoint in (deep, wide, loop):
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        (tmp_path / "m.pth").write_bytes(buffer.getvalue())
        with pytest.raises(WeightsError):
            read_pth(tmp_path / "m.pth")
