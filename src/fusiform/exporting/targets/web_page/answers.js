// An answer on the page: the picture with what was seen in it, the best of it in large letters, and all of it in a table.

import { cssColour } from "./colours.js";
import { drawBoxes } from "./draw.js";
import { element, make, put } from "./page.js";
import { inWords, promiseOf } from "./promise.js";

const SHADE = "rgb(0 0 0 / 60%)"; // over what is left out

let painting = 0; // of the masks that were asked for, the last one is shown
let drawn = null; // the bitmap that is on the canvas, beneath what was drawn

// The photograph as the page's canvas, for others to draw on.
export function showPhotograph(preview) {
  const canvas = element("seen");
  [canvas.width, canvas.height] = [preview.width, preview.height];
  canvas.style.setProperty("--aspect", preview.width / preview.height);
  const context = canvas.getContext("2d", { alpha: false });
  context.drawImage(preview, 0, 0);
  return context;
}

// Shows what the worker answers; the sentence for the status line, which is read aloud.
export async function showAnswer(name, value, model) {
  const { description: { spec }, texts, numbers } = model;
  if (drawn !== value.preview) drawn?.close();
  drawn = value.preview;
  const { best, sure, caption, known = "", rows, redraw, sentence } = SHOW[spec.task](name, value, { ...model, spec });
  await redraw({});
  put({ best, sure, caption: caption ?? texts.tasks[spec.task].caption, "p-known": known });
  element("p-known").hidden = known === "";
  // The rows that are chosen: boxes to be seen alone, classes that are shown.
  const chosen = new Set(spec.task === "segmentation" ? rows.keys() : []);
  element("guesses").replaceChildren(...rows.map(({ name: label, index, share }, k) => {
    // Nothing can be chosen of a classifier's answer, nor a mask's background, which has no colour.
    const plain = spec.task === "classification" || (spec.task === "segmentation" && index === 0);
    const inside = plain
      ? make("span", { textContent: label })
      : makeButton(label, k, { chosen, redraw, points: spec.task === "detection" });
    const row = make("tr", {}, make("th", { scope: "row" }, inside), make("td", { textContent: numbers.percent(share) }));
    row.style.setProperty("--share", share);
    if (spec.task !== "classification") row.style.setProperty("--bar", plain ? "var(--dim)" : cssColour(index));
    if (spec.task === "detection") {
      row.addEventListener("pointerenter", () => redraw({ pointed: k, chosen }));
      row.addEventListener("pointerleave", () => redraw({ chosen }));
    }
    return row;
  }));
  element("table").hidden = rows.length === 0;
  element("hint-rows").hidden = spec.task === "classification"
    ? !isCropped(spec.preprocess)
    : !element("guesses").querySelector("button");
  return sentence;
}

// The name in a row as a button, which is pressed while the row is `chosen`. A box is seen alone as long as one `points`
// at it, with the keyboard too.
function makeButton(label, k, { chosen, redraw, points }) {
  const button = make("button", { type: "button", className: "row", textContent: label });
  const tell = () => button.setAttribute("aria-pressed", String(chosen.has(k)));
  tell();
  button.addEventListener("click", () => {
    if (!chosen.delete(k)) chosen.add(k);
    tell();
    redraw({ chosen });
  });
  if (points) {
    button.addEventListener("focus", () => { if (button.matches(":focus-visible")) redraw({ pointed: k, chosen }); });
    button.addEventListener("blur", () => redraw({ chosen }));
  }
  return button;
}

// How each task's answer is shown: the best of it in words, { name, index, share } a row, and a function that draws.
const SHOW = {
  classification: (name, value, { spec, texts, numbers }) => {
    const { guesses, preview, size } = value;
    const rows = guesses.map((guess) => ({ ...guess, share: guess.probability }));
    const shown = { rows, redraw: () => shadeOutside(showPhotograph(preview), size, spec.preprocess) };
    const [first, sure] = [rows[0].name, numbers.percent(rows[0].share)];
    const promise = promiseOf(value, spec);
    if (!promise) return { ...shown, best: first, sure, sentence: texts.classified(name, first, sure) };
    const best = inWords(promise, texts, numbers);
    const known = promise.pKnown === null ? "" : texts.promise.known(numbers.percent(promise.pKnown));
    return { ...shown, best, sure: "", known, sentence: texts.classified(name, best, sure) };
  },
  detection: (name, { boxes, preview, size }, { texts, numbers }) => {
    const rows = boxes.map((box) => ({ ...box, share: box.score }));
    const count = texts.objects(boxes.length, numbers.integer(boxes.length));
    return {
      best: rows[0]?.name ?? count,
      sure: rows[0] ? numbers.percent(rows[0].share) : "",
      caption: count,
      rows,
      redraw: ({ pointed, chosen }) => {
        const context = showPhotograph(preview);
        const alone = pointed === undefined ? [...(chosen ?? [])].map((k) => boxes[k]) : [boxes[pointed]];
        if (alone.length > 0) shadeAround(context, alone, preview, size);
        drawBoxes(context, alone.length > 0 ? alone : boxes, size);
      },
      sentence: texts.detected(name, boxes.length, numbers.integer(boxes.length)),
    };
  },
  segmentation: (name, { mask, shares, preview }, { ask, texts, numbers }) => {
    const small = shrink(mask, preview);
    const largest = shares.find(({ index }) => index !== 0) ?? shares[0]; // the first class is the background
    return {
      best: largest.name,
      sure: texts.ofPicture(numbers.percent(largest.share)),
      rows: shares,
      // By the worker: a large mask would hold up the page.
      redraw: async ({ chosen }) => {
        const turn = ++painting;
        const shown = new Set(shares.filter((_, k) => chosen?.has(k) ?? true).map(({ index }) => index));
        const classes = shown.size === shares.length ? small.classes : small.classes.map((k) => (shown.has(k) ? k : 0));
        const tinted = await ask("tint", { preview, mask: { ...small, classes } });
        if (turn === painting) showPhotograph(tinted);
        tinted.close();
      },
      sentence: texts.segmented(name, shares.length, numbers.integer(shares.length)),
    };
  },
};

// A mask at the size of the canvas, as drawMask would read it from the large one.
function shrink(mask, { width, height }) {
  const classes = new mask.classes.constructor(width * height);
  const columns = Uint32Array.from({ length: width }, (_, x) => ((x + 0.5) * mask.width) / width);
  for (let y = 0, at = 0; y < height; y++) {
    const row = Math.floor(((y + 0.5) * mask.height) / height) * mask.width;
    for (let x = 0; x < width; x++, at++) classes[at] = mask.classes[row + columns[x]];
  }
  return { classes, width, height };
}

const isCropped = ({ fit = "crop" }) => fit === "crop";

// The square that a classifier sees stays bright; all of a photograph that it sees whole.
export function shadeOutside(context, size, preprocess) {
  if (!isCropped(preprocess)) return;
  const { resize, crop } = preprocess;
  const { width, height } = context.canvas;
  const side = (Math.min(size.width, size.height) * crop * width) / (resize * size.width);
  const [x, y] = [Math.max(0, (width - side) / 2), Math.max(0, (height - side) / 2)];
  context.fillStyle = SHADE;
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(x, y, Math.min(side, width), Math.min(side, height));
  context.fill("evenodd");
}

// All but the boxes.
function shadeAround(context, boxes, preview, size) {
  const { width, height } = context.canvas;
  context.fillStyle = SHADE;
  context.fillRect(0, 0, width, height);
  for (const { left, top, right, bottom } of boxes) {
    const place = [left * width, top * height, (right - left) * width, (bottom - top) * height];
    const [x, y, w, h] = place.map((length, k) => length / (k % 2 ? size.height : size.width));
    if (w > 0 && h > 0) context.drawImage(preview, x, y, w, h, x, y, w, h);
  }
}
