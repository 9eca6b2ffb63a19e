// How a photograph comes to the page: chosen, dropped, pasted, or one of the samples of the folder.

import { element, make } from "./page.js";

// `take(source, name)` is called with each; `samples` are { file, name } each. One after the other, in the order in which
// they were given.
export function listen(take, samples, texts) {
  let last = Promise.resolve();
  const next = (source, name = source?.name) => {
    if (source) last = last.then(() => take(source, name));
  };
  const input = element("file");
  input.disabled = false;
  input.addEventListener("change", () => {
    next(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
  document.addEventListener("drop", (event) => { for (const file of event.dataTransfer.files) next(file); });
  document.addEventListener("paste", (event) => next(event.clipboardData.files[0], texts.pasted));
  showSamples(samples, next);
}

// They are fetched once the page is ready, and answered as they are.
function showSamples(samples, next) {
  element("samples").hidden = samples.length === 0;
  element("sample-list").replaceChildren(...samples.map(({ file, name }) => {
    const image = make("img", { alt: name, title: name });
    const button = make("button", { type: "button" }, image);
    const fetched = fetch(file).then((response) => response.blob());
    fetched.then((blob) => { image.src = URL.createObjectURL(blob); }, () => button.remove());
    // A function, which is asked when it is its turn.
    button.addEventListener("click", () => next(() => fetched, name));
    return make("li", {}, button);
  }));
}

// From the start, so that a photograph dropped too early does not replace the page.
export function catchDrops() {
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      element("drop").classList.toggle("over", name === "dragover");
    });
  }
}
