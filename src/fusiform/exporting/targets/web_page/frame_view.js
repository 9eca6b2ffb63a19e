// Where a moving picture is shown: each answered frame with its own answer drawn on it, so that the two belong
// together, and what was seen in it in a table.

import { shadeOutside } from "./answers.js";
import { cssColour } from "./colours.js";
import { drawBoxes, drawMask } from "./draw.js";
import { makeAnnouncer, mirrorBoxes, mirrorMask, oneAtATime, rateMeter } from "./frames.js";
import { make } from "./page.js";
import { inWords, listenToPromise, promiseOf } from "./promise.js";

const LONGEST = 800; // pixels of a frame that is drawn on; a mask takes its time by them
const LETTERS = 14; // pixels of the screen that letters on a frame are high
const ROWS = 5; // a table that grows and shrinks is not read

// How an answer is drawn on its frame, and the rows of the table: { index, name, share } each.
const SHOW = {
  classification: {
    draw: (context, { size }, { preprocess }) => shadeOutside(context, size, preprocess),
    rows: ({ guesses }) => guesses.map(({ probability, ...guess }) => ({ ...guess, share: probability })),
  },
  detection: {
    draw: (context, { boxes, size }, { mirrored, textSize }) => {
      drawBoxes(context, mirrored ? mirrorBoxes(boxes, size) : boxes, size, { textSize });
    },
    rows: ({ boxes }) => boxes.map(({ index, name, score }) => ({ index, name, share: score })),
  },
  segmentation: {
    draw: (context, { mask }, { mirrored }) => drawMask(context, mirrored ? mirrorMask(mask) : mask),
    rows: ({ shares }) => shares,
  },
};

// Calls `on` for each new frame of a video, while playing and after seeking, until the signal aborts.
function watch(video, on, signal) {
  // The first frame of all may be there before the video says that it has any.
  for (const event of ["loadeddata", "seeked"]) video.addEventListener(event, on, { signal });
  if (video.requestVideoFrameCallback) {
    const next = () => video.requestVideoFrameCallback(() => {
      if (signal.aborted) return;
      on();
      next();
    });
    next();
    return;
  }
  let shown = null;
  const look = () => {
    if (signal.aborted) return;
    // While it seeks, the time is the new one and the frame the old one.
    if (!video.seeking && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA && video.currentTime !== shown) {
      shown = video.currentTime;
      on();
    }
    requestAnimationFrame(look);
  };
  look();
}

// Shows a video element in `container` and answers its frames until `close`. `buttons` stand below the picture;
// `mirrored()` says whether it is shown as in a mirror, and `fail(error)` is told what the worker cannot answer.
// `takeFrame` hands over { frame, time }: the frame that is shown, as large as it came, or null where none is yet, and
// its time in seconds.
export function openView(container, video, model, { buttons, mirrored = () => false, fail }) {
  const { ask, description: { spec }, texts, numbers } = model;
  const { draw, rows } = SHOW[spec.task];
  const stopped = new AbortController();
  const canvas = make("canvas", { hidden: true });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", texts.live.seen[spec.task]);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: spec.task === "segmentation" });
  const rate = make("p", { className: "rate" });
  const body = make("tbody");
  const stage = make("div", { className: video.controls ? "stage controlled" : "stage" }, video, canvas, rate);
  const { caption, label, value: column } = texts.tasks[spec.task];
  const headings = [label, column].map((text) => make("th", { scope: "col", textContent: text }));
  const heard = make("p", { className: "heard" });
  heard.setAttribute("role", "status");
  const head = make("thead", {}, make("tr", {}, ...headings));
  const table = make("table", {}, make("caption", { textContent: caption }), head, body);
  const promised = make("p", { className: "promised", hidden: true });
  container.replaceChildren(
    make("div", {}, stage, make("p", { className: "buttons" }, ...buttons)),
    make("div", {}, promised, table, heard),
  );
  container.hidden = false;
  const announcer = makeAnnouncer((text) => { heard.textContent = text; });
  const measure = rateMeter();
  let [frame, time] = [null, 0];
  let newest = null; // what was answered for the frame

  // What the newest frame shows, in words.
  function sayWhat(answer, seen) {
    const promise = promiseOf(answer, spec);
    if (!promise) return seen[0]?.name ?? texts.objects(0, numbers.integer(0));
    promised.textContent = inWords(promise, texts, numbers);
    promised.hidden = false;
    return promised.textContent;
  }

  function show(answer) {
    const { preview, size: { width, height } } = answer;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    stage.style.setProperty("--aspect", width / height);
    canvas.hidden = false;
    const mirror = mirrored();
    context.setTransform(mirror ? -1 : 1, 0, 0, 1, mirror ? width : 0, 0);
    context.drawImage(preview, 0, 0, width, height);
    context.resetTransform();
    const scale = Math.min(canvas.clientWidth / width, canvas.clientHeight / height) || 1;
    const textSize = Math.max(12, Math.round(LETTERS / scale));
    draw(context, answer, { mirrored: mirror, textSize, preprocess: spec.preprocess });
    const seen = rows(answer).slice(0, ROWS);
    body.replaceChildren(...seen.map(({ index, name, share }) => {
      const value = make("td", { textContent: numbers.percent(share) });
      const row = make("tr", {}, make("th", { scope: "row", textContent: name }), value);
      row.style.setProperty("--share", share);
      // A classifier's classes have no colours, nor has a mask's background.
      const coloured = spec.task === "detection" || (spec.task === "segmentation" && index !== 0);
      if (coloured) row.style.setProperty("--bar", cssColour(index));
      return row;
    }));
    announcer.tell(sayWhat(answer, seen));
    const frames = measure(performance.now());
    rate.textContent = frames === null || video.paused ? "" : texts.live.rate(numbers.decimal(frames));
  }

  const answerNewest = oneAtATime(async () => {
    if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA) return; // none yet, or not of another camera
    try {
      const at = video.currentTime;
      const source = await createImageBitmap(video);
      const shown = Math.max(stage.clientWidth, stage.clientHeight) * devicePixelRatio;
      const longest = Math.max(1, Math.min(LONGEST, Math.round(shown)));
      const value = await ask("answer", { source, longest }, undefined, [source]);
      if (stopped.signal.aborted) {
        value.preview.close();
        return;
      }
      frame?.close();
      [frame, time, newest] = [value.preview, at, value];
      show(value);
    } catch (error) {
      if (!stopped.signal.aborted) fail(error);
    }
  });
  watch(video, answerNewest, stopped.signal);
  // A video that is paused brings no other frame.
  listenToPromise(() => { if (frame) show(newest); }, { signal: stopped.signal });

  return {
    takeFrame() {
      const taken = { frame, time };
      frame = null;
      return taken;
    },
    close() {
      stopped.abort();
      announcer.stop();
      frame?.close();
      container.hidden = true;
      container.replaceChildren();
    },
  };
}
