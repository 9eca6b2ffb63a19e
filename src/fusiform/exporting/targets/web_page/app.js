// The page: a photograph in, what is seen in it out. The work is the worker's. Text is set as text, so that no label can
// become markup.

import { drawBoxes, drawMask } from "./draw.js";
import { TEXTS } from "./texts/en.js";

const element = (id) => document.getElementById(id);

// Where addresses of scripts have to be trusted, these two are.
const SCRIPTS = ["worker.js", "sw.js"];
const trusted = globalThis.trustedTypes?.createPolicy("fusiform", {
  createScriptURL: (name) => {
    if (!SCRIPTS.includes(name)) throw new TypeError(name);
    return name;
  },
});
const script = (name) => trusted?.createScriptURL(name) ?? name;

function say(text, { error = false } = {}) {
  element("status").textContent = text;
  element("status").classList.toggle("error", error);
}

// A function that sends the worker one message and gives the promise of its answer.
function startWorker() {
  const worker = new Worker(script("worker.js"));
  const waiting = new Map();
  let sent = 0;
  worker.addEventListener("message", ({ data: { id, value, error, progress } }) => {
    const { resolve, reject, tell } = waiting.get(id);
    if (progress) {
      tell?.(progress);
      return;
    }
    waiting.delete(id);
    if (error) reject(Object.assign(new Error(error.message), error));
    else resolve(value);
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message ?? "worker.js"));
    waiting.clear();
  });
  return (kind, message = {}, tell = undefined) => new Promise((resolve, reject) => {
    waiting.set(++sent, { resolve, reject, tell });
    worker.postMessage({ ...message, kind, id: sent });
  });
}

// Keeps the page for when the network is gone. Not everywhere may it: in private windows, from addresses without https.
async function startKeeping() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  try {
    await workers.register(script("sw.js"));
  } catch {
    return;
  }
  if (workers.controller) return;
  // The model is fetched through it, so that it is fetched once; but a page that is not kept works as well.
  await Promise.race([
    new Promise((resolve) => { workers.addEventListener("controllerchange", resolve, { once: true }); }),
    new Promise((resolve) => { setTimeout(resolve, 3000); }),
  ]);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

const CONTEXT = { alpha: false, willReadFrequently: true }; // masks are mixed with what is there

// Onto the page's canvas: the square that a classifier saw, or the whole photograph.
function showPixels(pixels, { crop, color_order: order }) {
  const image = new ImageData(crop, crop);
  for (let k = 0; k < crop * crop; k++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * k + channel] = pixels[3 * k + (order === "bgr" ? 2 - channel : channel)];
    }
    image.data[4 * k + 3] = 255;
  }
  const canvas = element("seen");
  canvas.width = canvas.height = crop;
  canvas.getContext("2d", CONTEXT).putImageData(image, 0, 0);
}

function showPhotograph(preview) {
  const canvas = element("seen");
  [canvas.width, canvas.height] = [preview.width, preview.height];
  const context = canvas.getContext("2d", CONTEXT);
  context.drawImage(preview, 0, 0);
  return context;
}

// What was seen, in words and numbers: { name, share } a row.
function showRows(rows) {
  element("guesses").replaceChildren(...rows.map(({ name, share }) => {
    const [row, label, value] = ["tr", "th", "td"].map((tag) => document.createElement(tag));
    label.scope = "row";
    label.textContent = name;
    value.textContent = percent(share);
    row.style.setProperty("--share", share);
    row.append(label, value);
    return row;
  }));
}

// How each task's answer is shown; the sentence is for the status line, which is read aloud.
const SHOW = {
  classification: (name, { guesses, pixels }, { preprocess }) => {
    showPixels(pixels, preprocess);
    showRows(guesses.map((guess) => ({ name: guess.name, share: guess.probability })));
    return TEXTS.classified(name, guesses[0].name, percent(guesses[0].probability));
  },
  detection: (name, { boxes, preview, size }) => {
    drawBoxes(showPhotograph(preview), boxes, size);
    showRows(boxes.map((box) => ({ name: box.name, share: box.score })));
    return TEXTS.detected(name, boxes.length);
  },
  segmentation: (name, { mask, shares, preview }) => {
    drawMask(showPhotograph(preview), mask);
    showRows(shares);
    return TEXTS.segmented(name, shares.length);
  },
};

async function answer(name, source, { ask, description: { spec } }) {
  say(TEXTS.looking(name));
  try {
    const value = await ask("answer", { source });
    const sentence = SHOW[spec.task](name, value, spec);
    value.preview.close();
    const rounded = Object.entries(value.milliseconds).map(([stage, time]) => [stage, Math.round(time)]);
    element("times").textContent = TEXTS.times(Object.fromEntries(rounded));
    element("answer").hidden = false;
    say(sentence);
  } catch (error) {
    element("answer").hidden = true;
    say((TEXTS[error.reason] ?? TEXTS.failed)(name, error.message), { error: true });
  }
}

// One after the other, in the order in which they were given.
function listen(model) {
  let last = Promise.resolve();
  const take = (file, name = file?.name) => {
    if (file) last = last.then(() => answer(name, file, model));
  };
  const input = element("file");
  input.disabled = false;
  input.addEventListener("change", () => {
    take(input.files[0]);
    input.value = ""; // the same file may be chosen again
  });
  document.addEventListener("drop", (event) => { for (const file of event.dataTransfer.files) take(file); });
  document.addEventListener("paste", (event) => take(event.clipboardData.files[0], TEXTS.pasted));
}

// From the start, so that a photograph dropped too early does not replace the page.
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", name === "dragover");
  });
}

function put(texts) {
  for (const [id, text] of Object.entries(texts)) element(id).textContent = text;
}

put({ title: TEXTS.title, choose: TEXTS.choose, hint: TEXTS.drop });
document.title = TEXTS.title;
say(TEXTS.loading("", null));

try {
  await startKeeping();
  const ask = startWorker();
  const { description } = await ask("open", {}, ({ name, loaded, total }) => {
    say(TEXTS.loading(name, total ? Math.floor((100 * loaded) / total) : null));
  });
  const { seen, ...table } = TEXTS.tasks[description.spec.task];
  put({ ...table, about: TEXTS.about(description.model, description.spec.labels.length) });
  element("seen").setAttribute("aria-label", seen);
  element("answer").classList.toggle("wide", description.spec.task !== "classification");
  listen({ ask, description });
  say(TEXTS.ready);
} catch (error) {
  say(error.message, { error: true });
}
