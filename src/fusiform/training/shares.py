"""A batch's features computed in shares, one a thread, instead of each layer in all threads.

Within a layer PyTorch's threads meet hundreds of times a step, and each time wait for the slowest: beside other busy
programs, which take turns on the cores with them, a training then gets a fraction of its part of the machine. Where
batch normalisation is frozen no image knows of another, so that each thread can take its images through the whole
network and back alone; they meet twice a step.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fusiform.modules.backbones import Backbone


def share(network: nn.Module, threads: int) -> nn.Module:
    """Let a classifier's features be computed in shares while it trains on a CPU, in place; answers the network.

    Outputs and gradients are those of the plain network up to rounding, and the same at every repetition: the shares'
    gradients are summed in their order. In eval mode, on other devices, without gradients, and where a batch
    normalisation takes the statistics of its batch, the plain network runs; so does one that is no ``Backbone``.
    Parameters, their names and the modules stay as they are.
    """
    if isinstance(network, Backbone) and threads > 1:
        network.__class__ = _shared_class(type(network))
        cast(_Shared, network).threads = threads
    return network


_SHARED: dict[type[Backbone], type[Backbone]] = {}


def _shared_class(plain: type[Backbone]) -> type[Backbone]:
    """The class of a network of this class that computes its features in shares, and is otherwise the same."""
    if plain not in _SHARED:
        _SHARED[plain] = type(f"Shared{plain.__name__}", (_Shared, plain), {})
    return _SHARED[plain]


class _Shared(Backbone):
    """A classifier that computes its features in shares."""

    threads: int

    def forward_features(self, x: Tensor) -> Tensor:
        if not _applies(self, x):
            return super().forward_features(x)
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        features: Tensor = _Shares.apply(super().forward_features, _pool(self.threads), self.threads, x, *learning)
        return features


def _applies(network: nn.Module, x: Tensor) -> bool:
    if not (network.training and torch.is_grad_enabled() and x.device.type == "cpu" and len(x) > 1):
        return False
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return not any(norm.training for norm in norms)


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads, in each of which PyTorch computes alone."""
    pool = ThreadPoolExecutor(threads, "share")
    started = threading.Barrier(threads)

    def alone(_: int) -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread takes what is set when it first asks, and never again
        started.wait()  # so that no thread takes another's turn

    before = torch.get_num_threads()
    list(pool.map(alone, range(threads)))
    torch.set_num_threads(before)  # what threads that start later get
    return pool


class _Shares(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Tensor], Tensor], pool: ThreadPoolExecutor, count: int, x: Tensor, *learning: Tensor
    ) -> Tensor:
        # A thread starts without the modes of the one that asks.
        enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def features(share: Tensor) -> Tensor:
            with torch.enable_grad(), torch.autocast("cpu", dtype, enabled=enabled):
                return run(share)

        ctx.pool, ctx.learning = pool, learning
        ctx.shares = list(pool.map(features, x.chunk(count)))
        return torch.cat([share.detach() for share in ctx.shares])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        def gradients(share: Tensor, part: Tensor) -> tuple[Tensor | None, ...]:
            found: tuple[Tensor | None, ...] = torch.autograd.grad(share, ctx.learning, part, allow_unused=True)
            return found

        shares, ctx.shares = ctx.shares, ()
        parts = list(ctx.pool.map(gradients, shares, torch.split(gradient, [len(share) for share in shares])))
        summed: list[Tensor | None] = []
        for of_parameter in zip(*parts, strict=True):
            given = [part for part in of_parameter if part is not None]  # the classifier has no part in features
            summed.append(functools.reduce(torch.add, given) if given else None)
        return (None, None, None, None, *summed)
