// What each task makes of the network's answers: `decode(answers, spec, size)` gets the values of each answer in the
// spec's order, and the photograph's { width, height } in pixels, and gives what the page shows.

import { decode } from "./network.js";

export const TASKS = {
  classification: { decode: ([values], spec) => ({ guesses: decode(values, spec) }) },
};
