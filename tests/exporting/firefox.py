"""A headless Firefox for tests, driven by its own protocol, Marionette: what ``browser.Browser`` is for Chromium."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
PATIENCE = 180  # seconds for an answer
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of a reference to an element (W3C WebDriver, 11)
PREFERENCES = {
    "marionette.port": 0,  # one that is free, which the profile then names
    # There is no other machine: all that is not for this one goes to a proxy where nobody listens.
    "network.proxy.type": 1,
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
}


class Firefox:
    """One tab."""

    def __init__(self, profile):
        profile = Path(profile)
        lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items())
        (profile / "user.js").write_text("".join(lines))
        self.process = subprocess.Popen(
            [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(profile)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port = self._read_port(profile / "MarionetteActivePort")
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self._socket.makefile("rb")
        self._ids = itertools.count(1)
        self._receive()  # what it is
        capabilities = {"capabilities": {"alwaysMatch": {"timeouts": {"script": 1000 * PATIENCE}}}}
        self.send("WebDriver:NewSession", **capabilities)

    def _read_port(self, path):
        for _ in range(10 * PATIENCE):
            if path.is_file() and (text := path.read_text()).strip():
                return int(text)
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError("Firefox does not start")

    def send(self, command, **params):
        number = next(self._ids)
        message = json.dumps([0, number, command, params]).encode()
        self._socket.sendall(b"%d:%b" % (len(message), message))
        _, answered, error, value = self._receive()
        assert answered == number
        if error:
            raise AssertionError(f"{command}: {error['error']}: {error['message']}")
        return value

    def _receive(self):
        length = b""
        while (byte := self._file.read(1)) != b":":
            if not byte:
                raise AssertionError("Firefox has ended")
            length += byte
        return json.loads(self._file.read(int(length)))

    def evaluate(self, expression):
        """The value of a JavaScript expression on the page, its promise awaited."""
        return self.send("WebDriver:ExecuteScript", script=f"return ({expression});", args=[])["value"]

    def open(self, address):
        self.send("WebDriver:Navigate", url=address)

    def choose(self, selector, *paths):
        """Choose files as a visitor would."""
        found = self.send("WebDriver:FindElement", using="css selector", value=selector)["value"]
        self.send("WebDriver:ElementSendKeys", id=found[ELEMENT], text="\n".join(map(str, paths)))

    def close(self):
        try:
            self.send("Marionette:Quit", flags=["eForceQuit"])
            self.process.wait(30)
        finally:
            self._file.close()
            self._socket.close()
            self.process.kill()
            self.process.wait(30)


@contextmanager
def browsing_firefox(profile):
    browser = Firefox(profile)
    try:
        yield browser
    finally:
        browser.close()
