// What each task makes of the network's answers, in the worker: `decode(answers, spec, size)` gets the values of each
// answer by its name, and the photograph's { width, height } in pixels. It gives what the page shows, and in `transfer`
// what is too large to be copied.

import { decodeBoxes } from "./boxes.js";
import { pKnown } from "./certainty.js";
import { decodeClasses, toProbabilities } from "./classes.js";
import { classShares, decodeMask } from "./masks.js";

export const TASKS = {
  classification: (answers, spec) => {
    const [values] = Object.values(answers);
    const guesses = decodeClasses(values, spec);
    if (!spec.certainty) return { guesses };
    // Of a calibrated model, what its promises are kept with.
    const evidence = { probabilities: toProbabilities(values, spec), pKnown: pKnown(answers.features, spec.certainty) };
    return { guesses, evidence };
  },
  detection: (answers, spec, size) => ({ boxes: decodeBoxes(answers, spec, size) }),
  segmentation: ({ logits }, spec, size) => {
    const mask = decodeMask(logits, spec, size);
    return { mask, shares: classShares(mask, spec), transfer: [mask.classes.buffer] };
  },
};
