// The page's texts in all languages, and what it computes beside the worker; FUSIFORM_WEB is the folder of the modules.
// `numbers.json` in it has what Python says.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";

const folder = process.env.FUSIFORM_WEB;
const load = (name) => import(pathToFileURL(join(folder, name)));
const expected = JSON.parse(readFileSync(join(folder, "numbers.json"), "utf8"));
const { chooseLanguage, loadTexts } = await load("language.js");
const { makeNumbers, wilsonInterval } = await load("numbers.js");
const { networkName, toRecord } = await load("record.js");
const { distance, readValues, runGolden } = await load("golden.js");

const files = readdirSync(join(folder, "texts")).sort();
const codes = files.map((name) => name.replace(".js", ""));
const texts = Object.fromEntries(await Promise.all(codes.map(async (code) => (
  [code, (await load(`texts/${code}.js`)).TEXTS]
))));

// Keys with what stands there: "text", or a function's number of arguments.
function shapeOf(value) {
  if (typeof value === "string") return "text";
  if (typeof value === "function") return value.length;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, shapeOf(value[key])]));
}

// All texts, functions called with counts and letters.
function* textsOf(value, key = "") {
  if (typeof value === "string") yield [key, value];
  else if (typeof value === "function") {
    for (const count of [0, 1, 2, 5, 1000]) {
      const made = Array.from({ length: value.length }, (_, k) => `<${k}>`);
      const counts = /detected|segmented/.test(key) ? 1 : 0;
      if (/objects|detected|segmented|lead|images|passed/.test(key)) made[counts] = count;
      yield [`${key}(${count})`, value(...made), made.filter((each) => typeof each === "string")];
    }
  } else for (const [name, inside] of Object.entries(value)) yield* textsOf(inside, `${key}.${name}`);
}

test("there are five languages, with the same keys and functions", () => {
  assert.deepEqual(codes, ["de", "en", "es", "ko", "zh"]);
  for (const code of codes) assert.deepEqual(shapeOf(texts[code]), shapeOf(texts.en), code);
});

test("no text is empty or English by mistake, and each has what it is given", () => {
  const same = /^\.(failed|refused|classified|ready|taskNames|facts\.runtime$)/;
  for (const code of codes) {
    const english = new Map(textsOf(texts.en));
    for (const [key, text, given = []] of textsOf(texts[code])) {
      assert.equal(typeof text, "string", `${code}${key}`);
      assert.ok(text.trim() && !/undefined|NaN|\[object/.test(text), `${code}${key}: ${text}`);
      if (code !== "en" && !same.test(key) && /[a-z]{4}/.test(text)) assert.notEqual(text, english.get(key), `${code}${key}`);
      const passed = /undecodable/.test(key) ? given.slice(0, 1) : given;
      const none = /\(0\)$|\.passed\(1\)/.test(key);
      if (!none) for (const each of passed) assert.ok(text.includes(each), `${code}${key}: ${text} has no ${each}`);
    }
  }
});

test("plural forms go by the count", () => {
  const said = (code, count) => texts[code].objects(count, String(count));
  assert.deepEqual([0, 1, 2].map((k) => said("en", k)), ["no objects", "1 object", "2 objects"]);
  assert.deepEqual([0, 1, 2].map((k) => said("de", k)), ["keine Objekte", "1 Objekt", "2 Objekte"]);
  assert.deepEqual([0, 1, 2].map((k) => said("es", k)), ["ningún objeto", "1 objeto", "2 objetos"]);
  assert.deepEqual([0, 1, 2].map((k) => said("ko", k)), ["객체 없음", "객체 1개", "객체 2개"]);
  assert.deepEqual([0, 1, 2].map((k) => said("zh", k)), ["没有目标", "1 个目标", "2 个目标"]);
});

test("the language is the visitor's first that there is", async () => {
  const cases = [
    [[null, "ko-KR", "en"], "ko"], [["de", "ko"], "de"], [[undefined, "fr", "es-419"], "es"], [["xx", "ZH_TW"], "zh"],
    [["constructor", "tr"], "en"], [[null], "en"], [["en-GB", "de"], "en"],
  ];
  for (const [tags, code] of cases) assert.equal(chooseLanguage(tags), code, tags);
  for (const code of codes) assert.equal((await loadTexts(code)).texts, texts[code]);
  assert.equal((await loadTexts("zh")).tag, "zh-Hans");
});

test("numbers are written as the language writes them", () => {
  const written = (tag) => {
    const { percent, integer, decimal, milliseconds } = makeNumbers(tag);
    return [percent(0.12345), integer(12345), decimal(6.96), milliseconds(7.4)].map((text) => text.replace(/\s/g, " "));
  };
  assert.deepEqual(written("en"), ["12.3%", "12,345", "7.0", "7 ms"]);
  assert.deepEqual(written("de"), ["12,3 %", "12.345", "7,0", "7 ms"]);
  assert.deepEqual(written("ko").slice(0, 3), ["12.3%", "12,345", "7.0"]);
});

test("the interval of an accuracy is Python's", () => {
  for (const { share, count, low, high } of expected.intervals) {
    const found = wilsonInterval(share, count);
    assert.ok(Math.abs(found[0] - low) < 1e-12 && Math.abs(found[1] - high) < 1e-12, `${share} of ${count}`);
  }
});

test("networks are called as in Python", () => {
  for (const { spec, name } of expected.networks) assert.equal(networkName(spec), name);
});

test("records have the digits of Python's", () => {
  for (const { value, rounded } of expected.digits) {
    const { predictions: [{ top }] } = toRecord("a", { guesses: [{ index: 0, name: "b", probability: value }] }, {
      architecture: "mobilenet_v2", width: 1, task: "classification",
    });
    assert.equal(top[0].probability, rounded);
  }
});

test("distances are those of the rules", () => {
  assert.equal(distance([1, 2, 3], [1, 2, 5], "largest"), 2);
  assert.ok(Math.abs(distance([1, 2, 3], [1, 2, 6], "rms") - Math.sqrt(3)) < 1e-12);
  assert.equal(distance([0.1, 0.9], [0.1, 0.9], "log_rms"), 0);
  assert.ok(distance([0.2, 0.8, 0], [0.2, 0.8, 0.1], "log_rms") > 10);
  assert.ok(Math.abs(distance([0.1, 0.2], [0.2, 0.4], "log_rms")) < 1e-12); // less the mean of each
  for (const [a, b] of [[[1], [1, 2]], [[], []], [[NaN], [1]]]) assert.equal(distance(a, b, "largest"), Infinity);
});

test("a golden folder passes or fails by its worst case", async () => {
  const bytes = (...values) => Float32Array.from(values).buffer;
  const store = {
    "0_input": Uint8Array.of(1).buffer, "0_a": bytes(1, 2), "0_b": bytes(5),
    "1_input": Uint8Array.of(2).buffer, "1_a": bytes(1, 2.5), "1_b": bytes(5),
  };
  const cases = [0, 1].map((k) => ({
    input: { path: `${k}_input` }, outputs: [{ path: `${k}_a`, allowed: 0.1 + k }, { path: `${k}_b`, allowed: 0.25 }],
  }));
  const outputs = ["a", "b"].map((name) => ({ name, dtype: "float32", compare: "largest" }));
  const run = async (pixels) => [Float32Array.of(1, 2), Float32Array.of(pixels[0] === 2 ? 5.5 : 5)];
  const found = await runGolden({ input: { dtype: "uint8" }, outputs, cases }, async (path) => store[path], run);
  assert.deepEqual(found, {
    answers: [
      { name: "a", error: 0.5, allowed: 1.1, passed: true },
      { name: "b", error: 0.5, allowed: 0.25, passed: false },
    ],
    failed: 1,
    count: 2,
  });
  assert.deepEqual([...readValues(Uint8Array.of(0, 0, 128, 63).buffer, "float32")], [1]);
});
