"""A folder of photographs: pictures a second, fusiform against what people write.

    python benchmarks/folder.py [--model mobilenet_v2] [--folder FOLDER | --make N] [--rounds 5] [--json FILE]

Contenders, each allowed all ``--cores`` (by default, all there are):
  fusiform        fusiform.predict(folder), as it comes: the int8 network, exact preprocessing
  fusiform fast   the same with fast=True
  LiteRT, Pillow  fusiform.predict without its native library: inference by LiteRT, resizing by Pillow
  torchvision     ImageFolder, its transforms, a DataLoader with one worker a core, eager, batches of 32
  timm            the loop of timm's inference.py: its loader (one worker a core), mobilenetv2_100, batches of 32;
                  left out with --model shufflenet_v2_x1_0, which timm does not have, and where it is not installed
  LiteRT loop     Pillow, numpy, one interpreter with one thread a core, one picture after the other; the same int8 file
PyTorch's contenders have the int8 file's weights in float32. Every contender lives in its own process, opens its model
there once, runs the whole folder once to warm up, and then they take turns, round by round; fusiform opens its model in
each round. Targets: fusiform is 8 times as fast as torchvision and timm, 2.1 times as fast as the LiteRT loop, and with
the native library 1.6 times (MobileNetV2) or 1.35 times (ShuffleNetV2) as fast as without. "cpu ms" is the processor
time of a picture in the contender's process and those that it started: on a machine that does other things meanwhile,
its ratio says more than that of the clock.

Another process takes its turn to time fusiform's stages one by one in a single thread: decode, resize and crop,
inference, decoding of the answers. The whole should take no more than 1.15 times
(decode + resize and crop + inference) / cores.

The folder is ImageNet's validation photographs of the shared data, half of which are 500 pixels wide and half 224.
Without those, --make cuts N pictures of 500x375 out of one photograph (--photo); they stand in for a folder.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import common

from fusiform.report import Cell

MODELS = ("mobilenet_v2", "shufflenet_v2_x1_0")
BATCH = 32
PLAIN = "LiteRT, Pillow"
TARGETS = {"torchvision": 8.0, "timm": 8.0, "LiteRT loop": 2.1}
PLAIN_TARGETS = {"mobilenet_v2": 1.6, "shufflenet_v2_x1_0": 1.35}
SIZE = (500, 375)


@dataclass
class Pass:
    """Once through the folder: the first answer of each picture by its path, and seconds by stage where timed."""

    answers: dict[str, int]
    stages: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    busy: float = 0.0


Contender = Callable[[Path, int, str], Callable[[], Pass]]
"""Takes the folder, the cores and the model, gets ready, and gives what runs the folder once."""


def fusiform_exact(folder: Path, cores: int, model: str) -> Callable[[], Pass]:
    import fusiform

    return lambda: Pass({p.path: p.top[0].index for p in fusiform.predict(folder, model=model, threads=cores)})


def fusiform_fast(folder: Path, cores: int, model: str) -> Callable[[], Pass]:
    import fusiform

    return lambda: Pass(
        {p.path: p.top[0].index for p in fusiform.predict(folder, model=model, threads=cores, fast=True)}
    )


def fusiform_plain(folder: Path, cores: int, model: str) -> Callable[[], Pass]:
    import fusiform
    from fusiform.engines.native import resize

    resize.fast_kernels = lambda: None  # in this process alone

    return lambda: Pass(
        {p.path: p.top[0].index for p in fusiform.predict(folder, model=model, threads=cores, engine="litert")}
    )


def torchvision_loader(folder: Path, cores: int, model: str) -> Callable[[], Pass]:
    import torch
    from torchvision import datasets, models, transforms

    torch.set_num_threads(cores)
    network = getattr(models, model)()
    network.load_state_dict(_float_state(model))
    network.eval()
    dataset = datasets.ImageFolder(
        folder,
        transforms.Compose([
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]),
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=cores)

    def run() -> Pass:
        first: list[int] = []
        with torch.inference_mode():
            for pictures, _ in loader:
                top = network(pictures).softmax(dim=1).topk(5)
                first += top.indices[:, 0].tolist()
        return Pass({path: index for (path, _), index in zip(dataset.samples, first, strict=True)})

    return run


def timm_loop(folder: Path, cores: int, model: str) -> Callable[[], Pass]:
    import timm
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config

    torch.set_num_threads(cores)
    device = torch.device("cpu")
    network = timm.create_model("mobilenetv2_100", pretrained=False)
    # The same layers in the same order under other names.
    network.load_state_dict(dict(zip(network.state_dict(), _float_state(model).values(), strict=True)))
    network = network.to(device).eval()
    config = resolve_data_config({}, model=network)
    dataset = create_dataset("", root=str(folder))
    loader = create_loader(
        dataset,
        batch_size=BATCH,
        use_prefetcher=True,
        num_workers=cores,
        device=device,
        persistent_workers=False,
        **config,
    )

    def run() -> Pass:
        first: list[int] = []
        with torch.inference_mode():
            for pictures, _ in loader:
                top = network(pictures).softmax(-1).topk(5)
                first += top.indices[:, 0].tolist()
        return Pass(dict(zip(dataset.filenames(absolute=True), first, strict=True)))

    return run


def litert_loop(folder: Path, cores: int, model: str) -> Callable[[], Pass]:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from PIL import Image

    from fusiform.zoo.model import open_model

    files = _files(folder)
    interpreter = Interpreter(model_path=str(open_model(model).path), num_threads=cores)
    interpreter.allocate_tensors()
    given, made = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> Pass:
        answers = {}
        for file in files:
            image = Image.open(file).convert("RGB")
            scale = 256 / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            pixels = np.asarray(image.crop((left, top, left + 224, top + 224)))
            interpreter.set_tensor(given, pixels[None])
            interpreter.invoke()
            probabilities = interpreter.get_tensor(made)[0]
            answers[str(file)] = int(np.argsort(probabilities)[::-1][:5][0])
        return Pass(answers)

    return run


def stages(folder: Path, cores: int, model: str) -> Callable[[], Pass]:  # noqa: ARG001  # single-threaded, whatever there is
    from fusiform.data.image import read_image
    from fusiform.engines import open_engine
    from fusiform.engines.native.resize import crop_pixels
    from fusiform.tasks.classification import decode

    files = _files(folder)
    engine = open_engine(model, threads=1)
    spec = engine.spec

    def run() -> Pass:
        answers = {}
        spent = [0.0] * 4
        for file in files:
            times = [time.perf_counter()]
            image = read_image(file)
            times.append(time.perf_counter())
            pixels = crop_pixels(image, spec.preprocess)
            times.append(time.perf_counter())
            values = engine.run(pixels[None])[spec.output]
            times.append(time.perf_counter())
            answers[str(file)] = decode(values, spec)[0][0].index
            times.append(time.perf_counter())
            spent = [total + b - a for total, a, b in zip(spent, times, times[1:], strict=False)]
        return Pass(answers, dict(zip(("decode", "resize and crop", "inference", "answers"), spent, strict=True)))

    return run


CONTENDERS: dict[str, Contender] = {
    "fusiform": fusiform_exact,
    "fusiform fast": fusiform_fast,
    PLAIN: fusiform_plain,
    "torchvision": torchvision_loader,
    "timm": timm_loop,
    "LiteRT loop": litert_loop,
    "stages": stages,
}


def _float_state(model: str) -> dict[str, Any]:
    import fusiform

    return fusiform.load(model).state_dict()


def _files(folder: Path) -> list[Path]:
    from fusiform.data.image import find_images

    return find_images(folder)


class Process:
    """A contender in a process of its own, which runs the folder once whenever it is its turn."""

    def __init__(self, name: str, folder: Path, cores: int, model: str) -> None:
        self.name = name
        command = [sys.executable, __file__, "--folder", str(folder), "--cores", str(cores), "--model", model]
        command += ["--contender", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self) -> Pass:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print("go", file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the contender {self.name} failed; its own message is above")
        return Pass(**json.loads(line))

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(contender: Contender, folder: Path, cores: int, model: str) -> None:
    """Run the folder for each line on standard input, and answer it with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    run = contender(folder, cores, model)
    for _ in sys.stdin:
        start, busy = time.perf_counter(), sum(os.times()[:4])
        done = run()
        done.seconds, done.busy = time.perf_counter() - start, sum(os.times()[:4]) - busy
        print(json.dumps(asdict(done)), file=answers, flush=True)


def make_pictures(photo: Path, folder: Path, count: int) -> None:
    """``count`` parts of a photograph, each enlarged or reduced to 500x375, JPEG quality 92; always the same ones."""
    from PIL import Image

    folder.mkdir()
    image = Image.open(photo).convert("RGB")
    generator = random.Random(0)
    largest = min(image.width / SIZE[0], image.height / SIZE[1])
    for number in range(count):
        scale = largest * generator.uniform(0.5, 1)
        width, height = SIZE[0] * scale, SIZE[1] * scale
        left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
        part = image.resize(SIZE, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        part.save(folder / f"{number:04}.jpg", quality=92)


def main() -> None:
    parser = common.parser(__doc__, rounds=5)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--folder", type=Path, default=common.SHARED_DATA / "imagenet_val", help="pictures in subfolders"
    )
    source.add_argument("--make", type=int, metavar="N", help="make N pictures out of --photo instead")
    parser.add_argument(
        "--photo", type=Path, default=common.EXAMPLES / "coffee.jpg", help="for --make (default: examples/coffee.jpg)"
    )
    parser.add_argument("--cores", type=int, default=common.usable_cores())
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--contender", choices=CONTENDERS, help="be one of the processes (used by this script itself)")
    arguments = parser.parse_args()
    if arguments.contender:
        serve(CONTENDERS[arguments.contender], arguments.folder, arguments.cores, arguments.model)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder
        if arguments.make:
            if not arguments.photo.is_file():
                parser.error(f"{arguments.photo} is not there: name a photograph with --photo")
            folder = Path(temporary, "pictures")
            folder.mkdir()
            make_pictures(arguments.photo, folder / "made", arguments.make)
        elif not folder.is_dir():
            parser.error(f"{folder} is not there: name a folder with --folder, or make one with --make 500")
        measure(folder, arguments.cores, arguments.model, arguments.rounds, arguments.json)


def measure(folder: Path, cores: int, model: str, rounds: int, to: Path | None) -> None:
    about = common.machine("fusiform", "ai-edge-litert", "numpy", "pillow", "torch", "torchvision", "timm")
    # timm has no ShuffleNetV2, and is not everywhere.
    there = model == "mobilenet_v2" and find_spec("timm") is not None
    names = [name for name in CONTENDERS if name != "timm" or there]
    processes = {name: Process(name, folder, cores, model) for name in names}
    try:
        passes = common.in_turns({name: process.turn for name, process in processes.items()}, rounds)
    finally:
        for process in processes.values():
            process.end()

    ours = passes["fusiform"][0].answers
    pictures = len(ours)
    seconds = {name: [done.seconds for done in turns] for name, turns in passes.items()}
    busy = {name: [done.busy for done in turns] for name, turns in passes.items()}
    ideal = [sum(v for k, v in done.stages.items() if k != "answers") / cores for done in passes["stages"]]
    figures: dict[str, Cell] = {
        "folder": folder.name,
        "pictures": pictures,
        "model": model,
        "threads, and workers, a contender": cores,
        "batch of the PyTorch contenders": BATCH,
        "warm-up": "one pass over the folder each",
        "rounds": rounds,
    }
    for stage in passes["stages"][0].stages:
        spent = statistics.median(done.stages[stage] for done in passes["stages"])
        figures[f"{stage}, ms a picture, one thread"] = round(1000 * spent / pictures, 3)
    figures["(decode + resize and crop + inference) / cores, ms"] = round(1000 * statistics.median(ideal) / pictures, 3)
    figures["fusiform, ms a picture"] = round(1000 * statistics.median(seconds["fusiform"]) / pictures, 3)
    figures["the whole against the stages (target: at most 1.15)"] = round(
        common.median_ratio(seconds["fusiform"], ideal), 3
    )
    rows = [
        {
            "contender": name,
            "pictures/s": round(pictures / statistics.median(seconds[name]), 1),
            "best": round(pictures / min(seconds[name]), 1),
            "fusiform is x faster": round(common.median_ratio(seconds[name], seconds["fusiform"]), 2),
            "target": PLAIN_TARGETS[model] if name == PLAIN else TARGETS.get(name),
            "cpu ms": round(1000 * statistics.median(turn.busy for turn in turns) / pictures, 3),
            "by cpu": round(common.median_ratio(busy[name], busy["fusiform"]), 2),
            "same first answer %": round(_agreement(turns[0].answers, ours), 1),
        }
        for name, turns in passes.items()
        if name != "stages"
    ]
    common.finish("folder", about, figures, rows, to)


def _agreement(answers: dict[str, int], ours: dict[str, int]) -> float:
    if answers.keys() != ours.keys():
        sys.exit(f"the contenders did not read the same {len(ours)} pictures: does the folder hold other files?")
    return 100 * statistics.mean(answers[path] == index for path, index in ours.items())


if __name__ == "__main__":
    main()
