"""What people write to serve a model, run by serving.py: python serving_others.py plain|torchvision PORT.

FastAPI reads the annotations of the endpoints, which therefore are no texts here.
"""

import io
import sys
import threading
from typing import Any

import common

MODEL = "mobilenet_v2"


def plain_fastapi(port: int) -> None:
    """What people write: FastAPI, UploadFile, and a lock around one interpreter."""
    import numpy as np
    import uvicorn
    from ai_edge_litert.interpreter import Interpreter
    from fastapi import FastAPI, File, UploadFile
    from PIL import Image

    import fusiform

    model = fusiform.open_model(MODEL)
    interpreter = Interpreter(model_content=model.data, num_threads=common.usable_cores())
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    lock, app = threading.Lock(), FastAPI()

    @app.post("/predict")
    def predict(file: UploadFile = File()) -> list[dict[str, Any]]:  # noqa: B008  # FastAPI's way
        image = Image.open(io.BytesIO(file.file.read())).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
        if given["dtype"] == np.int8:
            pixels = (pixels.astype(np.int16) - 128).astype(np.int8)
        with lock:
            interpreter.set_tensor(given["index"], pixels[None])
            interpreter.invoke()
            values = interpreter.get_tensor(made["index"])[0].astype(np.float32)
        best = np.argsort(-values)[:5]
        return [{"name": model.spec.labels[k], "value": float(values[k])} for k in best]

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


def torchvision_eager(port: int) -> None:
    """FastAPI and eager PyTorch."""
    import torch
    import uvicorn
    from fastapi import FastAPI, File, UploadFile
    from PIL import Image
    from torchvision import models, transforms

    import fusiform

    torch.set_num_threads(common.usable_cores())
    model = fusiform.open_model(MODEL)
    network = models.mobilenet_v2()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in model.state().items()}, strict=False)
    network.eval()
    prepare = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    app = FastAPI()

    @app.post("/predict")
    def predict(file: UploadFile = File()) -> list[dict[str, Any]]:  # noqa: B008  # FastAPI's way
        image = Image.open(io.BytesIO(file.file.read())).convert("RGB")
        with torch.inference_mode():
            top = network(prepare(image)[None]).softmax(1).topk(5)
        names = [model.spec.labels[k] for k in top.indices[0].tolist()]
        return [{"name": name, "value": value} for name, value in zip(names, top.values[0].tolist(), strict=True)]

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    {"plain": plain_fastapi, "torchvision": torchvision_eager}[sys.argv[1]](int(sys.argv[2]))
