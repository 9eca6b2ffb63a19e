"""Pictures a second of a training step on the CPU, from PyTorch's plain way to ``fusiform``'s, one addition at a time.

    python benchmarks/training_step.py [--network mobilenet_v2] [--rounds 3] [--steps 3] [--json FILE]
    python benchmarks/training_step.py --curve [--json FILE]

A step is the forward pass in training mode with the batch's statistics, cross-entropy, the backward pass and SGD with
momentum, on one batch of 32 random pictures of 224x224. "plain" is eager float32 as PyTorch comes; each further
contender adds one thing to the one before: ``keep_freed_memory``, channels last, autocast to bfloat16, and
``fusiform.training.fused.fuse``. "torch.compile" stands in fuse's place, where there is a C++ compiler; its
minutes of compilation are a row of their own and not in the clock. "frozen" is fuse with the batch normalisations in
eval mode, as in careful fine-tuning: another computation, so it is not the headline.

Every turn is a process of its own, since the allocator's setting is one of the process: it warms up with one step (two
where it compiles) and answers the best of ``--steps``. All have as many threads as there are cores. Target: fuse at
least 4 times plain.

``--curve`` asks whether anything is lost: it trains 200 steps of plain, of "+ bfloat16" and of "+ fuse" from four
seeds, which decide the weights and the batches. Printed is how far the losses, smoothed over 20 steps, of the same seed
lie apart, and in the mean above or below plain with the standard error of that; and how far two seeds of plain lie
apart. Pictures are those of the shared data's ``intel_scenes`` at 64x64, or bright squares of ten places and sizes
where that is absent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np

from fusiform.report import Cell

BATCH, SIDE = 32, 224
CURVE_STEPS, CURVE_SIDE, CURVE_BATCH, CURVE_SEEDS, SMOOTHED = 200, 64, 32, 4, 20


class Contender(NamedTuple):
    """What is switched on."""

    allocator: bool = False
    channels_last: bool = False
    bfloat16: bool = False
    fuse: bool = False
    compiled: bool = False
    frozen: bool = False


CONTENDERS = {
    "plain": Contender(),
    "+ allocator": Contender(allocator=True),
    "+ channels last": Contender(allocator=True, channels_last=True),
    "+ bfloat16": Contender(allocator=True, channels_last=True, bfloat16=True),
    "+ fuse": Contender(allocator=True, channels_last=True, bfloat16=True, fuse=True),
    "fuse in float32": Contender(allocator=True, channels_last=True, fuse=True),
    "torch.compile": Contender(allocator=True, channels_last=True, bfloat16=True, compiled=True),
    "fuse, frozen": Contender(allocator=True, channels_last=True, bfloat16=True, fuse=True, frozen=True),
}
FASTEST = "+ fuse"


class Trainer:
    """A network and its optimiser; ``step`` answers the loss of a batch before the step."""

    def __init__(self, contender: Contender, network: str, classes: int, *, seed: int) -> None:
        # PyTorch is imported here, after the allocator was set.
        import torch

        from fusiform.modules import MobileNetV2, ShuffleNetV2
        from fusiform.training.fused import fuse

        torch.set_num_threads(common.usable_cores())
        torch.manual_seed(seed)
        # Dropout would draw other numbers for other memory layouts.
        module = MobileNetV2(1.0, classes, dropout=0.0) if network == "mobilenet_v2" else ShuffleNetV2(1.0, classes)
        if contender.channels_last:
            module = module.to(memory_format=torch.channels_last)
        if contender.fuse:
            fuse(module)
        if contender.frozen:
            for part in module.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.eval()
        self.contender = contender
        self.network: Any = torch.compile(module) if contender.compiled else module
        self.optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)

    def step(self, pictures: np.ndarray, labels: np.ndarray) -> float:
        import torch

        x, y = torch.from_numpy(pictures), torch.from_numpy(labels)
        if self.contender.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.contender.bfloat16):
            logits = self.network(x)
        loss = torch.nn.functional.cross_entropy(logits.float(), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def measure(contender: Contender, network: str, steps: int) -> dict[str, float]:
    """The best of some steps in pictures a second, and the seconds until the first was done."""
    trainer = Trainer(contender, network, 1000, seed=0)
    random = np.random.default_rng(0)
    pictures = random.standard_normal((BATCH, 3, SIDE, SIDE), dtype=np.float32)
    labels = random.integers(0, 1000, BATCH)
    start = time.perf_counter()
    trainer.step(pictures, labels)
    first = time.perf_counter() - start
    if contender.compiled:
        trainer.step(pictures, labels)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        trainer.step(pictures, labels)
        times.append(time.perf_counter() - start)
    return {"pictures/s": BATCH / min(times), "first step s": first}


def curve(contender: Contender, network: str, seed: int) -> dict[str, list[float]]:
    """The loss at each of the 200 steps; the seed decides the weights and the order of the pictures."""
    pictures, labels = curve_data()
    trainer = Trainer(contender, network, int(labels.max()) + 1, seed=seed)
    random = np.random.default_rng(seed)
    losses = []
    for _ in range(CURVE_STEPS):
        chosen = random.integers(0, len(labels), CURVE_BATCH)
        losses.append(trainer.step(pictures[chosen], labels[chosen]))
    return {"losses": losses}


def curve_data() -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 3, 64, 64), about -2 to 2, and labels (N,)."""
    folder = common.SHARED_DATA / "intel_scenes" / "train"
    side = CURVE_SIDE
    if folder.is_dir():
        from PIL import Image

        files = [(f, k) for k, d in enumerate(sorted(folder.iterdir())) for f in sorted(d.glob("*.jpg"))[:150]]
        pixels = [np.asarray(Image.open(f).convert("RGB").resize((side, side))) for f, _ in files]
        pictures = np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 64 - 2
        return np.ascontiguousarray(pictures), np.array([k for _, k in files])
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 900)
    pictures = random.standard_normal((900, 3, side, side), dtype=np.float32) / 2
    for picture, label in zip(pictures, labels, strict=True):
        top, left, edge = 4 + 10 * (label % 5), 8 + int(random.integers(0, 24)), 12 + 8 * (label // 5)
        picture[:, top : top + edge, left : left + edge] += 1
    return pictures, labels


def in_own_process(*arguments: str) -> Any:
    """What this script answers in a process that imports PyTorch afresh."""
    run = [sys.executable, str(Path(__file__).resolve()), *arguments]
    done = subprocess.run(run, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = common.parser(__doc__, rounds=3)
    parser.add_argument("--network", choices=("mobilenet_v2", "shufflenet_v2"), default="mobilenet_v2")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="CONTENDER", help="plain and these alone")
    parser.add_argument("--curve", action="store_true", help="compare the losses of 200 steps instead")
    parser.add_argument("--inner", nargs=2, metavar=("CONTENDER", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inner:
        contender = CONTENDERS[arguments.inner[0]]
        if contender.allocator:
            from fusiform.training.allocator import keep_freed_memory

            keep_freed_memory()
        seed = int(arguments.inner[1])
        answer = (
            curve(contender, arguments.network, seed)
            if arguments.curve
            else measure(contender, arguments.network, arguments.steps)
        )
        print(json.dumps(answer))
    elif arguments.curve:
        report_curve(arguments)
    else:
        report_speed(arguments)


def report_speed(arguments: argparse.Namespace) -> None:
    about = common.machine("fusiform", "torch", "numpy")
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    names = [
        name
        for name, contender in CONTENDERS.items()
        if (name == "plain" or arguments.only is None or name in arguments.only)
        and (compiler or not contender.compiled)
    ]
    options = ("--network", arguments.network, "--steps", str(arguments.steps), "--inner")
    turns = common.in_turns(
        {name: partial(in_own_process, *options, name, "0") for name in names}, arguments.rounds, warm_up=0
    )
    rates = {name: [turn["pictures/s"] for turn in results] for name, results in turns.items()}
    rows: list[dict[str, Cell]] = [
        {
            "contender": name,
            "pictures/s": round(max(rates[name]), 1),
            "times plain": round(common.median_ratio(rates[name], rates["plain"]), 2),
            "first step s": round(min(turn["first step s"] for turn in turns[name]), 1),
        }
        for name in names
    ]
    figures: dict[str, Cell] = {
        "network": arguments.network,
        "batch": f"{BATCH} pictures of {SIDE}x{SIDE}",
        "rounds": arguments.rounds,
        "steps a turn": arguments.steps,
        "C++ compiler": compiler or "none: torch.compile left out",
    }
    if FASTEST in names:
        ratio = common.median_ratio(rates[FASTEST], rates["plain"])
        figures["all four additions over plain (target: 4)"] = round(ratio, 2)
    common.finish("training_step", about, figures, rows, arguments.json)


def report_curve(arguments: argparse.Namespace) -> None:
    about = common.machine("fusiform", "torch", "numpy")
    window = np.ones(SMOOTHED) / SMOOTHED
    smooth: dict[str, list[np.ndarray]] = {}
    rows: list[dict[str, Cell]] = []
    for name in ("plain", "+ bfloat16", FASTEST):
        smooth[name] = []
        for seed in range(CURVE_SEEDS):
            options = ("--curve", "--network", arguments.network, "--inner", name, str(seed))
            losses = np.array(in_own_process(*options)["losses"])
            smooth[name].append(np.convolve(losses, window, mode="valid"))
            parts = {f"steps {i + 1}-{i + 40}": round(float(losses[i : i + 40].mean()), 3) for i in range(0, 200, 40)}
            rows.append({"run": name, "seed": seed, **parts})
    figures: dict[str, Cell] = {
        "network": arguments.network,
        "pictures": "intel_scenes" if (common.SHARED_DATA / "intel_scenes" / "train").is_dir() else "drawn",
        "batch": f"{CURVE_BATCH} pictures of {CURVE_SIDE}x{CURVE_SIDE}",
        "steps": CURVE_STEPS,
        "seeds": CURVE_SEEDS,
    }
    apart = [np.abs(one - other).mean() for one, other in combinations(smooth["plain"], 2)]
    figures["plain, two seeds: mean |difference|"] = round(float(np.mean(apart)), 4)
    figures["plain, two seeds: largest mean |difference|"] = round(float(np.max(apart)), 4)
    for name in ("+ bfloat16", FASTEST):
        differences = [found - plain for found, plain in zip(smooth[name], smooth["plain"], strict=True)]
        figures[f"{name} to plain: mean |difference|"] = round(float(np.mean(np.abs(differences))), 4)
        whole = np.mean(differences, axis=1)
        figures[f"{name} to plain: mean difference"] = round(float(whole.mean()), 4) + 0.0
        figures[f"{name} to plain: its standard error"] = round(float(whole.std(ddof=1) / CURVE_SEEDS**0.5), 4)
    common.finish("training_step_curve", about, figures, rows, arguments.json)


if __name__ == "__main__":
    main()
