// Starts a page that is one file: unpacks the files in it, and runs its first script. Written for old browsers too, which
// are told why they cannot.

(async function () {
  "use strict";
  const FIRST = 0x3400; // as in zoo/pages.py
  const say = (text) => {
    const status = document.getElementById("status");
    status.textContent = text;
    status.classList.add("error");
  };

  // 15 bits a character.
  function decode(text, length) {
    const bytes = new Uint8Array(length);
    let [held, bits, at] = [0, 0, 0];
    for (let k = 0; at < length; k++) {
      held = (held << 15) | (text.charCodeAt(k) - FIRST);
      for (bits += 15; bits >= 8 && at < length; at++) {
        bits -= 8;
        bytes[at] = held >> bits;
      }
      held &= (1 << bits) - 1;
    }
    return bytes;
  }

  // Scripts as strings, all else as Blobs.
  async function unpack(element) {
    const { file, bytes, gzip } = element.dataset;
    const content = new Blob([decode(element.textContent, Number(bytes))]);
    element.remove();
    const plain = gzip === undefined ? content : content.stream().pipeThrough(new DecompressionStream("gzip"));
    const response = new Response(plain);
    return [file, await (/\.js$/.test(file) ? response.text() : response.blob())];
  }

  if (!self.DecompressionStream) {
    say("This browser is too old for this page: it needs Chrome 80, Firefox 114, Safari 16.4 or later.");
    return;
  }
  try {
    const script = document.currentScript;
    const held = await Promise.all(Array.from(document.querySelectorAll("script[data-file]"), unpack));
    Object.defineProperty(navigator, "serviceWorker", { value: undefined }); // there is nothing to keep for later
    holdFiles(Object.fromEntries(held), holdFiles.toString());
    await importFile("", script.dataset.first);
  } catch (error) {
    say("This page is not whole: download it again, or export it again. (" + error.message + ")");
  }
})();
