// Before and after the network, as the model's description says, in the same arithmetic as fusiform's in Python.
// Nothing here touches the page. A canvas scales pictures in its own way, which costs accuracy: it only decodes them.

const PRECISION_BITS = 22; // of Pillow's fixed-point weights, for pictures of 8 bits

// How far each of Pillow's filters reaches, in pixels, and its weight at a distance.
const FILTERS = {
  bilinear: [1, (x) => Math.max(1 - Math.abs(x), 0)],
  bicubic: [2, (x) => cubic(Math.abs(x), -0.5)],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function cubic(x, a) {
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

// To the nearest integer, and of two as near to the even one, as Python and numpy round.
function roundEven(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

// One side of the picture: its length, the length it is resized to, and the part of that which the crop keeps.
function makeAxis(length, shorter, preprocess) {
  const resized = Math.floor((preprocess.resize * length) / shorter);
  const crop = preprocess.crop;
  if (resized < crop) return { length, resized, first: 0, kept: resized, padding: Math.floor((crop - resized) / 2) };
  return { length, resized, first: roundEven((resized - crop) / 2), kept: crop, padding: 0 };
}

// The source pixels of each kept pixel: where they start, and the weight of each (Pillow's precompute_coeffs).
function filterTaps(axis, interpolation) {
  const [reach, weigh] = FILTERS[interpolation];
  const scale = axis.length / axis.resized;
  const stretch = Math.max(scale, 1); // a smaller picture averages all the pixels that it covers
  const shrink = 1 / stretch; // multiplied by, as in Pillow: a quotient would round otherwise
  return Array.from({ length: axis.kept }, (_, k) => {
    const centre = (axis.first + k + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - reach * stretch + 0.5), 0);
    const end = Math.min(Math.trunc(centre + reach * stretch + 0.5), axis.length);
    const weights = Array.from({ length: end - start }, (_, j) => weigh((start + j - centre + 0.5) * shrink));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { start, weights: weights.map((w) => Math.trunc((w / sum) * 2 ** PRECISION_BITS + (w < 0 ? -0.5 : 0.5))) };
  });
}

// Rows or columns at a time: `step` bytes lie between neighbours along the resized side, `others` says where each line
// of the other side starts. The answer has the resized side's pixels next to each other, three bytes each.
function resizeLines(source, taps, step, others) {
  const made = new Uint8Array(others.length * taps.length * 3);
  let at = 0;
  for (const line of others) {
    for (const { start, weights } of taps) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (PRECISION_BITS - 1);
        let from = line + start * step + channel;
        for (let j = 0; j < weights.length; j++, from += step) sum += source[from] * weights[j];
        made[at++] = Math.min(Math.max(Math.floor(sum / 2 ** PRECISION_BITS), 0), 255);
      }
    }
  }
  return made;
}

// Columns, then rows, with bytes in between. Newer versions of Pillow start with the rows where a picture is more than
// twice as tall as wide, and are a grey level away then.
function resizeFiltered(image, x, y, interpolation) {
  const columns = filterTaps(x, interpolation);
  const rows = filterTaps(y, interpolation);
  const top = Math.min(...rows.map((row) => row.start));
  const bottom = Math.max(...rows.map((row) => row.start + row.weights.length));
  const lines = Array.from({ length: bottom - top }, (_, k) => (top + k) * image.width * 4);
  const narrow = resizeLines(image.data, columns, 4, lines);
  for (const row of rows) row.start -= top;
  const across = Array.from({ length: x.kept }, (_, k) => k * 3);
  const turned = resizeLines(narrow, rows, x.kept * 3, across); // column after column
  return (row, column, channel) => turned[(column * y.kept + row) * 3 + channel];
}

// Pillow's nearest: the pixel under the centre, its position added up step by step.
function nearestTaps(axis) {
  const step = axis.length / axis.resized;
  const sources = [];
  for (let k = 0, at = step / 2; k < axis.first + axis.kept; k++, at += step) {
    if (k >= axis.first) sources.push([[Math.trunc(at), 1]]);
  }
  return sources;
}

// Without antialiasing, PyTorch's interpolate with align_corners=False, in its single precision.
function sampleTaps(axis, interpolation) {
  const single = Math.fround;
  const scale = single(axis.length / axis.resized);
  const clip = (k) => Math.min(Math.max(k, 0), axis.length - 1);
  return Array.from({ length: axis.kept }, (_, k) => {
    const at = axis.first + k;
    if (interpolation === "nearest") return [[clip(Math.floor(single(at * scale))), 1]];
    const centre = single(single((at + 0.5) * scale) - 0.5);
    if (interpolation === "bilinear") {
      const start = clip(Math.floor(Math.max(centre, 0)));
      const t = Math.max(centre, 0) - start;
      return [[start, 1 - t], [clip(start + 1), t]];
    }
    const start = Math.floor(centre);
    return [-1, 0, 1, 2].map((i) => [clip(start + i), cubic(Math.abs(centre - start - i), -0.75)]);
  });
}

function resizeSampled(image, columns, rows) {
  return (row, column, channel) => {
    let sum = 0;
    for (const [j, down] of rows[row]) {
      for (const [i, across] of columns[column]) {
        sum += image.data[(j * image.width + i) * 4 + channel] * down * across;
      }
    }
    return Math.min(Math.max(roundEven(sum), 0), 255);
  };
}

// Resize the shorter side and cut out the central square: bytes, crop x crop x 3, in the description's order of colours.
// `image` is what a canvas gives: `data` of four bytes a pixel, `width`, `height`; the fourth byte is ignored.
export function cropPixels(image, preprocess) {
  const { crop, interpolation } = preprocess;
  const shorter = Math.min(image.width, image.height);
  const x = makeAxis(image.width, shorter, preprocess);
  const y = makeAxis(image.height, shorter, preprocess);
  let pixel;
  if (preprocess.antialias && interpolation !== "nearest") pixel = resizeFiltered(image, x, y, interpolation);
  else if (preprocess.antialias) pixel = resizeSampled(image, nearestTaps(x), nearestTaps(y));
  else pixel = resizeSampled(image, sampleTaps(x, interpolation), sampleTaps(y, interpolation));

  const pixels = new Uint8Array(crop * crop * 3); // what the picture does not cover stays black
  for (let row = 0; row < y.kept; row++) {
    for (let column = 0; column < x.kept; column++) {
      for (let channel = 0; channel < 3; channel++) {
        const stored = preprocess.color_order === "bgr" ? 2 - channel : channel;
        pixels[((y.padding + row) * crop + x.padding + column) * 3 + stored] = pixel(row, column, channel);
      }
    }
  }
  return pixels;
}

// Scale to [0, 1], subtract the mean, divide by the standard deviation: single precision, one channel after the other.
export function normalize(pixels, preprocess) {
  const size = preprocess.crop * preprocess.crop;
  const values = new Float32Array(3 * size);
  for (let channel = 0; channel < 3; channel++) {
    const [mean, std] = [Math.fround(preprocess.mean[channel]), Math.fround(preprocess.std[channel])];
    for (let k = 0; k < size; k++) {
      values[channel * size + k] = Math.fround(Math.fround(pixels[k * 3 + channel] / 255) - mean) / std;
    }
  }
  return values;
}

// The likeliest classes of one answer, likeliest first: { name, probability } each.
export function decode(values, spec, top = 5) {
  let probabilities = Array.from(values, Number);
  if (probabilities.length !== spec.labels.length || !probabilities.every(Number.isFinite)) {
    throw new Error(`the network gave ${probabilities.length} numbers for ${spec.labels.length} classes, or no numbers`);
  }
  if (spec.output === "logits") {
    const scaled = probabilities.map((value) => value / (spec.temperature ?? 1));
    const largest = scaled.reduce((a, b) => Math.max(a, b));
    const powers = scaled.map((value) => Math.exp(value - largest));
    const sum = powers.reduce((a, b) => a + b);
    probabilities = powers.map((power) => power / sum);
  }
  const order = probabilities.map((_, k) => k).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  return order.slice(0, top).map((k) => ({ name: spec.labels[k], probability: Math.min(probabilities[k], 1) }));
}

// One picture through the network, in ONNX Runtime (`ort`); `description` is the content of model.json.
export async function classify(ort, session, pixels, description) {
  const { spec, reads } = description;
  const size = spec.preprocess.crop;
  const input = reads === "pixels"
    ? new ort.Tensor("uint8", pixels, [1, size, size, 3])
    : new ort.Tensor("float32", normalize(pixels, spec.preprocess), [1, 3, size, size]);
  const answers = await session.run({ [session.inputNames[0]]: input });
  return decode(answers[session.outputNames[0]].data, spec);
}
