// The promises of a calibrated classifier on the page: for which share of photographs, and what they come to in words.

import { keepPromise, mostShare, NO_CLASS } from "./certainty.js";
import { element, make, put } from "./page.js";

const SHARES = [0.8, 0.9, 0.95, 0.99]; // that are offered, besides what the model was calibrated for
const NAMED = 3; // classes of a set that are named

// Lets the visitor choose the share, where the model makes promises, from 80% to what its calibration can promise.
export function offerPromise({ description: { spec: { certainty } }, texts, numbers }) {
  if (!certainty) return;
  const { coverage } = certainty.sets;
  const shares = SHARES.filter((share) => share <= mostShare(certainty.sets) && share !== coverage);
  element("certain-share").replaceChildren(...[...shares, coverage].sort((a, b) => a - b).map((share) => (
    make("option", { value: String(share), textContent: numbers.share(share), selected: share === coverage })
  )));
  put({ "certain-label": texts.promise.label, "certain-about": texts.promise.about });
  element("certain").hidden = false;
}

// Calls `on` when another share is chosen.
export function listenToPromise(on, options) {
  element("certain-share").addEventListener("change", on, options);
}

// What is promised of what the worker answers, as the record has it: { set, known, pKnown, certain }, and of a model that
// decides by a rule { rule, decided } too; null where nothing is promised.
export function promiseOf({ evidence }, { certainty, labels }) {
  if (!evidence) return null;
  const certain = Number(element("certain-share").value);
  const { set, known } = keepPromise(evidence, certainty, certain);
  const named = set.map((index) => ({ index, name: labels[index], probability: evidence.probabilities[index] }));
  const promise = { set: named, known, pKnown: evidence.pKnown, certain };
  if (!certainty.decision) return promise;
  const rule = certainty.decision.costs?.length ? "costs" : "thresholds";
  const { decided } = evidence;
  return { ...promise, rule, decided: decided === NO_CLASS ? null : { index: decided, name: labels[decided] } };
}

// The promise in words, as `fusiform predict` has them.
export function inWords({ rule, decided, ...promise }, texts, numbers) {
  const words = ofSet(promise, texts, numbers);
  if (rule === undefined) return words;
  return `${texts.promise.decided[rule](decided?.name ?? texts.promise.none)}; ${words}`;
}

function ofSet({ set, known }, { promise }, numbers) {
  const first = set[0].name; // the likeliest class, whatever was decided
  if (known === false) return promise.unknown(first);
  if (set.length === 1) return promise.sure(first);
  const names = set.map(({ name }) => name);
  if (names.length > NAMED + 1) names.splice(NAMED, names.length, promise.more(numbers.integer(names.length - NAMED)));
  return promise.unsure(names.slice(0, -1).join(promise.comma), names.at(-1));
}
