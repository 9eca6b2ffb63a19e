// The page that benchmarks/web.py measures with: the worker of an exported page as it is, and one for onnxruntime-web.

function open(script) {
  const worker = new Worker(script);
  const waiting = new Map();
  let sent = 0;
  worker.addEventListener("message", ({ data: { id, value, error, progress } }) => {
    if (progress) return;
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error.message));
    else resolve(value);
  });
  worker.addEventListener("error", ({ message }) => {
    for (const { reject } of waiting.values()) reject(new Error(message));
  });
  return (kind, message = {}) => new Promise((resolve, reject) => {
    waiting.set(++sent, { resolve, reject });
    worker.postMessage({ ...message, kind, id: sent });
  });
}

const workers = {};

async function start(name, script, message) {
  workers[name] = open(script);
  await workers[name]("open", message);
}

const files = {};

async function fetchFile(name) {
  files[name] ??= await (await fetch(name)).blob();
  return files[name];
}

// Milliseconds of the network in each of `runs` answers to a small picture, and the likeliest class.
async function timePage(picture, runs) {
  const source = await fetchFile(picture);
  const times = [];
  let top;
  for (let k = 0; k < runs; k++) {
    const { guesses, milliseconds, preview } = await workers.page("answer", { source });
    preview?.close();
    times.push(milliseconds.network);
    top = guesses[0].index;
  }
  return { times, top };
}

async function timeOrt(picture, runs) {
  const values = new Uint8Array(await (await fetchFile(picture)).arrayBuffer());
  return workers.ort("run", { values, runs });
}

// Milliseconds from a file to its answer, as the page has it.
async function timeAnswer(picture) {
  const source = await fetchFile(picture);
  const started = performance.now();
  const { guesses, milliseconds, preview } = await workers.page("answer", { source });
  const time = performance.now() - started;
  preview?.close();
  return { time, stages: milliseconds, top: guesses[0].index };
}
