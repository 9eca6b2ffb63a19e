// What was found, drawn onto the photograph on a canvas as drawing/overlay.py draws it: boxes under their names, masks
// over what they outline. Boxes and masks are brought to the size of the canvas.

import { colourOf, cssColour, readableOn } from "./colours.js";

const ALPHA = 0.5; // how much of a mask's colour covers the photograph
const ROWS = 64; // that are tinted at once: all pixels of a large photograph would be 48 MB more
const LONGEST = 300; // no letter is narrow enough for a longer line

// Each of the `found` boxes, highest-scoring first and in pixels of a photograph of { width, height }, in its class's
// colour with its name and score on a plate. Plates stand over their boxes, or where else no higher-scoring one stands
// already. `textSize` is in pixels; lines grow with it.
export function drawBoxes(context, found, { width, height }, { scores = true, textSize = null } = {}) {
  const { canvas } = context;
  const size = textSize ?? Math.min(32, Math.max(12, roundEven(Math.max(canvas.width, canvas.height) / 45)));
  const thickness = textSize === null ? lineWidth(canvas) : Math.max(2, roundEven(textSize / 7));
  context.font = `${size}px system-ui, sans-serif`;
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  const [x, y] = [canvas.width / width, canvas.height / height];
  const boxes = found.map((box) => {
    const [left, right] = pixelsBetween(box.left * x, box.right * x, canvas.width);
    const [top, bottom] = pixelsBetween(box.top * y, box.bottom * y, canvas.height);
    return { box, left, top, right, bottom };
  });
  // The highest-scoring last, so that it lies on top.
  for (const { box, ...edges } of [...boxes].reverse()) {
    context.fillStyle = cssColour(box.index);
    drawFrame(context, edges, thickness);
  }
  const plates = [];
  for (const { box, ...edges } of boxes) {
    const line = oneLine(scores ? `${box.name} ${roundEven(100 * box.score)}%` : box.name);
    const text = cutText(context, line, canvas.width - size);
    plates.push({ box, text, ...placePlate(context, text, size, edges, plates) });
  }
  for (const { box, text, left, top, right, bottom } of plates.reverse()) {
    context.fillStyle = cssColour(box.index);
    context.fillRect(left, top, right - left, bottom - top);
    context.fillStyle = readableOn(colourOf(box.index));
    context.fillText(text, left + Math.floor(size / 4), top + roundEven(1.08 * size));
  }
}

// The canvas tinted by what a mask of { classes, width, height } shows; classes are outlined in their full colours. The
// first class, the background, is left as it is.
export function drawMask(context, mask, { alpha = ALPHA } = {}) {
  const { width, height } = context.canvas;
  const thickness = lineWidth(context.canvas);
  // Each pixel of the canvas has the class of the mask's pixel that its middle lies in.
  const columns = Uint32Array.from({ length: width }, (_, x) => ((x + 0.5) * mask.width) / width);
  const rows = Uint32Array.from({ length: height }, (_, y) => ((y + 0.5) * mask.height) / height);
  const classAt = (x, y) => mask.classes[rows[y] * mask.width + columns[x]];
  const isBorder = (x, y, k) => {
    for (let step = 1; step <= thickness; step++) {
      if (x >= step && classAt(x - step, y) !== k) return true;
      if (x + step < width && classAt(x + step, y) !== k) return true;
      if (y >= step && classAt(x, y - step) !== k) return true;
      if (y + step < height && classAt(x, y + step) !== k) return true;
    }
    return false;
  };
  for (let top = 0; top < height; top += ROWS) {
    const strip = context.getImageData(0, top, width, Math.min(ROWS, height - top));
    for (let y = 0, at = 0; y < strip.height; y++) {
      for (let x = 0; x < width; x++, at += 4) {
        const k = classAt(x, top + y);
        if (k === 0) continue;
        const colour = colourOf(k);
        const share = isBorder(x, top + y, k) ? 1 : alpha;
        for (let channel = 0; channel < 3; channel++) {
          // The array rounds, and of two as near to the even one, as numpy does.
          strip.data[at + channel] = (1 - share) * strip.data[at + channel] + share * colour[channel];
        }
      }
    }
    context.putImageData(strip, 0, top);
  }
}

// The text, or as much of its beginning as fits before an ellipsis into so many pixels; the context's font is set.
export function cutText(context, text, width) {
  const fits = (line) => context.measureText(line).width <= width;
  if (fits(text)) return text;
  const letters = [...text];
  for (let end = Math.min(letters.length - 1, LONGEST); end > 0; end--) {
    // A mark is never parted from its letter.
    if (letters[end] !== " " && /[\s\p{M}\p{Cf}]/u.test(letters[end])) continue;
    const shorter = `${letters.slice(0, end).join("").trimEnd()}…`;
    if (fits(shorter)) return shorter;
  }
  return "…";
}

// Composed, on one line, and without what is no letter: control characters, halves of pairs.
export function oneLine(text) {
  return text.split(/[\s\x1c-\x1f\x85]+/).filter(Boolean).join(" ").normalize("NFC").replace(/[\p{Cc}\p{Cs}]/gu, "?");
}

// Over the box, or else inside, under it, at its lower edge; from its left edge on, or else to its right one.
function placePlate(context, text, size, box, plates) {
  const { width, height } = context.canvas;
  const plateWidth = roundEven(context.measureText(text).width) + Math.floor(size / 2);
  const plateHeight = roundEven(1.45 * size);
  const places = [box.top - plateHeight, box.top, box.bottom + 1, box.bottom + 1 - plateHeight].flatMap((atY) => (
    [box.left, box.right + 1 - plateWidth].map((atX) => {
      const left = Math.max(0, Math.min(atX, width - plateWidth));
      const top = Math.max(0, Math.min(atY, height - plateHeight));
      return { left, top, right: left + plateWidth, bottom: top + plateHeight };
    })
  ));
  return places.find((place) => !plates.some((plate) => overlap(place, plate))) ?? places[0];
}

function overlap(a, b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

// The outline of a box whose edges are its first and last pixels, drawn inwards.
function drawFrame(context, { left, top, right, bottom }, thickness) {
  const [width, height] = [right - left + 1, bottom - top + 1];
  const [across, down] = [Math.min(thickness, width), Math.min(thickness, height)];
  context.fillRect(left, top, width, down);
  context.fillRect(left, bottom + 1 - down, width, down);
  context.fillRect(left, top, across, height);
  context.fillRect(right + 1 - across, top, across, height);
}

// The first and the last pixel, within the picture, between two edges: always one at least.
function pixelsBetween(first, last, length) {
  const start = Math.min(roundEven(first), length - 1);
  return [start, Math.max(start, roundEven(last) - 1)];
}

function lineWidth({ width, height }) {
  return Math.min(4, Math.max(2, roundEven(Math.max(width, height) / 320)));
}

// To the nearest integer, and of two as near to the even one, as Python rounds.
function roundEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}
