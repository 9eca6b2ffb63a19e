// What each task makes of the network's answers, in the worker: `decode(answers, spec, size)` gets the values of each
// answer by its name, and the photograph's { width, height } in pixels. It gives what the page shows, and in `transfer`
// what is too large to be copied.

import { decodeBoxes } from "./boxes.js";
import { decide, NO_CLASS, tellUnknown } from "./certainty.js";
import { decodeClasses, toProbabilities } from "./classes.js";
import { classShares, decodeMask } from "./masks.js";

// The class that a rule gives, if it gives one, is the first of all.
function putFirst(decided, guesses, probabilities, { labels }) {
  if (decided === NO_CLASS) return guesses;
  const first = { index: decided, name: labels[decided], probability: probabilities[decided] };
  return [first, ...guesses.filter(({ index }) => index !== decided)].slice(0, guesses.length);
}

export const TASKS = {
  classification: (answers, spec) => {
    const [values] = Object.values(answers);
    const guesses = decodeClasses(values, spec);
    if (!spec.certainty) return { guesses };
    // Of a calibrated model, what its promises are kept with.
    const probabilities = toProbabilities(values, spec);
    const evidence = { probabilities, ...tellUnknown(answers.features, spec.certainty) };
    if (!spec.certainty.decision) return { guesses, evidence };
    const decided = decide(probabilities, spec.certainty.decision);
    return { guesses: putFirst(decided, guesses, probabilities, spec), evidence: { ...evidence, decided } };
  },
  detection: (answers, spec, size) => ({ boxes: decodeBoxes(answers, spec, size) }),
  segmentation: ({ logits }, spec, size) => {
    const mask = decodeMask(logits, spec, size);
    return { mask, shares: classShares(mask, spec), transfer: [mask.classes.buffer] };
  },
};
