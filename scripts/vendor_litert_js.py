"""Renew the runtime that a web page carries, LiteRT.js: ``python scripts/vendor_litert_js.py [VERSION]``.

Fetches the npm packages from registry.npmjs.org, checks them against the hashes that npm states, and packs the files
that the page needs, unmodified, into ``web_runtime/litert_js.tar.xz``; ``web_runtime/lock.json`` has their hashes. The
two builds of the WebAssembly are so alike that both together are smaller in one xz than either is gzipped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import lzma
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
FOLDER = REPOSITORY / "src" / "fusiform" / "exporting" / "targets" / "web_runtime"
REGISTRY = "https://registry.npmjs.org"
VERSION = "2.5.3"
FILES = {
    "index.js": ("@litertjs/core", "dist/index.js"),
    "wasm-utils.js": ("@litertjs/wasm-utils", "dist/index.js"),
    # With relaxed SIMD, and for browsers without it, which on a phone is Safari.
    "litert_wasm_internal.js": ("@litertjs/core", "wasm/litert_wasm_internal.js"),
    "litert_wasm_internal.wasm": ("@litertjs/core", "wasm/litert_wasm_internal.wasm"),
    "litert_wasm_compat_internal.js": ("@litertjs/core", "wasm/litert_wasm_compat_internal.js"),
    "litert_wasm_compat_internal.wasm": ("@litertjs/core", "wasm/litert_wasm_compat_internal.wasm"),
}
"""What each file is called beside the page, and the npm package and path that it comes from."""


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=120) as response:
        content: bytes = response.read()
    return content


def fetch_package(name: str, version: str) -> tuple[dict[str, Any], bytes]:
    """What the lock says of a package, and its archive, whose hash is the one that npm states."""
    about = json.loads(fetch(f"{REGISTRY}/{name}/{version}"))
    archive = fetch(about["dist"]["tarball"])
    kind, _, stated = about["dist"]["integrity"].partition("-")
    if kind != "sha512" or base64.b64decode(stated) != hashlib.sha512(archive).digest():
        raise SystemExit(f"{name}: the archive is not the one that npm states")
    return {"version": version, "license": about["license"], "integrity": about["dist"]["integrity"]}, archive


def read_member(archive: bytes, path: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        member = tar.extractfile(f"package/{path}")
        if member is None:
            raise SystemExit(f"the package has no {path}")
        return member.read()


def pack(contents: dict[str, bytes]) -> bytes:
    """One xz of all files, without times and owners."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 25}]
    return lzma.compress(raw.getvalue(), filters=filters)


def main(version: str) -> None:
    packages, archives = {}, {}
    for name in dict.fromkeys(package for package, _ in FILES.values()):
        packages[name], archives[name] = fetch_package(name, version)
    contents = {name: read_member(archives[package], path) for name, (package, path) in FILES.items()}
    locked = {
        name: {
            "package": package,
            "path": path,
            "bytes": len(contents[name]),
            "sha256": hashlib.sha256(contents[name]).hexdigest(),
        }
        for name, (package, path) in FILES.items()
    }
    # The packages name their licence and do not hold its text, which goes wherever their files go.
    contents["LICENSE"] = (REPOSITORY / "LICENSE").read_bytes()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "litert_js.tar.xz").write_bytes(pack(contents))
    lock = json.dumps({"packages": packages, "files": locked}, indent=1) + "\n"
    (FOLDER / "lock.json").write_text(lock, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:] or [VERSION])
