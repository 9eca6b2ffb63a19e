"""Where pictures come from: files, folders, patterns, addresses, standard input and memory."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeGuard, cast, runtime_checkable

from PIL import Image

from fusiform.data.image import find_images, is_of_system, natural_key
from fusiform.data.limits import read_bounded
from fusiform.errors import ImageError, UsageError

if TYPE_CHECKING:  # a photograph is named in a fraction of the time that numpy's import takes
    import numpy as np
    from numpy.typing import NDArray

    from fusiform.prediction.listing import Item


@runtime_checkable
class TensorLike(Protocol):
    """What is asked of a PyTorch tensor, so that PyTorch is not imported for it."""

    @property
    def shape(self) -> Any: ...

    def detach(self) -> Any: ...

    def cpu(self) -> Any: ...

    def is_floating_point(self) -> bool: ...


Content = str | os.PathLike[str] | bytes | Image.Image
"""What a picture is read from in the end."""

Source: TypeAlias = "Content | bytearray | memoryview | IO[bytes] | NDArray[Any] | TensorLike"
"""What ``fusiform.predict`` takes for an image, or for the folder or the pattern of many."""

TAKEN = (
    "a file, a folder, a pattern, an http(s) or file address, an image's bytes, a binary file object, a PIL image, a "
    "numpy array (height, width) or (height, width, 3 or 4) of uint8, a torch tensor (3, height, width) of uint8 or of "
    "floats in [0, 1], or several of these"
)


DOWNLOAD_LIMIT = 64 * 2**20
"""Bytes; an address that sends more is no photograph."""


DOWNLOAD_SECONDS = 60


STALL_SECONDS = 15
"""How long a download may take as a whole, and how long the server may send nothing."""


class Picture(NamedTuple):
    """A picture not yet read: the name to show for it, and what gives its file, bytes or image, or raises.

    ``keep`` asks for a thumbnail with the answer; ``fleeting`` says that it cannot be read a second time, and ``far``
    that it is fetched from another machine, so that it is worth asking for before its turn.
    """

    path: str
    fetch: Callable[[], Content]
    keep: bool = False
    fleeting: bool = False
    far: bool = False


def stem_of(path: str) -> str:
    """What a file about the picture may be called, from its file or address, without an ending; never empty."""
    name = path
    if name.lower().startswith(("http://", "https://")):
        from urllib.parse import unquote, urlsplit

        try:
            name = unquote(urlsplit(name).path)
        except ValueError:  # an address of no known form
            name = ""
    # What some file system or other does not take, and the ends that Windows drops.
    stem = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", Path(name).stem).rstrip(" .")
    return "picture" if stem in ("", "-") else stem


def find_pictures(sources: Source | Iterable[Source]) -> Iterator[Picture]:
    """Every picture that the sources stand for, in their order, none of them read yet.

    One array, tensor or file object is one picture, several of them are several. What an iterator gives from memory
    is copied at once, since it may give the same array again with another picture in it. Raises UsageError for
    anything that ``TAKEN`` does not name.
    """
    if _is_one(sources):
        yield from _find(cast(Source, sources))
        return
    if isinstance(sources, Mapping) or not isinstance(sources, Iterable):
        raise _not_taken(f"a {type(sources).__name__} is")
    copied = iter(sources) is sources
    for source in cast("Iterable[Source]", sources):
        for picture in _find(source):
            yield _fetched(picture) if copied and not _is_name(source) else picture


def _is_name(source: object) -> bool:
    return isinstance(source, (str, os.PathLike))


def _is_array(source: object) -> TypeGuard[NDArray[Any]]:
    """Whether this is an array, without numpy's import: who has one has imported it."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(source, numpy.ndarray)


def _is_one(source: object) -> bool:
    """Whether this is one source, though it may be possible to iterate over it."""
    if _is_array(source):
        return not (source.ndim == 1 and source.dtype.kind in "UO")  # an array of names
    taken = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, TensorLike)
    return isinstance(source, taken) or hasattr(source, "read")


def _find(source: Source) -> Iterator[Picture]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield Picture("<bytes>", partial(_same, bytes(source)), fleeting=True)
    elif isinstance(source, Image.Image):
        yield Picture(str(getattr(source, "filename", "")) or "<image>", partial(_same, source), fleeting=True)
    elif _is_array(source):
        yield Picture("<array>", partial(_of_array, _checked_array(source)), fleeting=True)
    elif isinstance(source, TensorLike):
        yield Picture("<tensor>", partial(_of_array, _tensor_values(source)), fleeting=True)
    elif _is_name(source):
        yield from _find_named(os.fspath(cast(str, source)))
    elif callable(getattr(source, "read", None)):
        if isinstance(source, io.TextIOBase):
            raise UsageError('a file that is open as text is no image: open it with open(path, "rb")')
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) and name else "<file>"
        yield Picture(name, partial(_read_file, cast("IO[bytes]", source), name), fleeting=True)
    else:
        raise _not_taken(f"a {type(source).__name__} is")


def _not_taken(what: str) -> UsageError:
    return UsageError(f"{what} not taken for an image: give {TAKEN}")


def _checked_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != "uint8" or not fits or not array.size:
        more = " (one array is one image: of a batch make a list)" if array.ndim == 4 else ""
        raise _not_taken(f"a numpy array {tuple(array.shape)} of {array.dtype} is{more}")
    return array


def _tensor_values(tensor: TensorLike) -> NDArray[np.uint8]:
    """The values of a tensor (3, height, width) as (height, width, 3)."""
    import numpy as np

    floats = tensor.is_floating_point()
    there = tensor.detach().cpu()
    values: NDArray[Any] = np.asarray(there.float() if floats else there)
    if values.ndim != 3 or values.shape[0] != 3 or not values.size or not (floats or values.dtype == np.uint8):
        more = " (one tensor is one image: of a batch make a list)" if values.ndim == 4 else ""
        raise _not_taken(f"a tensor {tuple(values.shape)} of {getattr(tensor, 'dtype', values.dtype)} is{more}")
    if floats:
        if not ((values >= 0) & (values <= 1)).all():
            raise _not_taken("a tensor of floats outside [0, 1] (a normalised one, perhaps, or one of 0 to 255) is")
        values = np.rint(values * 255).astype(np.uint8)
    pixels: NDArray[np.uint8] = values.transpose(1, 2, 0)
    return pixels


def _of_array(array: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(array).copy()  # Pillow shares an array's memory


def _read_file(file: IO[bytes], name: str) -> bytes:
    try:
        return read_bounded(file, name)
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"{name}: cannot be read ({error}): check where it comes from") from None


def _standard_input(name: str) -> Callable[[], Content]:
    try:
        return partial(_same, read_bounded(sys.stdin.buffer, name) if sys.stdin else b"")
    except (ImageError, OSError) as error:
        return partial(_fail, str(error) if isinstance(error, ImageError) else f"{name}: cannot be read ({error})")


def _fetched(picture: Picture) -> Picture:
    """The picture with what its source holds now."""
    try:
        content = picture.fetch()
    except ImageError as error:
        return picture._replace(fetch=partial(_fail, str(error)))
    return picture._replace(fetch=partial(_same, content.copy() if isinstance(content, Image.Image) else content))


def _find_named(name: str) -> Iterator[Picture]:
    if name == "-":
        # Here and not in a worker, so that Ctrl-C can interrupt the wait for input; closed, it is None.
        yield Picture(name, _standard_input(name), fleeting=True)
    elif name.lower().startswith(("http://", "https://")):
        from fusiform.zoo.web import without_password  # only for addresses: it imports urllib

        yield Picture(without_password(name), partial(_download, name), fleeting=True)
    elif name.lower().startswith("file:/"):
        yield from _find_local(name)
    elif _is_listed(name):
        yield from _find_listed(name)
    elif os.path.isdir(name):  # noqa: PTH112  # Path("./a") would not show the name as it was given
        yield from _find_in_folder(name)
    elif os.path.exists(name) or not any(c in name for c in "*?["):  # noqa: PTH110  # as above
        yield Picture(name, partial(_same, name))
    else:
        yield from _find_matches(name)


CONTAINERS = (".txt", ".csv", ".tsv", ".parquet", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Endings of lists, Parquet files and shards, which ``listing`` reads; of nothing that is a picture."""


def _is_listed(name: str) -> bool:
    """Whether a name stands for what ``listing`` reads: a container, or an address of an object store."""
    if name.lower().endswith(CONTAINERS):
        return True
    if "://" not in name:
        return False
    from fusiform.data.remote import is_remote  # only for addresses

    return is_remote(name)


def _find_listed(name: str) -> Iterator[Picture]:
    from fusiform.prediction.listing import list_items

    for item in list_items([name]):
        yield from pictures_of(item)


def pictures_of(item: Item) -> Iterator[Picture]:
    """The pictures of an item of a listing, read when their turn comes.

    What is wrong with an item is a picture that cannot be read.
    """
    from fusiform.prediction.listing import contents_of

    if item.kind == "picture":
        yield _one_picture(item.name)
    else:
        for path, fetch in contents_of(item):
            yield Picture(path, fetch, fleeting=True)


def _one_picture(name: str) -> Picture:
    """The picture of a path or address that a listing named: no folder, no pattern."""
    lower = name.lower()
    if lower.startswith(("http://", "https://")):
        (picture,) = _find_named(name)
        return picture._replace(far=True)
    if "://" in name and not lower.startswith("file:/"):
        from fusiform.data.remote import read_object

        return Picture(name, partial(read_object, name), fleeting=True, far=True)
    if lower.startswith("file:/"):
        return next(_find_local(name))
    return Picture(name, partial(_same, name))


def _find_local(address: str) -> Iterator[Picture]:
    """What a file address (RFC 8089) names: no pattern, and on this machine alone."""
    from urllib.request import url2pathname

    rest = address[len("file:") :]
    if rest.startswith("//"):
        machine, slash, below = rest[2:].partition("/")
        if machine.lower() not in ("", "localhost"):
            yield Picture(address, partial(_fail, f"{address}: is on another machine: give file:///PATH or the path"))
            return
        rest = slash + below
    path = url2pathname(rest)
    if os.path.isdir(path):  # noqa: PTH112  # as above
        yield from _find_in_folder(path)
    else:
        yield Picture(path, partial(_same, path))


def _find_in_folder(folder: str) -> Iterator[Picture]:
    unlisted: list[str] = []
    try:
        unread: list[Path] = []
        files = find_images(Path(folder), unlisted=unlisted, unread=unread)
        # Named like all the others, so that whoever opens them says that they are not read.
        files = (
            sorted([*files, *unread], key=lambda path: [natural_key(part) for part in path.parts]) if unread else files
        )
    except OSError as error:
        yield Picture(folder, partial(_fail, str(error)))
        return
    for message in unlisted:
        yield Picture(folder, partial(_fail, message))
    if not files and not unlisted:
        yield Picture(folder, partial(_fail, f"{folder}: no pictures in this folder"))
    for path in files:
        yield Picture(str(path), partial(_same, path))


def _find_matches(pattern: str) -> Iterator[Picture]:
    import glob

    matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207  # the pattern may be absolute
    if not matches:
        yield Picture(pattern, partial(_fail, f"{pattern}: no file matches this pattern"))
    for match in matches:
        if is_of_system(os.path.basename(match)):  # noqa: PTH119
            continue
        if os.path.isdir(match):  # noqa: PTH112
            yield from _find_in_folder(match)
        elif match.lower().endswith(CONTAINERS) and match.rpartition(".")[2] == pattern.rpartition(".")[2]:
            yield from _find_listed(match)
        else:
            yield Picture(match, partial(_same, match))


def _same(source: Content) -> Content:
    return source


def _fail(message: str) -> Content:
    raise ImageError(message)


def _download(address: str) -> bytes:
    """The bytes at an http(s) address; whatever goes wrong on the way is an ImageError that names the address."""
    # Imported only for addresses: it takes longer than naming a picture.
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.parse import quote, urlsplit, urlunsplit

    from fusiform.zoo.web import DeadlineError, length_of, opened, reason_for, reason_of, without_password

    shown = without_password(address)
    if os.environ.get("FUSIFORM_OFFLINE", "0") not in ("", "0"):
        raise ImageError(f"{shown}: not fetched, because FUSIFORM_OFFLINE is set")
    received = bytearray()
    try:
        parts = urlsplit(address)
        # Addresses are often pasted with the spaces and letters that a browser shows.
        path, query = (quote(part, safe="/%:@!$&'()*+,;=?~") for part in (parts.path, parts.query))
        encoded = urlunsplit((parts.scheme, parts.netloc, path, query, ""))
        with opened(encoded, stall=STALL_SECONDS, seconds=DOWNLOAD_SECONDS) as response:
            expected = length_of(response)
            while len(received) <= DOWNLOAD_LIMIT and (expected or 0) <= DOWNLOAD_LIMIT:
                if not (piece := response.read1(2**16)):
                    break
                received += piece
    except HTTPError as error:
        with error:
            said = f"{error.code} {reason_of(error)}"
            raise ImageError(f"{shown}: the server answered {said}: check the address") from None
    except DeadlineError as error:
        raise ImageError(f"{shown}: {error}; try again later") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ImageError(f"{shown}: cannot be fetched: {reason_for(error, address)}") from None
    if max(len(received), expected or 0) > DOWNLOAD_LIMIT:
        raise ImageError(f"{shown}: larger than {DOWNLOAD_LIMIT >> 20} MiB; download and shrink it first")
    if expected is not None and len(received) < expected:
        raise ImageError(f"{shown}: broke off after {len(received)} of {expected} bytes; try again")
    return bytes(received)
