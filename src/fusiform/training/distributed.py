"""The processes that train together: one, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from fusiform.errors import InputError


@dataclass(frozen=True)
class World:
    """The number of this process, ``rank``, among ``size``, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and speaks to the user."""
        return self.rank == 0

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over all processes, in double precision."""
        values = torch.tensor(list(numbers), dtype=torch.float64)
        if self.size > 1:
            on_device = values.to(self.device) if self.device.type == "cuda" else values
            dist.all_reduce(on_device)
            values = on_device.cpu()
        return [float(value) for value in values]

    def share(self, value: object) -> object:
        """What the writing process holds, for all."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: object) -> list[Any]:
        """What each process holds, in the order of their ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Go on when all are here."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over the processes."""
        if self.size == 1 or not any(parameter.requires_grad for parameter in network.parameters()):
            return network
        devices = [self.device] if self.device.type == "cuda" else None
        # Each process keeps its own running statistics; the first one's are evaluated and saved.
        return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


@contextmanager
def join(device: str = "cpu") -> Iterator[World]:
    """The world that torchrun describes in the environment, or one of a single process.

    ``device`` is ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Processes on GPUs speak over NCCL, on CPUs over gloo, and
    each takes the GPU of its local rank. Raises UsageError for a device that is not there.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    place = _find(device)
    if size > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        if place.type == "cuda":
            torch.cuda.set_device(place)
        yield World(rank, size, place)
    finally:
        if size > 1:
            dist.destroy_process_group()


def _find(device: str) -> torch.device:
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"PyTorch has no device {device} here: {str(error).splitlines()[0]}") from None
    return place


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; each one's loss depends on every process's, and so do the gradients."""

    @staticmethod
    def forward(_: FunctionCtx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation with the statistics of the batches of all processes, on any device.

    ``torch.nn.SyncBatchNorm`` is for GPUs only. Each process tells its mean and variance, and all of them together give
    those of the whole, exactly where all have batches of one size, as here; a mean of squares less the square of the
    mean would be lost in rounding, or below 0, where values are large and alike.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        world, rank = dist.get_world_size(), dist.get_rank()
        values = x.float()
        mine = torch.stack(torch.var_mean(values, (0, 2, 3), correction=0))
        # Each in a place of its own, so that the sum is a list of them all.
        each = torch.stack([mine if k == rank else torch.zeros_like(mine) for k in range(world)])
        variances, means = cast("Tensor", _Sum.apply(each)).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        with torch.no_grad():
            count = world * values.numel() // values.shape[1]
            momentum = self.momentum if self.momentum is not None else 0.1
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def sync_batch_norm(network: nn.Module, world: World) -> None:
    """Let batch normalisation see the whole batch: all processes' pictures.

    The parameters stay the very same, for whoever knows them already, and so does the state dict. ``LoneBatchNorm2d``
    is one like any other here: two processes have two values a channel at least.
    """
    if world.size == 1:
        return
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                synced: nn.Module
                if world.device.type == "cuda":
                    synced = nn.SyncBatchNorm.convert_sync_batchnorm(child)  # type: ignore[no-untyped-call]
                else:
                    synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum)
                    synced.load_state_dict(child.state_dict())
                    synced.weight, synced.bias = child.weight, child.bias
                setattr(module, name, synced.to(world.device))
