"""Training in two processes, as torchrun starts them, against one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fusiform.errors import UsageError
from fusiform.train.job import train
from fusiform.train.recipe import Recipe
from fusiform.train.world import SyncedBatchNorm2d, World, join
from fusiform.zoo.checkpoint import read_safetensors

NETWORK = "mobilenet_v2_x0_35"


def run_twice(*arguments: str) -> str:
    """Run a Python program in two processes of one thread each."""
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_two_processes_learn_what_one_learns(
    tmp_path: Path, make_pictures: Callable[..., None], quick: Recipe, batch_norm: str
) -> None:
    make_pictures(tmp_path / "data", {"red": 12, "green": 12, "blue": 13})
    # SGD: its steps are as large as the differences of the gradients, where AdamW makes all of one size.
    recipe = dataclasses.replace(
        quick, optimizer="sgd", lr=1e-3, dropout=0.0, batch_norm=batch_norm, sync_batch_norm=batch_norm == "train"
    )
    one, two = tmp_path / "one", tmp_path / "two"
    train(tmp_path / "data", one, model=NETWORK, recipe=recipe, threads=1)
    changed = [
        f"{field.name}={_text(getattr(recipe, field.name))}"
        for field in dataclasses.fields(Recipe)
        if field.name != "name"
    ]
    settings = [part for setting in changed for part in ("--set", setting)]
    arguments = ["train", str(tmp_path / "data"), "--out", str(two), "--model", NETWORK, "--threads", "1"]
    printed = json.loads(run_twice("-m", "fusiform", *arguments, *settings, "--format", "json"))
    assert printed["figures"]["epochs"] == 2  # printed once

    first, second = read_safetensors(one / "last.safetensors")[1], read_safetensors(two / "last.safetensors")[1]
    start = {name: value.numpy() for name, value in torch.load(one / "state.pt")["learner"].items()}
    assert len(start)
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=1e-4, atol=2e-5, err_msg=name)
    records = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, two)]
    for a, b in zip(*records, strict=True):
        assert a["val_pictures"] == b["val_pictures"]
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-3, abs=1e-3)
        assert a.get("train_loss", 0) == pytest.approx(b.get("train_loss", 0), rel=1e-3, abs=1e-3)


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    return str(value).lower()


MEASURE = """
import sys
from pathlib import Path
from fusiform.data.dataset import Sample
from fusiform.nets import build_network
from fusiform.spec import ModelSpec, Preprocess
from fusiform.train.classification import measure
from fusiform.train.world import join

spec = ModelSpec("mobilenet_v2", 0.35, ("a", "b"), input_size=32, preprocess=Preprocess(resize=32, crop=32))
samples = [Sample(Path(sys.argv[1]), i % 2) for i in range(1201)]
network = build_network(spec).eval()
network.classifier[1].bias.data[0] = 1.0  # so that every answer is the first class
with join() as world:
    figures = measure(network, spec, samples, world, threads=1)
    if world.writes:
        print(int(figures["val_pictures"]), figures["val_top1"])
"""


def test_two_processes_count_each_of_1201_pictures_once(tmp_path: Path, make_pictures: Callable[..., None]) -> None:
    make_pictures(tmp_path, {"red": 1})
    (tmp_path / "measure.py").write_text(MEASURE)
    count, top1 = run_twice(str(tmp_path / "measure.py"), str(tmp_path / "red" / "0.png")).split()
    assert count == "1201"
    assert float(top1) == pytest.approx(601 / 1201)


def test_synced_batch_norm_is_batch_norm_over_all_pictures(tmp_path: Path) -> None:
    program = tmp_path / "sync.py"
    program.write_text(
        "import sys, torch, torch.distributed as dist\n"
        "from fusiform.train.world import join, sync_batch_norm\n"
        "with join() as world:\n"
        "    whole, x = torch.load(sys.argv[1], weights_only=False)\n"
        "    sync_batch_norm(whole, world)\n"
        "    mine = x.chunk(2)[world.rank].clone().requires_grad_()\n"
        "    y = whole(mine)\n"
        "    (y.square().sum() + y.pow(3).sum()).backward()\n"
        "    parts = world.gather((y.detach(), mine.grad))\n"
        "    for p in whole.parameters(): dist.all_reduce(p.grad)\n"
        "    if world.writes:\n"
        "        torch.save([torch.cat([p[k] for p in parts]) for k in (0, 1)]\n"
        "                   + [p.grad for p in whole.parameters()] + list(whole.buffers()), sys.argv[2])\n"
    )
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(5))
    x = torch.randn(8, 5, 3, 4) * 3 + 1
    torch.save((network, x), tmp_path / "in.pt")
    run_twice(str(program), str(tmp_path / "in.pt"), str(tmp_path / "out.pt"))
    x.requires_grad_()
    y = network(x)
    (y.square().sum() + y.pow(3).sum()).backward()
    expected = [y.detach(), x.grad, *(p.grad for p in network.parameters()), *network.buffers()]
    for mine, other in zip(torch.load(tmp_path / "out.pt"), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_a_world_of_one() -> None:
    with join("cpu") as world:
        assert (world.rank, world.size, world.writes) == (0, 1, True)
        assert world.sum([1.5, 2.0]) == [1.5, 2.0]
        assert world.share("x") == "x"
        assert world.gather(3) == [3]
        network = nn.Linear(2, 2)
        assert world.wrap(network) is network


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="no device"), join("cuda:99"):
        pass


def test_a_batch_that_the_processes_cannot_share(tmp_path: Path, make_pictures: Callable[..., None]) -> None:
    from fusiform.data.dataset import Sample
    from fusiform.train.pictures import ClassExamples, Loaded, Pictures

    samples = [Sample(tmp_path / "x.png", 0)] * 9
    loaded = Loaded(samples, [None] * 9, [], 0)
    world = World(0, 2, torch.device("cpu"))
    recipe = Recipe(name="x", epochs=1, batch=9, size=32, eval_size=32)
    examples = ClassExamples(recipe, shorter_side=32)
    with pytest.raises(UsageError, match="multiple of 2 processes"):
        Pictures(loaded, examples, recipe, world)
    # Nine pictures for two processes make batches of eight.
    made = Pictures(loaded, examples, dataclasses.replace(recipe, batch=64), world)
    assert (made.batch, made.steps) == (8, 1)


def test_synced_batch_norm_in_evaluation_is_plain() -> None:
    plain = nn.BatchNorm2d(3)
    plain.running_mean.uniform_(-1, 1)  # type: ignore[union-attr]
    synced = SyncedBatchNorm2d(3)
    synced.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))
