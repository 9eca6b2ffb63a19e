// What the camera and videos need that is no page: `node --test` with FUSIFORM_WEB, the folder of the page's modules.
// test_web_live.py runs it.
import assert from "node:assert/strict";
import { join } from "node:path";
import { mock, test } from "node:test";
import { pathToFileURL } from "node:url";

const module = (name) => import(pathToFileURL(join(process.env.FUSIFORM_WEB, name)));
const { makeAnnouncer, mirrorBoxes, mirrorMask, oneAtATime, rateMeter } = await module("frames.js");
const { otherCamera, sayWhy } = await module("live.js");
const { clock, isVideo } = await module("video.js");
const { fitWithin } = await module("picture.js");

test("one frame at a time, the newest last, and none queues up", async () => {
  let [newest, running] = [0, 0];
  const answered = [];
  const finish = [];
  const ask = oneAtATime(async () => {
    assert.equal(++running, 1);
    answered.push(newest);
    await new Promise((resolve) => { finish.push(resolve); });
    running--;
  });
  const offer = (frame) => {
    newest = frame;
    return ask();
  };
  const first = offer(1);
  for (const frame of [2, 3, 4]) await offer(frame); // who comes meanwhile does not wait
  assert.deepEqual(answered, [1]);
  finish.shift()();
  await new Promise(setImmediate);
  assert.deepEqual(answered, [1, 4]);
  finish.shift()();
  await first;
  assert.deepEqual(answered, [1, 4]); // once, and not again for each
  const later = offer(5);
  assert.deepEqual(answered, [1, 4, 5]);
  finish.shift()();
  await later;
});

test("a frame that fails does not keep the next from its answer", async () => {
  const answers = [];
  const ask = oneAtATime(async () => {
    answers.push(answers.length);
    if (answers.length === 1) throw new Error("no answer");
  });
  await assert.rejects(ask(), /no answer/);
  await ask();
  assert.deepEqual(answers, [0, 1]);
});

test("the rate is that of the last two seconds", () => {
  const measure = rateMeter();
  assert.equal(measure(0), null);
  assert.equal(measure(100), 10);
  let rate;
  for (let time = 200; time <= 5000; time += 50) rate = measure(time);
  assert.equal(rate, 20);
  assert.equal(measure(9000), 0.25); // of the last two, however far apart
  assert.equal(measure(13_000), 0.25);
  const slow = rateMeter(100);
  slow(0);
  assert.equal(slow(4000), 0.25);
});

test("what changes is announced at most once in three seconds, and what is true then", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const said = [];
    const { tell, stop } = makeAnnouncer((text) => said.push(text));
    for (const text of ["cat", "cat", "dog", "cat", "hen"]) tell(text);
    assert.deepEqual(said, ["cat"]);
    mock.timers.tick(2999);
    assert.deepEqual(said, ["cat"]);
    mock.timers.tick(1);
    assert.deepEqual(said, ["cat", "hen"]);
    for (const text of ["cat", "hen"]) tell(text); // it was the other for a moment only
    mock.timers.tick(10_000);
    assert.deepEqual(said, ["cat", "hen"]);
    tell("dog"); // after a silence at once
    assert.deepEqual(said, ["cat", "hen", "dog"]);
    tell("cat");
    stop();
    mock.timers.tick(10_000);
    assert.deepEqual(said, ["cat", "hen", "dog"]);
  } finally {
    mock.timers.reset();
  }
});

test("boxes in a mirror", () => {
  const box = { index: 3, name: "cat", score: 0.5, left: 10, top: 20, right: 30, bottom: 40 };
  assert.deepEqual(mirrorBoxes([box], { width: 100, height: 50 }), [{ ...box, left: 70, right: 90 }]);
  assert.deepEqual(mirrorBoxes(mirrorBoxes([box], { width: 99.5 }), { width: 99.5 }), [box]);
});

test("masks in a mirror", () => {
  for (const Kind of [Uint8Array, Uint16Array]) {
    const mask = { classes: Kind.of(1, 2, 3, 4, 5, 6), width: 3, height: 2 };
    assert.deepEqual(mirrorMask(mask), { ...mask, classes: Kind.of(3, 2, 1, 6, 5, 4) });
    assert.deepEqual([...mask.classes], [1, 2, 3, 4, 5, 6]); // which stays as it was
  }
});

test("why there is no camera", () => {
  const texts = { denied: "denied", none: "none", busy: "busy", failed: (reason) => `failed: ${reason}` };
  const why = (name) => sayWhy(new DOMException("a reason", name), texts);
  assert.deepEqual(["NotAllowedError", "SecurityError"].map(why), ["denied", "denied"]);
  assert.deepEqual(["NotFoundError", "OverconstrainedError"].map(why), ["none", "none"]);
  assert.deepEqual(["NotReadableError", "AbortError"].map(why), ["busy", "busy"]);
  assert.equal(why("TypeError"), "failed: a reason");
  assert.equal(why("toString"), "failed: a reason");
});

test("the other camera is the one that looks the other way, or the next", () => {
  const cameras = ["a", "b", "c"].map((deviceId) => ({ deviceId }));
  const other = (settings) => otherCamera(settings, cameras);
  assert.deepEqual(other({ facingMode: "environment", deviceId: "a" }), { facingMode: { ideal: "user" } });
  assert.deepEqual(other({ facingMode: "user", deviceId: "a" }), { facingMode: { ideal: "environment" } });
  assert.deepEqual(other({ deviceId: "a" }), { deviceId: { exact: "b" } });
  assert.deepEqual(other({ deviceId: "c" }), { deviceId: { exact: "a" } });
  assert.deepEqual(other({ deviceId: "gone" }), { deviceId: { exact: "a" } });
});

test("what is a video", () => {
  for (const [type, name] of [["video/mp4", "a"], ["video/x-unheard-of", "a.jpg"], ["", "a.MKV"], ["", "a.b.mov"]]) {
    assert.ok(isVideo({ type, name }), name);
  }
  for (const [type, name] of [["image/gif", "a.gif"], ["image/png", "a.mp4"], ["", "mp4"], ["", "a.mp4.jpg"]]) {
    assert.ok(!isVideo({ type, name }), name);
  }
  assert.ok(!isVideo({ type: "" }));
});

test("a time in a video", () => {
  assert.deepEqual([0, 1.5, 59.96, 83.25, 3723].map(clock), ["0:00.0", "0:01.5", "1:00.0", "1:23.3", "62:03.0"]);
});

test("a picture within a square", () => {
  assert.deepEqual(fitWithin({ width: 1280, height: 720 }, 800), { width: 800, height: 450 });
  assert.deepEqual(fitWithin({ width: 720, height: 1280 }, 800), { width: 450, height: 800 });
  assert.deepEqual(fitWithin({ width: 640, height: 480 }, 800), { width: 640, height: 480 }); // never larger
  assert.deepEqual(fitWithin({ width: 20_000, height: 3 }, 800), { width: 800, height: 1 });
});
