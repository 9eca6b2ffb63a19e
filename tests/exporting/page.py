"""A page that ``--to web`` has written, opened in a browser: pictures in, what its worker tells out.

Its answers are read off the worker's messages, whose form is in ``worker.js``, in full precision and whatever the page
looks like. Of the page itself only ``#file`` is known, the input that takes files.
"""

from __future__ import annotations

import base64

import numpy as np

# Every answer from now on, of whichever worker it is. In place before the page has sent its first picture.
LISTEN = """(() => {
  window.told = [];
  if (window.listened) return;
  window.listened = true;
  const asked = new Map();
  const post = Worker.prototype.postMessage;
  Worker.prototype.postMessage = function (message, ...rest) {
    asked.set(message.id, message.kind);
    if (!this.heard) {
      this.heard = true;
      this.addEventListener("message", ({ data }) => {
        if (!data.progress && ["open", "answer"].includes(asked.get(data.id))) window.told.push(data);
      });
    }
    return post.call(this, message, ...rest);
  };
})()"""
# Bytes and masks as text; frames stay where they are.
TOLD = """(async () => {
  for (let k = 0; window.told.length < COUNT && k < SECONDS * 50; k++) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const text = (bytes) => {
    let made = "";
    for (let k = 0; k < bytes.length; k += 8192) made += String.fromCharCode(...bytes.subarray(k, k + 8192));
    return btoa(made);
  };
  const bytesOf = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  return window.told.map(({ error, value }) => {
    if (error) return { error };
    const { preview, pixels, mask, ...rest } = value;
    const classes = mask && { ...mask, width: mask.width, height: mask.height, classes: text(bytesOf(mask.classes)),
      bytes: mask.classes.BYTES_PER_ELEMENT };
    return { ...rest, mask: classes, pixels: pixels ? text(bytesOf(pixels)) : null };
  });
})()"""
READY = """(async () => {
  for (let k = 0; k < SECONDS * 50; k++) {
    const input = document.querySelector("#file");
    if (input && !input.disabled) return true;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return false;
})()"""


class Page:
    """``address`` in a browser, once it takes pictures."""

    def __init__(self, browser, address, *, seconds=90):
        self.browser = browser
        browser.open(address)
        ready = browser.evaluate(READY.replace("SECONDS", str(seconds)))
        assert ready, browser.evaluate("document.body.innerText")
        browser.evaluate(LISTEN)

    def tell(self, path, *, seconds=100):
        """What the worker tells of a file that the visitor chooses."""
        self.browser.evaluate("window.told.length = 0")
        self.browser.choose("#file", path)
        (told,) = self.wait(1, seconds)
        return told

    def drop(self, *paths, seconds=100):
        """The same of files and folders that the visitor drops on the page."""
        self.browser.evaluate("window.told.length = 0")
        self.browser.drop(*paths)
        return self.wait(len(paths), seconds)

    def wait(self, count, seconds=100):
        """The worker's first ``count`` messages since the last ``tell``."""
        told = self.browser.evaluate(TOLD.replace("COUNT", str(count)).replace("SECONDS", str(seconds)))
        assert len(told) >= count, (told, self.browser.evaluate("document.body.innerText"))
        return told

    def answer(self, path):
        """The value that the worker answers for one picture."""
        told = self.tell(path)
        assert "error" not in told, (path, told)
        return told


def crop_of(told, side):
    """The pixels that the network was given: uint8 (side, side, 3)."""
    return np.frombuffer(base64.b64decode(told["pixels"]), np.uint8).reshape(side, side, 3)


def mask_of(told):
    """A segmenter's answer: uint8 or uint16 (height, width)."""
    mask = told["mask"]
    kind = {1: np.uint8, 2: np.uint16}[mask["bytes"]]
    return np.frombuffer(base64.b64decode(mask["classes"]), kind).reshape(mask["height"], mask["width"])
