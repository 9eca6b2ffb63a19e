"""Where PyTorch computes: the CPU, or a GPU where there is one."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

from fusiform.errors import InputError, UsageError

if TYPE_CHECKING:
    import torch


def choose_device() -> str:
    """What ``auto`` is: ``cuda`` where PyTorch can compute on an NVIDIA GPU (or AMD's, with its build), else ``cpu``.

    Not ``mps``: nothing here is tested on Apple's GPUs, so that they are for who asks for them.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of drivers that are too old, where nobody asked for a GPU
        try:
            # Of a GPU that this build of PyTorch has no code for, only the computation says so.
            return "cuda" if torch.cuda.is_available() and int(torch.ones(1, device="cuda") + 1) == 2 else "cpu"
        except (RuntimeError, AssertionError):
            return "cpu"


def find_device(device: str) -> torch.device:
    """The device of this name, ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    Raises UsageError for another name, and InputError for a device that this machine or its PyTorch does not have.
    """
    import torch

    if device == "auto":
        device = choose_device()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise UsageError(f"PyTorch has no device {device} here: give auto, cpu, cuda, cuda:1 or mps")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"PyTorch has no device {device} here: {_lack(device, error)}") from None
    return place


def describe_device(device: str) -> str:
    """A device for people: ``cuda (NVIDIA H200)``."""
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device


def _lack(device: str, error: Exception) -> str:
    """What is missing, and what to do: PyTorch's own words may fill a screen."""
    import torch

    if device == "mps":
        return "it finds no GPU of Apple's; --device cpu computes without"
    if torch.version.cuda is None and torch.version.hip is None:
        return "it was installed without CUDA; install PyTorch for your GPU, or compute on the CPU (--device cpu)"
    count = torch.cuda.device_count()
    if count:
        found = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        reason = str(error).splitlines()[0] if device == "cuda" or int(device.partition(":")[2]) < count else ""
        return f"{reason or f'there is {found}'}; name another, or compute on the CPU (--device cpu)"
    return "it finds no NVIDIA GPU or no driver; compute on the CPU (--device cpu)"
