// The page: a photograph in, its likeliest names out. Text is set as text, so that no label can become markup.

import { classify, cropPixels } from "./network.js";

const element = (id) => document.getElementById(id);

function say(text, { error = false } = {}) {
  element("status").textContent = text;
  element("status").classList.toggle("error", error);
}

async function load() {
  say("Loading the model ...");
  const response = await fetch("model.json");
  if (!response.ok) throw new Error(`model.json: ${response.status} ${response.statusText}`);
  const description = await response.json();
  element("about").textContent = `${description.model}: ${description.spec.labels.length} classes. `
    + "The photograph stays in this browser.";
  let ort;
  try {
    ort = await import("./runtime/ort.wasm.bundle.min.mjs");
  } catch {
    element("command").textContent = description.runtime.command;
    element("command").hidden = false;
    throw new Error(`The folder "runtime" lacks ${description.runtime.package}, which runs the model. In the folder of `
      + "this page run this, then load the page again:");
  }
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1; // more need headers that few static hosts send
  const session = await ort.InferenceSession.create(description.model, { executionProviders: ["wasm"] });
  return { ort, session, description };
}

// The photograph's pixels as sRGB, upright, over white.
async function decodePixels(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function showPixels(pixels, { crop, color_order: order }) {
  const image = new ImageData(crop, crop);
  for (let k = 0; k < crop * crop; k++) {
    for (let channel = 0; channel < 3; channel++) {
      image.data[4 * k + channel] = pixels[3 * k + (order === "bgr" ? 2 - channel : channel)];
    }
    image.data[4 * k + 3] = 255;
  }
  element("seen").width = element("seen").height = crop;
  element("seen").getContext("2d").putImageData(image, 0, 0);
}

function showGuesses(guesses) {
  element("guesses").replaceChildren(...guesses.map(({ name, probability }) => {
    const [row, label, value, bar] = ["tr", "th", "td", "div"].map((tag) => document.createElement(tag));
    label.scope = "row";
    label.textContent = name;
    bar.className = "bar";
    bar.style.width = `${100 * probability}%`;
    label.append(bar);
    value.textContent = `${(100 * probability).toFixed(1)} %`;
    row.append(label, value);
    return row;
  }));
  element("answer").hidden = false;
}

async function answer(file, { ort, session, description }) {
  say(`${file.name} ...`);
  element("answer").hidden = true;
  let image;
  try {
    image = await decodePixels(file);
  } catch (error) {
    say(`${file.name}: this browser cannot decode it (${error.message}). Try a JPEG or a PNG.`, { error: true });
    return;
  }
  const pixels = cropPixels(image, description.spec.preprocess);
  const guesses = await classify(ort, session, pixels, description);
  showPixels(pixels, description.spec.preprocess);
  showGuesses(guesses);
  say(file.name);
}

// One after the other: a session answers one picture at a time.
function listen(model) {
  let last = Promise.resolve();
  const take = (file) => {
    if (file) last = last.then(() => answer(file, model)).catch((error) => say(error.message, { error: true }));
  };
  element("file").disabled = false;
  element("file").addEventListener("change", (event) => take(event.target.files[0]));
  document.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));
}

// From the start, so that a photograph dropped too early does not replace the page.
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", name === "dragover");
  });
}

try {
  listen(await load());
  say("Ready.");
} catch (error) {
  say(error.message, { error: true });
}
