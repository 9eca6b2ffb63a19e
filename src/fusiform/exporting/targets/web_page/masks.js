// What a segmenter answers: the class of every pixel of a photograph, as tasks/segmentation.py decodes it from logits
// of a sixteenth of the size: in single precision where numpy is, so that every pixel is the same.

const { fround } = Math;

// The likeliest class of every pixel of a photograph of { width, height }, the lower index first among equals:
// { classes, width, height }, a byte a pixel (two where a byte cannot count the classes), row by row. `logits` (rows,
// columns, classes) are what the network says of its whole input, of one picture; or the probabilities at the input's
// size that a file gives which decodes them itself. Logits are interpolated, not classes, and at once to the
// photograph's own pixels. Beside the answer no more is held than two rows of the photograph for each class.
export function decodeMask(logits, spec, { width, height }) {
  const count = spec.labels.length;
  const cells = spec.decoded ? spec.input_size : Math.ceil(spec.input_size / spec.output_stride);
  if (logits.length !== cells * cells * count) {
    throw new Error(`the network answers ${logits.length} numbers, not ${cells} x ${cells} for ${count} classes`);
  }
  if (!logits.every(Number.isFinite)) throw new Error("the network's answer holds values that are not finite");
  const place = placement({ width, height }, spec.preprocess);
  const aligned = spec.align_corners ?? true;
  const columns = positions(width, place.width, spec.input_size, cells, aligned);
  const rows = positions(height, place.height, spec.input_size, cells, aligned);
  const widened = widenRows(logits, columns, cells, count);

  // 255 stays free, as in Python, for pixels that belong to no class.
  const classes = new (count <= 255 ? Uint8Array : Uint16Array)(width * height);
  const best = new Float32Array(width);
  for (let y = 0; y < height; y++) {
    const [above, below] = [widened(rows.before[y]), widened(rows.after[y])];
    const weight = rows.weight[y];
    const answer = classes.subarray(y * width, (y + 1) * width);
    for (let x = 0; x < width; x++) best[x] = between(above[x], below[x], weight);
    for (let k = 1, at = width; k < count; k++) {
      for (let x = 0; x < width; x++, at++) {
        const value = between(above[at], below[at], weight);
        if (value > best[x]) {
          best[x] = value;
          answer[x] = k;
        }
      }
    }
  }
  return { classes, width, height };
}

// The classes that a mask shows, the largest first and the lower index first among equals: { index, name, share } each,
// the share of all pixels in (0, 1].
export function classShares({ classes }, spec) {
  const counts = new Array(spec.labels.length).fill(0);
  for (const k of classes) counts[k]++;
  return [...counts.keys()]
    .filter((k) => counts[k] > 0)
    .sort((a, b) => counts[b] - counts[a] || a - b)
    .map((k) => ({ index: k, name: spec.labels[k], share: counts[k] / classes.length }));
}

// How large a photograph of { width, height } lies in the upper left corner of the network's square, in pixels; what is
// beside it is padding (data/preprocess.py).
export function placement({ width, height }, { crop, fit = "crop" }) {
  if (fit === "stretch") return { width: crop, height: crop };
  if (fit !== "pad") throw new Error("a photograph that is cropped does not lie in the input as a whole");
  const fitted = (length) => Math.max(1, Math.floor((crop * length) / Math.max(width, height) + 0.5));
  return { width: fitted(width), height: fitted(height) };
}

// Where along one axis of the logits the middles of the photograph's `pixels` are, which fill `length` pixels of the
// input's: the logits `before` and `after` each, and how far it is from the one to the other. With `aligned` corners
// the first and the last logit stand on the input's first and last pixel; else in the middle of equal parts of it.
function positions(pixels, length, inputLength, logits, aligned) {
  const [before, after] = [new Uint32Array(pixels), new Uint32Array(pixels)];
  const weight = new Float32Array(pixels);
  for (let k = 0; k < pixels; k++) {
    let at = ((k + 0.5) * length) / pixels - 0.5;
    at = aligned ? (at * (logits - 1)) / Math.max(1, inputLength - 1) : ((at + 0.5) * logits) / inputLength - 0.5;
    at = Math.min(Math.max(at, 0), logits - 1);
    before[k] = Math.floor(at);
    after[k] = Math.min(before[k] + 1, logits - 1);
    weight[k] = at - before[k];
  }
  return { before, after, weight };
}

// A function that gives a row of logits, interpolated to the photograph's width: (classes, width). It remembers the
// last two, which are all that a row of pixels lies between.
function widenRows(logits, columns, cells, count) {
  const width = columns.before.length;
  const known = [-1, -1];
  const rows = [new Float32Array(count * width), new Float32Array(count * width)];
  return (row) => {
    const slot = row % 2;
    if (known[slot] !== row) {
      const start = row * cells * count;
      for (let k = 0, at = 0; k < count; k++) {
        for (let x = 0; x < width; x++, at++) {
          const left = logits[start + columns.before[x] * count + k];
          const right = logits[start + columns.after[x] * count + k];
          rows[slot][at] = between(left, right, columns.weight[x]);
        }
      }
      known[slot] = row;
    }
    return rows[slot];
  };
}

function between(first, second, weight) {
  return fround(first + fround(fround(second - first) * weight));
}
