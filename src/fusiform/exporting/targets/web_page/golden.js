// How far answers are from those of a golden folder: exporting/golden.py says what it holds, and by which rule each
// answer is compared.

const SMALLEST = 1e-30; // probabilities below are taken for it before their logarithm

const ARRAYS = { float32: Float32Array, uint8: Uint8Array, int8: Int8Array, int32: Int32Array };

// The values of a file's bytes, which are little-endian as all browsers are.
export function readValues(buffer, dtype) {
  return new ARRAYS[dtype](buffer);
}

// The distance of two lists of numbers in the measure of a rule; infinite where they are not as long.
export function distance(found, expected, compare) {
  if (found.length !== expected.length || found.length === 0) return Infinity;
  const [a, b] = [found, expected].map((values) => (compare === "log_rms" ? centredLogs(values) : values));
  let [largest, squares] = [0, 0];
  for (let k = 0; k < a.length; k++) {
    const apart = Math.abs(Number(a[k]) - Number(b[k]));
    if (Number.isNaN(apart)) return Infinity;
    largest = Math.max(largest, apart);
    squares += apart * apart;
  }
  return compare === "largest" ? largest : Math.sqrt(squares / a.length);
}

function centredLogs(values) {
  const logs = Float64Array.from(values, (value) => Math.log(Math.max(value, SMALLEST)));
  const mean = logs.reduce((sum, value) => sum + value, 0) / logs.length;
  return logs.map((value) => value - mean);
}

// Runs every case: `fetchBytes(path)` reads a file of the golden folder, `run(pixels)` gives the answers' values in the
// order of the file's. Gives for each answer { name, error, allowed, passed }, the worst of the cases, and the number of
// cases that `failed`.
export async function runGolden({ input, outputs, cases }, fetchBytes, run, tell = () => {}) {
  const worst = outputs.map(({ name }) => ({ name, error: -1, allowed: 0, passed: true }));
  let failed = 0;
  for (const [number, one] of cases.entries()) {
    tell(number, cases.length);
    const found = await run(readValues(await fetchBytes(one.input.path), input.dtype));
    const right = await Promise.all(outputs.map(async ({ dtype, compare }, k) => {
      const { path, allowed } = one.outputs[k];
      const error = distance(found[k] ?? [], readValues(await fetchBytes(path), dtype), compare);
      const passed = error <= allowed;
      // The one that is worst for what it may be.
      if (error * worst[k].allowed >= worst[k].error * allowed) Object.assign(worst[k], { error, allowed });
      worst[k].passed &&= passed;
      return passed;
    }));
    if (!right.every(Boolean)) failed++;
  }
  return { answers: worst, failed, count: cases.length };
}
