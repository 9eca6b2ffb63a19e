// Gives scripts the files of a page that is one file, as a server would: `fetch`, `importScripts`, `import` and workers
// find them by their names. Runs before all else, in the page and in its workers. Of `files`, by their names, those that
// are scripts are strings, all others Blobs; `prelude` is this text, for the workers.

function holdFiles(files, prelude) {
  "use strict";
  self.inOneFile = true;
  const addresses = new Map();
  const policy = self.trustedTypes && trustedTypes.createPolicy("files", {
    createScriptURL: (address) => {
      if (![...addresses.values()].includes(address)) throw new TypeError(address);
      return address;
    },
  });
  const trusted = (address) => (policy ? policy.createScriptURL(address) : address);

  // The name of the file that a script asks for.
  function nameOf(asked, folder) {
    const path = String(asked.url || asked).replace(/[?#].*$/, "");
    const parts = [];
    for (const part of (folder + path).split("/")) {
      if (part === "..") parts.pop();
      else if (part !== "." && part !== "") parts.push(part);
    }
    return parts.join("/");
  }

  // A script's address, which those that it imports have to have first. Imports were written with whole names.
  function addressOf(name, start = "") {
    if (typeof files[name] !== "string") throw new TypeError(`${name} is no script of this page`);
    const key = start ? `worker ${name}` : name;
    if (!addresses.has(key)) {
      const text = files[name].replace(/"@file\/([^"]+)"/g, (_, other) => JSON.stringify(addressOf(other)));
      const script = new Blob([start, text, `\n//# sourceURL=${name}`], { type: "text/javascript" });
      addresses.set(key, URL.createObjectURL(script));
    }
    return addresses.get(key);
  }

  self.importFile = async (folder, asked) => import(addressOf(nameOf(asked, folder)));

  self.fetch = async (asked) => {
    const name = nameOf(asked, "");
    if (!(name in files)) return new Response(null, { status: 404, statusText: "not in this page" });
    const body = typeof files[name] === "string" ? new Blob([files[name]]) : files[name];
    return new Response(body, { headers: { "content-length": body.size } });
  };

  if (self.importScripts) {
    const load = self.importScripts.bind(self);
    self.importScripts = (...asked) => load(...asked.map((each) => trusted(addressOf(nameOf(each, "")))));
  }

  if (self.Worker) {
    const start = `${prelude}
addEventListener("message", (event) => {
  event.stopImmediatePropagation();
  holdFiles(event.data.files, event.data.prelude);
}, { once: true });
`;
    self.Worker = class extends self.Worker {
      constructor(asked) {
        super(trusted(addressOf(nameOf(asked, ""), start)));
        this.postMessage({ files, prelude });
      }
    };
  }
}
