// What comes before the network, as the model's description says, in the same arithmetic as fusiform's in Python.
// Nothing here touches the page or the runtime. A canvas scales pictures in its own way, which costs accuracy: it only
// decodes them.

const PRECISION_BITS = 22; // of Pillow's fixed-point weights, for pictures of 8 bits
const HALF = 1 << (PRECISION_BITS - 1);

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

// One side of the picture: its length, the length it is resized to, the part of that which the network sees, and the
// padding before it, all in pixels.
function makeAxis(length, size, { fit, resize, crop }) {
  if (fit === "stretch") return { length, resized: crop, first: 0, kept: crop, padding: 0 };
  if (fit === "pad") {
    const resized = Math.max(1, Math.floor((crop * length) / Math.max(...size) + 0.5));
    return { length, resized, first: 0, kept: resized, padding: 0 };
  }
  const resized = Math.floor((resize * length) / Math.min(...size));
  if (resized < crop) return { length, resized, first: 0, kept: resized, padding: Math.floor((crop - resized) / 2) };
  return { length, resized, first: roundEven((resized - crop) / 2), kept: crop, padding: 0 };
}

// Taps are the source pixels of each kept pixel: the first of them in `starts`, how many in `counts`, and the weights of
// all, one kept pixel's after the other's.
function packTaps(list, Weights) {
  return {
    starts: Int32Array.from(list, (tap) => tap.start),
    counts: Int32Array.from(list, (tap) => tap.weights.length),
    weights: Weights.from(list.flatMap((tap) => tap.weights)),
  };
}

// Pillow's precompute_coeffs.
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

// Pillow's nearest: the pixel under the centre, its position added up step by step.
function nearestTaps(axis) {
  const step = axis.length / axis.resized;
  const taps = [];
  for (let k = 0, at = step / 2; k < axis.first + axis.kept; k++, at += step) {
    if (k >= axis.first) taps.push({ start: Math.trunc(at), weights: [1] });
  }
  return taps;
}

// Without antialiasing, PyTorch's interpolate with align_corners=False, in its single precision.
function sampleTaps(axis, interpolation) {
  const single = Math.fround;
  const scale = single(axis.length / axis.resized);
  const clip = (k) => Math.min(Math.max(k, 0), axis.length - 1);
  // What would lie outside is the pixel at the edge.
  const gather = (first, weights) => {
    const places = weights.map((_, i) => clip(first + i));
    const gathered = new Array(places.at(-1) - places[0] + 1).fill(0);
    weights.forEach((weight, i) => { gathered[places[i] - places[0]] += weight; });
    return { start: places[0], weights: gathered };
  };
  return Array.from({ length: axis.kept }, (_, k) => {
    const at = axis.first + k;
    if (interpolation === "nearest") return gather(Math.floor(single(at * scale)), [1]);
    const centre = single(single((at + 0.5) * scale) - 0.5);
    if (interpolation === "bilinear") {
      const inside = Math.max(centre, 0);
      const start = clip(Math.floor(inside));
      return gather(start, [1 - (inside - start), inside - start]);
    }
    const start = Math.floor(centre);
    return gather(start - 1, [-1, 0, 1, 2].map((i) => cubic(Math.abs(centre - start - i), -0.75)));
  });
}

// One line of bytes through its taps, in whole numbers; `step` bytes lie between neighbours of the source, and the made
// pixels, three bytes each, lie `stride` apart. Sums stay below 2^31, as in Pillow.
function filterLine(source, from, step, taps, made, at, stride) {
  const { starts, counts, weights } = taps;
  for (let k = 0, w = 0; k < starts.length; k++, at += stride) {
    let [r, g, b] = [HALF, HALF, HALF];
    let place = from + starts[k] * step;
    for (const end = w + counts[k]; w < end; w++, place += step) {
      const weight = weights[w];
      r = (r + Math.imul(source[place], weight)) | 0;
      g = (g + Math.imul(source[place + 1], weight)) | 0;
      b = (b + Math.imul(source[place + 2], weight)) | 0;
    }
    made[at] = r >> PRECISION_BITS; // a clamped array keeps it within a byte
    made[at + 1] = g >> PRECISION_BITS;
    made[at + 2] = b >> PRECISION_BITS;
  }
}

// The same in fractions, not rounded.
function sampleLine(source, from, step, taps, made, at, stride) {
  const { starts, counts, weights } = taps;
  for (let k = 0, w = 0; k < starts.length; k++, at += stride) {
    const first = w;
    w += counts[k];
    for (let channel = 0; channel < 3; channel++) {
      let sum = 0;
      for (let i = first, place = from + starts[k] * step + channel; i < w; i++, place += step) {
        sum += source[place] * weights[i];
      }
      made[at + channel] = sum;
    }
  }
}

// Columns, then rows, with `Between` in between: bytes for filters, fractions where pixels are sampled.
function columnsFirst(region, columns, rows, line, Between) {
  const across = columns.starts.length;
  const narrow = new Between(region.height * across * 3);
  const needed = new Uint8Array(region.height);
  rows.starts.forEach((start, k) => needed.fill(1, start, start + rows.counts[k]));
  const take = (image, row) => {
    for (let j = 0; j < image.height; j++, row++) {
      if (needed[row]) line(image.data, j * region.width * 4, 4, columns, narrow, row * across * 3, 3);
    }
  };
  const finish = () => {
    const kept = new Between(rows.starts.length * across * 3);
    for (let k = 0; k < across; k++) line(narrow, k * 3, across * 3, rows, kept, k * 3, across * 3);
    return kept;
  };
  return { take, finish };
}

// Rows, then columns, of filters alone: each row of the picture is added to those that it has a part in.
function rowsFirst(region, columns, rows) {
  const [down, across, span] = [rows.starts.length, columns.starts.length, region.width * 3];
  const sums = new Int32Array(down * span).fill(HALF);
  const offsets = new Int32Array(down);
  for (let k = 1; k < down; k++) offsets[k] = offsets[k - 1] + rows.counts[k - 1];
  const take = (image, row) => {
    for (let j = 0; j < image.height; j++, row++) {
      for (let k = 0; k < down && rows.starts[k] <= row; k++) {
        const tap = row - rows.starts[k];
        if (tap >= rows.counts[k]) continue;
        const weight = rows.weights[offsets[k] + tap];
        for (let at = k * span, from = j * region.width * 4; at < (k + 1) * span; at += 3, from += 4) {
          sums[at] += Math.imul(image.data[from], weight);
          sums[at + 1] += Math.imul(image.data[from + 1], weight);
          sums[at + 2] += Math.imul(image.data[from + 2], weight);
        }
      }
    }
  };
  const finish = () => {
    const low = new Uint8ClampedArray(down * span);
    for (let at = 0; at < low.length; at++) low[at] = sums[at] >> PRECISION_BITS;
    const kept = new Uint8ClampedArray(down * across * 3);
    for (let k = 0; k < down; k++) filterLine(low, k * span, 3, columns, kept, k * across * 3, 3);
    return kept;
  };
  return { take, finish };
}

// The part of the picture that taps of columns and rows reach, from whose corner they count from now on.
function cutRegion(columns, rows) {
  const [[left, width], [top, height]] = [columns, rows].map(({ starts, counts }) => {
    const first = starts.reduce((least, start) => Math.min(least, start));
    const end = starts.reduce((most, start, k) => Math.max(most, start + counts[k]), 0);
    starts.forEach((start, k) => { starts[k] = start - first; });
    return [first, end - first];
  });
  return { left, top, width, height };
}

// A photograph of width x height pixels on its way into the network's square, strip by strip: `region` is the part of it
// that is needed, `take(image, top)` takes rows of that from `top` on (`image` as a canvas gives it, as wide as the
// region), and `finish()` gives bytes, crop x crop x 3, in the description's order of colours.
export function startCrop(width, height, preprocess) {
  const { crop, interpolation, antialias } = preprocess;
  const x = makeAxis(width, [width, height], preprocess);
  const y = makeAxis(height, [width, height], preprocess);
  const filtered = antialias && interpolation !== "nearest";
  const tapsOf = (axis) => {
    if (filtered) return packTaps(filterTaps(axis, interpolation), Int32Array);
    return packTaps(antialias ? nearestTaps(axis) : sampleTaps(axis, interpolation), Float64Array);
  };
  const [columns, rows] = [tapsOf(x), tapsOf(y)];
  const region = cutRegion(columns, rows);
  // Where Pillow 13 starts with the rows; older versions, which do not, are a grey level away then.
  const tall = y.length > y.resized && y.length - y.resized > 2 * (x.length - x.resized);
  const resized = filtered && tall
    ? rowsFirst(region, columns, rows)
    : columnsFirst(region, columns, rows, ...(filtered ? [filterLine, Uint8ClampedArray] : [sampleLine, Float64Array]));

  const finish = () => {
    const kept = resized.finish();
    const pixels = new Uint8Array(crop * crop * 3); // what the picture does not cover is black, or the mean colour
    if (preprocess.fit === "pad") {
      const mean = preprocess.mean.map((value) => Math.min(Math.max(roundEven(255 * value), 0), 255));
      for (let at = 0; at < pixels.length; at++) pixels[at] = mean[at % 3];
    }
    const bgr = preprocess.color_order === "bgr";
    for (let row = 0; row < y.kept; row++) {
      for (let column = 0; column < x.kept; column++) {
        const from = (row * x.kept + column) * 3;
        const at = ((y.padding + row) * crop + x.padding + column) * 3;
        for (let channel = 0; channel < 3; channel++) {
          const value = filtered ? kept[from + channel] : Math.min(Math.max(roundEven(kept[from + channel]), 0), 255);
          pixels[at + (bgr ? 2 - channel : channel)] = value;
        }
      }
    }
    return pixels;
  };
  return { region, take: (image, top) => resized.take(image, top - region.top), finish };
}
