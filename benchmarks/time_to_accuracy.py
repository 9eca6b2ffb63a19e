"""How long does training take until the test photographs are right often enough?

The six Intel scenes (4,200 training and 1,200 test photographs), MobileNetV2 1.0 from the bundled weights, two cores,
each contender in a process of its own, one after the other:

    fusiform    this project: the head on features computed once in LiteRT, then the upper two thirds of the network
                for an epoch or two at a low resolution, in bfloat16, channels last, with decoded pictures in memory
                and malloc told to keep them
    copied      the script that is commonly copied: Resize 224, mirror, normalise by 0.5, Adam 1e-5, batches of 128, a
                DataLoader with two workers, eager float32
    tutorial    PyTorch's transfer-learning tutorial: RandomResizedCrop 224, mirror, ImageNet's normalisation, SGD with
                0.001 and momentum 0.9, batches of 4, a tenth of the rate after 7 epochs, eager float32

All start from the same weights. Batch normalisation is folded into these; the two scripts, which normalise by the
batch's statistics, get them with statistics estimated from the training photographs (``train.batch_norm.unfold``), as
torchvision's files have them. All are stopped at intervals and measured on the test photographs at 224 pixels, the
whole picture. The clock runs from the start of the process, imports included; it stands still while they are measured,
and while the statistics are estimated. The test photographs decide when to stop and nothing else; the figure is a time,
not an accuracy to be quoted.

A contender that does not reach the accuracy within ``--limit`` seconds on its clock is listed with the best it had.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import common

DATA = common.SHARED_DATA / "intel_scenes"
CONTENDERS = ("fusiform", "tutorial", "copied")
EVERY = {"copied": 8, "tutorial": 150}
"""Steps between two measures: about a quarter and a seventh of an epoch."""


def main() -> None:
    parser = common.parser(__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with train/ and test/")
    parser.add_argument("--accuracy", type=float, default=91.5, help="percent (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=2400, help="seconds for each contender (default: %(default)s)")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="not all contenders")
    parser.add_argument("--run", choices=CONTENDERS, help="be this contender, and print a line a measure")
    arguments = parser.parse_args()
    if arguments.run:
        CONTESTANTS[arguments.run](arguments.data, arguments.accuracy / 100, arguments.limit)
        return
    about = common.machine("torch", "torchvision", "ai-edge-litert")
    curves = {}
    for name in arguments.only or CONTENDERS:
        print(f"{name} ...", flush=True)
        curves[name] = start(name, arguments)
    rows, reached = [], {}
    for name, points in curves.items():
        best = max(points, key=lambda point: point["top1"])
        first = next((point["seconds"] for point in points if point["top1"] >= arguments.accuracy / 100), None)
        if first is not None:
            reached[name] = first
        rows.append(
            {
                "contender": name,
                "seconds to reach it": first,
                "best top-1 %": round(100 * best["top1"], 2),
                "after seconds": best["seconds"],
                "measures": len(points),
            }
        )
    figures: dict[str, common.Cell] = {"accuracy asked for %": arguments.accuracy, "limit in seconds": arguments.limit}
    if "fusiform" in reached:
        for name, seconds in reached.items():
            if name != "fusiform":
                figures[f"fusiform is faster than {name}"] = round(seconds / reached["fusiform"], 1)
    for name in curves:
        points = "  ".join(f"{point['seconds']:.0f}s {100 * point['top1']:.1f}" for point in curves[name])
        print(f"{name}: {points}")
    common.finish("time_to_accuracy", about, figures, rows, arguments.json)


def start(name: str, arguments: object) -> list[dict[str, float]]:
    """Run a contender in a process of its own; what it printed."""
    command = [sys.executable, __file__, "--run", name]
    for option in ("data", "accuracy", "limit"):
        command += [f"--{option}", str(getattr(arguments, option))]
    points = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                points.append(json.loads(line))
                print(f"  {points[-1]['seconds']:7.1f} s  {100 * points[-1]['top1']:.2f} %", flush=True)
    if process.returncode:
        raise SystemExit(f"{name} failed with exit code {process.returncode}")
    return points


class ReachedError(Exception):
    """Ends a training that is accurate enough."""


class Clock:
    """Seconds since the process began, less the pauses."""

    def __init__(self) -> None:
        started = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        ticks = 100  # sysconf(SC_CLK_TCK), 100 on every Linux
        self.begun = time.monotonic() - (float(Path("/proc/uptime").read_text().split()[0]) - started / ticks)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def skip(self, seconds: float) -> None:
        self.begun += seconds


class Test:
    """The test photographs; measures a network's weights on them in LiteRT with the clock standing still."""

    def __init__(self, folder: Path, clock: Clock, spec: object) -> None:
        from fusiform.data.open import open_dataset

        paused = time.monotonic()
        self.samples = open_dataset(folder, task="classification").splits["test"]
        self.clock, self.spec = clock, spec
        clock.skip(time.monotonic() - paused)

    def measure(self, network: object) -> float:
        import torch

        from fusiform.training.classification import look, sum_up
        from fusiform.training.distributed import World

        paused = time.monotonic()
        world = World(0, 1, torch.device("cpu"))
        top1 = sum_up(*look(network, self.spec, self.samples, world, threads=2))["val_top1"]
        self.clock.skip(time.monotonic() - paused)
        print(json.dumps({"seconds": round(self.clock.seconds, 1), "top1": top1}), flush=True)
        return top1


def run_fusiform(data: Path, accuracy: float, limit: float) -> None:
    """What ``fusiform train`` does with the recipe below, measured after the head and at intervals."""
    clock = Clock()
    from fusiform.training.allocator import keep_freed_memory

    keep_freed_memory()
    import tempfile

    import torch

    from fusiform.training import job, loop
    from fusiform.training.recipe import override
    from fusiform.training.recipes import RECIPES

    torch.set_num_threads(2)
    # All 4,200 photographs are for training, as they are for the two scripts; nothing here looks at a validation split.
    recipe = override(RECIPES["finetune_small"], FAST)
    test: list[Test] = []

    def look(fit: loop._Fit) -> None:
        if not test:
            test.append(Test(data, clock, fit.task.spec))
        network = fit.task.network
        if fit.average and fit.average.updates:
            with fit.average.swapped(network):
                top1 = test[0].measure(network)
        else:
            top1 = test[0].measure(network)
        if top1 >= accuracy or clock.seconds > limit:
            raise ReachedError

    begin, step = loop._Fit._start, loop._Fit._step

    def start_and_look(self: loop._Fit) -> None:
        begin(self)
        look(self)

    def step_and_look(self: loop._Fit, batches: object) -> None:
        step(self, batches)
        number = self.epoch * self.task.steps + self.step + 1
        if number % 20 == 0 or number == self.task.steps * recipe.epochs:
            look(self)

    loop._Fit._start, loop._Fit._step = start_and_look, step_and_look
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ReachedError):
        job.train(data, Path(folder) / "run", recipe=recipe, threads=2, say=lambda text: print(text, flush=True))


FAST = ["val_fraction=0", "epochs=2", "freeze=0.37", "lr=2e-4", "ema=0.95"]
"""What differs from the default recipe."""


def run_script(data: Path, accuracy: float, limit: float, *, name: str) -> None:
    """One of the two scripts."""
    clock = Clock()
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    import fusiform
    from fusiform.spec import ModelSpec, Preprocess

    torch.set_num_threads(2)
    torch.manual_seed(0)
    copied = name == "copied"
    mean, std = ((0.5,) * 3, (0.5,) * 3) if copied else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    resize = transforms.Resize((224, 224)) if copied else transforms.RandomResizedCrop(224)
    to_tensor = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    transform = transforms.Compose([resize, transforms.RandomHorizontalFlip(), *to_tensor])
    training = datasets.ImageFolder(data / "train", transform)
    loader = DataLoader(training, batch_size=128 if copied else 4, shuffle=True, num_workers=2)
    network = fusiform.load("mobilenet_v2", num_classes=len(training.classes))
    unfold(network, training, clock)
    if copied:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
    else:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 7 if not copied else 10**6, 0.1)
    criterion = nn.CrossEntropyLoss()
    preprocess = Preprocess(resize=224, crop=224, mean=mean, std=std)
    test = Test(data, clock, ModelSpec("mobilenet_v2", 1.0, tuple(training.classes), preprocess=preprocess))
    steps = 0
    while True:
        network.train()
        for pictures, labels in loader:
            optimizer.zero_grad()
            criterion(network(pictures), labels).backward()
            optimizer.step()
            steps += 1
            if steps % EVERY[name] == 0:
                if test.measure(network.eval()) >= accuracy or clock.seconds > limit:
                    return
                network.train()
        schedule.step()


def unfold(network: object, training: object, clock: Clock) -> None:
    """Give the starting weights batch statistics; the clock stands still."""
    import torch

    from fusiform.training.batch_norm import unfold

    paused = time.monotonic()
    chosen = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:256].tolist()
    unfold(network, (torch.stack([training[i][0] for i in chosen[k : k + 32]]) for k in range(0, 256, 32)))
    clock.skip(time.monotonic() - paused)


CONTESTANTS = {
    "fusiform": run_fusiform,
    "copied": lambda data, accuracy, limit: run_script(data, accuracy, limit, name="copied"),
    "tutorial": lambda data, accuracy, limit: run_script(data, accuracy, limit, name="tutorial"),
}

if __name__ == "__main__":
    main()
