// All the work, off the page's own thread: fetching, decoding, resizing, the network, and what its answers mean.
//
// The page sends { id, kind: "open" } once, then { id, kind: "answer", source } with a file, an ImageBitmap or a video's
// frame; or "draw" with a source and what was found in it, or "run" with a network's input. Each gets { id, value } or { id, error }; between them { id, progress: { name, loaded, total } } may come, in
// bytes, `total` 0 where the server does not say it. The messages are answered in their order.

let opened;
let hashes = {}; // of the files that are kept until they change

// An error with the reason that the page has a sentence for, and what that sentence names.
const fault = (reason, named, message = reason) => Object.assign(new Error(message), { reason, ...named });

// A file of this folder.
async function get(name) {
  let response;
  try {
    response = await fetch(name in hashes ? `${name}?sha256=${hashes[name]}` : name);
  } catch {
    throw fault("unreachable", { file: name });
  }
  if (!response.ok) throw fault("refused", { file: name, status: `${response.status} ${response.statusText}`.trim() });
  return response;
}

// The same, telling how much of it has come.
async function getCounted(name, say) {
  const response = await get(name);
  const total = Number(response.headers.get("content-length") ?? 0);
  let loaded = 0;
  const counted = new TransformStream({
    transform(chunk, controller) {
      loaded += chunk.length;
      say({ name, loaded, total });
      controller.enqueue(chunk);
    },
  });
  return new Response(response.body.pipeThrough(counted));
}

async function open(_, say) {
  const started = performance.now();
  const [{ loadRuntime }, picture, network, { TASKS }] = await Promise.all(
    ["./litert.js", "./picture.js", "./network.js", "./tasks.js"].map((name) => import(name)),
  );
  const description = await (await get("model.json")).json();
  const { spec } = description;
  hashes = description.sha256;
  const counted = (name) => getCounted(name, say);
  const [buffer, openNetwork] = await Promise.all([
    counted(description.model).then((response) => response.arrayBuffer()),
    loadRuntime(counted),
  ]);
  const bytes = new Uint8Array(buffer);
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

async function answer({ source }) {
  const { decodePicture, makePreview, readStrips, startCrop, decode, spec, ask } = opened;
  const times = [performance.now()];
  const lap = () => times.push(performance.now());
  let bitmap;
  try {
    bitmap = await decodePicture(source);
  } catch (error) {
    throw fault("undecodable", {}, error.message.replace(/\.$/, ""));
  }
  const size = { width: bitmap.displayWidth ?? bitmap.width, height: bitmap.displayHeight ?? bitmap.height };
  lap();
  const crop = startCrop(size.width, size.height, spec.preprocess);
  readStrips(bitmap, crop.region, crop.take);
  const pixels = crop.finish();
  lap();
  const answers = await ask(pixels);
  lap();
  const { transfer = [], ...result } = decode(answers, spec, size);
  const preview = await makePreview(bitmap, size);
  bitmap.close();
  lap();
  const [decoding, prepare, network, finish] = times.slice(1).map((time, k) => time - times[k]);
  const value = { ...result, size, pixels, preview, milliseconds: { decode: decoding, prepare, network, finish } };
  return { value, transfer: [...transfer, preview] };
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

const KINDS = { open, answer, run, draw };
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
