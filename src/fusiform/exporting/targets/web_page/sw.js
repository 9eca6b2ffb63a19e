// Keeps the page for when the network is gone. The model and the runtime, whose addresses have their hash, are taken from
// the cache at once; all else from the server while it answers, so that a page that is written anew is seen at once.

const CACHE = `fusiform ${self.registration.scope}`; // other pages of this host have their own
const PATIENCE = 4000; // milliseconds, for a network that neither works nor fails
const PAGE = ["./", "index.html", "app.js", "boxes.js", "classes.js", "colours.js", "draw.js", "frame_view.js", "frames.js",
  "litert.js", "live.css", "live.js", "masks.js", "model.json", "moving.js", "network.js", "picture.js", "style.css",
  "tasks.js", "texts/en.js", "video.js", "worker.js"];

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)));
  self.skipWaiting();
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// What was kept of the same file with another hash goes.
async function keep(cache, request, response) {
  const path = new URL(request.url).pathname;
  const old = (await cache.keys()).filter(({ url }) => new URL(url).pathname === path && url !== request.url);
  await Promise.all(old.map((kept) => cache.delete(kept)));
  await cache.put(request, response);
}

async function answer(event) {
  const { request } = event;
  const hashed = new URL(request.url).searchParams.has("sha256");
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request);
  if (kept && hashed) return kept;
  const fetched = fetch(request, { cache: hashed ? "default" : "no-cache" }).then((response) => {
    if (response.status === 200) event.waitUntil(keep(cache, request, response.clone()));
    return response;
  });
  if (!kept) return fetched;
  const waited = new Promise((resolve) => { setTimeout(resolve, PATIENCE, kept); });
  return Promise.race([fetched.catch(() => kept), waited]);
}

self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  if (method === "GET" && url.startsWith(self.registration.scope)) event.respondWith(answer(event));
});
