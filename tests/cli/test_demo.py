"""fusiform demo: the page's server, the folder for static hosts, and the command with its ends."""

from __future__ import annotations

import functools
import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import fusiform
from fusiform.cli import commands
from fusiform.errors import InputError, OutputError, SpecError, UsageError, WeightsError
from fusiform.exporting.demo import job, server
from fusiform.exporting.demo.hosts import LONGEST_DESCRIPTION, readme
from fusiform.exporting.targets.web import unpack_runtime
from fusiform.graph.build import build_graph
from fusiform.graph.tflite import to_tflite
from fusiform.spec import ModelSpec, Preprocess
from fusiform.zoo.checkpoint import write_safetensors

ROOT = Path(__file__).parents[2]
SPEC = ModelSpec("mobilenet_v2", 0.35, ("green", "red"), input_size=32, preprocess=Preprocess(resize=32, crop=32))


@pytest.fixture(scope="module", autouse=True)
def _unpacked_once() -> Iterator[None]:
    """The runtime, which takes a second each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fusiform.exporting.targets.web.unpack_runtime", functools.cache(unpack_runtime))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, lived_in_state: Callable[..., Any]) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.tflite"
    path.write_bytes(to_tflite(build_graph(SPEC, lived_in_state(SPEC))))
    return path


@pytest.fixture(scope="module")
def page(model: Path) -> Iterator[job.Demo]:
    with fusiform.demo(model, port=0, browser=False) as opened:
        yield opened


def ask(page: job.Demo, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    assert page.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/app.js?again", "text/javascript; charset=utf-8"),
        ("/texts/en.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/model.json", "application/json; charset=utf-8"),
        ("/runtime/litert_wasm_internal.wasm.gz", "application/gzip"),
        ("/mobilenet_v2_x0_35_float32.tflite", "application/octet-stream"),
        ("/mobilenet_v2%5fx0_35_float32.tflite", "application/octet-stream"),
        ("http://127.0.0.1/style.css", "text/css; charset=utf-8"),
    ],
)
def test_files_have_their_types(path: str, kind: str, page: job.Demo) -> None:
    response, content = ask(page, path)
    assert (response.status, response.headers["Content-Type"]) == (200, kind)
    assert len(content) == int(response.headers["Content-Length"])
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    again, nothing = ask(page, path, "HEAD")
    assert (again.status, nothing) == (200, b"")
    assert again.headers["Content-Length"] == response.headers["Content-Length"]


def test_a_manifest_has_its_type() -> None:
    assert server.Served("manifest.webmanifest", b"{}").kind.startswith("application/manifest+json")
    assert server.Served("runtime/a.wasm", b"").kind == "application/wasm"


def test_texts_are_gzipped_for_those_who_take_it(page: job.Demo) -> None:
    plain = ask(page, "/app.js")
    assert plain[0].headers["Content-Encoding"] is None
    for accepted, packed in (
        ("gzip, deflate, br", True),
        ("br;q=1.0, gzip;q=0.8", True),
        ("*", True),
        ("GZIP", True),
        ("br, gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("identity", False),
        ("xgzip", False),
    ):
        response, content = ask(page, "/app.js", Accept_Encoding=accepted)
        assert response.headers["Content-Encoding"] == ("gzip" if packed else None), accepted
        assert response.headers["Vary"] == "Accept-Encoding"
        assert (gzip.decompress(content) if packed else content) == plain[1]
    # The page counts its bytes as they come, and they hardly shrink.
    assert (
        ask(page, "/mobilenet_v2_x0_35_float32.tflite", Accept_Encoding="gzip")[0].headers["Content-Encoding"] is None
    )


def test_what_is_kept_and_asked_for_again(page: job.Demo) -> None:
    response, _ = ask(page, "/app.js")
    assert response.headers["Cache-Control"] == "no-cache"
    again, nothing = ask(page, "/app.js", If_None_Match=f"W/{response.headers['ETag']}")
    assert (again.status, nothing, again.headers["ETag"]) == (304, b"", response.headers["ETag"])
    assert ask(page, "/app.js", If_None_Match='"another"')[0].status == 200
    name = "mobilenet_v2_x0_35_float32.tflite"
    digest = json.loads(ask(page, "/model.json")[1])["sha256"][name]
    assert ask(page, f"/{name}?sha256={digest}")[0].headers["Cache-Control"] == "max-age=31536000, immutable"
    # What is there now is not what that address is of.
    assert ask(page, f"/{name}?sha256={digest[::-1]}")[0].headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing.js",
        "/texts",
        "/texts/",
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/texts/../../../../etc/passwd",
        "//etc/passwd",
        "/..\\..\\etc\\passwd",
        "/app.js%00",
        "/%ff%fe",
        "/./app.js",
        "/C:/Windows/win.ini",
    ],
)
def test_there_is_nothing_else(path: str, page: job.Demo) -> None:
    response, content = ask(page, path)
    assert (response.status, content) == (404, b"404 Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_only_to_be_read(method: str, page: job.Demo) -> None:
    response, _ = ask(page, "/app.js", method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_clients_that_hang_or_talk_nonsense_hold_nobody_up(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with fusiform.demo(model, port=0, browser=False) as opened:
        assert opened.port is not None
        address = ("127.0.0.1", opened.port)
        hanging = [socket.create_connection(address) for _ in range(20)]
        for each in hanging[:10]:
            each.sendall(b"GET / HTTP/1.1\r\nHost:")
        with socket.create_connection(address) as nonsense:
            nonsense.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
            assert b"400" in nonsense.recv(1000)
        with socket.create_connection(address) as gone:
            gone.sendall(b"GET /runtime/litert_wasm_internal.wasm.gz HTTP/1.1\r\n\r\n")
            gone.recv(10)
        assert ask(opened, "/")[0].status == 200
        started = time.monotonic()
    assert time.monotonic() - started < 5  # closed all the same
    for each in hanging:
        each.close()
    assert capfd.readouterr() == ("", "")


def test_a_client_that_says_nothing_is_let_go(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Handler, "timeout", 0.2)
    with fusiform.demo(model, port=0, browser=False) as opened:
        assert opened.port is not None
        with socket.create_connection(("127.0.0.1", opened.port), timeout=10) as silent:
            assert silent.recv(1) == b""


def test_several_requests_of_a_connection(page: job.Demo) -> None:
    assert page.port is not None
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    for path, status in (("/", 200), ("/nothing", 404), ("/app.js", 200)):
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_the_next_port_where_one_is_taken(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: another program has it"):
            fusiform.demo(model, port=port, browser=False)
        monkeypatch.setattr(server, "DEFAULT_PORT", port)
        with fusiform.demo(model, browser=False) as opened:
            assert opened.port != port
            # Where all that are tried are taken, the system chooses one.
            monkeypatch.setattr(server, "TRIED_PORTS", 1)
            with fusiform.demo(model, browser=False) as other:
                assert other.port not in (port, opened.port, 0, None)


def test_ports_and_hosts_that_are_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="a port is 0 to 65535"):
        fusiform.demo(model, port=65536, browser=False)
    for host in ("192.0.2.1", "no such host", "256.1.1.1"):
        with pytest.raises(InputError, match=f"--host {host}: is no address of this machine"):
            fusiform.demo(model, host=host, port=0, browser=False)

    monkeypatch.setattr(server, "_bind", lambda *_: PermissionError(13, "Permission denied"))
    with pytest.raises(InputError, match="--port 80: this user may not have it"):
        server._listen({}, "127.0.0.1", 80)


def test_the_page_as_an_object(model: Path) -> None:
    opened = fusiform.demo(model, port=0, browser=False)
    assert repr(opened) == f"<Demo at {opened.address}>"
    assert opened.folder is None
    opened.close()
    opened.close()
    opened.wait()  # which is over
    assert repr(opened) == "<Demo closed>"
    with pytest.raises(OSError, match="refused"):
        ask(opened, "/")


def test_addresses() -> None:
    assert job.address_of("127.0.0.1", 80) == "http://127.0.0.1:80/"
    assert job.address_of("::1", 80) == "http://[::1]:80/"
    assert not job.address_of("0.0.0.0", 80).startswith("http://0.0.0.0")


def test_ipv6(model: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with fusiform.demo(model, host="::1", port=0, browser=False) as opened:
        assert opened.address is not None
        with urllib.request.urlopen(opened.address) as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("variables", "there"),
    [
        ({"DISPLAY": ":0"}, True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, True),
        ({}, sys.platform in ("darwin", "win32")),
        ({"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "192.0.2.1 1 192.0.2.2 22"}, False),
        ({"BROWSER": "firefox"}, True),
    ],
)
def test_a_browser_is_opened_where_there_is_a_screen(
    variables: dict[str, str], there: bool, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    with fusiform.demo(model, port=0) as page:
        assert opened == ([page.address] if there else [])
    with fusiform.demo(model, port=0, browser=False):
        assert len(opened) == there


def served_spec(page: job.Demo) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask(page, "/model.json")[1])
    return found


def test_what_can_be_shown(model: Path, tmp_path: Path, lived_in_state: Callable[..., Any]) -> None:
    """A name, a file of weights, a run's folder, a page's folder and a page in a file."""
    (tmp_path / "run").mkdir()
    write_safetensors(tmp_path / "run" / "best.safetensors", lived_in_state(SPEC), SPEC)
    fusiform.demo(model, tmp_path / "site")
    for shown, name in (
        ("shufflenet_v2_x1_0", "shufflenet_v2_x1_0_int8.tflite"),
        (fusiform.open_model(model), "mobilenet_v2_x0_35_float32.tflite"),
        (tmp_path / "run", "mobilenet_v2_x0_35_float32.tflite"),
        (tmp_path / "site", "mobilenet_v2_x0_35_float32.tflite"),
    ):
        with fusiform.demo(shown, port=0, browser=False) as page:
            assert served_spec(page)["model"] == name
            assert ask(page, f"/{name}")[0].status == 200
    # What lies in a page's folder is served as it is.
    (tmp_path / "site" / "index.html").write_text("<!doctype html>changed")
    (tmp_path / "site" / ".secret").write_text("hidden")
    with fusiform.demo(tmp_path / "site", port=0, browser=False) as page:
        assert ask(page, "/")[1] == b"<!doctype html>changed"
        assert {ask(page, path)[0].status for path in ("/.secret", "/.nojekyll", "/README.md")} == {404}


def test_samples(model: Path, tmp_path: Path) -> None:
    with fusiform.demo(model, samples=ROOT / "examples" / "cat.jpg", port=0, browser=False) as page:
        (sample,) = served_spec(page)["samples"]
        assert sample["name"] == "cat.jpg"
        assert ask(page, f"/{sample['file']}")[0].headers["Content-Type"] == "image/jpeg"
    fusiform.demo(model, tmp_path / "site")
    with pytest.raises(UsageError, match="is a page already; --samples is for a model"):
        fusiform.demo(tmp_path / "site", samples=ROOT / "examples", browser=False)


def test_what_cannot_be_shown(model: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.tflite"
    foreign.write_bytes(model.read_bytes().replace(b"fusiform.spec", b"fusiform.none"))
    for run in (lambda: fusiform.predict(ROOT / "examples" / "cat.jpg", model=foreign), lambda: fusiform.demo(foreign)):
        with pytest.raises(SpecError, match="carries no description by fusiform") as error:
            run()
        assert str(error.value).startswith(str(foreign))
    with pytest.raises(WeightsError, match="no such model file"):
        fusiform.demo(tmp_path / "nowhere.tflite")
    with pytest.raises(InputError, match="nowhere"):
        fusiform.demo("nowhere")


def test_a_folder_for_hosts(model: Path, tmp_path: Path) -> None:
    site = tmp_path / "deep" / "site"
    written = fusiform.demo(model, site)
    assert (written.folder, written.address, repr(written)) == (site, None, f"<Demo in {site}>")
    written.wait()  # for nothing
    assert (site / ".nojekyll").read_bytes() == b""
    assert fusiform.open_model(site).spec == SPEC
    _, header, text = (site / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["sdk"] == "static"
    assert (site / fields["app_file"]).is_file()
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {fields["colorFrom"], fields["colorTo"]} <= colours
    assert 0 < len(fields["short_description"]) <= LONGEST_DESCRIPTION
    assert "license" not in fields  # which the weights do not state
    assert "mobilenet_v2_x0_35" in text


@pytest.mark.parametrize("task", ["classification", "detection", "segmentation"])
def test_the_header_for_every_task(task: str) -> None:
    size = {"classification": 224, "detection": 320, "segmentation": 513}[task]
    fit = {"classification": "crop", "detection": "stretch", "segmentation": "pad"}[task]
    more: dict[str, Any] = {"output_stride": 16} if task == "segmentation" else {}
    preprocess = Preprocess(resize=size, crop=size, fit=fit)
    for licence, known in (("BSD-3-Clause", "bsd-3-clause"), ("a: 'b'\n---", None)):
        spec = ModelSpec("mobilenet_v2", 1.0, ("a", "b"), task, input_size=size, preprocess=preprocess, **more)
        fields = yaml.safe_load(readme(spec.replace(license=licence)).split("---\n")[1])
        assert fields.get("license") == known
        assert len(fields["short_description"]) <= LONGEST_DESCRIPTION


def test_a_folder_that_holds_other_things(model: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / ".git").mkdir()
    (site / ".gitattributes").write_text("*.png binary")
    fusiform.demo("shufflenet_v2_x1_0", site)
    # The next model takes the place of the first, and what is not the page's stays.
    fusiform.demo(model, site)
    assert [path.name for path in site.glob("*.tflite")] == ["mobilenet_v2_x0_35_float32.tflite"]
    assert (site / ".gitattributes").read_text() == "*.png binary"
    for other in (tmp_path / "photos", tmp_path):
        other.mkdir(exist_ok=True)
        (other / "a.txt").write_text("mine")
        before = sorted(other.iterdir())
        with pytest.raises(InputError, match=r"holds other files .*: choose another folder for --out"):
            fusiform.demo(model, other)
        assert sorted(other.iterdir()) == before
    with pytest.raises(OutputError, match="choose another place for --out"):
        fusiform.demo(model, tmp_path / "a.txt")
    with pytest.raises(OutputError, match="choose another place for --out"):
        fusiform.demo(model, tmp_path / "a.txt" / "site")


def test_the_command_writes_a_folder_and_says_what_comes_next(model: Path, tmp_path: Path) -> None:
    site = tmp_path / "my site"
    result = CliRunner().invoke(commands, ["demo", str(model), "--out", str(site)], prog_name="fusiform")
    assert (result.exit_code, result.stdout) == (0, f"{site}\n")
    assert f"next: fusiform demo '{site}'" in result.stderr
    assert f"next: hf upload USER/NAME '{site}' . --repo-type space" in result.stderr
    again = CliRunner().invoke(commands, ["demo", str(model), "--out", str(site), "--port", "1"], prog_name="fusiform")
    assert (again.exit_code, "--host and --port are for a page that is served" in again.stderr) == (2, True)


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "onnx", "matplotlib", "tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from fusiform.cli import main
main()
"""


def started(*words: str, **variables: str) -> tuple[subprocess.Popen[str], str, str]:
    """The command in a process of its own, without PyTorch, and the address that it prints with a line beside."""
    environment = {**os.environ, **variables, "PYTHONUNBUFFERED": "1"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", *(() if variables else ("SSH_CONNECTION",))):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, "demo", "--port", "0", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # As in a terminal, also where the tests run in the background, which ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    address, line = process.stdout.readline().strip(), process.stderr.readline()
    assert line == "fusiform: Ctrl-C ends it\n"
    return process, address, process.stderr.readline() if words or variables else ""


posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's here")


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_how_the_command_ends(number: int, code: int) -> None:
    process, address, _ = started()
    with process:
        with urllib.request.urlopen(f"{address}model.json") as response:
            assert json.load(response)["model"] == "mobilenet_v2_x1_0_int8.tflite"
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == code


@posix
def test_the_command_tells_the_way_from_afar() -> None:
    process, address, line = started(SSH_CONNECTION="192.0.2.1 50000 192.0.2.7 22", USER="somebody", LOGNAME="somebody")
    with process:
        process.terminate()
    port = address.rstrip("/").rpartition(":")[2]
    assert line.startswith(f"fusiform: from your own machine: ssh -L {port}:127.0.0.1:{port} somebody@192.0.2.7 ")


@posix
def test_the_command_tells_what_others_need() -> None:
    process, address, line = started("--host", "0.0.0.0")
    with process:
        process.terminate()
    assert "0.0.0.0" not in address
    assert line.endswith("for a camera, and to keep the page, browsers need https there\n")


def test_a_full_disk_is_told(model: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    command = [sys.executable, "-m", "fusiform", "demo", str(model), "--port", "0", "--no-browser"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        "fusiform: standard output cannot be written: No space left on device\n",
    )
