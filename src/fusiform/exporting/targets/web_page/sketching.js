// The sketch on the page: whether one is kept of the photographs that are answered, and what the visitor does with it. It
// lies in the browser's storage, and goes nowhere else.

import { element, put } from "./page.js";
import { download } from "./saving.js";
import { EMPTY, fromText, keep, toFile, toText } from "./sketch.js";

const OFF = { on: false, ...EMPTY };
// Other pages of this host have their own.
const OURS = `fusiform sketch ${location.pathname.replace(/index\.html$/, "")} `;

// Offers it where the description has the mark of a model whose sketches can be tested. `wanted()` says whether the row of
// a photograph is to be made, and `add(row)` takes it.
export function offerSketch({ description: { sketch: mark, model }, texts, numbers }) {
  if (!mark) return { wanted: () => false };
  const words = texts.sketch;
  const name = `${model.replace(/\.tflite$/, "")}-sketch.json`;
  let [memory, stored] = [OFF, true]; // in private windows, and within pages of others, there may be no storage

  // From the storage each time: the page may be open twice.
  function read() {
    try {
      if (stored) memory = fromText(localStorage.getItem(OURS + mark)) ?? OFF;
    } catch {
      stored = false;
    }
    return memory;
  }

  function write(sketch) {
    memory = sketch;
    try {
      if (stored) localStorage.setItem(OURS + mark, toText(sketch));
    } catch {
      stored = false;
    }
    show();
  }

  // With what it kept of models that this page had before.
  function forget() {
    memory = OFF;
    try {
      for (const key of Object.keys(localStorage).filter((key) => key.startsWith(OURS))) localStorage.removeItem(key);
    } catch {
      stored = false;
    }
    show();
  }

  function show() {
    const { on, images } = read();
    const count = words.images(images, numbers.integer(images));
    element("sketch-title").textContent = on ? words.on(count) : images > 0 ? words.off(count) : words.title;
    element("sketch-on").checked = on;
    for (const button of ["sketch-save", "sketch-forget"]) element(button).hidden = images === 0;
    element("sketch-where").textContent = stored ? words.stored : words.inMemory;
  }

  const tell = (text) => { element("sketch-said").textContent = text; };
  put({ "sketch-about": words.about, "sketch-label": words.keep });
  put({ "sketch-save": words.save, "sketch-forget": words.forget });
  element("sketch-on").addEventListener("change", () => {
    tell("");
    write({ ...read(), on: element("sketch-on").checked });
  });
  element("sketch-save").addEventListener("click", async () => {
    download(new Blob([await toFile(read(), mark)], { type: "application/json" }), name);
    tell(words.saved(`fusiform drift MODEL ${name}`));
  });
  element("sketch-forget").addEventListener("click", () => {
    element("sketch-on").focus(); // the buttons go
    forget();
    tell(words.forgotten);
  });
  window.addEventListener("storage", show);
  show();
  element("sketch").hidden = false;
  return {
    wanted: () => read().on,
    add(row) {
      const sketch = read();
      if (sketch.on) write({ ...sketch, ...keep(sketch, row) }); // it may have been forgotten meanwhile
    },
  };
}
