"""Pictures in object stores (s3://, gs://, az://, through obstore) and other file systems (through fsspec).

Credentials are those of the stores' own programs: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL, AWS_ALLOW_HTTP, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and so on.
"""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from datetime import timedelta
from typing import Any, BinaryIO, TypeVar, cast

from fusiform.errors import ImageError, MissingExtraError, UsageError

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""What obstore reads; everything else goes to fsspec."""
LIMIT = 64 * 2**20
"""Bytes; an object that is larger is no photograph."""
TRIES = 5
PAUSE = 0.5
"""Seconds before the second try through fsspec, doubled each time; obstore tries again by itself."""
PATIENCE = timedelta(seconds=60)
"""How long obstore tries an object again."""
BUFFER = 8 * 2**20
"""Bytes that are read at once of a tar or Parquet file."""

Answer = TypeVar("Answer")
_stores: dict[str, Any] = {}
_lock = threading.Lock()


def is_remote(name: str) -> bool:
    """Whether a name is an address of an object store or of another file system: s3://, hf://, ..."""
    scheme, found, _ = name.partition("://")
    near = scheme.lower() in ("http", "https", "file")
    return bool(found) and not near and re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]+", scheme) is not None


def read_object(address: str) -> bytes:
    """The bytes of an object; ImageError, which names it, for whatever goes wrong on the way.

    May be called from several threads. MissingExtraError where the library for it is not installed.
    """
    store, key = _of(address)
    if store is None:
        return _retried(address, lambda: _read_file(address))
    try:
        answer = store.obstore.get(store.store, key)
        if answer.meta["size"] > LIMIT:
            raise _too_large(address)
        return bytes(answer.bytes())
    except store.errors as error:
        raise _told(address, error) from None


def list_objects(address: str) -> Iterator[tuple[str, int]]:
    """The addresses and sizes below an address that ends in /, or that match a pattern, in the order of their names.

    They come in pages, of which one is held. Raises ImageError where they cannot be listed.
    """
    plain = re.split(r"[*?\[]", address, maxsplit=1)[0]
    prefix = plain if address.endswith("/") and plain == address else plain.rpartition("/")[0] + "/"
    pattern = None if prefix == address else re.compile(fnmatch.translate(address))
    store, key = _of(prefix)
    for name, size in _list_files(prefix) if store is None else _list_store(store, prefix, key):
        if pattern is None or pattern.fullmatch(name):
            yield name, size


def size_of(address: str) -> int:
    """Bytes of an object; ImageError where there is none."""
    store, key = _of(address)
    if store is None:
        return _retried(address, lambda: int(_filesystem(address)[0].size(_filesystem(address)[1]) or 0))
    try:
        return int(store.obstore.head(store.store, key)["size"])
    except store.errors as error:
        raise _told(address, error) from None


def open_object(address: str) -> AbstractContextManager[BinaryIO]:
    """A file over an object, read in pieces; ImageError where it cannot be opened, OSError where it breaks off."""
    store, key = _of(address)
    if store is None:
        return cast("AbstractContextManager[BinaryIO]", _retried(address, lambda: _open_file(address)))
    try:
        reader = store.obstore.open_reader(store.store, key, buffer_size=BUFFER)
    except store.errors as error:
        raise _told(address, error) from None
    return closing(cast(BinaryIO, _Reader(reader, address, store.errors)))


class _Reader:
    """obstore's file as Python's are: bytes, and OSError for what goes wrong."""

    def __init__(self, reader: Any, address: str, errors: tuple[type[Exception], ...]) -> None:
        self.reader, self.address, self.errors = reader, address, errors
        self.closed = False

    def _do(self, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except self.errors as error:
            raise OSError(_reason(error)) from None

    def read(self, size: int = -1) -> bytes:
        return bytes(self._do(lambda: self.reader.read(None if size < 0 else size)))

    def read1(self, size: int = -1) -> bytes:
        return self.read(BUFFER if size < 0 else size)

    def seek(self, place: int, whence: int = 0) -> int:
        return int(self._do(lambda: self.reader.seek(place, whence)))

    def tell(self) -> int:
        return int(self.reader.tell())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def flush(self) -> None:
        """There is nothing to write."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.reader.close()


# obstore


class _Store:
    """A bucket, opened, with the library."""

    def __init__(self, obstore: Any, store: Any) -> None:
        self.obstore, self.store = obstore, store
        errors = (obstore.exceptions.BaseError, OSError, ValueError)
        self.errors: tuple[type[Exception], ...] = errors


def _of(address: str) -> tuple[_Store | None, str]:
    """The store of an address and the key in it; None where fsspec is for it. ImageError where nothing is fetched."""
    if os.environ.get("FUSIFORM_OFFLINE", "0") not in ("", "0"):
        raise ImageError(f"{address}: not fetched, because FUSIFORM_OFFLINE is set")
    scheme, _, rest = address.partition("://")
    if scheme.lower() not in SCHEMES:
        return None, address
    # Azure's addresses name the account or leave it to the environment; the container follows.
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ImageError(f"{address}: names no bucket: write {scheme}://BUCKET/KEY")
    root = f"{scheme}://{bucket}"
    with _lock:
        if root not in _stores:
            _stores[root] = _open_store(root)
        return _stores[root], key


def _open_store(root: str) -> _Store:
    try:
        import obstore
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise MissingExtraError("obstore", "cloud", f"reading {root}") from None
    options: dict[str, Any] = {}
    if root.startswith("s3") and os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true"):
        options["client_options"] = {"allow_http": True}
    try:
        store = from_url(root, retry_config={"max_retries": TRIES, "retry_timeout": PATIENCE}, **options)
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        raise ImageError(f"{root}: cannot be opened: {_reason(error)}") from None
    return _Store(obstore, store)


def _list_store(store: _Store, prefix: str, key: str) -> Iterator[tuple[str, int]]:
    root = prefix[: len(prefix) - len(key)] if key else prefix
    try:
        for page in store.obstore.list(store.store, prefix=key or None, chunk_size=1000):
            for entry in page:
                yield root + entry["path"], int(entry["size"])
    except store.errors as error:
        raise _told(prefix, error) from None


def _told(address: str, error: Exception) -> ImageError:
    name = type(error).__name__
    if isinstance(error, FileNotFoundError) or name == "NotFoundError":
        return ImageError(f"{address}: no such object: check the address")
    if isinstance(error, PermissionError) or name in ("PermissionDeniedError", "UnauthenticatedError"):
        return ImageError(f"{address}: may not be read ({_reason(error)}): check the credentials in the environment")
    if METADATA in str(error):
        return ImageError(
            f"{address}: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or for a public bucket "
            "AWS_SKIP_SIGNATURE=true"
        )
    return ImageError(f"{address}: cannot be fetched: {_reason(error)}")


METADATA = "http://169.254.169.254"
"""Where a machine of Amazon's asks for its credentials, which is the last that obstore tries."""


def _reason(error: Exception) -> str:
    """The first line of what a library says, which is the only one for people."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else text[:300] + "..."


def _too_large(address: str) -> ImageError:
    return ImageError(f"{address}: larger than {LIMIT >> 20} MiB; download and shrink it first")


# fsspec


def _filesystem(address: str) -> tuple[Any, str]:
    scheme = address.partition("://")[0]
    try:
        import fsspec
    except ModuleNotFoundError:
        raise UsageError(
            f"{address}: reading {scheme}:// needs fsspec: pip install fsspec, and what it needs"
        ) from None
    try:
        filesystem, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{address}: fsspec cannot read {scheme}://: {_reason(error)}") from None
    return filesystem, str(path)


def _read_file(address: str) -> bytes:
    filesystem, path = _filesystem(address)
    with filesystem.open(path, "rb") as file:
        data = bytes(file.read(LIMIT + 1))
    if len(data) > LIMIT:
        raise _too_large(address)
    return data


def _open_file(address: str) -> Any:
    filesystem, path = _filesystem(address)
    return filesystem.open(path, "rb")


def _list_files(prefix: str) -> Iterator[tuple[str, int]]:
    filesystem, path = _filesystem(prefix)
    scheme = prefix.partition("://")[0]

    def listed(folder: str) -> list[Any]:
        return list(_retried(prefix, lambda: filesystem.ls(folder, detail=True)))

    waiting = [path]
    while waiting:
        folder = waiting.pop()
        entries = sorted(listed(folder), key=lambda entry: str(entry["name"]))
        for entry in entries:
            if entry["type"] != "directory":
                yield f"{scheme}://{str(entry['name']).lstrip('/')}", int(entry.get("size") or 0)
        waiting += [str(entry["name"]) for entry in reversed(entries) if entry["type"] == "directory"]


def _retried(address: str, call: Callable[[], Answer]) -> Answer:
    """What a call gives, tried again after what may pass; ImageError for what does not."""
    for number in range(TRIES):
        try:
            return call()
        except (FileNotFoundError, PermissionError) as error:
            raise _told(address, error) from None
        except OSError as error:
            if number == TRIES - 1:
                raise _told(address, error) from None
        time.sleep(PAUSE * 2**number)
    raise AssertionError("a try gives an answer or raises")
