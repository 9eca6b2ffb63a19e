// Keeps the page for when the network is gone. The model and the runtime, whose addresses have their hash, are taken from
// the cache at once; all else from the server while it answers, so that a page that is written anew is seen at once.

const CACHE = `fusiform ${self.registration.scope}`; // other pages of this host have their own
const PATIENCE = 4000; // milliseconds, for a network that neither works nor fails
const PAGE = ["./", "index.html", "answers.js", "app.js", "boxes.js", "certainty.js", "choose.js", "classes.js",
  "client.js", "colours.js", "draw.js", "facts.js", "formats.js", "frame_view.js", "frames.js", "golden.js",
  "icons/180.png", "icons/192.png", "icons/32.png", "icons/512.png", "language.js", "litert.js", "live.js",
  "manifest.webmanifest", "masks.js", "model.json", "moving.js", "network.js", "numbers.js", "page.js", "picture.js",
  "promise.js", "record.js", "saving.js", "selftest.js", "sketch.js", "sketching.js", "style.css", "tasks.js",
  "texts/de.js", "texts/en.js", "texts/es.js", "texts/ko.js", "texts/zh.js", "video.js", "worker.js"];

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

// Tells the open pages whether what they show comes from what is kept.
async function tell(kept) {
  for (const client of await self.clients.matchAll()) client.postMessage({ kept });
}

// Whether a response brings what its address says: what came incomplete or changed would stay for good. Gzip that is
// unpacked on the way has another hash, and checks itself.
async function isRight(response, hash) {
  if (response.status !== 200) return false;
  if (!hash || response.headers.has("content-encoding")) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await response.arrayBuffer()));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === hash;
}

async function answer(event) {
  const { request } = event;
  const hash = new URL(request.url).searchParams.get("sha256");
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreSearch: !hash }); // the page is one in all languages
  if (kept && hash && request.cache !== "reload") return kept;
  const fetched = fetch(request, { cache: hash ? request.cache : "no-cache" }).then((response) => {
    const [checked, stored] = [response.clone(), response.clone()];
    event.waitUntil(isRight(checked, hash).then((right) => right && keep(cache, request, stored), () => {}));
    return response.status >= 500 && kept ? kept : response; // a server in trouble
  });
  if (!kept) return fetched;
  const waited = new Promise((resolve) => { setTimeout(resolve, PATIENCE, kept); });
  const first = await Promise.race([fetched.catch(() => kept), waited]);
  event.waitUntil(tell(first === kept));
  return first;
}

// Whether an address is of this page: a server may have other things beside it, which are not this cache's.
function isOurs(address) {
  if (!address.startsWith(self.registration.scope)) return false;
  const { pathname, searchParams } = new URL(address);
  const name = pathname.slice(new URL(self.registration.scope).pathname.length) || "./";
  return PAGE.includes(name) || /^(golden|runtime|samples)\//.test(name) || searchParams.has("sha256");
}

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && isOurs(event.request.url)) event.respondWith(answer(event));
});
