// What a visitor can take away of an answer: the record as JSON, and the picture with what was drawn onto it.

import { element } from "./page.js";
import { promiseOf } from "./promise.js";
import { toRecord } from "./record.js";

const DRAWN = { detection: "boxes", segmentation: "mask" }; // at the end of the picture's name

let given = null; // the answer that is shown: its name, its source and what the worker said

export function offer(answer) {
  given = answer;
  element("done").textContent = "";
}

export function listenToSaving({ ask, description: { spec } }, texts, numbers) {
  const tell = (text) => { element("done").textContent = text; };
  element("copy").addEventListener("click", async () => {
    try {
      const record = toRecord(given.name, given.value, spec, promiseOf(given.value, spec));
      await navigator.clipboard.writeText(`${JSON.stringify(record, null, 2)}\n`);
      tell(texts.copied);
    } catch {
      tell(texts.notCopied);
    }
  });
  element("save").hidden = spec.task === "classification"; // where nothing is drawn
  element("save").addEventListener("click", async () => {
    const { name, source, value: { boxes, mask } } = given;
    tell(texts.saving);
    try {
      const { blob, width, height } = await ask("draw", { source, boxes, mask });
      download(blob, `${name.replace(/\.[a-z]\w*$/i, "")}_${DRAWN[spec.task]}.png`);
      tell(texts.saved(numbers.integer(width), numbers.integer(height)));
    } catch {
      tell(texts.notSaved);
    }
  });
}

// Hands the visitor a file.
export function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers read it later
}
