"""What scripts written for torchvision's hub and for a walk through the paper do, with fusiform's networks in them.

The scripts here do what those do. The documents themselves are not part of the repository: where they lie beside it,
their blocks run as they are, but for the place that the network comes from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

torch = pytest.importorskip("torch")
transforms = pytest.importorskip("torchvision.transforms")
datasets = pytest.importorskip("torchvision.datasets")

from torch import nn

import fusiform
from fusiform.nets import mobilenet_v2

ROOT = Path(__file__).parents[1]
SCENES = ("forest", "sea", "street")
COLOURS = {"forest": (30, 120, 40), "sea": (40, 90, 200), "street": (120, 120, 110)}
STATED: dict[str, Any] = {"labels": SCENES, "mean": 0.5, "std": 0.5, "fit": "stretch", "threads": 1}


def scenes(folder: Path, count: int, seed: int, side: int = 150) -> None:
    """Folders of classes, with pictures of noise around a colour."""
    random = np.random.default_rng(seed)
    for name in SCENES:
        (folder / name).mkdir(parents=True)
        for k in range(count):
            noise = random.normal(0, 50, (side // 10, side // 10, 3)).repeat(10, 0).repeat(10, 1)
            Image.fromarray(np.clip(COLOURS[name] + noise, 0, 255).astype(np.uint8)).save(folder / name / f"{k}.png")


def prepare(size: int) -> Callable[[Image.Image], Any]:
    half = (0.5, 0.5, 0.5)
    steps = [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(half, half)]
    return transforms.Compose(steps)  # type: ignore[no-any-return]


def logits_of(network: nn.Module, folder: Path, size: int) -> dict[str, NDArray[np.float32]]:
    """A script's logits of the pictures in a folder of classes."""
    step, found = prepare(size), {}
    with torch.inference_mode():
        for path in sorted(folder.rglob("*.png")):
            with Image.open(path) as picture:
                batch = step(picture.convert("RGB")).unsqueeze(0)
            found[str(path)] = np.asarray(network.eval()(batch)[0])
    return found


def assert_read(checkpoint: Path, data: Path, wanted: dict[str, NDArray[np.float32]], size: int, out: Path) -> None:
    """predict, evaluate and export read the checkpoint, and their logits are the script's."""
    stated = STATED | {"crop": size}
    largest = max(np.abs(row).max() for row in wanted.values())
    assert max(np.ptp(row) for row in wanted.values()) > 1e-3
    for engine in (None, "torch"):
        result = fusiform.evaluate(checkpoint, data, engine=engine, progress=False, **stated)
        assert len(result.samples) == len(wanted)
        for sample, row in zip(result.samples, result.logits, strict=True):
            np.testing.assert_allclose(row, wanted[str(sample.file)], rtol=0, atol=1e-5 * max(1, largest))
    answers = fusiform.predict(data, checkpoint, progress=False, **stated)
    report = fusiform.export(checkpoint, "litert,onnx", out, data=data, progress=False, **stated)
    files = [out / Path(str(row["file"])).name for row in report.rows]
    assert len(files) == 2
    for told in (answers, *(fusiform.predict(data, file, threads=1, progress=False) for file in files)):
        assert len(told) == len(wanted)
        for answer in told:
            row = np.exp(wanted[str(answer.path)].astype(np.float64))
            probabilities = {guess.name: guess.probability for guess in answer.top}
            np.testing.assert_allclose([probabilities[name] for name in SCENES], row / row.sum(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("replace", ["whole", "second"])
def test_a_training_script_and_what_is_done_with_its_checkpoint(replace: str, tmp_path: Path) -> None:
    size = 64
    scenes(tmp_path / "train", 3, 0)
    scenes(tmp_path / "test", 1, 1)
    torch.manual_seed(0)

    train = datasets.ImageFolder(tmp_path / "train", transform=prepare(size))
    loader = torch.utils.data.DataLoader(train, batch_size=5, shuffle=True)
    model = mobilenet_v2(True)
    if replace == "whole":
        model.classifier = nn.Linear(model.classifier.in_features, len(SCENES))
    else:
        model.classifier[1] = nn.Linear(model.last_channel, len(SCENES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    losses = []
    for _ in range(3):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]
    torch.save({"model": model.state_dict(), "acc": 100.0, "epoch": 2}, tmp_path / "ckpt.pth")

    model = mobilenet_v2(False)
    if replace == "whole":
        model.classifier = nn.Linear(model.classifier.in_features, len(SCENES))
    else:
        model.classifier[1] = nn.Linear(model.last_channel, len(SCENES))
    model.load_state_dict(torch.load(tmp_path / "ckpt.pth")["model"])
    wanted = logits_of(model, tmp_path / "test", size)
    assert_read(tmp_path / "ckpt.pth", tmp_path / "test", wanted, size, tmp_path / "out")


# The documents themselves.


@pytest.fixture(scope="module")
def documents(shared_data: Path) -> dict[str, list[str]]:
    """The blocks of code in each document, by its first three digits."""
    paths = sorted((shared_data.parent / "seeds").glob("0*.txt"))
    if not paths:
        pytest.skip("no documents beside the repository")
    return {
        path.name[:3]: re.findall(r"^```(?:python)?\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.M)
        for path in paths
    }


def run(folder: Path, code: str) -> str:
    """What a script prints; its figures are drawn, and shown nowhere."""
    (folder / "script.py").write_text(code, encoding="utf-8")
    sources = os.pathsep.join([str(ROOT / "src"), str(folder)])
    environment = {**os.environ, "PYTHONPATH": sources, "MPLBACKEND": "Agg", "FUSIFORM_OFFLINE": "1"}
    environment |= {"PYTHONIOENCODING": "utf-8"}
    answer = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=3600,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def with_our_path(code: str) -> str:
    """The same, where the network comes from: a place in torch.hub, or one import. Nothing else changes."""
    place = f"torch.hub.load({str(ROOT)!r}, source='local', model="
    changed, hubs = re.subn(r"torch\.hub\.load\('pytorch/vision:v[\d.]+', ", place, code)
    changed, imports = re.subn(
        r"^from (torchvision\.models|mobilenetv2) import mobilenet_v2$",
        "from fusiform.nets import mobilenet_v2",
        changed,
        flags=re.M,
    )
    assert hubs + imports == 1
    return changed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["000", "001"])
def test_the_pages_of_the_hub(name: str, documents: dict[str, list[str]], shared_data: Path, tmp_path: Path) -> None:
    load, download, ask, labels, show = documents[name]
    assert "wget" in labels
    (tmp_path / "imagenet_classes.txt").write_text("\n".join(fusiform.open_model("mobilenet_v2").spec.labels))
    local = (
        "import shutil, urllib.request\n"
        f"urllib.request.urlretrieve = lambda _, to: shutil.copy({str(shared_data / 'dog.jpg')!r}, to)\n"
    )
    printed = run(tmp_path, local + "\n".join([with_our_path(load), download, ask, show]))
    names = [line.rpartition(" ")[0] for line in printed.splitlines()[-5:]]
    assert names[0] == "Samoyed"
    assert float(printed.split()[-1]) < 0.2


@pytest.mark.slow
def test_the_note_on_torchscript(documents: dict[str, list[str]], tmp_path: Path) -> None:
    first, second = documents["002"]
    run(tmp_path, with_our_path(first))
    run(tmp_path, with_our_path(second))
    with pytest.warns(FutureWarning, match="torch.jit.load"):
        traced = torch.jit.load(tmp_path / "mobilenet-v2.pt")
    x = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(traced(x), mobilenet_v2(True)(x), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def walked(documents: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the training script and the inference script ran."""
    folder = tmp_path_factory.mktemp("walk")
    for part, count, seed in (("train", 2, 0), ("test", 1, 1)):
        scenes(folder / "dataset" / f"seg_{part}" / f"seg_{part}", count, seed)
    asked = folder / "dataset" / "seg_pred" / "seg_pred"
    asked.mkdir(parents=True)
    for k in range(12):
        Image.new("RGB", (150, 150), COLOURS[SCENES[k % 3]]).save(asked / f"{k}.png")
    _, train, infer = documents["003"]
    printed = run(folder, with_our_path(train))
    assert printed.count("[Test] epoch:") == 10
    assert (folder / "checkpoint" / "ckpt.pth").is_file()
    run(folder, with_our_path(infer))
    return folder


@pytest.mark.slow
def test_the_walk_through_the_paper(walked: Path, tmp_path: Path) -> None:
    checkpoint = walked / "checkpoint" / "ckpt.pth"
    assert torch.load(checkpoint).keys() == {"model", "acc", "epoch"}
    model = mobilenet_v2(False)
    model.classifier = nn.Linear(model.classifier.in_features, len(SCENES))
    model.load_state_dict(torch.load(checkpoint)["model"])
    data = walked / "dataset" / "seg_test" / "seg_test"
    assert_read(checkpoint, data, logits_of(model, data, 224), 224, tmp_path / "out")


@pytest.mark.slow
def test_the_walks_own_network(documents: dict[str, list[str]], tmp_path: Path) -> None:
    """Its names are those of pytorch-mobilenet-v2: the layers are known by their order and shapes."""
    (tmp_path / "mobilenetv2.py").write_text(documents["003"][0], encoding="utf-8")
    scenes(tmp_path / "test", 1, 1)
    sys.path.insert(0, str(tmp_path))
    try:
        import mobilenetv2  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    torch.manual_seed(0)
    network = mobilenetv2.MobileNetV2(num_classes=len(SCENES))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.1, 0.3)
    torch.save({"model": network.state_dict(), "acc": 50.0, "epoch": 0}, tmp_path / "ckpt.pth")
    wanted = logits_of(network, tmp_path / "test", 224)
    assert_read(tmp_path / "ckpt.pth", tmp_path / "test", wanted, 224, tmp_path / "out")
