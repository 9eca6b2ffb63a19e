// The page's sketches against Python's: FUSIFORM_WEB is the folder of the page's modules and of sketch.json, and gets the
// file that Python reads afterwards.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";

const folder = process.env.FUSIFORM_WEB;
const load = (name) => import(pathToFileURL(join(folder, name)));
const { EMPTY, fromText, keep, look, toFile, toHalf, toRow, toText } = await load("sketch.js");
const { TASKS } = await load("tasks.js");
const { halves, photographs, stream, rows, mark } = JSON.parse(readFileSync(join(folder, "sketch.json"), "utf8"));

// How many numbers of two bytes lie between two.
const place = (bits) => (bits & 0x8000 ? -(bits & 0x7fff) : bits);
const apart = (a, b) => Math.abs(place(a) - place(b));
const valueOf = (bits) => {
  const size = (bits & 0x7fff) < 1024 ? bits & 0x7fff : ((bits & 1023) + 1024) * 2 ** (((bits >> 10) & 31) - 1);
  return (bits & 0x8000 ? -size : size) * 2 ** -24;
};

test("numbers are rounded to half precision as numpy rounds", () => {
  for (const { value, bits } of halves) assert.equal(toHalf(value), bits, String(value));
});

test("rows are Python's", () => {
  let steps = 0;
  for (const { spec, pixels, size, logits, features, row } of photographs) {
    const { evidence } = TASKS.classification({ logits: Float32Array.from(logits), features: Float32Array.from(features) }, spec);
    const found = toRow(look(Uint8Array.from(Buffer.from(pixels, "base64")), size, spec.preprocess), evidence);
    assert.equal(found.length, row.length);
    row.forEach((bits, k) => {
      // A step where both lie on two sides of a middle; small numbers are what is left of large single ones.
      const far = apart(found[k], bits) > 1 && Math.abs(valueOf(found[k]) - valueOf(bits)) > 1e-4;
      assert.ok(!far, `number ${k}: ${valueOf(found[k])}, ${valueOf(bits)}`);
      steps += Number(found[k] !== bits);
    });
  }
  assert.ok(steps < 0.02 * photographs.length * photographs[0].row.length, `${steps} numbers differ`);
});

test("of many photographs the same are kept", () => {
  const draws = stream.draws[Symbol.iterator]();
  let sketch = EMPTY;
  for (let k = 0; k < stream.images; k++) {
    sketch = keep(sketch, Uint16Array.of(k), () => draws.next().value);
    const expected = stream.checkpoints[String(k + 1)];
    if (!expected) continue;
    assert.deepEqual([sketch.images, sketch.every, sketch.rows.map(([number]) => number)], [k + 1, ...expected]);
  }
  assert.equal(draws.next().value, undefined);
  assert.deepEqual(EMPTY, { images: 0, every: 1, rows: [] });
});

const sketch = { images: rows.length + 7, every: 2, rows: rows.map((row) => Uint16Array.from(row)) };

test("the file is written for Python", async () => {
  writeFileSync(join(folder, "kept.json"), await toFile(sketch, mark));
  writeFileSync(join(folder, "empty.json"), await toFile(EMPTY, mark));
});

test("what is stored comes back, and damaged text does not", () => {
  assert.deepEqual(fromText(toText({ on: true, ...sketch })), { on: true, ...sketch });
  assert.deepEqual(fromText(toText(EMPTY)), EMPTY);
  const stored = JSON.parse(toText(sketch));
  const damaged = [{ rows: stored.rows.slice(8) }, { rows: "!" }, { images: 3 }, { images: "many" }, { every: 3 }, { every: 0 }];
  const texts = damaged.map((change) => JSON.stringify({ ...stored, ...change }));
  for (const text of [null, "", "{", "null", "[]", ...texts]) assert.equal(fromText(text), null, text);
});
