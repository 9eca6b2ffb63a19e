"""Trained networks for PyTorch users: what is loaded answers as the engines do."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fusiform
from fusiform.engines import open_engine
from fusiform.errors import DownloadError, MissingExtraError, UsageError, WeightsError
from fusiform.modules import MobileNetV2, ShuffleNetV2
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.load import load, load_state
from fusiform.zoo.model import open_model

BUNDLED = [("mobilenet_v2", MobileNetV2, "classifier.1"), ("shufflenet_v2_x1_0", ShuffleNetV2, "fc")]
each_bundled = pytest.mark.parametrize(("name", "network", "head"), BUNDLED)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test here may reach the network or a cache that an earlier run has filled."""
    monkeypatch.setenv("FUSIFORM_OFFLINE", "1")
    monkeypatch.setenv("FUSIFORM_CACHE", str(tmp_path / "cache"))


def pictures(count=2, size=224, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@each_bundled
def test_bundled_weights_answer_as_the_engine_does(name, network, head):
    loaded = load(name)
    assert isinstance(loaded, network)
    assert not loaded.training
    batch = pictures()
    with torch.inference_mode():
        answers = loaded(batch).numpy()
    expected = open_engine(name, engine="torch").run(batch.numpy())["logits"]
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_default_is_mobilenet_v2():
    assert fusiform.load is load
    assert isinstance(fusiform.load(), MobileNetV2)


@each_bundled
def test_a_fresh_head_on_a_trained_backbone(name, network, head):
    torch.manual_seed(0)
    loaded, trained = load(name, num_classes=7), load(name)
    ours, theirs = loaded.state_dict(), trained.state_dict()
    assert ours.keys() == theirs.keys()
    for key in ours:
        if not key.startswith(head):
            assert torch.equal(ours[key], theirs[key]), key
    assert ours[f"{head}.weight"].shape == (7, theirs[f"{head}.weight"].shape[1])
    assert 0 < ours[f"{head}.weight"].std() < 0.1
    assert loaded(pictures(1)).shape == (1, 7)
    same = load(name, num_classes=1000).state_dict()
    assert torch.equal(same[f"{head}.weight"], theirs[f"{head}.weight"])


@each_bundled
def test_output_stride_and_dropout(name, network, head):
    dense = load(name, output_stride=8, dropout=0.5)
    assert dense.forward_stages(pictures(1, 64))["last"].shape[2:] == (8, 8)
    (dropout,) = (module.p for module in dense.modules() if isinstance(module, torch.nn.Dropout))
    assert dropout == 0.5
    plain = load(name)
    ours, theirs = dense.state_dict(), plain.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_loaded_network_trains():
    loaded = load("shufflenet_v2_x1_0", num_classes=2).train()
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.01)
    batch, truth = pictures(4, 64), torch.tensor([0, 1, 0, 1])
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(loaded(batch), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "shufflenet_v2"])
def test_a_file_of_ones_own(architecture, tmp_path, small_spec, lived_in_state):
    spec = small_spec(architecture, 0.5, padding="same", channels=4)
    state = lived_in_state(spec)
    write_safetensors(tmp_path / "own.safetensors", state, spec)
    loaded = load(tmp_path / "own.safetensors")
    for key, value in loaded.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key])
    batch = np.random.default_rng(0).normal(size=(2, 4, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        answers = loaded(torch.from_numpy(batch)).numpy()
    expected = open_engine(tmp_path / "own.safetensors").run(batch)["logits"]
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_torchvision_takes_the_weights_as_they_are():
    models = pytest.importorskip("torchvision.models")
    theirs = models.mobilenet_v2()
    theirs.load_state_dict(load("mobilenet_v2").state_dict())
    batch = pictures(1)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.eval()(batch), load("mobilenet_v2")(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("weights", "file"),
    [
        ("IMAGENET1K_V1", "mobilenet_v2-b0353104.pth"),
        ("IMAGENET1K_V2", "mobilenet_v2-7ebf99e0.pth"),
        ("DEFAULT", "mobilenet_v2-7ebf99e0.pth"),
        ("torchvision_v2", "mobilenet_v2-7ebf99e0.pth"),
    ],
)
def test_downloads_that_are_forbidden_are_named(weights, file):
    with pytest.raises(DownloadError, match=f"{file} is not there, and FUSIFORM_OFFLINE forbids fetching") as raised:
        load("mobilenet_v2", weights=weights)
    assert f"https://download.pytorch.org/models/{file}" in str(raised.value)


def test_wrong_arguments(tmp_path):
    with pytest.raises(UsageError, match="num_classes must be a whole number, 0 or more, got -1"):
        load(num_classes=-1)
    with pytest.raises(UsageError, match="has no weights 'IMAGENET22K'; it has bundled"):
        load(weights="IMAGENET22K")
    with pytest.raises(UsageError, match="no weights are known for a network 'resnet50'"):
        load("resnet50", weights="DEFAULT")
    with pytest.raises(UsageError, match="output_stride must be 8, 16 or 32"):
        load(output_stride=4)
    with pytest.raises(WeightsError, match="no such model file"):
        load(tmp_path / "gone.pth")


def test_a_state_that_does_not_fit_is_named():
    network = ShuffleNetV2(0.5, 10)
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    load_state(network, {k: v for k, v in state.items() if "num_batches" not in k}, source="whole.pth")
    lacking = {name: array for name, array in state.items() if name != "conv5.0.weight"}
    with pytest.raises(WeightsError, match=r"a\.pth: does not fit the network: missing \['conv5\.0\.weight'\]"):
        load_state(network, lacking, source="a.pth")
    with pytest.raises(WeightsError, match=r"b\.pth: .* unexpected \['more'\]"):
        load_state(network, state | {"more": np.zeros(1)}, source="b.pth")
    with pytest.raises(WeightsError, match=r"c\.pth: .*size mismatch for fc\.bias"):
        load_state(network, state | {"fc.bias": np.zeros(11, np.float32)}, source="c.pth")


def test_without_pytorch():
    script = (
        "import sys; sys.modules['torch'] = None\nimport fusiform\n"
        "try: fusiform.load()\nexcept Exception as error: print(type(error).__name__, error)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.startswith(MissingExtraError.__name__ + " fusiform.load needs PyTorch")
    assert "pip install 'fusiform[torch]'" in answer.stdout


def test_the_preprocessing_that_the_docstring_points_to():
    assert open_model("mobilenet_v2").spec.preprocess.resize == 256
