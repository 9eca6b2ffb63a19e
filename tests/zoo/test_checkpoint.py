from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.errors import MissingExtraError, OutputError, SpecError, WeightsError
from fusiform.graph.shapes import expected_shapes
from fusiform.spec import METADATA_KEY, Architecture, ModelSpec
from fusiform.tables import SHUFFLENET_V2_CHANNELS
from fusiform.zoo.checkpoint import Network, guess_architecture, read_pth, read_safetensors, write_safetensors

torch: Any = pytest.importorskip("torch")
models: Any = pytest.importorskip("torchvision.models")

SPEC = ModelSpec("mobilenet_v2", 1.0, ("cat", "dog"), provenance="Zürich \N{CAT FACE}")


def ramp(*shape: int) -> NDArray[np.float32]:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def zeros(architecture: Architecture, width: float, *, num_classes: int = 2, input_channels: int = 3) -> dict[str, Any]:
    shapes = expected_shapes(architecture, width, num_classes=num_classes, input_channels=input_channels)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


# safetensors


def test_a_state_and_its_spec_come_back(tmp_path: Path) -> None:
    state = {
        "b.weight": ramp(2, 3, 1, 1).transpose(1, 0, 2, 3),  # not contiguous
        "a.num_batches_tracked": np.array(7),
        "empty": ramp(0, 3),
        "flag": np.array([True, False]),
        "int8": np.array([-128, 127], np.int8),
    }
    write_safetensors(tmp_path / "m.safetensors", state, SPEC)
    spec, read = read_safetensors(tmp_path / "m.safetensors")
    assert spec == SPEC
    assert read.keys() == state.keys()
    for name, array in state.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array, strict=True)
        assert read[name].flags.writeable


def test_the_same_state_gives_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    state = {f"layer{i}.weight": ramp(i + 1, 2) for i in range(20)}
    write_safetensors(tmp_path / "a.safetensors", state, SPEC)
    write_safetensors(tmp_path / "b.safetensors", dict(reversed(state.items())), SPEC)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_file_is_replaced_whole_or_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": ramp(2)}, SPEC)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OutputError, match=r"cannot write .*m\.safetensors \(No space left on device\)"):
            write_safetensors(path, {"a": ramp(3)}, SPEC)
    assert path.read_bytes() == before
    write_safetensors(path, {"a": ramp(3)}, SPEC)
    assert read_safetensors(path)[1]["a"].shape == (3,)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="cannot write"):
        write_safetensors(tmp_path / "no" / "folder" / "m.safetensors", {"a": ramp(2)}, SPEC)


def test_half_and_double_precision_become_float32(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    values = torch.tensor([0.0, -0.0, 1.0, -3.140625, 65280.0, float("inf")])
    dtypes = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "f64": torch.float64}
    save_file({name: values.to(dtype).reshape(2, 3) for name, dtype in dtypes.items()}, tmp_path / "m.safetensors")
    spec, state = read_safetensors(tmp_path / "m.safetensors")
    assert spec is None
    for name, dtype in dtypes.items():
        np.testing.assert_array_equal(state[name], values.to(dtype).float().reshape(2, 3).numpy(), strict=True)


def test_a_type_that_no_network_takes_is_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match=r"m\.safetensors: w has the type F8_E4M3"):
        read_safetensors(tmp_path / "m.safetensors")


def test_damaged_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": ramp(100), "b": ramp(3, 4)}, SPEC)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    too_large = struct.pack("<Q", 2**60) + whole[8:]
    for damaged in (*(whole[:size] for size in (0, 4, 8, header, header + 8, len(whole) - 1)), whole + b"x", too_large):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"m\.safetensors is not a whole safetensors file"):
            read_safetensors(path)
    path.write_bytes(b"<html>log in first</html>" * 20)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        read_safetensors(path)
    with pytest.raises(WeightsError, match=r"none\.safetensors: there is no such file"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="there is no such file"):
        read_safetensors(tmp_path)


def test_a_wrong_spec_names_the_file(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    fields = json.loads(SPEC.to_json()) | {"width": -1}
    save_file({"a": ramp(1)}, tmp_path / "m.safetensors", metadata={METADATA_KEY: json.dumps(fields)})
    with pytest.raises(SpecError, match=r"m\.safetensors: width must be a positive number"):
        read_safetensors(tmp_path / "m.safetensors")
    save_file({"a": ramp(1)}, tmp_path / "m.safetensors", metadata={"format": "pt"})
    assert read_safetensors(tmp_path / "m.safetensors")[0] is None


def test_safetensors_need_no_torch(tmp_path: Path) -> None:
    code = """
import sys
import numpy as np
from fusiform.spec import ModelSpec
from fusiform.zoo.checkpoint import guess_architecture, read_safetensors, write_safetensors
write_safetensors(sys.argv[1], {"a": np.ones(3, np.float32)}, ModelSpec("mobilenet_v2", 1.0, ("x",)))
assert read_safetensors(sys.argv[1])[1]["a"].sum() == 3
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "m.safetensors"]).returncode == 0


# Pickles


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.pth"


STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.num_batches_tracked": torch.tensor(5)}


def assert_is_state(state: dict[str, NDArray[Any]]) -> None:
    assert list(state) == list(STATE)
    for name, tensor in STATE.items():
        np.testing.assert_array_equal(state[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize(
    "checkpoint",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "arch": "mobilenet_v2"},
        {"model": STATE, "optimizer": {"lr": 0.1}, "args": argparse.Namespace(lr=0.1)},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()}},
        {"checkpoint": 1, "model": {"state_dict": STATE}},
        {
            "model": {name: tensor + 1 for name, tensor in STATE.items()},
            "model_ema": {"n_averaged": torch.tensor(9)} | {f"module.{name}": t for name, t in STATE.items()},
        },
        {"model": STATE, "model_ema": None},
    ],
    ids=["plain", "state_dict", "torchvision", "data_parallel", "compiled", "twice", "average", "no_average"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_wherever_scripts_keep_them(path: Path, checkpoint: object, zipped: bool) -> None:
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    assert_is_state(read_pth(path))


def test_half_and_double_precision_of_a_pickle_become_float32(path: Path) -> None:
    values = torch.tensor([1.0, -3.140625, 0.0])
    dtypes = {"bf16": torch.bfloat16, "f16": torch.float16, "f64": torch.float64}
    torch.save({name: torch.nn.Parameter(values.to(dtype)) for name, dtype in dtypes.items()}, path)
    for array in read_pth(path).values():
        np.testing.assert_array_equal(array, values.numpy(), strict=True)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_code_in_a_pickle_is_never_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    torch.save({"state_dict": STATE, "x": Evil()}, path)
    with pytest.raises(WeightsError, match=r"m\.pth holds \w+\.mkdir; loading more than tensors can run code"):
        read_pth(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"m\.pth is damaged or no PyTorch state dict"):
        read_pth(path)
    assert not Path("ran").exists()


def test_a_whole_module_is_told(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match=r"holds torch\.nn\.modules\.linear\.Linear.*state_dict"):
        read_pth(path)


def recursive() -> dict[str, Any]:
    checkpoint: dict[str, Any] = {}
    checkpoint["model"] = checkpoint
    return checkpoint


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({}, "holds no state dict: its entries are none"),
        ({"a": torch.zeros(1), "epoch": 3}, "its entries are a, epoch, and epoch is of type int"),
        ({"state_dict": {"epoch": 3}}, "its entries are epoch"),
        (recursive(), "holds no state dict: its entries are model"),
        ({"w": torch.eye(3).to_sparse()}, "w is a quantised or sparse tensor"),
    ],
)
def test_what_is_no_state_dict_is_told(path: Path, checkpoint: object, message: str) -> None:
    torch.save(checkpoint, path)
    with pytest.raises(WeightsError, match=message):
        read_pth(path)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # PyTorch is about to drop quantised tensors; their files stay
def test_a_quantised_tensor_is_told(path: Path) -> None:
    torch.save({"w": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)}, path)
    with pytest.raises(WeightsError, match="w is a quantised or sparse tensor"):
        read_pth(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickles_are_told(path: Path, zipped: bool) -> None:
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for damaged in (b"", whole[:10], whole[: len(whole) // 2], b"<html>log in first</html>"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"m\.pth is damaged or no PyTorch state dict"):
            read_pth(path)
    with pytest.raises(WeightsError, match="there is no such file"):
        read_pth(path.with_name("none.pth"))


def test_without_torch_the_extra_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"reading m\.pth needs PyTorch.*fusiform\[torch\]"):
        read_pth(path)


# Which network a state is of


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.3, 1.4, 0.6, 2.0])
def test_mobilenet_v2_entries_are_torchvisions(width: float) -> None:
    theirs = models.mobilenet_v2(width_mult=width).state_dict()
    ours = expected_shapes("mobilenet_v2", width)
    assert list(ours.items()) == [(name, tuple(tensor.shape)) for name, tensor in theirs.items()]


@pytest.mark.parametrize("width", sorted(SHUFFLENET_V2_CHANNELS))
def test_shufflenet_v2_entries_are_torchvisions(width: float) -> None:
    theirs = models.get_model(f"shufflenet_v2_x{width}".replace(".", "_"), weights=None, num_classes=7).state_dict()
    ours = expected_shapes("shufflenet_v2", width, num_classes=7)
    assert list(ours.items()) == [(name, tuple(tensor.shape)) for name, tensor in theirs.items()]


@pytest.mark.parametrize(
    "network",
    [
        *(Network("mobilenet_v2", width, 1000, 3) for width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)),
        *(Network("mobilenet_v2", width, 6, 1) for width in (0.1, 0.2, 0.6, 0.9, 1.1, 1.25, 1.75, 2.0, 4.0)),
        *(Network("shufflenet_v2", width, 5, 4) for width in (0.5, 1.0, 1.5, 2.0)),
    ],
)
def test_the_network_of_a_state(network: Network) -> None:
    architecture, width, num_classes, input_channels = network
    state = zeros(architecture, width, num_classes=num_classes, input_channels=input_channels)
    assert guess_architecture(state) == network
    counted = {name: array for name, array in state.items() if not name.endswith("num_batches_tracked")}
    assert guess_architecture(counted) == network


@pytest.mark.parametrize("width", [0.03125, 0.333, 0.7071, 1.0625, 1.2345, 3.14159])
def test_an_odd_width_gives_a_network_with_the_same_channels(width: float) -> None:
    found = guess_architecture(zeros("mobilenet_v2", width))
    assert expected_shapes("mobilenet_v2", found.width) == expected_shapes("mobilenet_v2", width)
    assert len(str(found.width)) <= len(str(width))


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        (
            "mobilenet_v2",
            {"features.3.conv.2.weight": None},
            "f.pth .*mobilenet_v2_x1_0.*: features.3.conv.2.weight is missing",
        ),
        ("mobilenet_v2", {"extra.bias": (3,)}, "mobilenet_v2_x1_0.*: extra.bias is unexpected"),
        (
            "mobilenet_v2",
            {"features.9.conv.2.weight": (72, 384, 1, 1)},
            r"has shape \(72, 384, 1, 1\) where \(64, 384, 1, 1\)",
        ),
        ("mobilenet_v2", {"features.0.0.weight": ()}, r"features.0.0.weight has shape \(\) where \(32, 3, 3, 3\)"),
        ("mobilenet_v2", {"classifier.1.weight": None}, "classifier.1.weight is missing; classifier.1.bias has shape"),
        ("mobilenet_v2", {"classifier.1.bias": (3,)}, r"classifier.1.bias has shape \(3,\) where \(2,\) is expected"),
        (
            "shufflenet_v2",
            {"stage3.7.branch2.6.bias": None},
            "shufflenet_v2_x1_0.*: stage3.7.branch2.6.bias is missing",
        ),
        ("shufflenet_v2", {"fc.weight": (2, 2048)}, r"fc.weight has shape \(2, 2048\) where \(2, 1024\)"),
        (
            "shufflenet_v2",
            {f"x{i}": () for i in range(9)},
            r"x0 is unexpected; x1 is unexpected; x2 is unexpected \(and 6 more\)",
        ),
    ],
)
def test_a_state_that_fits_no_network_says_where(
    architecture: Architecture, change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    state = zeros(architecture, 1.0)
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = np.zeros(shape)
    with pytest.raises(WeightsError, match=message):
        guess_architecture(state, source="f.pth")


@pytest.mark.parametrize("names", [[], ["MobilenetV2/Conv/weights", "x"], ["layer1.0.conv1.weight"]])
def test_another_network_is_told(names: list[str]) -> None:
    with pytest.raises(WeightsError, match=r"f\.tflite is no MobileNetV2 or ShuffleNetV2 .*Only these"):
        guess_architecture({name: np.zeros(1) for name in names}, source="f.tflite")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "network"),
    [
        ("mobilenet_v2_1.0_224", Network("mobilenet_v2", 1.0, 1000, 3)),
        ("shufflenet_v2_x1_0", Network("shufflenet_v2", 1.0, 1000, 3)),
    ],
)
def test_real_weights_are_recognised_and_survive_a_round_trip(
    shared_data: Path, tmp_path: Path, file: str, network: Network
) -> None:
    _, state = read_safetensors(shared_data / "weights" / f"{file}.safetensors")
    assert guess_architecture(state) == network
    write_safetensors(tmp_path / "m.safetensors", state, SPEC)
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, tmp_path / "m.pth")
    for again in (read_safetensors(tmp_path / "m.safetensors")[1], read_pth(tmp_path / "m.pth")):
        assert again.keys() == state.keys()
        assert all(np.array_equal(again[name], state[name]) for name in state)


@pytest.mark.parametrize("more", [(), ("features.0.0.weight",)])
def test_names_that_no_terminal_may_see(more: tuple[str, ...]) -> None:
    state = dict.fromkeys((*more, "a\x1b[31m", "x" * 5000), np.zeros((32, 3, 3, 3), np.float32))
    with pytest.raises(WeightsError) as raised:
        guess_architecture(state, source="m.pth")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("held", ["a text", None])
def test_names_beside_the_weights_that_no_terminal_may_see(held: str | None, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    names = ("conv1.0.weight\x1b[31m", "b\u2028", "x" * 5000)
    torch.save({**dict.fromkeys(names, torch.zeros(2)), "stage\x1b": held}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match="holds no state dict") as raised:
        read_pth(tmp_path / "m.pth")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


def test_what_pytorch_says_is_shown_without_control_characters(tmp_path: Path) -> None:
    """It repeats the archive's byte order as the file has it."""
    torch = pytest.importorskip("torch")
    whole, path = io.BytesIO(), tmp_path / "m.pth"
    torch.save({"a": torch.zeros(2)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"l\x00\x1b" if name.endswith("byteorder") else old.read(name))
    with pytest.raises(WeightsError, match=r"m\.pth is damaged or no PyTorch state dict") as raised:
        read_pth(path)
    assert str(raised.value).isprintable()


@pytest.mark.slow
def test_other_networks_weights_are_refused(shared_data: Path) -> None:
    path = shared_data / "weights" / "deeplab_v3_mobilenet_v2_voc_tf.safetensors"
    with pytest.raises(WeightsError, match="Only these networks are read"):
        guess_architecture(read_safetensors(path)[1], source=path.name)
