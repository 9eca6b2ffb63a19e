"""Checkpoints of some kilobytes that would take gigabytes, or for ever: refused in one line that names the tensor."""

from __future__ import annotations

import collections
import datetime
import io
import pathlib
import random
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusiform.errors import WeightsError
from fusiform.graph.shapes import expected_shapes
from fusiform.porting.port import port
from fusiform.zoo.checkpoint import read_pth
from fusiform.zoo.load import load
from fusiform.zoo.model import open_model

NAME = "features.0.0.weight"
LEGACY = {"_use_new_zipfile_serialization": False}


def state_of_zeros() -> dict[str, Any]:
    return {name: torch.zeros(shape) for name, shape in expected_shapes("mobilenet_v2", 0.35).items()}


ODD: dict[str, tuple[Callable[[], Any], str]] = {
    "one number seen often": (lambda: torch.zeros(1).expand(1 << 30), "the tensors take 4,294,967,"),
    "very often": (lambda: torch.zeros(1).expand(1 << 40), "the tensors take 4,398,046,511,"),
    "as half": (lambda: torch.zeros(1, dtype=torch.float16).expand(1 << 30), "the tensors take"),
    "whole": (lambda: torch.zeros(1, dtype=torch.int64).expand(1 << 34), "the tensors take"),
    "in a matrix": (lambda: torch.zeros(1, 1).expand(1 << 20, 1 << 20), "the tensors take"),
    "meta": (lambda: torch.zeros(32, 3, 3, 3, device="meta"), "is a meta"),
    "complex": (lambda: torch.zeros(32, dtype=torch.complex64), "is a complex tensor"),
    "conjugate": (lambda: torch.zeros(32, dtype=torch.complex64).conj(), "is a complex tensor"),
    "sparse": (lambda: torch.zeros(32, 3).to_sparse(), "is a quantised or sparse tensor"),
    "float8": (lambda: torch.zeros(32).to(torch.float8_e4m3fn), "is a float8_e4m3fn tensor"),
    "uint16": (lambda: torch.zeros(32, dtype=torch.uint16), "is a uint16 tensor"),
}


@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_no_arrays_of_numbers(kind: str, tmp_path: Path) -> None:
    made, message = ODD[kind]
    for name, options in {"zip.pth": {}, "legacy.pth": LEGACY}.items():
        torch.save({"features.0.0.bias": torch.zeros(3), NAME: made()}, tmp_path / name, **options)
        with pytest.raises(WeightsError, match=rf"{name}(: features\.0\.0\.weight .*{message}| is damaged)") as error:
            read_pth(tmp_path / name)
        # Before PyTorch's files were archives there were no tensors of some kinds.
        assert message in str(error.value) or (options and kind in ("float8", "uint16"))
        assert "\n" not in str(error.value)


def test_every_way_to_open_one(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save({**state_of_zeros(), NAME: torch.zeros(1).expand(1 << 40)}, path)
    for use in (open_model, load, lambda file: port(file, tmp_path / "x.safetensors")):
        with pytest.raises(WeightsError, match=r"m\.pth: features\.0\.0\.weight has the shape .*take 4,398,"):
            use(path)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_many_views_of_one_storage(zipped: bool, tmp_path: Path) -> None:
    all_of_it = torch.zeros(1 << 18)
    torch.save({f"w{k}": all_of_it.view(-1) for k in range(10_000)}, tmp_path / "m.pth", **({} if zipped else LEGACY))
    assert (tmp_path / "m.pth").stat().st_size < 4 << 20
    with pytest.raises(WeightsError, match=r"m\.pth: w\d+ has the shape \(262144,\), and with it the tensors take"):
        read_pth(tmp_path / "m.pth")


def test_views_as_training_leaves_them_are_read(tmp_path: Path) -> None:
    """Parts of one flat storage, a negative view, weights in both of two orders of memory, ones that are one number."""
    state = state_of_zeros()
    flat = torch.arange(40.0)
    state |= {"features.0.1.weight": flat[4:20], "features.0.1.bias": flat[20:36]}
    state["features.0.1.running_var"] = torch.ones(1).expand(16)
    state["features.0.1.running_mean"] = torch._neg_view(flat[:16])
    state[NAME] = torch.rand(16, 3, 3, 3).to(memory_format=torch.channels_last)
    torch.save(state, tmp_path / "m.pth")
    read = read_pth(tmp_path / "m.pth")
    assert read["features.0.1.weight"].tolist() == list(range(4, 20))
    assert read["features.0.1.running_var"].tolist() == [1] * 16
    assert read["features.0.1.running_mean"].tolist() == [-k for k in range(16)]
    assert np.array_equal(read[NAME], state[NAME].numpy())
    assert open_model(tmp_path / "m.pth").spec.width == 0.35


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool])
def test_weights_in_whole_numbers_are_none(kind: Any, tmp_path: Path) -> None:
    state = state_of_zeros()
    torch.save({**state, NAME: state[NAME].to(kind)}, tmp_path / "m.pth")
    name = str(kind).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"m\.pth: features\.0\.0\.weight holds {name} numbers, and a network's"):
        open_model(tmp_path / "m.pth")


def test_what_scripts_keep_beside_the_weights_is_still_read(tmp_path: Path) -> None:
    counter = collections.Counter({"a": 2})
    default: Any = collections.defaultdict(list)
    default["x"].append(1)
    beside: dict[Any, Any] = {
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}}, "groups": [{"lr": 1}]},
        "args": Namespace(lr=0.1, sizes=(1, 2), out=pathlib.PurePosixPath("a/b"), kind=float),
        "counts": counter,
        "default": default,
        "set": {1, 2},
        "bytes": b"\xff\x00abc",
        "bytearray": bytearray(b"\xffabc"),
        "complex": 1 + 2j,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "when": datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone.utc),
        "took": datetime.timedelta(seconds=3),
        "random": random.Random(0).getstate(),
        "numpy": [np.float64(1.5), np.zeros((2, 3)), np.array("text")],
        "losses": [0.5] * 50_000,
        "parameter": torch.nn.Parameter(torch.zeros(2)),
        "big": 10**30,
        ("a", 1): None,
        "sparse": torch.zeros(3, 3).to_sparse(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they go away in some future PyTorch
        beside["quantised"] = torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)
    for name, options in {"zip": {}, "legacy": LEGACY}.items():
        torch.save({**beside, "state_dict": state_of_zeros()}, tmp_path / f"{name}.pth", **options)
        assert len(read_pth(tmp_path / f"{name}.pth")) == 314


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


def doubled(value: Any, times: int = 40) -> Any:
    for _ in range(times):
        value = (value, value)
    return value


def listed(value: Any, times: int = 40) -> Any:
    for _ in range(times):
        value = [value, value]
    return value


reconstruct = np.zeros(1).__reduce__()[0]
scalar = np.float64(0).__reduce__()[0]
CALLS: dict[str, Any] = {
    "bytes": Call(bytearray, 1 << 40),
    "list of bytes": Call(list, Call(bytearray, 1 << 30)),
    "counted bytes": Call(collections.Counter, Call(bytearray, 1 << 40)),
    "text": Call(str, listed(0)),
    "hash": Call(set, [doubled(0)]),
    "array": Call(reconstruct, np.ndarray, (1 << 36,), b"b"),
    "array of objects": Call(reconstruct, np.ndarray, (0,), b"b", state=(1, (1 << 36,), np.dtype("O"), False, [])),
    "scalar": Call(scalar, np.dtype("O"), doubled(0)),
    "dtype": Call(np.dtype, "(65536,65536)f8", False, True),
    "tensor": Call(torch.Tensor, 1 << 36),
    "storage": Call(torch.UntypedStorage, 1 << 40),
    "encoded": Call(__import__("_codecs").encode, "a" * 100, "utf-16"),
    "by another call": Call(torch._tensor._rebuild_from_type_v2, bytearray, torch.Tensor, (1 << 40,), {}),
    "cast": Call(
        torch._utils._rebuild_device_tensor_from_cpu_tensor,
        torch.zeros(1).expand(1 << 36),
        torch.float64,
        "cpu",
        False,
    ),
}


@pytest.mark.parametrize("kind", CALLS)
def test_pickles_that_call_for_memory(kind: str, tmp_path: Path) -> None:
    for name, options in {"zip.pth": {}, "legacy.pth": LEGACY}.items():
        torch.save({"state_dict": {"w": torch.zeros(3)}, "x": CALLS[kind]}, tmp_path / name, **options)
        with pytest.raises(WeightsError, match=rf"{name} (holds|is damaged or no PyTorch state dict)") as error:
            read_pth(tmp_path / name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_tensors_without_end(options: dict[str, Any], tmp_path: Path) -> None:
    """PyTorch takes minutes for some ten thousand."""
    one = torch.zeros(1)
    torch.save({f"w{k}": one[:] for k in range(20_001)}, tmp_path / "m.pth", **options)
    with pytest.raises(WeightsError, match=r"m\.pth holds more than 20,000 tensors"):
        read_pth(tmp_path / "m.pth")


def test_instructions_without_end(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(3)}, "x": [0] * 2_100_000}, tmp_path / "m.pth")
    with pytest.raises(WeightsError, match=r"m\.pth holds millions of values beside its tensors"):
        read_pth(tmp_path / "m.pth")


def test_deep_tuples(tmp_path: Path) -> None:
    """Python's own hash of a deep tuple ends the process; one of some depth is read."""
    keys = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s."
    for name, depth in {"deep.pth": 1_000_000, "shallow.pth": 300}.items():
        content = keys.replace(b"\x85" * 1_000_000, b"\x85" * depth)
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", b"3\n")
    with pytest.raises(WeightsError, match=r"deep\.pth holds a tuple of tens of thousands"):
        read_pth(tmp_path / "deep.pth")
    with pytest.raises(WeightsError, match=r"shallow\.pth holds no state dict"):
        read_pth(tmp_path / "shallow.pth")


@pytest.mark.parametrize("change", ["twice", "other case", "missing", "larger", "encrypted", "entries", "unpacks"])
def test_archives_that_lie(change: str, tmp_path: Path) -> None:
    saved = io.BytesIO()
    torch.save({"w": torch.zeros(300)}, saved)
    entries = {}
    with zipfile.ZipFile(saved) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "m.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            if change == "missing" and name.endswith("/data/0"):
                continue
            if change == "larger" and name.endswith("/data.pkl"):
                content = content.replace(b"M,\x01", b"M,\x0f")
            archive.writestr(name, content)
        if change == "twice":
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("m/data.pkl" if "m/data.pkl" in entries else next(iter(entries)), b"\x80\x02}.")
        if change == "other case":
            archive.writestr(next(name for name in entries if name.endswith("data.pkl")).upper(), b"\x80\x02}.")
        if change == "unpacks":
            archive.writestr("archive/more", bytes(64 << 20), zipfile.ZIP_DEFLATED)
        if change == "entries":
            for k in range(66_000):
                archive.writestr(str(k), b"")
    if change == "encrypted":
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"m\.pth(: (is an archive of 66,|would unpack)| is damaged or no PyTorch)"):
        read_pth(path)


def test_escapes_that_old_pickles_have_are_no_warning(tmp_path: Path) -> None:
    """``S`` is a text in quotes with Python 2's escapes: unknown ones are a DeprecationWarning, here an error."""
    path = tmp_path / "old.pth"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.S'\\_'\n.")
    with pytest.raises(WeightsError, match=r"old\.pth"):
        read_pth(path)
