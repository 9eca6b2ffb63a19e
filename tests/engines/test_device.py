"""Which device PyTorch computes on, and what is said where there is none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fusiform.engines import device as devices
from fusiform.engines import open_engine, place_of
from fusiform.engines.device import choose_device, describe_device, find_device
from fusiform.errors import InputError, UsageError
from fusiform.zoo.model import open_model

ROOT = Path(__file__).parents[2]
CAT = ROOT / "examples" / "cat.jpg"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_without_a_gpu_it_is_the_cpu(no_gpu: None) -> None:
    assert choose_device() == "cpu"
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    assert describe_device("cpu") == "cpu"


@pytest.mark.parametrize("works", [True, False])
def test_a_gpu_is_taken_where_it_computes(works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU called {device}")

    def ones(count: int, *, device: str) -> Any:
        assert device == "cuda"
        if not works:
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")
        return torch.full((count,), 1.0)

    monkeypatch.setattr(torch, "ones", ones)
    assert choose_device() == ("cuda" if works else "cpu")
    assert describe_device("cuda") == "cuda (a GPU called cuda)"


def test_a_device_that_is_not_there_is_a_lack_of_the_machine_and_told_in_a_line(
    no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(*_: Any, **__: Any) -> None:
        raise NotImplementedError("Could not run 'aten::empty.memory_format' with arguments\nCPU: registered at\n")

    monkeypatch.setattr(torch, "empty", empty)
    for device in ("cuda", "cuda:3", "mps"):
        with pytest.raises(
            InputError, match=rf"^PyTorch has no device {device} here: [^\n]*--device cpu[^\n]*$"
        ) as told:
            find_device(device)
        assert told.value.exit_code == 1
        assert "aten" not in str(told.value)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(InputError, match="finds no NVIDIA GPU"):
        find_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="there is cuda:0 to cuda:1; name another"):
        find_device("cuda:3")
    with pytest.raises(InputError, match=r"Could not run .* with arguments; name another"):
        find_device("cuda:1")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "meta", "CPU", ""])
def test_what_is_no_device_is_wrong_usage(device: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"PyTorch has no device {device} here: give auto, cpu")) as told:
        find_device(device)
    assert told.value.exit_code == 2


def test_auto_is_for_pytorch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "choose_device", lambda: "cuda")
    model = open_model("mobilenet_v2")
    assert place_of(model, None, "auto") == "cpu"
    assert place_of(model, "torch", "auto") == "cuda"
    assert place_of(model, None, "mps") == "mps"
    monkeypatch.setattr(devices, "choose_device", lambda: "cpu")
    assert open_engine(model, engine="torch", device="auto").spec == model.spec.with_logits()


def test_the_light_way_does_not_import_pytorch_to_ask() -> None:
    code = (
        "import sys, fusiform; fusiform.predict(sys.argv[1], device='auto'); "
        "sys.exit('torch' in sys.modules or 'fusiform.engines.device' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(CAT)], check=True)
