// What a detector answers: boxes with names and scores, decoded from what its network says about its priors, as
// tasks/detection.py does. A box is left, top, right and bottom; priors are in units of the network's input.

import { softmax } from "./classes.js";

// The numbers of graph/priors.py and tables.py.
export const SCORE_THRESHOLD = 0.3;
export const IOU_THRESHOLD = 0.6;
export const MAX_BOXES = 100;
const STRIDES = [16, 32, 64, 128, 256, 512];
const [MIN_SCALE, MAX_SCALE] = [0.2, 0.95];
const ASPECT_RATIOS = [1, 2, 1 / 2, 3, 1 / 3]; // width over height
const CODE_SCALES = [10, 10, 5, 5];
const LARGEST_EXPONENT = Math.log(1000 / 16);

// The objects in one picture of { width, height }, highest-scoring first: { index, name, score, left, top, right,
// bottom } each, in the picture's pixels. `answers` are the network's, of that picture alone: `logits` (priors, 1 +
// classes), the first of background, and `codes` (priors, 4); or of a file that decodes them itself `boxes`, `labels`
// and `scores`, where the overlap is that file's. Boxes with a score of `scoreThreshold` or less are left out.
export function decodeBoxes(answers, spec, { width, height }, options = {}) {
  const { scoreThreshold = SCORE_THRESHOLD, iouThreshold = IOU_THRESHOLD, limit = MAX_BOXES } = options;
  for (const values of Object.values(answers)) {
    for (const value of values) {
      if (!Number.isFinite(Number(value))) throw new Error("the network's answer holds values that are not finite");
    }
  }
  const size = [width, height, width, height];
  const found = spec.decoded
    ? readDecoded(answers, spec, size, scoreThreshold).slice(0, limit)
    : nms(readAnswers(answers, spec, size, scoreThreshold), iouThreshold, limit);
  return found.map(({ index, score, box: [left, top, right, bottom] }) => (
    { index, name: spec.labels[index], score, left, top, right, bottom }
  ));
}

// The boxes that a file has found itself.
function readDecoded({ boxes, labels, scores }, spec, size, scoreThreshold) {
  const found = [];
  const threshold = Math.fround(scoreThreshold); // numpy compares scores of single precision so
  for (let k = 0; k < scores.length; k++) {
    const box = size.map((length, edge) => clip(boxes[4 * k + edge]) * length);
    if (!(scores[k] > threshold && area(box) > 0)) continue;
    const index = Math.trunc(Number(labels[k])); // some runtimes answer with big integers
    if (!(index in spec.labels)) throw new Error("the file names classes that there are not: export it again");
    found.push({ index, score: scores[k], box });
  }
  return found;
}

// All boxes above the threshold, prior by prior and class by class; a prior may show several classes.
function readAnswers({ logits, codes }, spec, size, scoreThreshold) {
  const priors = priorBoxes(spec.input_size);
  const outputs = spec.labels.length + 1;
  if (logits.length !== priors.length * outputs || codes.length !== priors.length * 4) {
    throw new Error(`the network answers ${logits.length} logits and ${codes.length} codes for ${priors.length} priors `
      + `of ${spec.labels.length} classes and background`);
  }
  const found = [];
  priors.forEach((prior, row) => {
    const scores = scoresOf(logits.subarray(row * outputs, (row + 1) * outputs), spec);
    let box = null;
    for (let index = 0; index < spec.labels.length; index++) {
      if (!(scores[index + 1] > scoreThreshold)) continue;
      box ??= decodeBox(codes.subarray(4 * row, 4 * row + 4), prior).map((edge, k) => clip(edge) * size[k]);
      if (area(box) > 0) found.push({ index, score: scores[index + 1], box });
    }
  });
  return found;
}

function scoresOf(logits, spec) {
  if ((spec.scores ?? "softmax") === "softmax") return softmax(logits);
  // The same as 1 / (1 + exp(-x)), as Python writes it.
  return Float64Array.from(logits, (value) => 0.5 + 0.5 * Math.tanh(value / 2));
}

// The priors of a square input in pixels, 2,034 for 320: map by map, row by row, cell by cell.
export function priorBoxes(inputSize) {
  const priors = [];
  STRIDES.forEach((stride, level) => {
    const cells = Math.ceil(inputSize / stride);
    for (let row = 0; row < cells; row++) {
      for (let column = 0; column < cells; column++) {
        const [x, y] = [(column + 0.5) / cells, (row + 0.5) / cells];
        for (const [width, height] of priorShapes(level)) {
          priors.push([x - width / 2, y - height / 2, x + width / 2, y + height / 2]);
        }
      }
    }
  });
  return priors;
}

// Widths and heights of the priors of each cell of a map.
function priorShapes(level) {
  const scaleOf = (k) => (k < STRIDES.length ? MIN_SCALE + ((MAX_SCALE - MIN_SCALE) * k) / (STRIDES.length - 1) : 1);
  const scale = scaleOf(level);
  // In the lowest map one small square for the small objects, and two oblongs; in the others beside the ratios one more
  // square, half way to the next map's scale.
  const shapes = level === 0
    ? [[0.1, 1], [scale, 2], [scale, 1 / 2]]
    : [...ASPECT_RATIOS.map((ratio) => [scale, ratio]), [Math.sqrt(scale * scaleOf(level + 1)), 1]];
  return shapes.map(([side, ratio]) => [side * Math.sqrt(ratio), side / Math.sqrt(ratio)]);
}

// The box that a code makes of its prior (SSD, equation 2, solved for the box). It may leave the picture.
function decodeBox(code, [left, top, right, bottom]) {
  const [width, height] = [right - left, bottom - top];
  const [codeX, codeY, codeWidth, codeHeight] = CODE_SCALES.map((scale, k) => code[k] / scale);
  const [x, y] = [(left + right) / 2 + codeX * width, (top + bottom) / 2 + codeY * height];
  const halfWidth = (width * Math.exp(Math.min(codeWidth, LARGEST_EXPONENT))) / 2;
  const halfHeight = (height * Math.exp(Math.min(codeHeight, LARGEST_EXPONENT))) / 2;
  return [x - halfWidth, y - halfHeight, x + halfWidth, y + halfHeight];
}

// Those of the `found` that remain when each suppresses the lower-scoring ones of its class that it mostly covers:
// highest-scoring first and the earlier first among equals, at most `limit`.
function nms(found, iouThreshold, limit) {
  const kept = [];
  // The sort is stable.
  for (const each of found.sort((a, b) => b.score - a.score)) {
    if (kept.length >= limit) break;
    if (!kept.some((other) => other.index === each.index && iou(other.box, each.box) > iouThreshold)) kept.push(each);
  }
  return kept;
}

// Intersection over union, in [0, 1]; a box without an area has none.
function iou(a, b) {
  const shared = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  const union = area(a) + area(b) - shared;
  return union > 0 ? shared / union : 0;
}

function area([left, top, right, bottom]) {
  return Math.max(right - left, 0) * Math.max(bottom - top, 0);
}

function clip(value) {
  return Math.min(Math.max(value, 0), 1);
}
