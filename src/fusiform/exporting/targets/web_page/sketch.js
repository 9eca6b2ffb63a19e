// A sketch of what a calibrated classifier sees: a row of numbers for each photograph, as data/looks.py,
// calibration/reference.py and prediction/kept.py have them in Python, whose `fusiform drift` reads the file. Nothing here
// touches the page.

const ROWS = 512; // that are kept, at most
const COLUMNS = 11; // of a row
const CLASSES = 20; // with more of them, which one was named is not looked at
const LARGEST = 65000;
const SCHEMA = "fusiform.seen/1";

export const EMPTY = { images: 0, every: 1, rows: [] };

// How a photograph of { width, height } looks, by the pixels that the network sees of it: seven numbers, as
// data/looks.py describes them.
export function look(pixels, { width, height }, { crop: side, color_order: order }) {
  const count = side * side;
  const grey = new Float64Array(count);
  const sums = [0, 0, 0];
  let [brightness, colour] = [0, 0];
  for (let k = 0, at = 0; k < count; k++, at += 3) {
    const [r, g, b] = [pixels[at], pixels[at + 1], pixels[at + 2]];
    const mean = (r + g + b) / 3;
    grey[k] = mean;
    brightness += mean;
    colour += Math.abs(r - mean) + Math.abs(g - mean) + Math.abs(b - mean);
    sums[0] += r;
    sums[1] += g;
    sums[2] += b;
  }
  brightness /= count;
  let [contrast, edges] = [0, 0];
  for (let k = 0; k < count; k++) contrast += (grey[k] - brightness) ** 2;
  for (let row = 1; row < side - 1; row++) {
    for (let k = row * side + 1; k < (row + 1) * side - 1; k++) {
      edges += (4 * grey[k] - grey[k - side] - grey[k + side] - grey[k - 1] - grey[k + 1]) ** 2;
    }
  }
  const [first, green, last] = sums.map((sum) => sum / count);
  const [red, blue] = order === "bgr" ? [last, first] : [first, last];
  return [
    brightness,
    Math.sqrt(contrast / count),
    Math.log(edges / (side - 2) ** 2 + 1),
    colour / (3 * count),
    red - blue,
    green - (red + blue) / 2,
    Math.log(width * height),
  ].map(Math.fround);
}

// The row of a photograph: its looks, and what the network's answer gave (tasks.js); the bits of eleven numbers of two
// bytes (IEEE 754 binary16).
export function toRow(looks, { probabilities, strangeness, residual }) {
  const confidence = probabilities.reduce((most, value) => Math.max(most, value), 0);
  const named = probabilities.length <= CLASSES ? probabilities.indexOf(confidence) : 0;
  const within = (value) => Math.min(Math.max(value, -LARGEST), LARGEST);
  return Uint16Array.from([...looks, confidence, strangeness, residual, named], (value) => toHalf(within(value)));
}

// The bits of the nearest number of two bytes, and of two as near of the even one. Numbers are smaller than 65,520.
export function toHalf(value) {
  const size = Math.abs(value);
  const exponent = Math.max(-14, Math.floor(Math.log2(size))); // the smallest numbers share their steps
  const steps = size * 2 ** (10 - exponent);
  const below = Math.floor(steps);
  const rounded = below + Number(steps - below > 0.5 || (steps - below === 0.5 && below % 2 === 1));
  return (value < 0 ? 0x8000 : 0) + (exponent + 14) * 1024 + rounded;
}

// A sketch with one photograph more. When the rows are full every second one goes, and from then on a photograph's row is
// taken with half the chance as before, whatever it holds.
export function keep({ images, every, rows }, row, random = Math.random) {
  const counted = { images: images + 1, every, rows };
  if (every > 1 && random() * every >= 1) return counted;
  const taken = [...rows, row];
  if (taken.length <= ROWS) return { ...counted, rows: taken };
  return { ...counted, every: 2 * every, rows: taken.filter((_, k) => k % 2 === 0) };
}

// The file that `fusiform drift` reads, of the model whose mark is given.
export async function toFile({ images, every, rows }, model) {
  const values = rows.length > 0 ? await pack(rows) : "";
  return `${JSON.stringify({ schema: SCHEMA, model, images, every, rows: rows.length, values })}\n`;
}

// Rows as text: bits become integers of the numbers' order, and of each column's steps all low bytes come first.
async function pack(rows) {
  const count = rows.length * COLUMNS;
  const bytes = new Uint8Array(2 * count);
  for (let column = 0, at = 0; column < COLUMNS; column++) {
    let before = 0;
    for (const row of rows) {
      const bits = row[column];
      const ordered = bits & 0x8000 ? ~bits & 0xffff : bits | 0x8000;
      const step = (ordered - before) & 0xffff;
      [bytes[at], bytes[count + at]] = [step & 255, step >> 8];
      before = ordered;
      at++;
    }
  }
  const packed = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return toBase64(new Uint8Array(await new Response(packed).arrayBuffer()));
}

const toBase64 = (bytes) => btoa(String.fromCharCode(...bytes));

// A sketch as text for the browser's storage, and back; null for any other text.
export function toText({ rows, ...rest }) {
  const bytes = rows.flatMap((row) => [...new Uint8Array(row.buffer)]);
  return JSON.stringify({ ...rest, rows: toBase64(bytes) });
}

export function fromText(text) {
  try {
    const { rows: packed, ...rest } = JSON.parse(text);
    const all = new Uint16Array(Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0)).buffer);
    const rows = Array.from({ length: all.length / COLUMNS }, (_, k) => all.slice(k * COLUMNS, (k + 1) * COLUMNS));
    const { images, every } = rest;
    const counted = Number.isSafeInteger(images) && images >= rows.length && rows.length <= ROWS;
    if (all.length % COLUMNS || !counted || !(every >= 1 && Number.isInteger(Math.log2(every)))) return null;
    return { ...rest, rows };
  } catch {
    return null;
  }
}
