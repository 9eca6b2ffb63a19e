// The same network in onnxruntime-web: WebAssembly, one thread, as benchmarks/web.py lays its files beside this one.

importScripts("ort/ort.wasm.min.js");
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("ort/", self.location.href).href;

let session;

const KINDS = {
  async open({ model }) {
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
    return null;
  },
  async run({ values, runs }) {
    const side = Math.round(Math.sqrt(values.length / 3));
    const tensor = new ort.Tensor("uint8", values, [1, side, side, 3]);
    const times = [];
    let answer;
    for (let k = 0; k < runs; k++) {
      const started = performance.now();
      answer = await session.run({ [session.inputNames[0]]: tensor });
      times.push(performance.now() - started);
    }
    const { data } = answer[session.outputNames[0]];
    return { times, top: data.indexOf(Math.max(...data)) };
  },
};

self.addEventListener("message", async ({ data }) => {
  try {
    self.postMessage({ id: data.id, value: await KINDS[data.kind](data) });
  } catch (error) {
    self.postMessage({ id: data.id, error: { message: error.message } });
  }
});
