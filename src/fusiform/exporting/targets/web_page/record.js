// An answer as a record: what `fusiform predict --format json` prints of the same photograph (prediction/formats.py).

const PREFIXES = { classification: "", detection: "ssdlite_", segmentation: "deeplab_v3_" };

// The network with its width, as Python calls it: "ssdlite_mobilenet_v2_x1_0".
export function networkName({ task = "classification", architecture, width }) {
  const number = Number.isInteger(width) ? `${width}.0` : String(width);
  return `${PREFIXES[task]}${architecture}_x${number}`.replace(".", "_");
}

// `value` is what the worker answers for the photograph of that name, `promise` what promiseOf says of it.
export function toRecord(path, value, spec, promise = null) {
  return {
    schema: "fusiform.predictions/1",
    network: networkName(spec),
    task: spec.task,
    predictions: [{ path, error: null, ...ANSWERS[spec.task](value), ...(promise && promised(promise)) }],
  };
}

const ANSWERS = {
  classification: ({ guesses }) => ({ top: named(guesses) }),
  detection: ({ boxes, size: { width, height } }) => ({
    width,
    height,
    boxes: boxes.map(({ index, name, score, left, top, right, bottom }) => (
      { index, name, score: rounded(score), bbox: [left, top, right - left, bottom - top].map(rounded) }
    )),
  }),
  segmentation: ({ shares, size: { width, height } }) => ({
    width,
    height,
    classes: shares.map(({ index, name, share }) => ({ index, name, share: rounded(share) })),
    mask: null,
  }),
};

const promised = ({ set, known, pKnown, certain, ...ruled }) => (
  { set: named(set), known, p_known: pKnown === null ? null : rounded(pKnown), certain, ...ruled }
);

function named(guesses) {
  return guesses.map(({ index, name, probability }) => ({ index, name, probability: rounded(probability) }));
}

// Six significant digits.
function rounded(value) {
  return Number(value.toPrecision(6));
}
