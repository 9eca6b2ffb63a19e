"""A third architecture, with all that CONTRIBUTING.md's "Add a network" asks for and nothing else.

One record, one PyTorch module, one graph function and one line in each of three dictionaries; everything else is the
tool as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import fusiform
from fusiform.analysis import analyze
from fusiform.engines.litert import LiteRTEngine
from fusiform.engines.onnxruntime import OnnxRuntimeEngine
from fusiform.engines.torch import TorchEngine
from fusiform.errors import SpecError, UsageError, WeightsError
from fusiform.exporting.job import export
from fusiform.graph.backbones import BACKBONES
from fusiform.graph.build import build_graph
from fusiform.graph.builder import Builder, FeatureMap
from fusiform.graph.ir import INPUT
from fusiform.graph.numbers import to_state
from fusiform.graph.onnx import to_onnx
from fusiform.graph.shapes import state_shapes
from fusiform.graph.tflite import to_tflite
from fusiform.modules import ARCHITECTURES, build_backbone, build_network
from fusiform.modules.backbones import Backbone
from fusiform.modules.gradcam import grad_cam
from fusiform.modules.layers import check_arguments, conv1x1, conv3x3
from fusiform.selection.latency import plans
from fusiform.spec import ModelSpec, Padding, Preprocess
from fusiform.tables import TRAITS, Traits, round_channels, trade_strides
from fusiform.training.job import train
from fusiform.training.narrowing import slice_state
from fusiform.training.recipe import Recipe
from fusiform.zoo.checkpoint import read_safetensors, write_safetensors
from fusiform.zoo.load import load
from fusiform.zoo.model import open_model

# The record.

TOY_CHANNELS = (8, 16, 24, 32, 48, 64)
"""Of the stem, of each depthwise-separable block at half the size of the one before, and of the last convolution."""
TOY = Traits(
    title="ToyNet",
    stem="stem.0",
    last="last",
    classifier="answer",
    detection_map="stride_16",
    widths=(0.5, 1.0),
    any_width=True,
)


def toy_channels(width: float) -> tuple[int, list[int], int]:
    stem, *blocks, last = (round_channels(channels * width) for channels in TOY_CHANNELS)
    return stem, blocks, last


# The PyTorch file.


class ToyNet(Backbone):
    """A stem, four depthwise-separable blocks at strides 4 to 32, and a last 1x1 convolution."""

    traits = TOY

    def __init__(
        self,
        width: float = 1.0,
        num_classes: int = 1000,
        *,
        padding: Padding = "symmetric",
        in_channels: int = 3,
        dropout: float = 0.1,
        output_stride: int = 32,
    ) -> None:
        super().__init__(output_stride, num_classes)
        check_arguments(
            "ToyNet",
            num_classes,
            padding=padding,
            in_channels=in_channels,
            dropout=dropout,
            output_stride=output_stride,
        )
        channels, blocks, last = toy_channels(width)
        self.stem = nn.Sequential(*conv_norm_relu(conv3x3(in_channels, channels, 2, padding=padding)))
        layers = []
        for outputs, (stride, dilation) in zip(blocks, trade_strides((2, 2, 2, 2), 2, output_stride), strict=True):
            depthwise = conv3x3(channels, channels, stride, padding=padding, dilation=dilation, groups=channels)
            layers.append(nn.Sequential(*conv_norm_relu(depthwise), *conv_norm_relu(conv1x1(channels, outputs))))
            channels = outputs
        self.blocks = nn.Sequential(*layers)
        self.last = nn.Sequential(*conv_norm_relu(conv1x1(channels, last)))
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Linear(last, num_classes)
        names = ("stride_4", "stride_8", "stride_16", "stride_32", "last")
        self.feature_channels = dict(zip(names, (*blocks, last), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of pictures (N, in_channels, H, W)."""
        return self.forward_head(self.forward_features(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean([2, 3])
        return x if pre_logits else self.answer(self.dropout(x))

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        maps: dict[str, Tensor] = {}
        for stride, block in zip((4, 8, 16, 32), self.blocks, strict=True):
            maps[f"stride_{stride}"] = x = block(x)
        maps["last"] = self.last(x)
        return maps

    def stages(self) -> list[nn.Module]:
        return [self.stem, *self.blocks, self.last]


def conv_norm_relu(conv: nn.Conv2d) -> tuple[nn.Module, ...]:
    return conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6(inplace=True)


# The graph file.


def toy(build: Builder) -> dict[str, FeatureMap]:
    stem, blocks, last = toy_channels(build.spec.width)
    x = build.conv(INPUT, "stem.0", "stem.1", stem, kernel=3, stride=2, activation="relu6")
    maps = {}
    for k, (outputs, (stride, dilation)) in enumerate(
        zip(blocks, trade_strides((2, 2, 2, 2), 2, build.spec.output_stride), strict=True)
    ):
        at, wide = f"blocks.{k}", build.channels[x]
        x = build.conv(
            x, f"{at}.0", f"{at}.1", wide, stride=stride, dilation=dilation, depthwise=True, activation="relu6"
        )
        x = build.conv(x, f"{at}.3", f"{at}.4", outputs, activation="relu6")
        maps[f"stride_{4 * 2**k}"] = FeatureMap(x)
    if build.spec.task != "segmentation":
        maps["last"] = FeatureMap(build.conv(x, "last.0", "last.1", last, activation="relu6"))
    return maps


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in each dictionary."""
    monkeypatch.setitem(TRAITS, "toy", TOY)
    monkeypatch.setitem(ARCHITECTURES, "toy", ToyNet)
    monkeypatch.setitem(BACKBONES, "toy", toy)


TASKS: dict[str, dict[str, Any]] = {
    "classification": {"input_size": 32},
    "detection": {"task": "detection", "input_size": 64},
    "segmentation": {"task": "segmentation", "input_size": 65, "output_stride": 16},
    "segmentation_aspp_8": {"task": "segmentation", "input_size": 65, "output_stride": 8, "aspp": True},
}


def make_spec(task: str = "classification", *, width: float = 1.0, padding: Padding = "symmetric") -> ModelSpec:
    size = TASKS[task]["input_size"]
    preprocess = Preprocess(resize=size, crop=size)
    return ModelSpec("toy", width, ("red", "green", "blue"), padding=padding, preprocess=preprocess, **TASKS[task])


def lived_in(spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """The state of a fresh network whose normalisations have other statistics than those that they are born with."""
    torch.manual_seed(0)
    network = build_network(spec)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.7, 1.4),
                (module.bias, -0.3, 0.7),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                assert values is not None
                nn.init.uniform_(values, low, high)
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("task", TASKS)
def test_all_heads_answer_in_every_runtime_like_pytorch(task: str, padding: Padding) -> None:
    spec = make_spec(task, padding=padding)
    state = lived_in(spec)
    assert list(state_shapes(spec).items()) == [(name, value.shape) for name, value in state.items()]
    graph = build_graph(spec, state)
    pixels = np.random.default_rng(0).integers(0, 256, (2, spec.input_size, spec.input_size, 3), dtype=np.uint8)
    wanted = TorchEngine(state, spec).run(pixels)
    assert {name: values.shape[1:] for name, values in wanted.items()} == spec.answers
    for found in (
        TorchEngine(to_state(graph), spec).run(pixels),
        LiteRTEngine(to_tflite(graph), spec).run(pixels),
        OnnxRuntimeEngine(to_onnx(graph), spec).run(pixels),
    ):
        for name, values in wanted.items():
            assert np.abs(values).max() > 0.01
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)


def make_pictures(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name, color in {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 210)}.items():
        (folder / name).mkdir(parents=True)
        for k in range(20):
            noise = random.normal(0, 40, (5, 5, 3)).repeat(8, 0).repeat(8, 1)
            Image.fromarray(np.clip(color + noise, 0, 255).astype(np.uint8)).save(folder / name / f"{k}.png")


def test_it_is_trained_asked_exported_and_verified(tmp_path: Path) -> None:
    make_pictures(tmp_path / "colours")
    recipe = Recipe(
        name="toy",
        epochs=5,
        head_epochs=0,
        batch=6,
        size=32,
        eval_size=32,
        optimizer="adamw",
        lr=0.02,
        batch_norm="train",
        augment="crop",
        val_fraction=0.25,
        ema=0.0,
    )
    run = tmp_path / "run"
    report = train(tmp_path / "colours", run, model="toy_x1_0", scratch=True, recipe=recipe, threads=1)
    assert report.figures["network"] == "toy_x1_0"
    assert report.figures["top1"] > 0.5  # type: ignore[operator]  # guessing gives a third

    exported = export(run, "litert,onnx", tmp_path / "out", threads=1)
    files = [tmp_path / "out" / f"toy_x1_0_float32.{ending}" for ending in ("tflite", "onnx")]
    assert all(file.is_file() for file in files)
    assert len(exported.rows) == 2

    picture = tmp_path / "colours" / "blue" / "0.png"
    (trained,) = fusiform.predict(picture, model=run, threads=1)
    assert trained.error is None
    for file in files:
        assert open_model(file).spec.architecture == "toy"
        (answer,) = fusiform.predict(picture, model=file, threads=1)
        assert [row.name for row in answer.top] == [row.name for row in trained.top]
        np.testing.assert_allclose(
            [row.probability for row in answer.top], [row.probability for row in trained.top], atol=1e-4
        )
    assert "classes" in analyze(files[0]).figures


def test_its_weights_are_recognised_without_a_description(tmp_path: Path) -> None:
    state = lived_in(make_spec())
    torch.save({name: torch.from_numpy(value) for name, value in state.items()}, tmp_path / "toy.pth")
    found = open_model(tmp_path / "toy.pth").spec
    assert (found.architecture, found.width, found.num_classes) == ("toy", 1.0, 3)

    other = make_spec(width=2.5)
    torch.save(build_network(other).state_dict(), tmp_path / "wide.pth")
    assert open_model(tmp_path / "wide.pth").spec.width == 2.5

    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="is no MobileNetV2 or ShuffleNetV2 or ToyNet"):
        open_model(tmp_path / "none.pth")


def test_what_serves_all_networks_serves_it(tmp_path: Path) -> None:
    spec = make_spec()
    write_safetensors(tmp_path / "toy.safetensors", lived_in(spec), spec)
    network = load(tmp_path / "toy.safetensors", num_classes=5)
    assert isinstance(network, ToyNet)
    assert grad_cam(network, torch.rand(2, 3, 32, 32), [0, 4]).shape == (2, 1, 1)
    assert ("toy_x1_0", "random") in {(plan.network, plan.start) for plan in plans([32], scratch=True)}
    assert not any(plan.architecture == "toy" for plan in plans([32], scratch=False))
    assert analyze("ssdlite_toy_x1_0", classes=2).figures["classes"] == 2
    with pytest.raises(UsageError, match="ToyNet cannot be cut"):
        slice_state(read_safetensors(tmp_path / "toy.safetensors")[1], spec, 0.5)


def test_without_its_record_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TRAITS, "toy")
    with pytest.raises(SpecError, match="must be one of 'mobilenet_v2', 'shufflenet_v2', got 'toy'"):
        make_spec()


def test_a_detector_and_a_segmenter_take_off_what_they_do_not_read() -> None:
    assert "backbone.last.0.weight" in build_network(make_spec("detection")).state_dict()
    for task in ("detection", "segmentation"):
        assert not any("answer" in name for name in build_network(make_spec(task)).state_dict())
    assert not any(name.startswith("backbone.last") for name in build_network(make_spec("segmentation")).state_dict())
    assert build_backbone(make_spec(), 3, output_stride=8).output_stride == 8
