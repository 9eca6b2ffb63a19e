// The page: a photograph in, what is seen in it out. The work is the worker's; what each part of the page does is in a
// module of its own.

import { showAnswer } from "./answers.js";
import { catchDrops, listen } from "./choose.js";
import { startKeeping, startWorker } from "./client.js";
import { showFacts } from "./facts.js";
import { chooseLanguage, loadTexts } from "./language.js";
import { prepareMoving } from "./moving.js";
import { makeNumbers } from "./numbers.js";
import { element, put, say, setState } from "./page.js";
import { listenToPromise, offerPromise } from "./promise.js";
import { listenToSaving, offer } from "./saving.js";
import { offerSelfTest } from "./selftest.js";
import { offerSketch } from "./sketching.js";
import { isVideo } from "./video.js";

catchDrops();
const wanted = new URLSearchParams(location.search).get("lang");
const { texts, tag } = await loadTexts(chooseLanguage([wanted, ...(navigator.languages ?? [])]));
const numbers = makeNumbers(tag);

const OF_PICTURES = ["unreadable", "empty", "notPicture", "cutShort", "damaged", "tooLarge"];

// A sentence for what went wrong, by the reason that the worker gives.
function explain(error, name) {
  const { reason, message, file, status } = error;
  if (OF_PICTURES.includes(reason)) return texts[reason](name);
  if (reason === "undecodable") return texts.undecodable(name, message);
  if (reason === "unreachable" || reason === "otherFile") return texts[reason](file);
  if (reason === "refused") return texts.refused(file, status);
  return name === undefined ? message : texts.failed(name, message);
}

function showTimes(milliseconds) {
  const { decode, prepare, network, finish } = milliseconds;
  element("times").textContent = texts.times(...[decode, prepare, network, finish].map(numbers.milliseconds));
}

let turn = 0; // of the answer that the page is to show
let again = null; // shows the answer that is shown once more, for another promise

async function answer(name, given, model) {
  const mine = ++turn;
  setState("looking");
  say(texts.looking(name));
  try {
    const sample = typeof given === "function";
    const source = sample ? await given() : given;
    const sketched = !sample && model.sketch.wanted(); // samples are the page's, and not what is seen where it is used
    const value = await model.ask("answer", { source, sketched });
    if (sketched) model.sketch.add(value.row);
    if (mine !== turn) { // the camera has been started since
      value.preview.close();
      return;
    }
    const sentence = await showAnswer(name, value, model);
    if (mine !== turn) return;
    offer({ name, source, value });
    again = async () => say(await showAnswer(name, value, model));
    showTimes(value.milliseconds);
    element("answer").hidden = false;
    element("choose").textContent = texts.another;
    setState("answered");
    say(sentence);
  } catch (error) {
    element("answer").hidden = true;
    setState("failed");
    say(explain(error, name), { error: true });
  }
}

// How much of the model and its runtime has come, together.
function makeProgress() {
  const files = new Map();
  return ({ name, loaded, total }) => {
    files.set(name, { loaded: Math.min(loaded, total || loaded), total });
    const known = [...files.values()];
    const all = known.reduce((sum, file) => sum + file.total, 0);
    const here = known.reduce((sum, file) => sum + file.loaded, 0);
    const bar = element("progress");
    if (known.some((file) => !file.total)) {
      bar.removeAttribute("value");
    } else {
      bar.value = here / all;
      say(texts.loadingBytes(numbers.decimal(here / 1e6), numbers.decimal(all / 1e6)));
    }
  };
}

function showTexts(task, count) {
  const { lead, seen, hint, ...table } = texts.tasks[task];
  put({ ...table, lead: lead(count, numbers.integer(count)), "hint-rows": hint });
  element("seen").setAttribute("aria-label", seen);
}

document.documentElement.lang = tag;
document.title = texts.title;
put({ title: texts.title, choose: texts.choose, hint: texts.drop, about: texts.privacy, offline: texts.offline });
put({ "samples-title": texts.samples, "facts-title": texts.facts.about, copy: texts.copy, save: texts.save });
element("progress").setAttribute("aria-label", texts.loading);
element("progress").hidden = false;
setState("loading");
say(texts.loading);

try {
  if (!globalThis.DecompressionStream || !globalThis.OffscreenCanvas) throw new Error(texts.unsupported);
  await startKeeping((kept) => { element("offline").hidden = !kept; });
  const ask = startWorker();
  const opened = await ask("open", {}, makeProgress());
  const { description } = opened;
  const model = { ask, description, texts, numbers, sketch: offerSketch({ description, texts, numbers }) };
  showTexts(description.spec.task, description.spec.labels.length);
  showFacts(opened, texts, numbers);
  offerPromise(model);
  listenToPromise(() => { if (document.body.dataset.state === "answered") again(); });
  listenToSaving(model, texts, numbers);
  offerSelfTest(model, texts, numbers);
  const moving = prepareMoving(model, {
    hide: () => {
      turn++;
      element("answer").hidden = true;
    },
    take: (frame, name) => answer(name, frame, model),
  });
  const take = (source, name) => {
    if (isVideo(source)) return moving.play(source);
    moving.close();
    return answer(name, source, model);
  };
  listen(take, description.samples ?? [], texts);
  setState("ready");
  say(texts.ready);
} catch (error) {
  setState("failed");
  say(explain(error), { error: true });
} finally {
  element("progress").hidden = true;
}
