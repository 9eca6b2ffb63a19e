// What a classifier answers: class names with probabilities, as tasks/classification.py decodes them.

// The `top` likeliest classes of one picture, likeliest first and the lower index first among equals: { index, name,
// probability } each. `values` are the network's answer in single precision, logits or probabilities as `spec.output`
// says.
export function decodeClasses(values, spec, top = 5) {
  if (!(top >= 1)) throw new Error(`top must be at least 1, got ${top}`);
  const probabilities = toProbabilities(values, spec);
  // By the answer itself: probabilities too small to be told from each other would lose its order.
  return [...values.keys()]
    .sort((a, b) => values[b] - values[a] || a - b)
    .slice(0, top)
    .map((k) => ({ index: k, name: spec.labels[k], probability: probabilities[k] }));
}

// The probabilities of all classes, in double precision.
export function toProbabilities(values, spec) {
  if (values.length !== spec.labels.length) {
    throw new Error(`the network answers ${values.length} numbers for ${spec.labels.length} classes`);
  }
  if (!values.every(Number.isFinite)) throw new Error("the network's answer holds values that are not finite");
  if (spec.output === "probabilities") {
    // A quantised softmax may step over 1 by a rounding error; anything more is no probability.
    if (!values.every((value) => value >= 0 && value <= 1.01)) throw new Error("the network answers no probabilities");
    return Float64Array.from(values, (value) => Math.min(value, 1));
  }
  // In single precision, as numpy divides single-precision logits.
  const temperature = Math.fround(spec.temperature ?? 1);
  const tempered = Float64Array.from(values, (value) => Math.fround(value / temperature));
  if (!tempered.every(Number.isFinite)) throw new Error("divided by the temperature, the answer is not finite");
  return softmax(tempered);
}

// Probabilities of one row of logits: any finite ones, however large.
export function softmax(logits) {
  let largest = -Infinity;
  for (const value of logits) largest = Math.max(largest, value);
  const exponentials = Float64Array.from(logits, (value) => Math.exp(value - largest));
  const sum = pairwiseSum(exponentials, 0, exponentials.length);
  return exponentials.map((value) => value / sum);
}

// A sum in numpy's order. It decides the last digit, and that the order of two boxes whose logits are the same numbers
// for other classes, which quantised networks often answer.
function pairwiseSum(values, start, count) {
  if (count > 128) {
    const half = Math.floor(count / 2);
    const first = half - (half % 8);
    return pairwiseSum(values, start, first) + pairwiseSum(values, start + first, count - first);
  }
  let sum = 0;
  let k = 0;
  if (count >= 8) {
    const r = values.slice(start, start + 8);
    for (k = 8; k + 8 <= count; k += 8) for (let j = 0; j < 8; j++) r[j] += values[start + k + j];
    sum = r[0] + r[1] + (r[2] + r[3]) + (r[4] + r[5] + (r[6] + r[7]));
  }
  for (; k < count; k++) sum += values[start + k];
  return sum;
}
