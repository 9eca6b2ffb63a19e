// All the work, off the page's own thread: fetching, decoding, resizing, the network, and what its answers mean.
//
// The page sends { id, kind: "open" } once, then { id, kind: "answer", source } with a file, an ImageBitmap or a video's
// frame. Each gets { id, value } or { id, error }; between them { id, progress: { name, loaded, total } } may come, in
// bytes, `total` 0 where the server does not say it. The messages are answered in their order. With `longest`, a frame is
// answered for the size at which it is shown, at most so many pixels long, and comes back as it is for its preview:
// moving pictures have no time for more.

let opened;
let hashes = {}; // of the files that are kept until they change

// A file of this folder; a sentence where there is none.
async function get(name) {
  let response;
  try {
    response = await fetch(name in hashes ? `${name}?sha256=${hashes[name]}` : name);
  } catch {
    throw new Error(`${name} cannot be fetched: is this device offline?`);
  }
  if (!response.ok) throw new Error(`${name}: the server answers ${response.status} ${response.statusText}`);
  return response;
}

async function getBytes(name, say) {
  const response = await get(name);
  const total = Number(response.headers.get("content-length") ?? 0);
  const chunks = [];
  let loaded = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    chunks.push(part.value);
    loaded += part.value.length;
    say({ name, loaded, total });
  }
  const bytes = new Uint8Array(loaded);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

async function open(_, say) {
  const started = performance.now();
  const [{ loadRuntime }, picture, network, { TASKS }] = await Promise.all(
    ["./litert.js", "./picture.js", "./network.js", "./tasks.js"].map((name) => import(name)),
  );
  const description = await (await get("model.json")).json();
  const { spec } = description;
  hashes = description.sha256;
  const [bytes, openNetwork] = await Promise.all([getBytes(description.model, say), loadRuntime(get)]);
  const run = await openNetwork(bytes);
  const side = spec.preprocess.crop;
  const ask = async (pixels) => {
    const values = await run(pixels, [1, side, side, 3]);
    return Object.fromEntries(description.answers.map((name, k) => [name, values[k]]));
  };
  await ask(new Uint8Array(side * side * 3)); // the first run of all takes several times as long
  opened = { ...picture, ...network, decode: TASKS[spec.task], spec, ask };
  return { value: { description, milliseconds: performance.now() - started } };
}

async function answer({ source, longest }) {
  const { decodePicture, fitWithin, makePreview, readStrips, startCrop, decode, spec, ask } = opened;
  const times = [performance.now()];
  const lap = () => times.push(performance.now());
  let bitmap;
  try {
    bitmap = await decodePicture(source);
  } catch (error) {
    throw Object.assign(new Error(error.message.replace(/\.$/, "")), { reason: "undecodable" });
  }
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
  const preview = longest ? bitmap : await makePreview(bitmap, full);
  if (preview !== bitmap) bitmap.close();
  lap();
  const [decoding, prepare, network, finish] = times.slice(1).map((time, k) => time - times[k]);
  const milliseconds = { decode: decoding, prepare, network, finish };
  const value = { ...result, size, region: crop.region, pixels, preview, milliseconds };
  return { value, transfer: [...transfer, preview] };
}

const KINDS = { open, answer };
let last = Promise.resolve();

self.addEventListener("message", ({ data }) => {
  const { id } = data;
  last = last
    .then(() => KINDS[data.kind](data, (progress) => self.postMessage({ id, progress })))
    .then(({ value, transfer = [] }) => self.postMessage({ id, value }, transfer))
    .catch((error) => self.postMessage({ id, error: { message: error.message, reason: error.reason ?? "failed" } }));
});
