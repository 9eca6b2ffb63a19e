// Runs the page's app.js on a stand-in for the browser, shows it the pictures of its arguments, and prints what each
// element holds in the end; `node web_app.mjs SITE PICTURE...`. The runtime is whatever lies in SITE/runtime.
import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { pathToFileURL } from "node:url";

const [site, ...pictures] = process.argv.slice(2);

class Element {
  constructor(tag) {
    Object.assign(this, { tag, children: [], style: {}, listeners: {}, textContent: "", hidden: false });
    this.classes = new Set();
    this.classList = { toggle: (name, on) => (on ? this.classes.add(name) : this.classes.delete(name)) };
  }
  addEventListener(name, listener) { (this.listeners[name] ??= []).push(listener); }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  getContext() {
    return {
      fillRect() {},
      drawImage: (bitmap) => { this.bitmap = bitmap; },
      getImageData: (x, y, width, height) => ({ data: this.bitmap.data, width, height }),
      putImageData() {},
    };
  }
}

const elements = {};
globalThis.document = new Element("document");
document.getElementById = (id) => (elements[id] ??= new Element(id));
document.createElement = (tag) => new Element(tag);
globalThis.ImageData = class { constructor(width, height) { this.data = new Uint8ClampedArray(4 * width * height); } };
globalThis.fetch = async (name) => ({ ok: true, json: async () => JSON.parse(readFileSync(join(site, name), "utf8")) });
// A "picture" is JSON: its size and one colour; anything else cannot be decoded.
globalThis.createImageBitmap = async (file) => {
  const { width, height, colour } = JSON.parse(file.content);
  return { width, height, data: Uint8ClampedArray.from({ length: 4 * width * height }, (_, k) => colour[k % 4]), close() {} };
};

await import(pathToFileURL(join(site, "app.js")));
const said = [elements.status.textContent];
for (const path of pictures) {
  const event = { preventDefault() {}, dataTransfer: { files: [{ name: basename(path), content: readFileSync(path) }] } };
  elements.status.textContent = "";
  for (const listener of document.listeners.drop) listener(event);
  while (/^$|\.\.\.$/.test(elements.status.textContent)) await new Promise((resolve) => setTimeout(resolve, 5));
  said.push(elements.status.textContent);
}
const rows = (elements.guesses?.children ?? []).map(({ children: [label, value] }) => ({
  label: label.textContent, value: value.textContent, width: label.children[0].style.width,
}));
process.stdout.write(JSON.stringify({
  said,
  rows,
  error: elements.status.classes.has("error"),
  command: elements.command?.textContent ?? "",
  about: elements.about?.textContent ?? "",
}));
