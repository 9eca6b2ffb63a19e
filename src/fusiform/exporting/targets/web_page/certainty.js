// What a calibrated classifier says beside its probabilities, as certainty.py and calibration/ have it in Python: a set of
// classes that holds the right one for a stated share of photographs, and how rare such a photograph is among those of the
// classes. Nothing here touches the page.

export const NO_CLASS = -1; // the answer "unsure"
const CLOSE = 1e-12; // by how much, of the largest, costs may differ by rounding
const SMALL = 1e-12; // no length that is divided by is less

// What the scores of photographs like those of the calibration stay at or below, for a `share` of them; null where that
// takes more photographs than there were.
export function threshold({ count, ranks, values }, share) {
  const rank = Math.max(1, Math.ceil((count + 1) * share - 1e-9));
  return rank > count ? null : values[bisect(ranks, rank)];
}

// The conformal p-value of a score: how rare one as large is among the calibration's, itself counted.
export function pValue({ count, ranks, values }, score) {
  const below = bisect(values, score);
  return (1 + count - (below ? ranks[below - 1] : 0)) / (count + 1);
}

// The first place of a rising list whose value is not below.
function bisect(list, value) {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The largest share that sets can be promised for.
export function mostShare({ table: { count } }) {
  return count / (count + 1);
}

// The indices of the classes in a photograph's set, likeliest first, for a promise of `share`.
export function inSet(probabilities, sets, share) {
  const common = threshold(sets.table, share) ?? Infinity;
  const own = (sets.classes ?? []).map((table) => threshold(table, share) ?? common);
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const scores = scoreInOrder(order.map((k) => probabilities[k]), sets);
  return order.filter((k, place) => scores[place] <= (own[k] ?? common));
}

// How badly each class fits, likeliest first; the likeliest scores 0, so that no set is empty.
function scoreInOrder(sorted, { score, penalty = 0, free = 0 }) {
  let together = 0; // of the likelier ones and this
  return sorted.map((probability, place) => {
    together += probability;
    if (place === 0) return 0;
    if (score === "lac") return 1 - probability;
    const before = together - probability;
    return Math.max(0, score === "raps" ? before + penalty * Math.max(0, place + 1 - free) : before);
  });
}

// A function that gives for a photograph's features { strangeness, residual }: the score by which unknown ones are told,
// larger for those, and the length of what the projection leaves out.
export function openDetector(unknown) {
  const { dimensions: d } = unknown;
  const centre = halves(unknown.centre);
  const scales = singles(unknown.scales);
  const steps = new Int8Array(bytesOf(unknown.projection).buffer);
  const projection = Float32Array.from(steps, (step, k) => step * scales[k % d]);
  const whitening = singles(unknown.whitening);
  const whiten = (row) => multiply(row, whitening, d);
  const rows = (values, width) => (
    Array.from({ length: values.length / width }, (_, k) => values.subarray(k * width, (k + 1) * width))
  );
  const [head, points] = [rows(halves(unknown.head), d + 1), rows(halves(unknown.points), d)];
  const means = rows(halves(unknown.means), d).map(whiten);
  const logitsOf = (inside) => head.map((row) => row[d] + dot(row, inside));
  const evidence = {
    softmax: ({ inside }) => {
      const logits = logitsOf(inside);
      return -energy(logits) - largestOf(logits);
    },
    energy: ({ inside }) => energy(logitsOf(inside)),
    mahalanobis: ({ inside }) => nearest(whiten(inside), means),
    knn: ({ inside }) => nearest(unit(inside), points),
    residual: ({ beside }) => beside,
  };
  return (features) => {
    const centred = Float32Array.from(features, (value, k) => value - centre[k]);
    const inside = multiply(centred, projection, d);
    const beside = Math.sqrt(Math.max(0, dot(centred, centred) - dot(inside, inside)));
    const place = { inside, beside };
    const strangeness = unknown.parts.reduce((sum, part) => sum + part.weight * evidence[part.evidence](place), 0);
    return { strangeness, residual: beside };
  };
}

const detectors = new WeakMap(); // one for each description, opened once

// { pKnown } is the p-value of a photograph's showing one of the classes, null where the description or the file does not
// tell; beside it what the detector found.
export function tellUnknown(features, { unknown }) {
  if (!unknown || !features) return { pKnown: null };
  if (!detectors.has(unknown)) detectors.set(unknown, openDetector(unknown));
  const found = detectors.get(unknown)(features);
  return { pKnown: pValue(unknown.table, found.strangeness), ...found };
}

// The class that a rule gives a photograph, or -1 for none, as calibration/decision.py has it.
export function decide(probabilities, { thresholds = [], costs = [] }) {
  const list = [...probabilities];
  if (costs.length > 0) {
    const expected = costs[0].map((_, answer) => list.reduce((sum, value, k) => sum + value * costs[k][answer], 0));
    const close = CLOSE * costs.reduce((most, row) => Math.max(most, ...row), 0); // by rounding
    const most = expected.reduce((least, value) => Math.min(least, value), Infinity) + close;
    const shown = expected.map((value, answer) => (value <= most ? list[answer] ?? -1 : -2)); // no class is the last
    const chosen = likeliestOf(shown);
    return chosen === list.length ? NO_CLASS : chosen;
  }
  const given = thresholds.filter(({ precision }) => precision === undefined || precision === null);
  const reached = given.map(({ index, value }) => (list[index] >= value ? list[index] : -1));
  if (reached.some((value) => value >= 0)) return given[likeliestOf(reached)].index;
  const likeliest = likeliestOf(list);
  const needed = thresholds.find(({ index }) => index === likeliest)?.value ?? 0;
  return list[likeliest] >= needed ? likeliest : NO_CLASS;
}

// The first place of the largest value.
function likeliestOf(values) {
  return values.reduce((best, value, k) => (value > values[best] ? k : best), 0);
}

// What a promise of `share` says: the set's indices, and whether the photograph shows one of the classes, null where that
// is not told. `evidence` is what the worker answers.
export function keepPromise({ probabilities, pKnown: value }, { sets }, share) {
  return { set: inSet(probabilities, sets, share), known: value === null ? null : value > 1 - share };
}

// Less the logarithm of the summed exponentials.
function energy(logits) {
  const largest = largestOf(logits);
  return -Math.log(logits.reduce((sum, value) => sum + Math.exp(value - largest), 0)) - largest;
}

function largestOf(values) {
  return values.reduce((most, value) => Math.max(most, value), -Infinity);
}

// The sum of products, over the length of the second.
function dot(a, b) {
  return b.reduce((sum, value, k) => sum + value * a[k], 0);
}

// A row times a matrix of so many columns, whose rows lie one after the other.
function multiply(row, matrix, columns) {
  const made = new Float64Array(columns);
  row.forEach((value, k) => {
    for (let j = 0; j < columns; j++) made[j] += value * matrix[k * columns + j];
  });
  return made;
}

function nearest(row, points) {
  const squares = points.map((point) => row.reduce((sum, value, k) => sum + (value - point[k]) ** 2, 0));
  return Math.sqrt(squares.reduce((least, value) => Math.min(least, value), Infinity));
}

function unit(row) {
  const length = Math.max(SMALL, Math.sqrt(dot(row, row)));
  return row.map((value) => value / length);
}

// The arrays of a description are base64 of little-endian numbers, as all browsers' are.
function bytesOf(text) {
  return Uint8Array.from(atob(text ?? ""), (letter) => letter.charCodeAt(0));
}

function singles(text) {
  return new Float32Array(bytesOf(text).buffer);
}

// Numbers of two bytes (IEEE 754 binary16), for which browsers have had arrays since 2025 alone.
function halves(text) {
  return Float32Array.from(new Uint16Array(bytesOf(text).buffer), (bits) => {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14;
    return bits & 0x8000 ? -size : size;
  });
}
