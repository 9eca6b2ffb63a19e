"""A headless Chromium for tests, driven by the DevTools protocol through a pipe, and a server that counts."""

from __future__ import annotations

import functools
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which containers do not let it have
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no other machine
    "--remote-debugging-pipe",
)


# The browser reads from 3 and writes to 4; a function that sets them after the fork is not safe beside threads.
LAUNCH = """
import fcntl, os, sys
given, made = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(given, 3)
os.dup2(made, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 120  # seconds for an answer


class Browser:
    """One tab: ``problems`` has what the page put on the console, and its errors."""

    def __init__(self, profile, *flags):
        given, mine = os.pipe(), os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, "about:blank"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(given[0]), str(mine[1]), *command],
            pass_fds=(given[0], mine[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(given[0])
        os.close(mine[1])
        self._write, self._read = os.fdopen(given[1], "wb", 0), os.fdopen(mine[0], "rb")
        self._ids, self._rest = itertools.count(1), b""
        self.problems = []
        targets = self.send("Target.getTargets", session=False)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = None
        attached = self.send("Target.attachToTarget", session=False, targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method, *, session=True, **params):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self._note(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            part = os.read(self._read.fileno(), 1 << 20) if ready else b""
            if not part:
                raise AssertionError("the browser has ended" if ready else "the browser does not answer")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event):
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.problems.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"].get("exception", {}).get("description", str(params)))
        elif method == "Log.entryAdded":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def evaluate(self, expression):
        """The value of a JavaScript expression on the page, its promise awaited."""
        done = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in done:
            raise AssertionError(done["exceptionDetails"].get("exception", {}).get("description"))
        return done["result"].get("value")

    def wait(self, expression, seconds=60):
        """The value of an expression once it is true."""
        return self.evaluate(
            f"""(async () => {{
              for (let k = 0; k < {seconds * 50}; k++) {{
                const value = (() => {expression})();
                if (value) return value;
                await new Promise((resolve) => setTimeout(resolve, 20));
              }}
              throw new Error("waited in vain; the page says: " + document.body.innerText);
            }})()"""
        )

    def preload(self, script):
        """Run a script in every page from now on, before its own."""
        self.send("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, address):
        self.send("Page.navigate", url=address)
        self.evaluate("new Promise((r) => document.readyState === 'complete' ? r() : addEventListener('load', r))")

    def choose(self, selector, *paths):
        """Choose files as a visitor would."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop(self, *paths):
        """Drop files and folders on the page as a visitor would."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=200, y=200, data=data)

    def close(self):
        self.process.terminate()
        self.process.wait(30)
        self._write.close()
        self._read.close()


class Server:
    """Serves a folder on a port of its own; ``requests`` has what was asked for and how many bytes were answered.

    ``faults`` has functions by the names of files, which answer such a request in the handler's place.
    """

    def __init__(self, folder, port=0):
        requests = self.requests = []
        faults = self.faults = {}

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                fault = faults.get(self.path.partition("?")[0].lstrip("/"))
                if fault is None:
                    super().do_GET()
                else:
                    fault(self)

            def copyfile(self, source, outputfile):
                content = source.read()
                requests.append((self.path, len(content)))
                outputfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Handler, directory=str(folder)))
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def browsing(profile, *flags):
    browser = Browser(profile, *flags)
    try:
        yield browser
    finally:
        browser.close()


@contextmanager
def serving(folder, port=0):
    server = Server(folder, port)
    try:
        yield server
    finally:
        server.close()


def axe_core():
    """The script of axe-core, which is not part of the repository; see CONTRIBUTING.md."""
    named = os.environ.get("AXE_CORE")
    places = [Path(named)] if named else []
    places += [
        folder / "node_modules" / "axe-core" / "axe.min.js" for folder in (Path(__file__).parents[2], Path.cwd())
    ]
    return next((place for place in places if place.is_file()), None)
