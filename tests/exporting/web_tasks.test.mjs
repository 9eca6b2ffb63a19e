// What the page makes of a network's answers against vectors that Python wrote: `node --test` with FUSIFORM_WEB, the
// folder of the page's modules and of vectors.json. test_web_tasks.py writes it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const folder = process.env.FUSIFORM_WEB;
const module = (name) => import(pathToFileURL(join(folder, name)));
const { decodeClasses } = await module("classes.js");
const { decodeBoxes, priorBoxes, SCORE_THRESHOLD, IOU_THRESHOLD, MAX_BOXES } = await module("boxes.js");
const { decodeMask, classShares, placement } = await module("masks.js");
const { colourOf, cssColour, readableOn } = await module("colours.js");
const { drawBoxes, drawMask } = await module("draw.js");
const vectors = JSON.parse(readFileSync(join(folder, "vectors.json"), "utf8"));

function floats(text) {
  const bytes = Buffer.from(text, "base64");
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

function close(actual, expected, tolerance, what) {
  assert.ok(Math.abs(actual - expected) <= tolerance, `${what}: ${actual}, in Python ${expected}`);
}

for (const { name, values, spec, top, expected } of vectors.classification) {
  test(`classification: ${name}`, () => {
    const found = decodeClasses(floats(values), spec, top);
    const named = (guesses) => guesses.map((guess) => [guess.index, guess.name]);
    assert.deepEqual(named(found), named(expected));
    found.forEach((guess, k) => close(guess.probability, expected[k].probability, 1e-12, `probability ${k}`));
  });
}

test("the priors are Python's", () => {
  for (const { size, priors } of vectors.priors) assert.deepEqual(priorBoxes(size), priors, `input of ${size}`);
});

test("detection's numbers are Python's", () => {
  assert.deepEqual([SCORE_THRESHOLD, IOU_THRESHOLD, MAX_BOXES], vectors.numbers);
});

for (const { name, answers, spec, size, options, expected } of vectors.detection) {
  test(`detection: ${name}`, () => {
    const given = Object.fromEntries(Object.entries(answers).map(([key, text]) => [key, floats(text)]));
    const found = decodeBoxes(given, spec, size, options);
    const named = (boxes) => boxes.map((box) => [box.index, box.name]);
    assert.deepEqual(named(found), named(expected));
    found.forEach((box, k) => {
      close(box.score, expected[k].score, 1e-12, `score ${k}`);
      for (const edge of ["left", "top", "right", "bottom"]) close(box[edge], expected[k][edge], 1e-8, `${edge} ${k}`);
    });
  });
}

for (const { name, logits, spec, size, bytes, expected, sha256, shares } of vectors.segmentation) {
  test(`segmentation: ${name}`, () => {
    const mask = decodeMask(floats(logits), spec, size);
    assert.deepEqual([mask.width, mask.height, mask.classes.BYTES_PER_ELEMENT], [size.width, size.height, bytes]);
    const found = Buffer.from(mask.classes.buffer);
    if (expected !== null) {
      const python = Buffer.from(expected, "base64");
      const other = found.reduce((sum, value, k) => sum + (value !== python[k]), 0);
      assert.equal(other, 0, `${other} of ${found.length} bytes differ`);
    }
    assert.equal(createHash("sha256").update(found).digest("hex"), sha256);
    assert.deepEqual(classShares(mask, spec), shares);
  });
}

test("the classes' colours are Python's", () => {
  vectors.colours.forEach(({ rgb, on }, index) => {
    assert.deepEqual([colourOf(index), readableOn(colourOf(index))], [rgb, on], `class ${index}`);
    assert.equal(cssColour(index), `#${Buffer.from(rgb).toString("hex")}`);
  });
});

// What a canvas does, pixel by pixel, but for letters: it lists the lines, and each letter is as wide as the other.
class Canvas {
  constructor({ width, height }, data) {
    this.canvas = { width, height };
    this.data = Uint8ClampedArray.from(data);
    this.lines = [];
  }

  get textSize() {
    return Number(/^(\d+)px /.exec(this.font)[1]);
  }

  measureText(line) {
    return { width: 0.5625 * this.textSize * [...line].length };
  }

  fillText(line, x, y) {
    this.lines.push([line, x, y, this.fillStyle, this.textSize]);
  }

  fillRect(left, top, width, height) {
    assert.match(this.fillStyle, /^#[0-9a-f]{6}$/);
    const colour = Buffer.from(`${this.fillStyle.slice(1)}ff`, "hex");
    for (let y = Math.max(0, top); y < Math.min(this.canvas.height, top + height); y++) {
      for (let x = Math.max(0, left); x < Math.min(this.canvas.width, left + width); x++) {
        this.data.set(colour, 4 * (y * this.canvas.width + x));
      }
    }
  }

  getImageData(left, top, width, height) {
    assert.deepEqual([left, width], [0, this.canvas.width]);
    assert.ok(top >= 0 && height > 0 && top + height <= this.canvas.height);
    return { width, height, data: this.data.slice(4 * top * width, 4 * (top + height) * width) };
  }

  putImageData({ data }, left, top) {
    this.data.set(data, 4 * top * this.canvas.width + left);
  }
}

for (const { name, canvas, image, drawn, boxes, mask, size, options, lines } of vectors.drawing) {
  test(`drawing: ${name}`, () => {
    const context = new Canvas(canvas, Buffer.from(image, "base64"));
    if (boxes) drawBoxes(context, boxes, size, options);
    else drawMask(context, { classes: Buffer.from(mask, "base64"), ...size }, options);
    if (lines) assert.deepEqual(context.lines, lines);
    if (drawn === null) return; // boxes so narrow that Pillow frames them in another way
    const python = Buffer.from(drawn, "base64");
    const other = context.data.reduce((sum, value, k) => sum + (value !== python[k]), 0);
    assert.equal(other, 0, `${other} of ${python.length} bytes differ`);
  });
}

test("a narrow box is drawn within its edges", () => {
  for (const [left, right, column] of [[20, 21.2, 20], [29.7, 30, 29]]) {
    const context = new Canvas({ width: 30, height: 40 }, new Uint8Array(4 * 30 * 40));
    const box = { index: 1, name: "", score: 1, left, top: 30, right, bottom: 38 };
    drawBoxes(context, [box], context.canvas, { scores: false });
    const painted = [...context.data.keys()].filter((k) => k % 4 === 3 && context.data[k] > 0).map((k) => (k - 3) / 4);
    const below = painted.filter((k) => k >= 30 * 30); // under the plate
    assert.deepEqual(below, Array.from({ length: 8 }, (_, row) => (30 + row) * 30 + column));
  }
});

// What no network of the description answers is refused, never read as something else.
const labels = ["cat", "dog", "hen"];
const withNaN = (values) => values.map((value, k) => (k === 5 ? NaN : value));
const segmenter = { labels, input_size: 64, output_stride: 16, preprocess: { crop: 64, fit: "stretch" } };

test("a classifier's answer that does not fit is refused", () => {
  assert.throws(() => decodeClasses(Float32Array.of(1, 2), { labels }), /2 numbers for 3 classes/);
  assert.throws(() => decodeClasses(Float32Array.of(1, NaN, 2), { labels }), /not finite/);
  assert.throws(() => decodeClasses(Float32Array.of(1, Infinity, 2), { labels }), /not finite/);
  assert.throws(() => decodeClasses(Float32Array.of(3e38, 1, 2), { labels, temperature: 0.001 }), /temperature/);
  for (const value of [-0.1, 1.02]) {
    const spec = { labels, output: "probabilities" };
    assert.throws(() => decodeClasses(Float32Array.of(0, value, 0), spec), /no probabilities/);
  }
  for (const top of [0, NaN]) assert.throws(() => decodeClasses(Float32Array.of(1, 2, 3), { labels }, top), /top/);
});

test("a detector's answer that does not fit is refused", () => {
  const size = { width: 10, height: 10 };
  const spec = { labels, input_size: 64 };
  const priors = priorBoxes(64).length;
  const [logits, codes] = [new Float32Array(priors * 4), new Float32Array(priors * 4)];
  assert.ok(Array.isArray(decodeBoxes({ logits, codes }, spec, size)));
  assert.throws(() => decodeBoxes({ logits: logits.subarray(4), codes }, spec, size), /priors/);
  assert.throws(() => decodeBoxes({ logits, codes }, { ...spec, labels: ["cat"] }, size), /priors/);
  assert.throws(() => decodeBoxes({ logits, codes: withNaN(codes) }, spec, size), /not finite/);
  const decoded = { boxes: Float32Array.of(0, 0, 1, 1), scores: Float32Array.of(0.9) };
  for (const label of [3, -1]) {
    const answers = { ...decoded, labels: Float32Array.of(label) };
    assert.throws(() => decodeBoxes(answers, { ...spec, decoded: true }, size), /classes that there are not/);
  }
  const [box] = decodeBoxes({ ...decoded, labels: BigInt64Array.of(2n) }, { ...spec, decoded: true }, size);
  assert.equal(box.name, "hen");
});

test("a segmenter's answer that does not fit is refused", () => {
  const size = { width: 10, height: 10 };
  const logits = new Float32Array(4 * 4 * 3);
  assert.equal(decodeMask(logits, segmenter, size).classes.length, 100);
  assert.throws(() => decodeMask(logits.subarray(3), segmenter, size), /not 4 x 4 for 3 classes/);
  assert.throws(() => decodeMask(withNaN(logits), segmenter, size), /not finite/);
  assert.throws(() => placement(size, { crop: 64 }), /does not lie in the input/);
});

test("a large photograph takes little more memory than its mask", () => {
  // In a process of its own, whose peak nothing else has reached before. All rows of the classes at the photograph's
  // width would be 130 MB.
  const grown = execFileSync(process.execPath, ["--input-type=module", "--eval", `
    const { decodeMask } = await import(${JSON.stringify(pathToFileURL(join(folder, "masks.js")))});
    const logits = Float32Array.from({ length: 257 * 257 * 21 }, (_, k) => (k * k) % 1009);
    const labels = Array.from({ length: 21 }, String);
    const spec = { labels, input_size: 257, decoded: true, preprocess: { crop: 257, fit: "stretch" } };
    const before = process.resourceUsage().maxRSS;
    decodeMask(logits, spec, { width: 6000, height: 1000 });
    console.log(process.resourceUsage().maxRSS - before);
  `], { encoding: "utf8" });
  assert.ok(Number(grown) < 60_000, `${grown} kB more`);
});
