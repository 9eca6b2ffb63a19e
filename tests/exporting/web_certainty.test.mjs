// What the page says of a calibrated classifier's answers, against what Python says: FUSIFORM_WEB is the folder of the
// page's modules and of certainty.json.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";

const folder = process.env.FUSIFORM_WEB;
const load = (name) => import(pathToFileURL(join(folder, name)));
const { decide, inSet, keepPromise, mostShare, openDetector, pValue, threshold } = await load("certainty.js");
const { TASKS } = await load("tasks.js");
const { inWords } = await load("promise.js");
const { makeNumbers } = await load("numbers.js");
const { TEXTS } = await load("texts/en.js");
const { tables, sets, detectors, answers, words, decisions } = JSON.parse(readFileSync(join(folder, "certainty.json"), "utf8"));

test("tables have Python's thresholds and p-values", () => {
  for (const { table, thresholds, values } of tables) {
    for (const { share, expected } of thresholds) assert.equal(threshold(table, share), expected, `${table.count}, ${share}`);
    for (const { score, expected } of values) assert.equal(pValue(table, score), expected, `${table.count}, ${score}`);
  }
});

test("sets are Python's", () => {
  for (const { name, sets: made, share, probabilities, expected, most } of sets) {
    assert.equal(mostShare(made), most);
    probabilities.forEach((row, k) => assert.deepEqual(inSet(Float64Array.from(row), made, share), expected[k], name));
  }
});

test("detectors score as Python's", () => {
  for (const { unknown, features, expected } of detectors) {
    const detect = openDetector(unknown);
    features.forEach((row, k) => {
      const { strangeness: found } = detect(Float32Array.from(row));
      const kinds = unknown.parts.map(({ evidence }) => evidence).join();
      // In standard deviations of the calibration, which for some evidence are small beside what is subtracted.
      const allowed = 2e-3 + 2e-4 * Math.abs(expected[k]);
      assert.ok(Math.abs(found - expected[k]) <= allowed, `${kinds}: ${found}, ${expected[k]}`);
    });
  }
});

test("the network's answers are decoded with their promise", () => {
  for (const { spec, logits, features, share, set, known, p_known } of answers) {
    const given = { logits: Float32Array.from(logits), ...(features && { features: Float32Array.from(features) }) };
    const { guesses, evidence } = TASKS.classification(given, spec);
    if (!spec.certainty) {
      assert.equal(evidence, undefined);
      continue;
    }
    const found = keepPromise(evidence, spec.certainty, share);
    assert.deepEqual([found.set, found.known, evidence.pKnown], [set.map(({ index }) => index), known, p_known]);
    assert.equal(guesses[0].index, found.set[0]);
    assert.equal(evidence.decided, undefined);
    for (const { index, probability } of set) assert.ok(Math.abs(evidence.probabilities[index] - probability) < 1e-12);
  }
});

test("rules decide as in Python", () => {
  for (const { name, decision, probabilities, expected } of decisions) {
    const found = probabilities.map((row) => decide(Float64Array.from(row), decision));
    assert.deepEqual(found, expected, name);
  }
});

test("promises are said in Python's words", () => {
  for (const { names, said, ...promise } of words) {
    const set = names.map((name, index) => ({ index, name }));
    assert.equal(inWords({ set, ...promise }, TEXTS, makeNumbers("en")), said);
  }
});
