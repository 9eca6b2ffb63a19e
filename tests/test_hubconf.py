"""torch.hub.load from a checkout, as the hub pages write it."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fusiform import nets
from fusiform.errors import DownloadError, UsageError
from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.load import load

REPOSITORY = Path(__file__).parents[1]
ENTRIES = {
    "mobilenet_v2": 3504872,
    "shufflenet_v2_x0_5": 1366792,
    "shufflenet_v2_x1_0": 2278604,
    "shufflenet_v2_x1_5": 3503624,
    "shufflenet_v2_x2_0": 7393996,
}
HEADED = {
    "ssdlite_mobilenet_v2": 4337013,
    "ssdlite_shufflenet_v2_x1_0": None,
    "deeplab_v3_mobilenet_v2": 2113557,
    "deeplab_v3_shufflenet_v2_x1_0": None,
}
BUNDLED = ["mobilenet_v2", "shufflenet_v2_x1_0"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))  # hubconf.py puts the checkout in front


def hub(entry, *arguments, **options):
    return torch.hub.load(str(REPOSITORY), entry, *arguments, source="local", **options)


def same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_entries():
    location = importlib.util.spec_from_file_location("hubconf", REPOSITORY / "hubconf.py")
    module = importlib.util.module_from_spec(location)
    location.loader.exec_module(module)
    functions = {name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"}
    assert functions == {*ENTRIES, *HEADED}
    assert all(getattr(module, name) is getattr(nets, name) for name in functions)
    assert all(importlib.util.find_spec(name) for name in module.dependencies)


@pytest.mark.parametrize("entry", ENTRIES)
def test_fresh_weights(entry):
    network = hub(entry)
    assert network.training
    assert sum(parameter.numel() for parameter in network.parameters()) == ENTRIES[entry]
    assert isinstance(network, MobileNetV2 if entry == "mobilenet_v2" else ShuffleNetV2)
    torch.manual_seed(0)
    assert hub(entry, weights=None, num_classes=5).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("weights", [None, "bundled"])
@pytest.mark.parametrize("entry", BUNDLED)
def test_no_classes(entry, weights):
    network = hub(entry, weights=weights, num_classes=0).eval()
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(network(x), network.forward_head(network.forward_features(x), pre_logits=True))
    with pytest.raises(UsageError, match=r"num_classes must be .* got -1"):
        hub(entry, weights=weights, num_classes=-1)


@pytest.mark.parametrize("entry", BUNDLED)
def test_bundled_weights(entry):
    network = hub(entry, weights="bundled")
    assert not network.training
    assert same_weights(network, load(entry))
    assert same_weights(hub(entry, "bundled"), network)
    assert same_weights(hub(entry, pretrained=True), network)
    assert hub(entry, weights="bundled", num_classes=3)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_width():
    network = hub("mobilenet_v2", width=0.35)
    assert network.feature_channels["stride_32"] == 112
    assert same_weights(hub("mobilenet_v2", "bundled", width=1), load("mobilenet_v2"))
    with pytest.raises(UsageError, match="no weights are known for a network 'mobilenet_v2_x0_35'"):
        hub("mobilenet_v2", "bundled", width=0.35)


@pytest.mark.parametrize("entry", ENTRIES)
def test_published_weights_are_fetched_only_when_asked_for(entry):
    for weights in ("IMAGENET1K_V1", "DEFAULT"):
        with pytest.raises(DownloadError, match=r"FUSIFORM_OFFLINE forbids fetching https://download\.pytorch\.org"):
            hub(entry, weights=weights)
    if entry not in BUNDLED:
        with pytest.raises(DownloadError):
            hub(entry, pretrained=True)
        with pytest.raises(UsageError, match="has no weights 'bundled'"):
            hub(entry, weights="bundled")


@pytest.mark.parametrize("entry", BUNDLED)
def test_a_file(entry, tmp_path):
    trained = load(entry)
    torch.save(trained.state_dict(), tmp_path / "own.pth")
    assert same_weights(hub(entry, weights=str(tmp_path / "own.pth")), trained)


def test_a_checkout_without_installation(tmp_path):
    """Only hubconf.py puts the sources on the path."""
    script = (
        "import importlib.util, os, sys, torch\n"
        f"sources = {str(REPOSITORY / 'src')!r}\n"
        # Compared as folders: the environment and all packages in it may lie in a folder called fusiform too.
        "sys.path = [p for p in sys.path if not (os.path.isdir(p) and os.path.samefile(p, sources))]\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f).lower()]\n"
        "assert 'fusiform' not in sys.modules\n"
        "found = importlib.util.find_spec('fusiform')\n"
        "assert found is None or not found.origin.startswith(sources), found\n"
        f"network = torch.hub.load({str(REPOSITORY)!r}, 'shufflenet_v2_x1_0', 'bundled', source='local')\n"
        "import fusiform; print(fusiform.__file__)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
        cwd=tmp_path,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == str(REPOSITORY / "src" / "fusiform" / "__init__.py")


@pytest.mark.parametrize("entry", HEADED)
def test_detectors_and_segmenters(entry, tmp_path):
    network = hub(entry, backbone="bundled").eval()
    if HEADED[entry] is not None:
        assert sum(parameter.numel() for parameter in network.parameters()) == HEADED[entry]
    stem = "features.0.0.weight" if "mobilenet" in entry else "conv1.0.weight"
    bundled = load("mobilenet_v2" if "mobilenet" in entry else "shufflenet_v2_x1_0").state_dict()[stem]
    assert torch.equal(network.state_dict()[f"backbone.{stem}"], bundled)

    detects = entry.startswith("ssdlite")
    spec = ModelSpec(
        "mobilenet_v2" if "mobilenet" in entry else "shufflenet_v2",
        1.0,
        tuple(f"class {k}" for k in range(80 if detects else 21)),
        task="detection" if detects else "segmentation",
        output_stride=32 if detects else 16,
        preprocess=Preprocess(resize=224, crop=224, fit="stretch"),
    )
    write_safetensors(tmp_path / "own.safetensors", {k: v.numpy() for k, v in network.state_dict().items()}, spec)
    x = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    found, wanted = hub(entry, str(tmp_path / "own.safetensors"))(x), network(x)
    for a, b in zip(found, wanted, strict=True) if detects else [(found, wanted)]:
        assert torch.equal(a, b)
    other = "deeplab_v3_mobilenet_v2" if detects else "ssdlite_mobilenet_v2"
    with pytest.raises(UsageError, match="name another file"):
        hub(other, str(tmp_path / "own.safetensors"))
    if not detects:
        denser = hub(entry, str(tmp_path / "own.safetensors"), output_stride=8)
        assert denser.forward_coarse(x).shape[2:] == (9, 9)
