"""ONNX files as PyTorch, TensorFlow and quantisers write them: what is read of them, and what is refused."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusiform.errors import FusiformError, MissingExtraError, WeightsError
from fusiform.graph.build import build_graph
from fusiform.porting.port import read_foreign
from fusiform.zoo.checkpoint import State

sys.path.insert(0, str(Path(__file__).parent))

from foreign_files import SIZE, damaged, logits, make_spec, pictures, random_state

sys.path.pop(0)


def export(network: Any, path: Path, *, size: int = SIZE, pictures: int = 1, **options: Any) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about its own exporter
        torch.onnx.export(network, (torch.zeros(pictures, 3, size, size),), str(path), dynamo=False, **options)


def torchvision_network(name: str, seed: int = 0, **options: Any) -> Any:
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision").models
    network = getattr(models, name)(num_classes=5, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if value.ndim == 1:
            low, high = (0.5, 2.0) if key.endswith(("running_var", "weight")) else (-0.2, 0.2)
            value.uniform_(low, high, generator=generator)
    return network


def answers(network: Any, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        made: NDArray[np.float32] = network(torch.from_numpy(batch)).numpy()
    return made


def assert_answers_like(network: Any, path: Path, name: str) -> State:
    spec, state = read_foreign(path)
    assert (spec.name, spec.padding, spec.input_size) == (name, "symmetric", SIZE)
    assert spec.preprocess.mean == (0.485, 0.456, 0.406)
    batch = pictures()
    expected = answers(network, batch)
    np.testing.assert_allclose(logits(spec, state, batch), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-2  # the answers are worth comparing
    return state


@pytest.mark.parametrize(("opset", "keep_normalizations"), [(9, False), (13, True), (18, False)])
@pytest.mark.parametrize(
    ("network", "name", "options"),
    [
        ("mobilenet_v2", "mobilenet_v2_x0_35", {"width_mult": 0.35}),
        ("shufflenet_v2_x0_5", "shufflenet_v2_x0_5", {}),
    ],
)
def test_an_onnx_file_of_torchvisions_answers_like_it(
    tmp_path: Path, network: str, name: str, options: dict[str, Any], opset: int, keep_normalizations: bool
) -> None:
    model = torchvision_network(network, **options)
    path = tmp_path / "foreign.onnx"
    more: dict[str, Any] = {}
    if keep_normalizations:
        import torch

        more = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}
    export(model, path, opset_version=opset, **more)
    onnx = pytest.importorskip("onnx")
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert ("BatchNormalization" in kinds) == keep_normalizations

    state = assert_answers_like(model, path, name)
    if not keep_normalizations:
        from fusiform.graph.numbers import to_state

        # The weights come out in torchvision's own order of channels.
        original = {key: value.numpy() for key, value in model.state_dict().items()}
        folded = to_state(build_graph(read_foreign(path)[0], original))
        for key, value in folded.items():
            np.testing.assert_allclose(state[key], value, atol=1e-5, rtol=1e-4, err_msg=key)


def test_an_onnx_file_for_any_number_and_size_of_pictures(tmp_path: Path) -> None:
    model = torchvision_network("shufflenet_v2_x0_5")
    path = tmp_path / "foreign.onnx"
    export(model, path, input_names=["image"], dynamic_axes={"image": {0: "pictures"}})
    assert_answers_like(model, path, "shufflenet_v2_x0_5")
    export(model, path, input_names=["image"], dynamic_axes={"image": {0: "pictures", 2: "height", 3: "width"}})
    assert read_foreign(path)[0].input_size == 224


def test_an_onnx_file_for_three_pictures(tmp_path: Path) -> None:
    model = torchvision_network("shufflenet_v2_x0_5")
    path = tmp_path / "foreign.onnx"
    export(model, path, pictures=3)
    assert_answers_like(model, path, "shufflenet_v2_x0_5")


def test_a_shufflenet_that_shuffles_first_and_splits_by_parity(tmp_path: Path) -> None:
    """As the paper's authors write it: even channels pass by, odd ones are filtered, the next unit splits again."""
    torch = pytest.importorskip("torch")
    model = torchvision_network("shufflenet_v2_x0_5")

    class ByParity(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            x = model.maxpool(model.conv1(x))
            for stage in (model.stage2, model.stage3, model.stage4):
                x = torch.cat((stage[0].branch1(x), stage[0].branch2(x)), 1)
                for unit in stage[1:]:
                    pairs = x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2], x.shape[3])
                    x = torch.cat((pairs[:, :, 0], unit.branch2(pairs[:, :, 1])), 1)
            return model.fc(model.conv5(x).mean([2, 3]))

    network = ByParity().eval()
    path = tmp_path / "foreign.onnx"
    export(network, path)
    assert np.abs(answers(network, pictures()) - answers(model, pictures())).max() > 0.01  # another network indeed
    assert_answers_like(network, path, "shufflenet_v2_x0_5")


def test_a_shufflenet_with_another_shuffle_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = torchvision_network("shufflenet_v2_x0_5")

    class Unshuffled(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Any) -> Any:
            x = model.maxpool(model.conv1(x))
            for stage in (model.stage2, model.stage3, model.stage4):
                x = torch.cat((stage[0].branch1(x), stage[0].branch2(x)), 1)
                for unit in stage[1:]:
                    passing, filtered = x.chunk(2, 1)
                    x = torch.cat((passing, unit.branch2(filtered)), 1)
            return model.fc(model.conv5(x).mean([2, 3]))

    path = tmp_path / "foreign.onnx"
    export(Unshuffled().eval(), path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx is no ShuffleNetV2.*a shuffle of two groups was expected"):
        read_foreign(path)


@pytest.mark.parametrize(("form", "per_channel"), [("QDQ", True), ("QOperator", False)])
@pytest.mark.parametrize(("network", "options"), [("mobilenet_v2", {"width_mult": 0.35}), ("shufflenet_v2_x0_5", {})])
def test_a_quantised_onnx_file_is_dequantised(
    tmp_path: Path, network: str, options: dict[str, Any], form: str, per_channel: bool
) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    model = torchvision_network(network, **options)
    plain, path = tmp_path / "float.onnx", tmp_path / "foreign.onnx"
    export(model, plain, input_names=["image"], opset_version=13)

    class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.batches = iter([{"image": picture[None]} for picture in pictures(count=8)])

        def get_next(self) -> Any:
            return next(self.batches, None)

    quantization.quantize_static(
        plain, path, Calibration(), quant_format=quantization.QuantFormat[form], per_channel=per_channel
    )
    _, expected = read_foreign(plain)
    spec, state = read_foreign(path)
    assert spec.num_classes == 5
    for name, array in expected.items():
        # Within the rounding of 8 bits; the bias, of 32, is finer.
        step = np.abs(array).max() / 127 if array.ndim > 1 else 1e-3
        np.testing.assert_allclose(state[name], array, atol=1.1 * step, err_msg=name)


def test_weights_in_a_file_beside_an_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = torchvision_network("mobilenet_v2", width_mult=0.35)
    path = tmp_path / "foreign.onnx"
    export(model, path)
    loaded = onnx.load(path)
    onnx.save_model(loaded, path, save_as_external_data=True, location="foreign.data", size_threshold=0)
    assert_answers_like(model, path, "mobilenet_v2_x0_35")
    (tmp_path / "foreign.data").unlink()
    with pytest.raises(WeightsError, match=r"foreign\.onnx keeps its weights in foreign\.data, which is not beside it"):
        read_foreign(path)


def test_onnx_files_from_tensorflow(tmp_path: Path) -> None:
    """As tf2onnx writes them: NHWC pictures, SAME_UPPER, biases added by operators of their own."""
    onnx = pytest.importorskip("onnx")
    own = make_spec(padding="same")
    state = random_state(own)
    nodes, weights = [], {}
    graph = build_graph(own, state)
    helper = onnx.helper
    nodes.append(helper.make_node("Transpose", ["pictures"], ["image"], perm=[0, 3, 1, 2]))
    from fusiform.graph.ir import Add, Conv, Linear

    for node in graph.nodes:
        if isinstance(node, Conv):
            weights[f"{node.name}.w"], weights[f"{node.name}.b"] = node.weight, node.bias.reshape(-1, 1, 1)
            options = {"strides": [node.stride] * 2, "group": node.groups, "auto_pad": "SAME_UPPER"}
            nodes.append(helper.make_node("Conv", [node.source, f"{node.name}.w"], [f"{node.name}/conv"], **options))
            added = f"{node.name}/add" if node.activation else node.name
            nodes.append(helper.make_node("Add", [f"{node.name}/conv", f"{node.name}.b"], [added]))
            if node.activation:
                nodes.append(helper.make_node("Clip", [added, "zero", "six"], [node.name]))
        elif isinstance(node, Add):
            nodes.append(helper.make_node("Add", [node.left, node.right], [node.name]))
        elif isinstance(node, Linear):
            nodes.append(helper.make_node("MatMul", ["pool", "matrix"], ["product"]))
            nodes.append(helper.make_node("Add", ["bias", "product"], ["logits"]))
            nodes.append(helper.make_node("Softmax", ["logits"], ["answer"]))
            weights |= {"matrix": node.weight.T, "bias": node.bias}
        else:
            nodes.append(helper.make_node("ReduceMean", [node.source], ["pool"], axes=[2, 3], keepdims=0))
    weights |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    shape = ["N", SIZE, SIZE, 3]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "tensorflow",
            [helper.make_tensor_value_info("pictures", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, ["N", 5])],
            [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    spec, ported = read_foreign(path)
    assert (spec.padding, spec.preprocess.mean) == ("same", (0.5, 0.5, 0.5))
    batch = pictures()
    np.testing.assert_allclose(logits(spec, ported, batch), logits(own, state, batch), atol=1e-4, rtol=1e-4)


def test_another_network_in_onnx_is_told(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    path = tmp_path / "foreign.onnx"
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    export(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), *head), path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx is no MobileNetV2.*for features\.0\.0, a 3x3 conv.* relu6"):
        read_foreign(path)
    export(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Sigmoid(), *head), path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx: the operator Sigmoid"):
        read_foreign(path)
    export(torchvision_network("mobilenet_v2", width_mult=0.35).features, path)
    with pytest.raises(WeightsError, match=r"foreign\.onnx is no MobileNetV2.*for the pooling, a mean was expected"):
        read_foreign(path)


def test_damaged_onnx_files_give_a_clear_error_or_weights_but_never_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    model = torchvision_network("mobilenet_v2", width_mult=0.35)
    buffer = io.BytesIO()
    export(model, path, size=32)
    buffer.write(path.read_bytes())
    refused = 0
    for content in damaged(buffer.getvalue(), 24):
        path.write_bytes(content)
        try:
            read_foreign(path)
        except FusiformError as error:
            assert "foreign.onnx" in str(error)  # noqa: PT017  # not every damage shows
            refused += 1
    assert refused >= 24


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(b"\x08\x07")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"reading foreign\.onnx needs onnx.*fusiform\[onnx\]"):
        read_foreign(path)
