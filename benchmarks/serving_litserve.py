"""LitServe with LiteRT, as its documents say: PYTHON serving_litserve.py MODEL.tflite PORT WORKERS."""

import io
import sys

import litserve
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from fastapi import UploadFile
from PIL import Image


class Api(litserve.LitAPI):
    """One interpreter a worker."""

    def setup(self, _device):
        self.interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
        self.interpreter.allocate_tensors()
        self.given, self.made = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]

    def decode_request(self, request: UploadFile):
        image = Image.open(io.BytesIO(request.file.read()))
        image = image.convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
        if self.given["dtype"] == np.int8:
            pixels = (pixels.astype(np.int16) - 128).astype(np.int8)
        return pixels

    def predict(self, pixels):
        self.interpreter.set_tensor(self.given["index"], pixels[None])
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.made["index"])[0].astype(np.float32)

    def encode_response(self, values):
        return {"top": [[int(k), float(values[k])] for k in np.argsort(-values)[:5]]}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=int(sys.argv[3]))
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="error")
