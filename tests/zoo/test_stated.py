"""The preprocessing that a user states for weights that do not say it, and what is assumed where nobody does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import fusiform
from fusiform.cli import commands
from fusiform.errors import UsageError
from fusiform.nets import mobilenet_v2
from fusiform.spec import Preprocess
from fusiform.zoo.checkpoint import write_safetensors
from fusiform.zoo.model import open_model
from fusiform.zoo.stated import Stated, in_words

IMAGENET = Preprocess()
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of three classes as a script of somebody's saves it."""
    torch.manual_seed(0)
    network = mobilenet_v2(width_mult=0.35, num_classes=3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.2)
    path = tmp_path_factory.mktemp("foreign") / "theirs.pth"
    torch.save({"model": network.state_dict(), "acc": 90.0, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        commands.main([str(argument) for argument in arguments], prog_name="fusiform")
    told = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, told.out, told.err


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, IMAGENET),
        ({"mean": 0.5, "std": [0.5]}, Preprocess(mean=HALF, std=HALF)),
        ({"mean": (0.1, 0.2, 0.3)}, Preprocess(mean=(0.1, 0.2, 0.3))),
        ({"mean": 0, "std": 1}, Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))),
        ({"crop": 192}, Preprocess(219, 192)),
        ({"resize": 232}, Preprocess(232, 224)),
        ({"resize": 300, "crop": 288}, Preprocess(300, 288)),
        ({"fit": "stretch"}, Preprocess(224, 224, fit="stretch")),
        ({"fit": "stretch", "resize": 160}, Preprocess(160, 160, fit="stretch")),
        ({"fit": "pad", "crop": 160, "resize": 160}, Preprocess(160, 160, fit="pad")),
        ({"resize": 224, "crop": 224}, Preprocess(224, 224)),
    ],
)
def test_what_is_stated_goes_over_what_is_assumed(stated: dict[str, Any], expected: Preprocess) -> None:
    assert Stated(**stated).over(IMAGENET) == expected


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"mean": 127.5}, r"mean applies to values in \[0, 1\], and 127.5 is on the scale .* which gives mean 0.5"),
        ({"mean": (123.675, 116.28, 103.53)}, "divide by 255, which gives mean 0.485,0.456,0.406"),
        ({"std": (58.395, 57.12, 57.375)}, "which gives std 0.229,0.224,0.225"),
        ({"std": 0}, "std must be positive and at most 1, got 0"),
        ({"std": (0.5, 0.5, -0.5)}, "std must be positive"),
        ({"mean": -1}, "mean must be 0 or more and at most 1, got -1"),
        ({"mean": (0.5, 0.5)}, "mean must be one number, or three"),
        ({"mean": ()}, "mean must be one number, or three"),
        ({"mean": "0.5"}, "mean must be one number, or three .* got '0.5'"),
        ({"mean": float("nan")}, "mean must be one number, or three"),
        ({"mean": True}, "mean must be one number, or three"),
        ({"crop": 0}, "crop must be a whole number of pixels, 32 or more, got 0"),
        ({"crop": 224.0}, "crop must be a whole number"),
        ({"resize": 200}, "resize 200 is less than crop 224"),
        ({"fit": "stretch", "resize": 256, "crop": 224}, "fit stretch resizes to the crop"),
        ({"fit": "squash"}, "fit must be one of crop, stretch, pad, got 'squash'"),
    ],
)
def test_what_no_preprocessing_can_be(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Stated(**stated).over(IMAGENET)


def test_the_model_says_what_is_assumed(weights: Path) -> None:
    assert open_model(weights).assumed == ("mean", "std", "resize", "crop", "fit")
    partly = open_model(weights, mean=0.5, std=0.5)
    assert partly.assumed == ("resize", "crop", "fit")
    whole = open_model(partly, crop=64)
    assert whole.assumed == ("mean", "std")  # what was said before is not known to be
    assert open_model(weights, mean=0.5, std=0.5, crop=64, fit="stretch").assumed == ()
    assert open_model(weights, crop=64).spec.input_size == 64
    assert "preprocessing as stated (mean, std)" in partly.spec.provenance
    assert in_words(partly.spec.preprocess) == "resize 256, crop 224, mean 0.5, std 0.5"


def test_a_file_that_says_its_preprocessing_keeps_it(weights: Path, tmp_path: Path) -> None:
    model = open_model(weights)
    write_safetensors(tmp_path / "own.safetensors", model.state(), model.spec)
    own = tmp_path / "own.safetensors"
    message = r"own\.safetensors: says itself how images are prepared \(resize 256, .*\): leave out std, crop"
    with pytest.raises(UsageError, match=message):
        fusiform.predict("examples/cat.jpg", own, std=0.5, crop=64)
    with pytest.raises(UsageError, match=message):
        fusiform.port(own, tmp_path / "out.tflite", std=0.5, crop=64)
    with pytest.raises(UsageError, match="leave out mean"):
        fusiform.predict("examples/cat.jpg", "mobilenet_v2", mean=0.5)
    assert not (tmp_path / "out.tflite").exists()


def by_torch(weights: Path, photograph: Path) -> np.ndarray:
    """The probabilities of a script that stretches to 64 pixels and normalises with 0.5."""
    transforms = pytest.importorskip("torchvision.transforms")
    network = mobilenet_v2(width_mult=0.35, num_classes=3)
    network.load_state_dict(torch.load(weights)["model"])
    prepare = transforms.Compose(
        [transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))]
    )
    with Image.open(photograph) as picture, torch.inference_mode():
        answer = network.eval()(prepare(picture.convert("RGB"))[None]).softmax(1)[0]
    return np.asarray(answer)


STATED: dict[str, Any] = {"mean": 0.5, "std": 0.5, "crop": 64, "fit": "stretch"}


def test_predict_port_and_export_answer_like_the_script(weights: Path, photograph: Path, tmp_path: Path) -> None:
    wanted = by_torch(weights, photograph)
    assert np.ptp(wanted) > 0.02
    labels = ["red", "green", "blue"]
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    fusiform.port(weights, tmp_path / "ported.safetensors", labels=labels, **STATED)
    report = fusiform.export(
        weights, "onnx", tmp_path / "out", threads=1, labels=tmp_path / "labels.txt", progress=False, **STATED
    )
    exported = tmp_path / "out" / Path(str(report.rows[0]["file"])).name
    for model, said in (
        (weights, {"labels": labels, **STATED}),
        (tmp_path / "ported.safetensors", {}),
        (exported, {}),
    ):
        (answer,) = fusiform.predict(photograph, model, threads=1, **said)
        found = {guess.name: guess.probability for guess in answer.top}
        np.testing.assert_allclose([found[label] for label in labels], wanted, atol=1e-5)
    (other,) = fusiform.predict(photograph, weights, threads=1)
    assert max(abs(guess.probability - wanted[int(guess.name[-1])]) for guess in other.top) > 1e-3


def test_evaluate_takes_labels_and_preprocessing(weights: Path, photograph: Path, tmp_path: Path) -> None:
    wanted = by_torch(weights, photograph)
    names = ["red", "green", "blue"]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes(photograph.read_bytes() + name.encode())
    lines: list[str] = []
    result = fusiform.evaluate(
        weights, tmp_path / "data", labels=names, threads=1, progress=False, say=lines.append, **STATED
    )
    np.testing.assert_allclose(torch.from_numpy(np.array(result.logits)).softmax(1)[0].numpy(), wanted, atol=1e-5)
    assert lines == []
    fusiform.evaluate(weights, tmp_path / "data", labels=names, threads=1, progress=False, say=lines.append)
    (line,) = lines
    assert line.endswith("(else give --mean --std --resize --crop --fit)")
    with pytest.raises(UsageError, match="2 labels for the 3 classes"):
        fusiform.evaluate(weights, tmp_path / "data", labels=names[:2], progress=False)


def test_the_commands_say_what_they_assumed(
    weights: Path, photograph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "predict", photograph, "--model", weights, "--threads", 1)
    assert code == 0
    assert "class 0" in out
    assert err == (
        f"fusiform: {weights}: does not say how its images were prepared; assumed: resize 256, crop 224, mean "
        "0.485,0.456,0.406, std 0.229,0.224,0.225 (else give --mean --std --resize --crop --fit)\n"
    )
    stated = ("--mean", "0.5", "--std", "0.5,0.5,0.5", "--crop", 64, "--fit", "stretch")
    assert run(capsys, "predict", photograph, "--model", weights, "--threads", 1, *stated)[2] == ""
    code, out, err = run(capsys, "port", weights, "--out", tmp_path / "a.safetensors", "--mean", "0.5")
    assert code == 0
    assert "assumed: resize 256, crop 224, mean 0.5, std 0.229,0.224,0.225 (else give --std --resize --crop" in err
    code, _, err = run(capsys, "port", weights, "--out", tmp_path / "b.safetensors", *stated)
    assert code == 0
    assert all(line.startswith("next: ") for line in err.splitlines())
    assert run(capsys, "predict", photograph, "--model", tmp_path / "b.safetensors", "--threads", 1)[2] == ""
    code, _, err = run(capsys, "predict", photograph, "--model", weights, "--mean", "127.5")
    assert code == 2
    assert "divide by 255, which gives mean 0.5" in err
    code, _, err = run(capsys, "predict", photograph, "--mean", "0.5")
    assert code == 2
    assert "says itself how images are prepared" in err
