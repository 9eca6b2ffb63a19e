"""Reading ONNX files that other tools wrote: float, or quantised (QLinearConv or QDQ) and then dequantised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusiform.errors import FusiformError, MissingExtraError, WeightsError
from fusiform.graph.ir import Activation
from fusiform.porting.network import ForeignNetwork, match_network
from fusiform.porting.tracer import Border, Tensor, Tracer, Value, dequantize
from fusiform.zoo.bounds import check_file
from fusiform.zoo.foreign_names import shown

_DEFAULT_SIDE = 224
_ARITHMETIC: dict[str, Callable[..., Any]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}


def read_onnx(path: Path, data: bytes) -> ForeignNetwork:
    """The network in an ONNX file whose bytes are ``data``; weights in files of their own are read beside ``path``.

    An input of unknown size is taken for 224 pixels. Raises WeightsError for a damaged file and for any other network,
    and MissingExtraError without the onnx package.
    """
    try:
        import onnx
        from onnx.external_data_helper import load_external_data_for_model

        from fusiform.graph.onnx_limits import check_sizes
    except ImportError:
        raise MissingExtraError("onnx", "onnx", f"reading {path.name}") from None
    try:
        model = onnx.load_from_string(data)
        check_sizes(model, str(path), external=True)
        _check_external_data(model, path)
        load_external_data_for_model(model, str(path.parent))
        check_sizes(model, str(path))
        return _Reader(model, str(path), onnx).read()
    except FusiformError:
        raise
    except Exception as error:  # protobuf, onnx and numpy raise many kinds for damaged files
        raise WeightsError(
            f"{path} is damaged or not shaped like a classifier ({type(error).__name__}: {error}): fetch or export "
            "it again"
        ) from None


def _check_external_data(model: Any, path: Path) -> None:
    """WeightsError where files that weights lie in are missing, or would be read more often than once."""
    files: dict[str, int] = {}
    wanted = 0
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if not entries:
            continue
        place = entries.get("location", "")
        if place not in files:
            if not (path.parent / place).is_file():
                raise WeightsError(
                    f"{path} keeps its weights in {shown(place)}, which is not beside it: fetch that file too"
                )
            check_file(path.parent / place)
            files[place] = (path.parent / place).stat().st_size
        wanted += int(entries.get("length", files[place]))
    if wanted > sum(files.values()):
        raise WeightsError(f"{path}: its weights would take more bytes than {', '.join(map(shown, files))} has")


class _Node:
    """An operator's inputs and attributes, which the same operator keeps in either, depending on the file's version."""

    def __init__(self, node: Any, attributes: dict[str, Any]) -> None:
        self.kind: str = node.op_type
        self.name: str = node.name or node.output[0]
        self.inputs: list[str] = list(node.input)
        self.outputs: list[str] = list(node.output)
        self.attributes = attributes


class _Reader:
    def __init__(self, model: Any, source: str, onnx: Any) -> None:
        self.model = model
        self.onnx = onnx
        self.trace = Tracer(source, channel_axis=1)
        self.values: dict[str, Value] = {}

    def read(self) -> ForeignNetwork:
        graph = self.model.graph
        for initializer in graph.initializer:
            self.values[initializer.name] = self.array(initializer)
        given = [value for value in graph.input if value.name not in self.values]
        if len(given) != 1 or given[0].type.tensor_type.elem_type not in (
            self.onnx.TensorProto.FLOAT,
            self.onnx.TensorProto.FLOAT16,
        ):
            raise self.trace.refuse(f"{len(given)} inputs, or one that does not read floats")
        sides = [dimension.dim_value for dimension in given[0].type.tensor_type.shape.dim]
        # Sizes that are left open: one picture of the usual size.
        shape = [side or (1 if axis == 0 else _DEFAULT_SIDE) for axis, side in enumerate(sides)]
        self.values[given[0].name] = self.trace.input(shape)
        for node in graph.node:
            attributes = {entry.name: self.attribute(entry) for entry in node.attribute}
            wrapped = _Node(node, attributes)
            results = self.run(wrapped)
            for name, result in zip(wrapped.outputs, results if isinstance(results, list) else [results], strict=False):
                self.values[name] = result
        return match_network(self.trace, self.picture(graph.output[0].name))

    def array(self, tensor: Any) -> NDArray[Any]:
        array: NDArray[Any] = self.onnx.numpy_helper.to_array(tensor)
        return array

    def attribute(self, entry: Any) -> Any:
        value = self.onnx.helper.get_attribute_value(entry)
        if isinstance(value, self.onnx.TensorProto):
            return self.array(value)
        return value.decode() if isinstance(value, bytes) else value

    def picture(self, name: str) -> Tensor:
        value = self.values[name]
        if not isinstance(value, Tensor):
            raise self.trace.refuse("a layer that reads no picture")
        return value

    def constant(self, name: str) -> NDArray[Any]:
        value = self.values[name]
        if isinstance(value, Tensor):
            raise self.trace.refuse("a layer whose weights or shape depend on the picture")
        return value

    def vector(self, name: str) -> NDArray[Any]:
        """A constant with one number for each channel, or one for all."""
        return self.constant(name).reshape(-1)

    def optional(self, node: _Node, position: int, attribute: str = "") -> NDArray[Any] | None:
        """An input that may be left out, or the attribute that older files have instead."""
        if len(node.inputs) > position and node.inputs[position]:
            return self.constant(node.inputs[position])
        value = node.attributes.get(attribute)
        return None if value is None else np.asarray(value)

    def required(self, node: _Node, position: int, attribute: str = "") -> NDArray[Any]:
        value = self.optional(node, position, attribute)
        if value is None:
            raise self.trace.refuse(f"{node.kind} without {attribute or f'its input {position}'} ({node.name})")
        return value

    def run(self, node: _Node) -> Value | list[Value]:
        """One operator, https://onnx.ai/onnx/operators, on channel numbers."""
        values = [self.values[name] for name in node.inputs if name]
        self.trace.spend(sum((value.numbers if isinstance(value, Tensor) else value).size for value in values))
        if node.kind not in ("Constant", "QuantizeLinear", "DequantizeLinear") and not any(
            isinstance(value, Tensor) for value in values
        ):
            return self.compute(node)
        x = values[0] if values else None
        axis = node.attributes.get("axis")
        match node.kind:
            case "Constant":
                return np.asarray(next(iter(node.attributes.values())))
            case "Conv":
                return self.convolve(node, self.constant(node.inputs[1]), self.optional(node, 2))
            case "QLinearConv":
                return self.quantized_convolve(node)
            case "Gemm" | "MatMul" | "QLinearMatMul" | "QGemm":
                return self.multiply(node)
            case "BatchNormalization":
                gamma, beta, mean, variance = (self.vector(name).astype(np.float64) for name in node.inputs[1:5])
                factor = gamma / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
                channels = [-1, 1, 1] if self.picture(node.inputs[0]).numbers.ndim == 4 else [-1]
                shift = beta - mean * factor
                return self.trace.rescale(
                    self.picture(node.inputs[0]), factor.reshape(channels), shift.reshape(channels)
                )
            case "Add" | "Sub" | "Mul" | "Div":
                return self.arithmetic(node)
            case "QLinearAdd":
                return self.quantized_add(node)
            case "Relu":
                return self.trace.activate(self.picture(node.inputs[0]), "relu")
            case "Clip":
                return self.trace.activate(self.picture(node.inputs[0]), self.clip_activation(node))
            case "MaxPool":
                pooled = self.trace.max_pool(
                    self.picture(node.inputs[0]),
                    kernel=node.attributes["kernel_shape"],
                    strides=node.attributes.get("strides", (1, 1)),
                    border=self.border(node),
                )
                if node.attributes.get("ceil_mode") or {*node.attributes.get("dilations", (1,))} != {1}:
                    raise self.trace.refuse(f"a maximum with ceil_mode or dilation ({node.name})")
                return pooled
            case "GlobalAveragePool" | "QLinearGlobalAveragePool":
                last = bool(node.attributes.get("channels_last"))
                return self.trace.mean(self.picture(node.inputs[0]), (1, 2) if last else (2, 3), keep=True)
            case "AveragePool":
                tensor = self.picture(node.inputs[0])
                if tuple(node.attributes["kernel_shape"]) != tensor.numbers.shape[2:] or any(
                    node.attributes.get("pads", ())
                ):
                    raise self.trace.refuse(f"an average over less than the whole picture ({node.name})")
                return self.trace.mean(tensor, (2, 3), keep=True)
            case "ReduceMean":
                axes = self.required(node, 1, "axes").reshape(-1).tolist()
                return self.trace.mean(
                    self.picture(node.inputs[0]), axes, keep=bool(node.attributes.get("keepdims", 1))
                )
            case "Pad":
                return self.pad(node)
            case "QuantizeLinear" | "DequantizeLinear":
                return self.quantize(node)
            case "Softmax" | "LogSoftmax" | "ArgMax" | "Identity" | "Dropout" | "Cast":
                assert x is not None
                return x
            case "Shape":
                return np.array(self.picture(node.inputs[0]).numbers.shape, np.int64)
            case "Concat":
                return Tensor(np.concatenate([self.picture(name).numbers for name in node.inputs], axis))
            case "QLinearConcat":
                return Tensor(np.concatenate([self.picture(name).numbers for name in node.inputs[2::3]], axis))
            case "Split":
                return self.split(node)
            case "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice" | "Gather":
                return Tensor(self.move(node, self.picture(node.inputs[0]).numbers))
        raise self.trace.refuse(f"the operator {node.kind} ({node.name})")

    def compute(self, node: _Node) -> NDArray[Any]:
        """An operator on constants: what exporters leave of the shapes that reshapes need."""
        x = self.constant(node.inputs[0])
        match node.kind:
            case "Shape":
                return np.array(x.shape, np.int64)
            case "Identity":
                return x
            case "Cast":
                return x.astype(self.onnx.helper.tensor_dtype_to_np_dtype(node.attributes["to"]))
            case "Concat":
                return np.concatenate([self.constant(name) for name in node.inputs], node.attributes["axis"])
            case "Add" | "Sub" | "Mul":
                y = self.constant(node.inputs[1])
                self.trace.spend(np.broadcast(x, y).size)
                return np.asarray(_ARITHMETIC[node.kind](x, y))
            case "Div":
                y = self.constant(node.inputs[1])
                self.trace.spend(np.broadcast(x, y).size)
                return np.asarray(x // y if x.dtype.kind == "i" else x / y)
            case "Reshape" | "Flatten" | "Transpose" | "Squeeze" | "Unsqueeze" | "Slice" | "Gather":
                return self.move(node, x)
        raise self.trace.refuse(f"the operator {node.kind} on constants ({node.name})")

    def move(self, node: _Node, x: NDArray[Any]) -> NDArray[Any]:
        """What only puts values in other places."""
        match node.kind:
            case "Reshape":
                shape = self.required(node, 1, "shape").tolist()
                keep = not node.attributes.get("allowzero")  # a zero stands for the size that was there
                return x.reshape(tuple(x.shape[k] if side == 0 and keep else side for k, side in enumerate(shape)))
            case "Flatten":
                axis = node.attributes.get("axis", 1) % x.ndim
                return x.reshape(int(np.prod(x.shape[:axis])), -1)
            case "Transpose":
                return np.transpose(x, node.attributes.get("perm"))
            case "Squeeze":
                axes = self.optional(node, 1, "axes")
                return x.squeeze(None if axes is None else tuple(axes.reshape(-1).tolist()))
            case "Unsqueeze":
                return np.asarray(np.expand_dims(x, tuple(self.required(node, 1, "axes").reshape(-1).tolist())))
            case "Gather":
                return self.trace.take(x, self.constant(node.inputs[1]), node.attributes.get("axis", 0))
        starts, ends = (self.required(node, 1, "starts").tolist(), self.required(node, 2, "ends").tolist())
        axes, steps = self.optional(node, 3, "axes"), self.optional(node, 4)
        pieces = [slice(None)] * x.ndim
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            pieces[k if axes is None else int(axes[k])] = slice(start, end, None if steps is None else int(steps[k]))
        return x[tuple(pieces)]

    def split(self, node: _Node) -> list[Value]:
        x, axis = self.picture(node.inputs[0]).numbers, node.attributes.get("axis", 0)
        sizes = self.optional(node, 1, "split")
        if sizes is None:
            return [Tensor(part) for part in np.split(x, len(node.outputs), axis)]
        return [Tensor(part) for part in np.split(x, np.cumsum(sizes)[:-1], axis)]

    def convolve(self, node: _Node, weight: NDArray[Any], bias: NDArray[Any] | None) -> Tensor:
        return self.trace.convolve(
            self.picture(node.inputs[0]),
            weight,
            bias,
            strides=node.attributes.get("strides", (1, 1)),
            dilations=node.attributes.get("dilations", (1, 1)),
            border=self.border(node),
        )

    def quantized_convolve(self, node: _Node) -> Tensor:
        x_scale, weight_scale, weight_zero, made_scale, made_zero = (
            self.vector(node.inputs[k]) for k in (1, 4, 5, 6, 7)
        )
        weight, bias = self.constant(node.inputs[3]), self.optional(node, 8)
        real = dequantize(weight, weight_scale, weight_zero, 0)
        if bias is not None:
            bias = bias.reshape(-1) * (x_scale * weight_scale)
        return self.trace.clamp(self.convolve(node, real, bias), made_scale, made_zero)

    def multiply(self, node: _Node) -> Tensor:
        """The classifier, in the four ways in which files write it; inputs are of (pictures, channels)."""
        if node.attributes.get("transA"):
            raise self.trace.refuse(f"a Gemm that transposes its input ({node.name})")
        bias = None
        if node.kind in ("QLinearMatMul", "QGemm"):
            x_scale, scale, zero = (self.vector(node.inputs[k]) for k in (1, 4, 5))
            weight = self.constant(node.inputs[3])
            axis = 0 if node.attributes.get("transB") else 1
            bias = self.optional(node, 6) if node.kind == "QGemm" else None
            bias = None if bias is None else bias.reshape(-1) * (x_scale * scale)
            weight = dequantize(weight, scale, zero, axis)
        else:
            weight = self.constant(node.inputs[1])
            bias = self.optional(node, 2)
        weight = weight if node.attributes.get("transB") else weight.T
        weight = weight * np.float32(float(node.attributes.get("alpha", 1)))
        if bias is not None:
            bias = np.broadcast_to(bias * float(node.attributes.get("beta", 1)), (1, len(weight)))[0]
        return self.trace.multiply(self.picture(node.inputs[0]), weight, bias)

    def arithmetic(self, node: _Node) -> Tensor:
        left, right = (self.values[name] for name in node.inputs)
        if isinstance(left, Tensor) and isinstance(right, Tensor):
            if node.kind != "Add":
                raise self.trace.refuse(f"a {node.kind} of two pictures ({node.name})")
            return self.trace.add(left, right)
        if not isinstance(left, Tensor):
            left, right = right, left
            if node.kind not in ("Add", "Mul"):
                raise self.trace.refuse(f"a {node.kind} by the picture ({node.name})")
        assert isinstance(left, Tensor) and not isinstance(right, Tensor)  # noqa: PT018  # constants went to compute
        match node.kind:
            case "Add":
                return self.trace.rescale(left, 1, right)
            case "Sub":
                return self.trace.rescale(left, 1, -right)
            case "Mul":
                return self.trace.rescale(left, right, 0)
        return self.trace.rescale(left, 1 / np.asarray(right, np.float64), 0)

    def quantized_add(self, node: _Node) -> Tensor:
        x, shift = node.inputs[0:3], node.inputs[3:6]
        if not isinstance(self.values[x[0]], Tensor):
            x, shift = shift, x
        y = self.values[shift[0]]
        if isinstance(y, Tensor):
            return self.trace.add(self.picture(x[0]), y)
        real = dequantize(y, self.constant(shift[1]), self.constant(shift[2]), 0)
        return self.trace.rescale(self.picture(x[0]), 1, real)

    def quantize(self, node: _Node) -> Value:
        """Rounding, which a port leaves out, on pictures; the real thing on constants."""
        x, scale = self.values[node.inputs[0]], self.constant(node.inputs[1])
        zero = self.optional(node, 2)
        if zero is None:
            zero = np.array(0, np.uint8)
        axis = node.attributes.get("axis", 1)
        if node.attributes.get("block_size"):
            raise self.trace.refuse(f"weights with a scale for each block ({node.name})")
        if isinstance(x, Tensor):
            return self.trace.clamp(x, scale, zero) if node.kind == "QuantizeLinear" else x
        if node.kind == "DequantizeLinear":
            return dequantize(x, scale, zero, axis)
        limits = np.iinfo(zero.dtype)
        # Quantising is dividing by the scale: dequantising the other way round, with the zero point outside.
        steps = np.rint(dequantize(x, 1 / scale, 0, axis))
        zeros = zero.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)]) if zero.size > 1 else zero
        quantized: NDArray[Any] = np.clip(steps + zeros, limits.min, limits.max).astype(zero.dtype)
        return quantized

    def clip_activation(self, node: _Node) -> Activation:
        low, high = self.optional(node, 1, "min"), self.optional(node, 2, "max")
        limits = (
            -np.inf if low is None else float(low.reshape(())),
            np.inf if high is None else float(high.reshape(())),
        )
        if limits[0] == 0 and limits[1] == 6:
            return "relu6"
        if limits[0] == 0 and limits[1] > 1e30:
            return "relu"
        raise self.trace.refuse(f"a Clip from {limits[0]} to {limits[1]} ({node.name})")

    def pad(self, node: _Node) -> Tensor:
        x, amounts = self.picture(node.inputs[0]), self.required(node, 1, "pads")
        value = self.optional(node, 2, "value")
        if node.attributes.get("mode", "constant") != "constant" or len(amounts) != 2 * x.numbers.ndim:
            raise self.trace.refuse(f"padding with something else than zeros ({node.name})")
        return self.trace.pad(x, amounts.reshape(2, -1).T, 0 if value is None else float(value.reshape(())))

    def border(self, node: _Node) -> Border | None:
        """The zeros around a picture at the top, bottom, left and right; None for TensorFlow's SAME."""
        match node.attributes.get("auto_pad", "NOTSET"):
            case "NOTSET":
                top, left, bottom, right = node.attributes.get("pads", (0, 0, 0, 0))
                return top, bottom, left, right
            case "VALID":
                return 0, 0, 0, 0
            case "SAME_UPPER":
                return None
        raise self.trace.refuse(f"padding by {node.attributes['auto_pad']} ({node.name})")
