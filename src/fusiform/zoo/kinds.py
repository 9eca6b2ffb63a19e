"""Model files of other tools that are not read: each is named as what it is, with the way to a file that is."""

from __future__ import annotations

from pathlib import Path

_KERAS = (
    "in Python: tf.lite.TFLiteConverter.from_keras_model(tf.keras.models.load_model({file!r})).convert() gives the "
    "bytes of a .tflite file, then fusiform port"
)
_PROGRAM = "its weights cannot be read back: take the model that it was made from (.pth, .safetensors, .onnx, .tflite)"
_BY_SUFFIX = {
    ".h5": ("an HDF5 file, as Keras writes", _KERAS),
    ".hdf5": ("an HDF5 file, as Keras writes", _KERAS),
    ".keras": ("a Keras model", _KERAS),
    ".pb": (
        "a graph of TensorFlow's",
        "python -m tf2onnx.convert --graphdef {file} --output model.onnx, with its --inputs and --outputs, then "
        "fusiform port",
    ),
    ".mlmodel": ("a Core ML model", _PROGRAM),
    ".engine": ("a TensorRT engine", _PROGRAM),
    ".plan": ("a TensorRT engine", _PROGRAM),
    ".trt": ("a TensorRT engine", _PROGRAM),
    ".ptl": ("a program for PyTorch's mobile runtime", _PROGRAM),
    ".param": ("an ncnn network", _PROGRAM),
    ".mnn": ("an MNN model", _PROGRAM),
    ".dlc": ("a model for Qualcomm's SNPE", _PROGRAM),
    ".rknn": ("a model for Rockchip's NPU", _PROGRAM),
    ".ort": ("a model in ONNX Runtime's own format", "take the .onnx file that it was made from, then fusiform port"),
    ".mar": ("an archive of TorchServe's", "unzip it, and give the state dict inside"),
    ".npz": ("an archive of numpy's", "save its arrays as safetensors: safetensors.numpy.save_file"),
    ".npy": ("an array of numpy's", "save all arrays of the network as safetensors: safetensors.numpy.save_file"),
    ".gguf": ("a GGUF file", "no network here is kept in one: take a .pth or .safetensors file"),
    ".caffemodel": ("weights of Caffe's", "convert it to ONNX, then fusiform port"),
    ".prototxt": ("a network of Caffe's", "convert it and its .caffemodel to ONNX, then fusiform port"),
    ".pdmodel": ("a program of PaddlePaddle's", "paddle2onnx makes an .onnx file of it, then fusiform port"),
    ".pdparams": ("weights of PaddlePaddle's", "export the model with paddle.onnx.export, then fusiform port"),
    ".params": ("weights of MXNet's", "export the model to ONNX, then fusiform port"),
    ".msgpack": ("weights of Flax's", "save them as safetensors: safetensors.flax.save_file"),
}
# What the bytes say goes before the name: files are renamed more often than rewritten.
_BY_BYTES = {
    b"\x89HDF\r\n\x1a\n": ".h5",
    b"ptrt": ".engine",
    b"ftrt": ".engine",
    b"\x93NUMPY": ".npy",
    b"GGUF": ".gguf",
    b"7767517\n": ".param",
}


def what_else(path: Path, data: bytes) -> str | None:
    """The kind of another tool's file and the way out, as the end of a message; None where it is of no kind known."""
    suffix = next((kind for start, kind in _BY_BYTES.items() if data.startswith(start)), path.suffix.lower())
    if data[4:8] == b"ORTM":
        suffix = ".ort"
    if data.startswith(b"PK") and suffix not in (".keras", ".npz", ".mar", ".ptl"):
        return None
    if suffix not in _BY_SUFFIX:
        return None
    kind, way = _BY_SUFFIX[suffix]
    return f"is {kind}, which fusiform does not read: {way.format(file=path.name)}"


def what_folder(folder: Path) -> str | None:
    """The same for a folder."""
    if (folder / "saved_model.pb").is_file():
        return (
            f"is a SavedModel of TensorFlow's, which fusiform does not read: in Python: "
            f"tf.lite.TFLiteConverter.from_saved_model({folder.name!r}).convert() gives the bytes of a .tflite file, "
            "then fusiform port"
        )
    if (folder / "checkpoint").is_file() or any(folder.glob("*.ckpt*.index")):
        return (
            "is a checkpoint of TensorFlow's, which fusiform does not read: export the model as SavedModel and from "
            "that as .tflite (tf.lite.TFLiteConverter.from_saved_model), then fusiform port"
        )
    if (folder / "coremldata.bin").is_file():
        return f"is a compiled Core ML model, which fusiform does not read: {_PROGRAM}"
    return None
