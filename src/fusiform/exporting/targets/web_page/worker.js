// All the work, off the page's own thread: fetching, decoding, resizing, the network, and what its answers mean.
//
// The page sends { id, kind: "open" } once, then { id, kind: "answer", source } with a file, an ImageBitmap or a video's
// frame; or "draw" with a source and what was found in it, "tint" with a small picture and its mask, or "run" with a
// network's input. Each gets { id, value } or { id, error: { message, reason, file, status } }; between them
// { id, progress: { name, loaded, total } } may come for each large file, in bytes, `total` 0 where the server does not
// say it. The messages are answered in their order. After an `open` that failed another may be sent. With `longest`, a
// frame is answered for the size at which it is shown, at most so many pixels long, and comes back as it is for its
// preview: moving pictures have no time for more. With `sketched`, the value has the photograph's `row` for a sketch.

let opened;
let hashes = {}; // of the files that are kept until they change

// What went wrong on the way here. The page says it in its own language by the `reason`, with `file` and `status`.
function failure(reason, message, more = {}) {
  return Object.assign(new Error(message), { reason, ...more });
}

// A file of this folder; a sentence where there is none. With `cache` "reload" from the server alone.
async function get(name, cache = "default") {
  let response;
  try {
    response = await fetch(name in hashes ? `${name}?sha256=${hashes[name]}` : name, { cache });
  } catch {
    throw failure("unreachable", `${name} cannot be fetched: is this device offline? Load the page again when it is not.`,
      { file: name });
  }
  if (!response.ok) {
    const status = `${response.status} ${response.statusText}`.trim();
    throw failure("refused", `${name}: the server answers ${status}`, { file: name, status });
  }
  return response;
}

// The bytes of a file, whole, and those that were exported; fetched a second time, past all caches, where they are not:
// downloads break off, and networks that want a password answer with a page of theirs.
async function getBytes(name, say) {
  for (const cache of ["default", "reload"]) {
    const response = await get(name, cache);
    const packed = response.headers.has("content-encoding"); // then the bytes are others than those that are counted
    const total = packed ? 0 : Number(response.headers.get("content-length") ?? 0);
    const bytes = await readBytes(response, (loaded) => say({ name, loaded, total }));
    if (bytes && ((packed && name.endsWith(".gz")) || await isExported(name, bytes))) return bytes;
  }
  throw failure("otherFile", `${name} comes incomplete or changed from the server: load the page again`, { file: name });
}

// All that a response brings, or null where it breaks off.
async function readBytes(response, say) {
  const chunks = [];
  let loaded = 0;
  try {
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      chunks.push(part.value);
      loaded += part.value.length;
      say(loaded);
    }
  } catch {
    return null;
  }
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

// Whether a file has the hash that the page's description gives. Addresses without https have no way to tell.
async function isExported(name, bytes) {
  if (!(name in hashes) || !crypto.subtle) return bytes.length > 0;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === hashes[name];
}

async function getDescription() {
  const name = "model.json";
  const response = await get(name);
  try {
    const description = await response.json();
    if (description.spec && description.model) return description;
  } catch {} // no JSON, or none that ends
  throw failure("otherFile", `${name} comes incomplete or changed from the server: load the page again`, { file: name });
}

async function open(_, say) {
  const started = performance.now();
  const names = ["./litert.js", "./picture.js", "./network.js", "./tasks.js"];
  const [{ loadRuntime }, picture, network, { TASKS }] = await Promise.all(names.map((name) => import(name))).catch(() => {
    throw failure("unreachable", "the page's scripts cannot be fetched: load the page again", { file: "*.js" });
  });
  const description = await getDescription();
  const { spec } = description;
  hashes = description.sha256;
  const fetched = async (name) => new Response(await getBytes(name, say));
  const [bytes, openNetwork] = await Promise.all([getBytes(description.model, say), loadRuntime(fetched)]);
  const run = await openNetwork(bytes);
  const side = spec.preprocess.crop;
  const ask = async (pixels) => {
    const values = await run(pixels, [1, side, side, 3]);
    return Object.fromEntries(description.answers.map((name, k) => [name, values[k]]));
  };
  await ask(new Uint8Array(side * side * 3)); // the first run of all takes several times as long
  opened = { ...picture, ...network, decode: TASKS[spec.task], spec, ask };
  return { value: { description, bytes: bytes.length, milliseconds: performance.now() - started } };
}

async function answer({ source, longest, sketched }) {
  const started = performance.now();
  const bitmap = await opened.decodePicture(source);
  try {
    return await answerBitmap(bitmap, started, longest, sketched);
  } catch (error) {
    bitmap.close(); // it may hold a hundred megabytes, or keep a camera waiting
    throw error;
  }
}

async function answerBitmap(bitmap, started, longest, sketched) {
  const { fitWithin, makePreview, readStrips, startCrop, decode, spec, ask } = opened;
  const times = [started];
  const lap = () => times.push(performance.now());
  const full = { width: bitmap.displayWidth ?? bitmap.width, height: bitmap.displayHeight ?? bitmap.height };
  lap();
  const crop = startCrop(full.width, full.height, spec.preprocess);
  readStrips(bitmap, crop.region, crop.take);
  const pixels = crop.finish();
  lap();
  const answers = await ask(pixels);
  lap();
  const size = longest ? fitWithin(full, longest) : full;
  const { transfer = [], ...result } = decode(answers, spec, size);
  if (sketched) result.row = await toRow(pixels, full, result.evidence);
  const preview = longest ? bitmap : await makePreview(bitmap, full);
  if (preview !== bitmap) bitmap.close();
  lap();
  const [decoding, prepare, network, finish] = times.slice(1).map((time, k) => time - times[k]);
  const value = { ...result, size, pixels, preview, milliseconds: { decode: decoding, prepare, network, finish } };
  return { value, transfer: [...transfer, preview] };
}

// What a sketch keeps of a photograph.
async function toRow(pixels, size, evidence) {
  const sketch = await import("./sketch.js");
  return sketch.toRow(sketch.look(pixels, size, opened.spec.preprocess), evidence);
}

// The answers of the network itself to an input: of golden folders.
async function run({ pixels }) {
  return { value: await opened.ask(pixels) };
}

// The picture with its boxes or its mask, as a PNG: at its own size, or at the largest at which this browser draws.
async function draw({ source, boxes, mask }) {
  const { drawBoxes, drawMask } = await import("./draw.js");
  const bitmap = await opened.decodePicture(source);
  const size = { width: bitmap.displayWidth ?? bitmap.width, height: bitmap.displayHeight ?? bitmap.height };
  for (let scale = 1; ; scale *= 0.75) {
    const [width, height] = [size.width, size.height].map((length) => Math.max(1, Math.round(length * scale)));
    try {
      const canvas = new OffscreenCanvas(width, height);
      const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
      context.fillStyle = "white";
      context.fillRect(0, 0, width, height);
      // What is too large stays black in some browsers, without a word.
      if (context.getImageData(width - 1, height - 1, 1, 1).data[0] !== 255) throw new RangeError("too large");
      context.imageSmoothingQuality = "high";
      context.drawImage(bitmap, 0, 0, width, height);
      if (boxes) drawBoxes(context, boxes, size);
      if (mask) drawMask(context, mask);
      const blob = await canvas.convertToBlob({ type: "image/png" });
      bitmap.close();
      return { value: { blob, width, height } };
    } catch (error) {
      if (scale < 0.05) throw error;
    }
  }
}

// A picture, which is small enough for the page, tinted by a mask: a bitmap.
async function tint({ preview, mask }) {
  const { drawMask } = await import("./draw.js");
  const canvas = new OffscreenCanvas(preview.width, preview.height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.drawImage(preview, 0, 0);
  preview.close();
  drawMask(context, mask);
  const tinted = canvas.transferToImageBitmap();
  return { value: tinted, transfer: [tinted] };
}

const KINDS = { open, answer, run, draw, tint };
let last = Promise.resolve();

self.addEventListener("message", ({ data }) => {
  const { id } = data;
  last = last
    .then(() => KINDS[data.kind](data, (progress) => self.postMessage({ id, progress })))
    .then(({ value, transfer = [] }) => self.postMessage({ id, value }, transfer))
    .catch(({ message, reason = "failed", file, status }) => {
      self.postMessage({ id, error: { message, reason, file, status } });
    });
});
