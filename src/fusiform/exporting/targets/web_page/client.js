// The page's ways to its worker, which does the work, and to its service worker, which keeps the page for later.

// Where addresses of scripts have to be trusted, these two are.
const SCRIPTS = ["worker.js", "sw.js"];
const trusted = globalThis.trustedTypes?.createPolicy("fusiform", {
  createScriptURL: (name) => {
    if (!SCRIPTS.includes(name)) throw new TypeError(name);
    return name;
  },
});
const script = (name) => trusted?.createScriptURL(name) ?? name;

// A function that sends the worker one message and gives the promise of its answer.
export function startWorker() {
  const worker = new Worker(script("worker.js"));
  const waiting = new Map();
  let sent = 0;
  worker.addEventListener("message", ({ data: { id, value, error, progress } }) => {
    const { resolve, reject, tell } = waiting.get(id);
    if (progress) {
      tell?.(progress);
      return;
    }
    waiting.delete(id);
    if (error) reject(Object.assign(new Error(error.message), error));
    else resolve(value);
  });
  worker.addEventListener("error", (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message ?? "worker.js"));
    waiting.clear();
  });
  return (kind, message = {}, tell = undefined, transfer = []) => new Promise((resolve, reject) => {
    waiting.set(++sent, { resolve, reject, tell });
    worker.postMessage({ ...message, kind, id: sent }, transfer);
  });
}

// Keeps the page for when the network is gone. Not everywhere may it: in private windows, from addresses without https.
// `tell` is called with true where what is shown comes from what was kept, and with false when the network is back.
export async function startKeeping(tell) {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  workers.addEventListener("message", ({ data }) => { if ("kept" in data) tell(data.kept); });
  workers.startMessages(); // those that came before anybody listened
  window.addEventListener("offline", () => tell(true));
  window.addEventListener("online", () => tell(false));
  try {
    await workers.register(script("sw.js"));
  } catch {
    return;
  }
  if (workers.controller) return;
  // The model is fetched through it, so that it is fetched once; but a page that is not kept works as well.
  await Promise.race([
    new Promise((resolve) => { workers.addEventListener("controllerchange", resolve, { once: true }); }),
    new Promise((resolve) => { setTimeout(resolve, 3000); }),
  ]);
}
