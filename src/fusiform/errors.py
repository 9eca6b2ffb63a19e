"""What can go wrong that a user can do something about.

Every message says what happened to which file or name and what to do next. The command line prints the
message and the exit code below; it never shows a traceback for these.
"""

from __future__ import annotations

import warnings
from typing import Literal

ImageFault = Literal[
    "unreadable",
    "empty file",
    "not a picture",
    "kind not read",
    "too large",
    "truncated",
    "corrupt",
    "missing mask",
    "damaged mask",
    "mask is no PNG",
    "mask of another size",
    "mask of unknown colours",
    "label of no class",
]
"""Why a picture, or its mask, cannot be read."""


class FusiformError(Exception):
    """Something the user can fix: ``str(error)`` is the whole message, ready to print."""

    exit_code = 1


class UsageError(FusiformError):
    """An argument is wrong, two exclude each other, or one does not apply to the task of the model or the data."""

    exit_code = 2


class InputError(UsageError):
    """What an argument names is missing, damaged or does not fit: a file, a dataset, a model, a device.

    The argument itself is well formed, so that the command line exits with 1 and not with 2.
    """

    exit_code = 1


class ImageError(FusiformError):
    """A picture that cannot be read, and why; a batch lists it and goes on."""

    def __init__(self, message: str, kind: ImageFault = "unreadable") -> None:
        super().__init__(message)
        self.kind: ImageFault = kind


class SpecError(FusiformError):
    """A model's description of itself is missing, malformed or does not fit its weights."""


class WeightsError(FusiformError):
    """A weight file that is missing, damaged or does not fit the network."""


class OutputError(FusiformError):
    """A file that cannot be written; nothing was left of it."""


class DownloadError(WeightsError):
    """A download that failed; nothing was left in the cache."""


class MissingExtraError(FusiformError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed: pip install 'fusiform[{extra}]'")


def warn_renamed(function: str, old: str, new: str, value: object) -> None:
    """Tell whoever calls a public function, from which this is called, that a parameter has another name.

    UsageError where the new one has a ``value`` too.
    """
    if value is not None:
        raise UsageError(f"{function}: {old} is the old name of {new}: give {new} alone")
    warnings.warn(f"{function}: {old} is now {new}; the old name is taken until 0.3", FutureWarning, stacklevel=3)
